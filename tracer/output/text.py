"""Events as lines that a person reads: aligned, one line an event, 80 columns for IPv4 where it can."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import TextIO

import click

from tracer.events import Event
from tracer.output.words import duration, endpoint, safe, size

_EVENT_WIDTH, _SILENT_WIDTH, _UNACK_WIDTH = 12, 6, 5
# A state change takes the room of all three.
_STATE_WIDTH = _EVENT_WIDTH + _SILENT_WIDTH + _UNACK_WIDTH + 2

_COLOURS: dict[str, dict[str, object]] = {
    "retransmit": {"fg": "yellow"},
    "keepalive": {"fg": "blue"},
    "state": {"dim": True},
    "reset": {"fg": "magenta"},
    "error": {"fg": "red", "bold": True},
    "lost": {"fg": "red"},
}


class TextSink:
    """Writes lines. The columns of the two ends grow with the longest address so far and never shrink.

    utc_offset_s: the zone that times are shown in, seconds east of UTC. The heading carries the date,
    and comes again when that changes.
    """

    def __init__(self, stream: TextIO, *, colour: bool, utc_offset_s: int) -> None:
        self._stream = stream
        self._colour = colour
        self.utc_offset_s = utc_offset_s
        self._date = ""
        # Two addresses as in 10.66.1.2:43102 and a short owner's name leave the line at 80.
        self._local_width, self._remote_width = 15, 15
        self._arrow = "→" if _can_encode(stream, "→") else "->"

    def write(self, event: Event) -> None:
        """One line, after the heading where that is due."""
        date, clock = local_time(event.time_ns, self.utc_offset_s)
        local = endpoint(event.laddr, event.lport)
        remote = endpoint(event.raddr, event.rport)
        if event.event != "lost":
            self._local_width = max(self._local_width, len(local))
            self._remote_width = max(self._remote_width, len(remote))
        if date != self._date:
            self._date = date
            self._stream.write(self._heading())
        if event.event == "lost":
            line = (
                f"{clock} {event.count or 0} events lost at {safe(event.hook or 'an unknown hook')}: too many at once"
            )
        else:
            line = (
                f"{clock} {local:<{self._local_width}} {remote:<{self._remote_width}} "
                f"{self._middle(event)} {_owner(event)}{_detail(event)}"
            ).rstrip()
        if self._colour:
            line = click.style(line, **_COLOURS.get(event.event, {}))  # type: ignore[arg-type]
        self._stream.write(line + "\n")

    def flush(self) -> None:
        """Show what was written."""
        self._stream.flush()

    def _heading(self) -> str:
        return (
            f"{self._date:<12} {'LOCAL':<{self._local_width}} {'REMOTE':<{self._remote_width}} "
            f"{'EVENT':<{_EVENT_WIDTH}} {'SILENT':>{_SILENT_WIDTH}} {'UNACK':>{_UNACK_WIDTH}} OWNER\n"
        )

    def _middle(self, event: Event) -> str:
        if event.event == "state":
            change = f"{safe(event.old_state or '?')} {self._arrow} {safe(event.new_state or '?')}"
            return f"{change:<{_STATE_WIDTH}}"
        silent = "-" if event.silent_ms is None else duration(event.silent_ms)
        unacked = "-" if event.unacked_bytes is None else size(event.unacked_bytes)
        return f"{_what(event):<{_EVENT_WIDTH}} {silent:>{_SILENT_WIDTH}} {unacked:>{_UNACK_WIDTH}}"


def _what(event: Event) -> str:
    if event.event == "retransmit":
        kind = safe(event.kind or "retransmit")
        # Without an RTO so far there is nothing to count; on a fast one the number would only puzzle.
        return kind if kind == "fast" or not event.attempt else f"{kind} {event.attempt}"
    if event.event == "keepalive":
        return f"keepalive {event.attempt}"
    if event.event == "reset":
        return f"RST {safe(event.direction or '')}".rstrip()
    if event.event == "error":
        return safe(event.error or "error")
    return safe(event.event)


def _owner(event: Event) -> str:
    if event.pid is None:
        return "-"
    others = len(event.pids or ()) - 1
    return f"{safe(event.comm or '?')}[{event.pid}]" + (f" +{others}" if others > 0 else "")


def _detail(event: Event) -> str:
    if event.send_error is not None:
        return f" (not sent: {safe(event.send_error)})"
    if event.reason not in (None, "NOT_SPECIFIED"):
        return f" ({safe(event.reason or '')})"
    return ""


@lru_cache(maxsize=4)
def _local_second(second: int) -> tuple[str, str]:
    broken_down = time.gmtime(second)
    return time.strftime("%Y-%m-%d", broken_down), time.strftime("%H:%M:%S", broken_down)


def local_time(time_ns: int, utc_offset_s: int) -> tuple[str, str]:
    """Date and time of day with milliseconds."""
    second, rest = divmod(time_ns, 1_000_000_000)
    date, clock = _local_second(second + utc_offset_s)
    return date, f"{clock}.{rest // 1_000_000:03d}"


def _can_encode(stream: TextIO, text: str) -> bool:
    try:
        text.encode(stream.encoding or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
