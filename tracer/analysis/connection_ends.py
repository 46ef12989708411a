"""What the recording of one host shows about its end of each connection, for the report on the other end.

Only what the kernel itself says counts: when something was received last (`silent_ms`), when a segment came after a
silence (`resume`), and how the end was closed. :mod:`tracer.analysis.two_ends` concludes from it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from sys import intern
from typing import NamedTuple

from tracer.analysis.incidents import began_ns
from tracer.analysis.outcomes import Outcome
from tracer.analysis.verdicts import IN_USE_MS
from tracer.model.dataclass import dataclass
from tracer.model.events import Event
from tracer.model.kinds import Kind

MAX_ENDS = 4096
"""Ends that are kept: those that were added last."""
MAX_SPANS = 8
"""Instants of arrival of one end that are kept: the newest."""
MAX_WAITS = 4
"""Stalls of one end that are kept: the newest."""
MAX_TEXT = 64
"""Characters of a name that are kept."""
MS = 1_000_000
MAX_NS = 253_402_300_799 * 1000 * MS
"""The last second of the year 9999. A damaged recording may have a later time."""
STEP_NS = 500 * MS
"""A wall clock that moves by more than this against CLOCK_BOOTTIME was set."""
_SAME_NS = 50 * MS
"""Instants of arrival that are nearer than this are one: `silent_ms` has the resolution of a jiffy."""
_CLOSING_NS = 2_000 * MS
"""What is seen within this time before or after the end of a connection may be the reason."""
_ORDERLY = {"FIN_WAIT1": "closed", "CLOSE_WAIT": "peer-closed"}
"""How a connection ends with a FIN, by the state after ESTABLISHED."""
_STATE, _STALL, _RESUME, _ACTION = (kind.value for kind in (Kind.STATE, Kind.STALL, Kind.RESUME, Kind.ACTION))
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
    """One end.

    began_ns: it is not older than this; 0: unknown. open_ns: it was last seen open then; 0: never. clock_ns: the wall
    clock minus CLOCK_BOOTTIME; 0: unknown. was_set: the clock was set meanwhile.
    """

    sock: str = ""
    comm: str = ""
    pid: int = 0
    began_ns: int = 0
    open_ns: int = 0
    spans: tuple[Span, ...] = ()
    arrivals_ns: tuple[int, ...] = ()
    closing: Closing | None = None
    waits: tuple[Wait, ...] = ()
    clock_ns: int = 0
    was_set: bool = False

    @property
    def seen_ns(self) -> int:
        """When an event of it was seen last."""
        closed_ns = 0 if self.closing is None else self.closing.time_ns
        return max(self.began_ns, self.open_ns, closed_ns, *(span.until_ns for span in self.spans), 0)

    def add_clock(self, clock_ns: int) -> None:
        """Note the clock that an event of this end was recorded with."""
        self.clock_ns = self.clock_ns or clock_ns
        self.was_set |= abs(clock_ns - self.clock_ns) > STEP_NS

    def add_span(self, span: Span) -> None:
        """Note an arrival and the silence after it."""
        if self.spans:
            heard_ns, until_ns = self.spans[-1]
            if -_SAME_NS < span.heard_ns - heard_ns < _SAME_NS:
                if span.until_ns > until_ns:
                    self.spans = (*self.spans[:-1], Span(heard_ns, span.until_ns))
                return
        self.spans = (*self.spans[1 - MAX_SPANS :], span)

    def add_wait(self, wait: Wait) -> None:
        """Note a stall, in place of an earlier account of it."""
        others = [each for each in self.waits if each.since_ns != wait.since_ns]
        self.waits = (*others[1 - MAX_WAITS :], wait)

    def add_arrival(self, time_ns: int) -> None:
        """Note that a segment arrived that does not count for `silent_ms`: a probe, or a SYN."""
        self.arrivals_ns = (*self.arrivals_ns[1 - MAX_SPANS :], time_ns)


class ConnectionEnds:
    """Takes the events of hosts one after the other, and keeps their ends in bounded memory."""

    def __init__(self) -> None:
        # By socket: those about which there is nothing else to know so far. Most events are never looked into.
        self._opened: OrderedDict[str, tuple[str, Event]] = OrderedDict()
        self._ends: OrderedDict[tuple[str, Ends], ConnectionEnd] = OrderedDict()
        self._by_sock: dict[str, ConnectionEnd] = {}

    def __iter__(self) -> Iterator[tuple[str, Ends, ConnectionEnd]]:
        """Hosts and their ends, once no event comes any more."""
        self.begin()
        return ((host, ends, end) for (host, ends), end in self._ends.items())

    def begin(self) -> None:
        """Another recording begins: its sockets are other ones."""
        for sock, (host, event) in self._opened.items():
            ends = ends_of(event)
            if ends is not None:
                # One that is known already was of an earlier connection, because this socket has no end yet.
                self.put(host, ends, _end_of(sock, event))
        self._opened.clear()
        self._by_sock.clear()

    def take(self, host: str, event: Event) -> None:
        """Take an event of that host."""
        kind = event.event
        if kind == _STATE:
            if event.new_state == "ESTABLISHED":
                self._open(host, event)
            elif event.old_state == "ESTABLISHED":
                self._leave(host, event)
        elif kind in _SIGNS:
            self._sign(host, event)
        elif kind == _STALL and event.phase == "end" and event.outcome != Outcome.PRESUMED:
            self._wait(host, event)

    def put(self, host: str, ends: Ends, end: ConnectionEnd) -> None:
        """Keep an end, in place of an earlier one with these addresses and ports."""
        key = (intern(host[:MAX_TEXT]), ends._replace(laddr=intern(ends.laddr), raddr=intern(ends.raddr)))
        end.comm = intern(end.comm)
        self._forget(key)
        self._ends[key] = end
        if len(self._ends) > MAX_ENDS:
            self._forget(next(iter(self._ends)))

    def _forget(self, key: tuple[str, Ends]) -> None:
        earlier = self._ends.pop(key, None)
        if earlier is not None:
            self._by_sock.pop(earlier.sock, None)

    def merge(self, other: ConnectionEnds) -> None:
        """Include the ends of another report."""
        for host, ends, end in other:
            self.put(host, ends, end)

    def _open(self, host: str, event: Event) -> None:
        sock = event.sock
        if sock is not None:
            self._opened[sock] = (host, event)
            if len(self._opened) > MAX_ENDS:
                self._opened.popitem(last=False)

    def _leave(self, host: str, event: Event) -> None:
        sock, new_state = event.sock or "", event.new_state
        if new_state in _ORDERLY and sock not in self._by_sock and self._was_in_use(sock, event):
            self._opened.pop(sock, None)
            ends = ends_of(event) if self._ends else None
            if ends is not None:  # what is known of an earlier connection says nothing about later ones
                self._forget((host[:MAX_TEXT], ends))
            return
        end = self._end(host, event)
        if end is not None:
            _add_silence(end, event)
            _close(end, Closing(event.time_ns, _ORDERLY.get(new_state or "", "")))

    def _was_in_use(self, sock: str, event: Event) -> bool:
        opened = self._opened.get(sock)
        if opened is not None and event.time_ns - opened[1].time_ns < IN_USE_MS * MS:
            return True
        return event.silent_ms is None or event.silent_ms < IN_USE_MS

    def _sign(self, host: str, event: Event) -> None:
        end = self._end(host, event)
        if end is None:
            return
        kind = event.event
        if (kind == _RESUME and event.cause == "probe") or event.kind == "synack":
            end.add_arrival(event.time_ns)
        elif kind != _ACTION:
            _add_silence(end, event)
            if kind == _RESUME:
                end.add_span(Span(event.time_ns, event.time_ns))
        reason = _reason(event)
        if reason:
            by = event.by_user if kind == _ACTION and event.by_user else ""
            _close(end, Closing(event.time_ns, reason, by[:MAX_TEXT]))
        elif event.state == "ESTABLISHED" and end.closing is None:
            end.open_ns = event.time_ns

    def _wait(self, host: str, event: Event) -> None:
        if event.since is None or event.duration_ms is None:
            return
        end, since_ns = self._end(host, event), began_ns(event)
        if end is not None:
            end.add_wait(Wait(since_ns, min(since_ns + event.duration_ms * MS, MAX_NS)))

    def _end(self, host: str, event: Event) -> ConnectionEnd | None:
        """The end of this event, known from now on; None without addresses and ports."""
        sock = event.sock or ""
        end = self._by_sock.get(sock)
        if end is None:
            ends = ends_of(event)
            if ends is None:
                return None
            end = self._new_end(host, ends, sock)
        end.add_clock(event.time_ns - event.ktime_ns)
        if event.comm and event.pid:
            end.comm, end.pid = event.comm[:MAX_TEXT], event.pid
        return end

    def _new_end(self, host: str, ends: Ends, sock: str) -> ConnectionEnd:
        before = self._ends.get((host[:MAX_TEXT], ends))
        if before is not None and (not sock or not before.sock):
            return before
        opened = self._opened.pop(sock, None)
        end = ConnectionEnd(sock, began_ns=0 if before is None else before.seen_ns)
        if opened is not None:
            end = _end_of(sock, opened[1])
        self.put(host, ends, end)
        if sock:
            self._by_sock[sock] = end
        return end


def _end_of(sock: str, opened: Event) -> ConnectionEnd:
    end = ConnectionEnd(sock, began_ns=opened.time_ns, open_ns=opened.time_ns)
    end.add_clock(opened.time_ns - opened.ktime_ns)
    if opened.comm and opened.pid:
        end.comm, end.pid = opened.comm[:MAX_TEXT], opened.pid
    return end


def ends_of(event: Event) -> Ends | None:
    """Addresses and ports of an event; None unless it has them all."""
    laddr, lport, raddr, rport = event.laddr, event.lport, event.raddr, event.rport
    if laddr is None or lport is None or raddr is None or rport is None:
        return None
    return Ends(laddr[:MAX_TEXT], lport, raddr[:MAX_TEXT], rport)


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
