"""Events as text: one aligned line per event, 80 columns wide for IPv4."""

from __future__ import annotations

from collections.abc import Sequence

import click

from tracer.model.events import RECORDING, SUSPEND, Event
from tracer.model.kinds import Kind
from tracer.output.background_writer import OUTPUT, Stream
from tracer.output.folding import Folding
from tracer.output.format import duration, endpoint, in_plain, local_time, owner, plural, safe, size
from tracer.output.stall_text import StallFormatter
from tracer.recordings.header import Header

WIDTH = 80

_EVENT_WIDTH, _SILENT_WIDTH, _UNACK_WIDTH = 12, 6, 5
# A state change spans all three columns.
_STATE_WIDTH = _EVENT_WIDTH + _SILENT_WIDTH + _UNACK_WIDTH + 2

_COLOURS: dict[str, dict[str, object]] = {
    "retransmit": {"fg": "yellow"},
    "keepalive": {"fg": "blue"},
    "window-probe": {"fg": "blue"},
    "unsent": {"fg": "yellow"},
    "found": {"fg": "yellow"},
    "waiting": {"fg": "blue"},
    "resume": {"fg": "green"},
    "state": {"dim": True},
    "reset": {"fg": "magenta"},
    "error": {"fg": "red", "bold": True},
    "stall": {"fg": "red", "bold": True},
    "lost": {"fg": "red"},
}


class TextSink:
    """Writes a line for each event, and below each stall the sentences about it.

    The columns of the two ends grow to the longest address so far and never shrink. A heading with the date precedes
    the first line of each day. utc_offset_s: the time zone of the times, seconds east of UTC, until a header has
    another. width: columns of the sentences. folded: of many similar lines in a second, write the first and a count.
    """

    def __init__(
        self, stream: Stream, *, colour: bool, utc_offset_s: int = 0, width: int = WIDTH, folded: bool = False
    ) -> None:
        self._stream = stream
        self._colour = colour
        self._utc_offset_s = utc_offset_s
        self._date = ""
        # 10.66.1.2:43102 twice, and a short owner: 80 columns.
        self._local_width, self._remote_width = 15, 15
        self._plain = not _can_encode(stream, "→×…–")
        self._stalls = StallFormatter(width)
        self._folding = Folding() if folded else None

    def opened(self, header: Header) -> None:
        """Use the time zone of the recorded host."""
        self._utc_offset_s = header.utc_offset_s

    def write(self, events: Sequence[Event]) -> None:
        """Write a line for each event."""
        for event in events:
            self._write_event(event)

    def _write_event(self, event: Event) -> None:
        if event.event == Kind.COUNTERS:
            return
        date, time_of_day = local_time(event.time_ns, self._utc_offset_s)
        local, remote = endpoint(event.laddr, event.lport), endpoint(event.raddr, event.rport)
        if date != self._date:
            self._date = date
            self._widen(local, remote)
            self._stream.write(self._heading())
        what = _what(event)
        if self._folding is not None:
            for line in self._folding.due(event.time_ns):
                self._put(line, "lost")
            if not self._folding.has_room(event, what):
                return
        if event.event == Kind.LOST:
            self._put(f"{time_of_day} {_lost(event)}", "lost")
            return
        self._widen(local, remote)
        below = self._stalls.lines(event, self._utc_offset_s) if event.event == Kind.STALL else []
        self._put(
            f"{time_of_day} {local:<{self._local_width}} {remote:<{self._remote_width}} "
            f"{self._middle(event, what, explained=bool(below))} {owner(event)}{_detail(event)}".rstrip(),
            event.event,
        )
        for line in below:
            self._put(line)

    def flush(self, until_ns: int) -> None:
        """Flush the stream, after the counts of the seconds before until_ns."""
        if self._folding is not None:
            for line in self._folding.due_at(until_ns):
                self._put(line, "lost")
        self._stream.flush()

    def close(self) -> None:
        """Write the remaining counts, and flush the stream."""
        if self._folding is not None:
            for line in self._folding.rest():
                self._put(line, "lost")
        self._stream.flush()

    def _put(self, line: str, event: str = "") -> None:
        if self._plain:
            line = in_plain(line)
        if self._colour and event:
            line = click.style(line, **_COLOURS.get(event, {}))  # type: ignore[arg-type]
        self._stream.write(line + "\n")

    def _widen(self, local: str, remote: str) -> None:
        self._local_width = max(self._local_width, len(local))
        self._remote_width = max(self._remote_width, len(remote))

    def _heading(self) -> str:
        return (
            f"{self._date:<12} {'LOCAL':<{self._local_width}} {'REMOTE':<{self._remote_width}} "
            f"{'EVENT':<{_EVENT_WIDTH}} {'SILENT':>{_SILENT_WIDTH}} {'UNACK':>{_UNACK_WIDTH}} OWNER\n"
        )

    def _middle(self, event: Event, what: str, *, explained: bool) -> str:
        if event.event == Kind.STATE:
            return f"{what:<{_STATE_WIDTH}}"
        if event.event == Kind.STALL:
            width = _STATE_WIDTH - _SILENT_WIDTH - 1
            if explained and len(what) > width:
                # The sentences below have the times.
                return f"{what:<{_STATE_WIDTH}}"
            ms = event.silent_ms if event.duration_ms is None else event.duration_ms
            return f"{what:<{width}} {'-' if ms is None else duration(ms):>{_SILENT_WIDTH}}"
        silent = "-" if event.silent_ms is None else duration(event.silent_ms)
        unacked = "-" if event.unacked_bytes is None else size(event.unacked_bytes)
        return f"{what:<{_EVENT_WIDTH}} {silent:>{_SILENT_WIDTH}} {unacked:>{_UNACK_WIDTH}}"


def _lost(event: Event) -> str:
    count = 0 if event.count is None else event.count
    if event.hook == OUTPUT:
        return f"{count:,} lines left out: too many to print; -w records all of them"
    if event.hook == SUSPEND:
        return f"this host was suspended for {_lasted(event)}: TCP timers were stopped"
    if event.hook == RECORDING:
        return f"missing from the recording: {plural(count, 'event')} (no space, or a slow reader)"
    lost = f"{plural(count, 'event')} lost at {safe(event.hook or 'an unknown hook')}"
    within = f"in the last {_lasted(event)}"
    if event.cause == "full" and event.unread_ms is not None:
        away = duration(event.unread_ms)
        return f"{lost} {within}: the ring buffer was full and was not read for up to {away}; see --buffer-size"
    if event.cause == "reentered" and event.ring_peak_percent is not None:
        peak = f"the ring buffer was at most {event.ring_peak_percent}% full"
        return f"{lost} {within}: they occurred while the hook was running on the same CPU; {peak}"
    return f"{lost}: too many at once; see --buffer-size"


def _lasted(event: Event) -> str:
    return "an unknown time" if event.duration_ms is None else duration(event.duration_ms)


def _what(event: Event) -> str:
    if event.event == Kind.FOUND:
        return _found(event)
    if event.event == Kind.RETRANSMIT:
        kind = safe(event.kind or "retransmit")
        # attempt counts expiries of the timer, which a fast retransmission does not wait for.
        return kind if kind == "fast" or not event.attempt else f"{kind} {event.attempt}"
    if event.event == Kind.KEEPALIVE:
        return f"keepalive {event.attempt}"
    if event.event == Kind.WINDOW_PROBE:
        return f"window? {event.attempt}"
    if event.event == Kind.UNSENT:
        return f"unsent {event.attempt}"
    if event.event == Kind.RESUME:
        return "resumed"
    if event.event == Kind.STATE:
        return f"{safe(event.old_state or '?')} → {safe(event.new_state or '?')}"
    if event.event == Kind.RESET:
        return f"RST {safe(event.direction or '')}".rstrip()
    if event.event == Kind.ERROR:
        return safe(event.error or "error")
    if event.event == Kind.STALL:
        more = "goes on" if event.phase == "update" else event.outcome if event.phase == "end" else None
        return " ".join(["STALL", *(safe(word) for word in (event.verdict, more) if word)])
    return safe(event.event)


def _found(event: Event) -> str:
    """The name of the event that a connection in this state sends next."""
    if event.kind == "idle":
        return "idle"
    name = {"keepalive": "keepalive", "window-probe": "window?", "unsent": "unsent"}.get(event.kind or "")
    if name is None:
        is_fin = event.state in ("FIN_WAIT1", "CLOSING", "LAST_ACK") and event.unacked_bytes == 0
        name = "syn" if event.state == "SYN_SENT" else "fin" if is_fin else "rto"
    return f"{name} {event.attempt}"


def _detail(event: Event) -> str:
    if event.mptcp and event.event in (Kind.STALL, Kind.ERROR):
        return " (MPTCP subflow)"
    if event.send_error is not None and event.event != Kind.STALL:
        return f" (not sent: {safe(event.send_error)})"
    if event.event == Kind.FOUND:
        return " (probably dead as well)" if event.kind == "idle" else " (found)"
    if event.event == Kind.WAITING and event.asked_ms is not None:
        return f" (asked {duration(event.asked_ms)} ago)"
    if event.event == Kind.RESUME and event.cause != "data":
        return f" ({safe(event.cause or '')})"
    if event.reason not in (None, "NOT_SPECIFIED"):
        return f" ({safe(event.reason or '')})"
    return ""


def _can_encode(stream: Stream, text: str) -> bool:
    try:
        text.encode(stream.encoding or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
