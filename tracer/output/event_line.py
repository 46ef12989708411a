"""The columns of an event's line: wide, or for a terminal of 80 columns.

The columns have a fixed width for IPv4. A longer pair of ends goes on a line of its own, so that it moves no column.
"""

from __future__ import annotations

from tracer.model.dataclass import dataclass
from tracer.model.events import RECORDING, SUSPEND, Event
from tracer.model.kinds import Kind
from tracer.output.background_writer import OUTPUT
from tracer.output.format import duration, endpoint, local_time, owner, plural, processes, safe, size

WIDE = 100
"""Columns from which a line has milliseconds and both ends of the connection in full."""
_EVENT, _SILENT, _UNACK = 12, 6, 5
_STATE = _EVENT + _SILENT + _UNACK + 2
"""A change of state and an action span three columns."""
_WIDE_TIME, _WIDE_ENDS = 12, 45  # 255.255.255.255:65535 → 255.255.255.255:65535
_NARROW_TIME, _NARROW_ENDS = 8, 30  # :65535 → 255.255.255.255:65535
_MIN_OWNER = 8
_CAUSES = {"answer": "answered a probe", "probe": "probe of the peer", "ack": "empty segment"}
"""What ended a silence, where the word of the JSON contract is too short for a person."""
_SHORT_STATES = {"ESTABLISHED": "ESTAB", "FIN_WAIT1": "FIN1", "FIN_WAIT2": "FIN2"}
"""In narrow lines, as in ss(8) and in the kernel's diagrams."""


@dataclass(frozen=True, slots=True)
class Columns:
    """The layout of event lines. width: columns of the terminal; None: a line may have any length."""

    width: int | None

    @property
    def is_wide(self) -> bool:
        """Whether both ends fit in full."""
        return self.width is None or self.width >= WIDE

    def heading(self) -> str:
        """The names of the columns."""
        ends = "LOCAL → REMOTE" if self.is_wide else "PORT → REMOTE"
        names = f"{'TIME':<{self._time}} {'EVENT':<{_EVENT}} {'SILENT':>{_SILENT}} {'UNACK':>{_UNACK}}"
        return f"{names} {ends:<{self._ends}} OWNER"[: self.width]

    def time(self, time_ns: int, utc_offset_s: int) -> str:
        """The time of day in this layout."""
        return local_time(time_ns, utc_offset_s)[1][: self._time]

    def lines(self, event: Event, utc_offset_s: int) -> list[str]:
        """The line of an event other than a stall, and where it does not fit a second one."""
        start = f"{self.time(event.time_ns, utc_offset_s)} {self._middle(event)}"
        ends = self._ends_of(event)
        below = ""
        if len(ends) > self._ends + 2:
            below = ends
        else:
            start = f"{start} {ends:<{self._ends}}"
        detail = _detail(event)
        if not self._has_room(start, event, detail):
            # Who acted is the same for all connections, and in the report.
            below, detail = below if event.event == Kind.ACTION else f"{below}{detail}".lstrip(), ""
        indent = " " * (self._time + 1)
        return [self._fitted(start, event, detail), *([f"{indent}{below}"[: self.width]] if below else [])]

    def _has_room(self, start: str, event: Event, detail: str) -> bool:
        """Whether the detail stands beside the owner, shortened as far as it goes."""
        if self.width is None:
            return True
        least = shortened_owner(processes(event), _MIN_OWNER)
        return len(f"{start} {least}{detail}") <= self.width

    def _fitted(self, start: str, event: Event, detail: str) -> str:
        """The line. Where it would wrap, without the owner's pod or unit, and its name shortened; its pid stays."""
        line = f"{start} {owner(event)}{detail}"
        if self.width is None or len(line) <= self.width:
            return line.rstrip()
        who = processes(event)
        line = f"{start} {who}{detail}"
        if len(line) <= self.width:
            return line.rstrip()
        line = f"{start} {shortened_owner(who, self.width - len(start) - 1 - len(detail))}{detail}"
        return line[: self.width].rstrip()

    @property
    def _time(self) -> int:
        return _WIDE_TIME if self.is_wide else _NARROW_TIME

    @property
    def _ends(self) -> int:
        return _WIDE_ENDS if self.is_wide else _NARROW_ENDS

    def _ends_of(self, event: Event) -> str:
        remote = endpoint(event.raddr, event.rport)
        if self.is_wide:
            return f"{endpoint(event.laddr, event.lport)} → {remote}"
        return f":{'*' if event.lport is None else event.lport} → {remote}"

    def _middle(self, event: Event) -> str:
        if event.event == Kind.STATE:
            return f"{self._states(event):<{_STATE}}"
        if event.event == Kind.ACTION:
            return f"{what(event):<{_STATE}}"
        silent = "-" if event.silent_ms is None else duration(event.silent_ms)
        unacked = "-" if event.unacked_bytes is None else size(event.unacked_bytes)
        return f"{what(event):<{_EVENT}} {silent:>{_SILENT}} {unacked:>{_UNACK}}"

    def _states(self, event: Event) -> str:
        names = [safe(state or "?") for state in (event.old_state, event.new_state)]
        text = " → ".join(names)
        if self.is_wide or len(text) <= _STATE:
            return text
        return " → ".join(_SHORT_STATES.get(name, name) for name in names)


def shortened_owner(who: str, room: int) -> str:
    """`gunico…[23949]` for `gunicorn[23949]` in that many characters, but at least _MIN_OWNER."""
    room = max(room, _MIN_OWNER)
    if len(who) <= room:
        return who
    name, bracket, number = who.partition("[")
    rest = f"…{bracket}{number}"
    return f"{name[: max(1, room - len(rest))]}{rest}" if bracket else f"{who[: room - 1]}…"


def what(event: Event) -> str:
    """The name of an event that is not a stall: `rto 3`, `keepalive 1`."""
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
    if event.event == Kind.ACTION:
        return f"ACTION {safe(event.action or '?')}: {safe(event.result or '?')}"
    return safe(event.event)


def _found(event: Event) -> str:
    """The name of the event that a connection in this state sends next."""
    if event.kind == "idle":
        return "idle"
    name = {"keepalive": "keepalive", "window-probe": "window?", "unsent": "unsent"}.get(event.kind or "")
    return f"{name or sent_again(event)} {event.attempt}"


def sent_again(found: Event) -> str:
    """What a connection retransmits that was found: `syn`, `fin`, or `rto` for data."""
    if found.state == "SYN_SENT":
        return "syn"
    is_fin = found.state in ("FIN_WAIT1", "CLOSING", "LAST_ACK") and found.unacked_bytes == 0
    return "fin" if is_fin else "rto"


def _detail(event: Event) -> str:
    if event.mptcp and event.event == Kind.ERROR:
        return " (MPTCP subflow)"
    if event.send_error is not None:
        return f" (not sent: {safe(event.send_error)})"
    if event.event == Kind.FOUND:
        return " (probably dead as well)" if event.kind == "idle" else " (found)"
    if event.event == Kind.WAITING and event.asked_ms is not None:
        return f" (asked {duration(event.asked_ms)} ago)"
    if event.event == Kind.RESUME and event.cause != "data":
        return f" ({_CAUSES.get(event.cause or '') or safe(event.cause or '')})"
    if event.event == Kind.ACTION:
        return f" (by {safe(event.by_user)})" if event.by_user else ""
    if event.reason not in (None, "NOT_SPECIFIED"):
        return f" ({safe(event.reason or '')})"
    return ""


def lost(event: Event) -> str:
    """The sentence of a `lost` event."""
    count = 0 if event.count is None else event.count
    if event.hook == OUTPUT:
        return f"{count:,} lines left out: too many to print; -w records all of them"
    if event.hook == SUSPEND:
        return f"this host was suspended for {_lasted(event)}: TCP timers were stopped"
    if event.hook == RECORDING:
        return f"missing from the recording: {plural(count, 'event')} (no space, or a slow reader)"
    start = f"{plural(count, 'event')} lost at {safe(event.hook or 'an unknown hook')}"
    within = f"in the last {_lasted(event)}"
    if event.cause == "full" and event.unread_ms is not None:
        away = duration(event.unread_ms)
        return f"{start} {within}: the ring buffer was full and was not read for up to {away}; see --buffer-size"
    if event.cause == "reentered" and event.ring_peak_percent is not None:
        peak = f"the ring buffer was at most {event.ring_peak_percent}% full"
        return f"{start} {within}: they occurred while the hook was running on the same CPU; {peak}"
    return f"{start}: too many at once; see --buffer-size"


def _lasted(event: Event) -> str:
    return "an unknown time" if event.duration_ms is None else duration(event.duration_ms)
