"""What the recording of one host shows about its end of each connection, for the report on the other end.

Only what the kernel itself says counts: when something was received last (`silent_ms`), when a segment came after a
silence (`resume`), and how the end was closed. :mod:`tracer.analysis.two_ends` concludes from it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import field
from typing import NamedTuple

from tracer.analysis.incidents import began_ns
from tracer.analysis.outcomes import Outcome
from tracer.analysis.verdicts import IN_USE_MS
from tracer.model.dataclass import dataclass
from tracer.model.events import Event
from tracer.model.kinds import Kind

MAX_ENDS = 4096
"""Ends that are kept: those with the newest events."""
MAX_SPANS = 8
"""Instants of arrival of one end that are kept: the newest."""
MAX_WAITS = 4
"""Stalls of one end that are kept: the newest."""
MAX_TEXT = 64
"""Characters of a name that are kept."""
MS = 1_000_000
_SAME_NS = 50 * MS
"""Instants of arrival that are nearer than this are one: `silent_ms` has the resolution of a jiffy."""
_CLOSING_NS = 2_000 * MS
"""What is seen within this time before or after the end of a connection may be the reason."""
_SIGNS = frozenset(
    {Kind.RETRANSMIT, Kind.KEEPALIVE, Kind.WINDOW_PROBE, Kind.UNSENT, Kind.FOUND, Kind.WAITING, Kind.RESET,
     Kind.ERROR, Kind.RESUME, Kind.ACTION}
)  # fmt: skip


class Ends(NamedTuple):
    """Addresses and ports of a connection, as one end sees them."""

    laddr: str
    lport: int
    raddr: str
    rport: int

    def swapped(self) -> Ends:
        """As the other end sees them."""
        return Ends(self.raddr, self.rport, self.laddr, self.lport)


class Span(NamedTuple):
    """Something was received at heard_ns, and nothing from then until until_ns. Wall clock of the host."""

    heard_ns: int
    until_ns: int


class Closing(NamedTuple):
    """When and how an end left ESTABLISHED.

    how: `closed` by its process, `aborted` (it sent a reset), `reset` (it received one), `ended` by `tcpwatch end`,
    `peer-closed`, `no-socket` (a segment arrived when there was no such connection any more), the name of the error,
    or empty. by: the user who ran `tcpwatch end`, or empty.
    """

    time_ns: int
    how: str
    by: str = ""


class Wait(NamedTuple):
    """A stall of this end. Wall clock of the host."""

    since_ns: int
    ended_ns: int


@dataclass(slots=True)
class ConnectionEnd:
    """One end. began_ns: it is not older than this; 0: unknown. open_ns: it was last seen open then; 0: never."""

    sock: str = ""
    comm: str = ""
    pid: int = 0
    began_ns: int = 0
    open_ns: int = 0
    spans: list[Span] = field(default_factory=list)
    arrivals_ns: list[int] = field(default_factory=list)
    closing: Closing | None = None
    waits: list[Wait] = field(default_factory=list)

    @property
    def seen_ns(self) -> int:
        """When an event of it was seen last."""
        closed_ns = 0 if self.closing is None else self.closing.time_ns
        return max(self.began_ns, self.open_ns, closed_ns, *(span.until_ns for span in self.spans), 0)

    def add_span(self, span: Span) -> None:
        """Note an arrival and the silence after it."""
        for place, known in enumerate(self.spans):
            if abs(known.heard_ns - span.heard_ns) < _SAME_NS:
                self.spans[place] = Span(known.heard_ns, max(known.until_ns, span.until_ns))
                return
        self.spans.append(span)
        if len(self.spans) > MAX_SPANS:
            self.spans.remove(min(self.spans))

    def add_wait(self, wait: Wait) -> None:
        """Note a stall, in place of an earlier account of it."""
        others = [each for each in self.waits if each.since_ns != wait.since_ns]
        self.waits = [*others[1 - MAX_WAITS :], wait]

    def add_arrival(self, time_ns: int) -> None:
        """Note that a segment arrived that does not count for `silent_ms`: a probe, or a SYN."""
        self.arrivals_ns = [*self.arrivals_ns[1 - MAX_SPANS :], time_ns]

    @property
    def is_plain(self) -> bool:
        """Whether there is nothing to know about it but that it is open."""
        return not (self.spans or self.arrivals_ns or self.waits)


class ConnectionEnds:
    """Takes the events of hosts one after the other, and keeps their ends in bounded memory."""

    def __init__(self) -> None:
        self._ends: OrderedDict[tuple[str, Ends], ConnectionEnd] = OrderedDict()

    def __iter__(self) -> Iterator[tuple[str, Ends, ConnectionEnd]]:
        return ((host, ends, end) for (host, ends), end in self._ends.items())

    def take(self, host: str, event: Event) -> None:
        """Take an event of that host."""
        kind = event.event
        if kind == Kind.STATE:
            self._state(host, event)
        elif kind in _SIGNS:
            self._sign(host, event)
        elif kind == Kind.STALL and event.phase == "end" and event.outcome != Outcome.PRESUMED:
            ends = ends_of(event)
            if ends is not None and event.since is not None and event.duration_ms is not None:
                since_ns = began_ns(event)
                self._end(host, ends, event).add_wait(Wait(since_ns, since_ns + event.duration_ms * MS))

    def put(self, host: str, ends: Ends, end: ConnectionEnd) -> None:
        """Keep an end, in place of an earlier one with these addresses and ports."""
        key = (host[:MAX_TEXT], ends)
        self._ends[key] = end
        self._ends.move_to_end(key)
        if len(self._ends) > MAX_ENDS:
            self._ends.popitem(last=False)

    def merge(self, other: ConnectionEnds) -> None:
        """Include the ends of another report."""
        for host, ends, end in other:
            self.put(host, ends, end)

    def _end(self, host: str, ends: Ends, event: Event) -> ConnectionEnd:
        """The end of this event, known from now on."""
        key = (host[:MAX_TEXT], ends)
        end = self._ends.get(key)
        if end is None or (event.sock and end.sock and event.sock != end.sock):
            end = ConnectionEnd(began_ns=0 if end is None else end.seen_ns)
            self.put(host, ends, end)
        else:
            self._ends.move_to_end(key)
        if event.sock:
            end.sock = event.sock
        if event.comm and event.pid:
            end.comm, end.pid = event.comm[:MAX_TEXT], event.pid
        return end

    def _state(self, host: str, event: Event) -> None:
        ends = ends_of(event)
        if ends is None:
            return
        if event.new_state == "ESTABLISHED":
            end = self._end(host, ends, event)
            end.began_ns = end.open_ns = event.time_ns
        elif event.old_state == "ESTABLISHED":
            known = self._ends.get((host[:MAX_TEXT], ends))
            silent_ms = event.silent_ms
            is_quick = silent_ms is None or silent_ms < IN_USE_MS
            if is_quick and event.new_state in ("FIN_WAIT1", "CLOSE_WAIT") and (known is None or known.is_plain):
                self._ends.pop((host[:MAX_TEXT], ends), None)
                return
            end = self._end(host, ends, event)
            _add_silence(end, event)
            how = {"FIN_WAIT1": "closed", "CLOSE_WAIT": "peer-closed"}.get(event.new_state or "", "")
            _close(end, Closing(event.time_ns, how))

    def _sign(self, host: str, event: Event) -> None:
        ends = ends_of(event)
        if ends is None:
            return
        end = self._end(host, ends, event)
        if (event.event == Kind.RESUME and event.cause == "probe") or event.kind == "synack":
            end.add_arrival(event.time_ns)
        elif event.event != Kind.ACTION:
            _add_silence(end, event)
        if event.event == Kind.RESUME and event.cause != "probe":
            end.add_span(Span(event.time_ns, event.time_ns))
        reason = _reason(event)
        if reason:
            by = event.by_user if event.event == Kind.ACTION and event.by_user else ""
            _close(end, Closing(event.time_ns, reason, by[:MAX_TEXT]))
        elif event.state == "ESTABLISHED" and end.closing is None:
            end.open_ns = event.time_ns


def ends_of(event: Event) -> Ends | None:
    """Addresses and ports of an event; None unless it has them all."""
    laddr, lport, raddr, rport = event.laddr, event.lport, event.raddr, event.rport
    if laddr is None or lport is None or raddr is None or rport is None:
        return None
    return Ends(laddr, lport, raddr, rport)


def _add_silence(end: ConnectionEnd, event: Event) -> None:
    if event.silent_ms is not None:
        end.add_span(Span(event.time_ns - event.silent_ms * MS, event.time_ns))


def _close(end: ConnectionEnd, closing: Closing) -> None:
    """Note that the end was closed, or a better reason for that."""
    known = end.closing
    if known is None:
        end.closing = closing
    elif abs(closing.time_ns - known.time_ns) < _CLOSING_NS and _rank(closing.how) > _rank(known.how):
        end.closing = closing._replace(time_ns=min(known.time_ns, closing.time_ns))


def _rank(how: str) -> int:
    """The more specific reason has the higher rank. Names of errors are above all but `ended`."""
    ranks = {"": 0, "no-socket": 1, "closed": 2, "peer-closed": 2, "aborted": 3, "reset": 4, "ended": 6}
    return ranks.get(how, 5)


def _reason(event: Event) -> str:
    """Why this event closes the connection; empty where it does not."""
    if event.event == Kind.RESET:
        if event.reason == "NO_SOCKET":
            return "no-socket"
        return {"sent": "aborted", "received": "reset"}.get(event.direction or "", "")
    if event.event == Kind.ERROR:
        return "reset" if event.error == "ECONNRESET" else (event.error or "")[:MAX_TEXT]
    if event.event == Kind.ACTION and event.action == "end" and event.result == "ended":
        return "ended"
    return ""
