"""What the recording of the other end of a stalled connection shows about the stall.

The ends are joined by their addresses and ports, swapped. Behind a NAT nothing matches, and nothing is concluded; nor
where two hosts have such an end. A finding is what the other host's kernel saw. What its recording lacks counts only
where that recording is known to have every arrival.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from ipaddress import ip_address
from typing import NamedTuple

from tracer.analysis.clock_offsets import TOLERANCE_NS, Clock, ClockOffsets
from tracer.analysis.connection_ends import MAX_TEXT, MS, Closing, ConnectionEnd, ConnectionEnds, Ends, ends_of
from tracer.analysis.coverage import Coverage, Coverages
from tracer.analysis.incidents import began_ns
from tracer.analysis.outcomes import Outcome
from tracer.analysis.verdicts import Subject, Verdict
from tracer.model.events import Event

_SENT_OFTEN_NS = 3_000 * MS
"""Within this time data is sent at least four times: it is not by chance that none arrives."""


class Finding(str, Enum):
    """What the other end shows."""

    NOTHING_ARRIVED = "nothing-arrived"
    """What this end sent did not arrive."""
    ARRIVED = "arrived"
    """What this end sent arrived, so what the other end sent was lost."""
    CLOSED = "closed"
    """The other end had been closed before."""
    OPEN = "open"
    """A reset came, and the other end is open still: it did not send that."""
    NOT_READ = "not-read"
    """Its process did not read."""
    NO_REPLY = "no-reply"
    """Its process has the request, and sent no reply."""
    REPLY_LOST = "reply-lost"
    """It sent a reply that was not acknowledged."""
    NOT_RECORDED = "not-recorded"
    """Its host was not recorded at that time."""


class OtherEnd(NamedTuple):
    """A finding. Times are those of the other host's clock; 0: not known.

    host: where the other end is. comm, pid: its process; empty and 0: unknown. heard_ns: when something arrived there
    last before the stall (NOTHING_ARRIVED), or first during it (ARRIVED). until_ns: up to when nothing arrived, when
    the end was still open, or when the recording ended. waited_ns: since when it waited for an answer, too.
    lost_back: what the other end sent did not arrive either. others_passed: another connection between the two
    addresses was alive meanwhile. ahead_ns: how far the clock of the other host is ahead; None: not known, and the
    finding holds if the clocks differ by less than TOLERANCE_NS.
    """

    host: str
    finding: Finding
    comm: str = ""
    pid: int = 0
    heard_ns: int = 0
    until_ns: int = 0
    waited_ns: int = 0
    closing: Closing | None = None
    lost_back: bool = False
    others_passed: bool = False
    ahead_ns: int | None = None


class Stall(NamedTuple):
    """What is kept of a stall until all recordings have been read."""

    host: str
    id: str
    ends: Ends
    since_ns: int
    ended_ns: int
    idle_ms: int
    verdict: str
    silent_ms: int
    """At the end: from when on nothing was received."""
    sends_probes: bool
    comm: str
    pid: int
    clock_ns: int
    """The wall clock of its host minus CLOCK_BOOTTIME."""

    @property
    def heard_ns(self) -> int:
        """When this end received something last."""
        return self.ended_ns - self.silent_ms * MS

    def on_clock(self, ahead_ns: int) -> Stall:
        """The stall on a clock that is ahead by that much."""
        return self._replace(since_ns=self.since_ns + ahead_ns, ended_ns=self.ended_ns + ahead_ns)


def stall_of(host: str, end: Event) -> Stall | None:
    """The stall that ended so; None where the other end has nothing to add, because it was answered."""
    ends, outcome = ends_of(end), Outcome.of(end.outcome)
    if ends is None or end.duration_ms is None or outcome is None:
        return None
    if outcome.is_harmless and (end.verdict, outcome) != (Verdict.UNANSWERED, Outcome.ALIVE):
        return None
    since_ns = began_ns(end)
    return Stall(
        host=host,
        id=end.id or "",
        ends=ends,
        since_ns=since_ns,
        ended_ns=since_ns + end.duration_ms * MS,
        idle_ms=end.idle_ms or 0,
        verdict=end.verdict or "",
        silent_ms=end.duration_ms if end.silent_ms is None else end.silent_ms,
        sends_probes=bool(end.probes_out),
        comm=(end.comm or "")[:MAX_TEXT],
        pid=end.pid or 0,
        clock_ns=end.time_ns - end.ktime_ns,
    )


class Join:
    """The ends of all recordings, to be looked up."""

    def __init__(self, ends: ConnectionEnds, coverages: Coverages, offsets: ClockOffsets) -> None:
        self._coverages = coverages
        self._offsets = offsets
        self._ends: dict[Ends, list[tuple[str, ConnectionEnd]]] = {}
        self._between: dict[tuple[str, str, str], list[ConnectionEnd]] = {}  # by host and both addresses
        for host, each, end in ends:
            self._ends.setdefault(each, []).append((host, end))
            self._between.setdefault((host, each.laddr, each.raddr), []).append(end)

    def other_end(self, stall: Stall) -> OtherEnd | None:
        """What the other end of a stalled connection shows; None where it shows nothing or is not known."""
        candidates, own = self._ends.get(stall.ends.swapped(), ()), self._ends.get(stall.ends, ())
        if len(candidates) != 1 or candidates[0][0] == stall.host or _is_local(stall.ends.raddr):
            return None
        if any(host != stall.host for host, _ in own):
            return None
        host, end = candidates[0]
        clock = Clock(host, end.clock_ns)
        offset = self._offsets.between(Clock(stall.host, stall.clock_ns), clock)
        if offset is not None and not offset.is_known(stall.since_ns, stall.ended_ns):
            if abs(offset.ahead_ns) > TOLERANCE_NS:
                return None
            offset = None
        if end.was_set:
            return None
        stall = stall if offset is None else stall.on_clock(offset.ahead_ns)
        if end.began_ns > stall.since_ns + TOLERANCE_NS:
            return None  # a later connection with the same addresses and ports
        began_ns = max((each.began_ns for _, each in own), default=0) + (0 if offset is None else offset.ahead_ns)
        if end.seen_ns + TOLERANCE_NS < began_ns <= stall.since_ns:
            return None  # an earlier one
        runs = self._coverages.of(host)
        coverages = [each for each in runs if not each.was_set and clock.has(each.clock_ns)]
        found = _closed(stall, end) or _of_subject(stall, end, coverages)
        if found is None and len(coverages) == len(runs):
            found = _not_recorded(stall, coverages)
        if found is None:
            return None
        waited_ns = _waited_ns(stall, end)
        return found._replace(
            host=host,
            comm=end.comm,
            pid=end.pid,
            waited_ns=waited_ns,
            lost_back=_is_lost_back(stall, waited_ns),
            others_passed=any(
                _was_alive(each, stall)
                for each in self._between[host, stall.ends.raddr, stall.ends.laddr]
                if each is not end and not each.was_set and clock.has(each.clock_ns)
            ),
            ahead_ns=None if offset is None else offset.ahead_ns,
        )


def _was_alive(end: ConnectionEnd, stall: Stall) -> bool:
    """Whether something arrived on that connection while the stall went on."""
    opened = [end.began_ns] if end.began_ns == end.open_ns else []
    instants = [*opened, *(span.heard_ns for span in end.spans), *end.arrivals_ns]
    return any(stall.since_ns + TOLERANCE_NS <= each <= stall.ended_ns - TOLERANCE_NS for each in instants)


def _of_subject(stall: Stall, end: ConnectionEnd, coverages: Sequence[Coverage]) -> OtherEnd | None:
    verdict = Verdict.of(stall.verdict)
    if verdict is None or verdict is Verdict.LOCAL_DROP:
        return None
    if verdict.subject is Subject.RESET:
        return _open(stall, end)
    if verdict.subject is Subject.WINDOW:
        return _found(Finding.NOT_READ) if end.comm else None
    if verdict.subject is Subject.REPLY:
        return _reply(stall, end, coverages)
    arrivals_ns = _arrivals_ns(stall, end)
    if arrivals_ns:
        # Where the peer is received here as well, both ways work at least now and then.
        is_received_here = stall.heard_ns > stall.since_ns + TOLERANCE_NS
        return None if is_received_here else _found(Finding.ARRIVED, heard_ns=min(arrivals_ns))
    return _silent(stall, end, verdict) or _not_an_event(stall, end, coverages)


def _found(finding: Finding, heard_ns: int = 0, until_ns: int = 0) -> OtherEnd:
    return OtherEnd("", finding, heard_ns=heard_ns, until_ns=until_ns)


def _closed(stall: Stall, end: ConnectionEnd) -> OtherEnd | None:
    closing = end.closing
    if closing is None or closing.how == "peer-closed":
        return None
    # A reset that answers the stalled data comes after it: there was no socket before.
    is_before = closing.time_ns < stall.since_ns - TOLERANCE_NS
    if is_before or (closing.how == "no-socket" and closing.time_ns <= stall.ended_ns + TOLERANCE_NS):
        return _found(Finding.CLOSED)._replace(closing=closing)
    return None


def _open(stall: Stall, end: ConnectionEnd) -> OtherEnd | None:
    if end.closing is None and end.open_ns > stall.ended_ns + TOLERANCE_NS:
        return _found(Finding.OPEN, until_ns=end.open_ns)
    return None


def _reply(stall: Stall, end: ConnectionEnd, coverages: Sequence[Coverage]) -> OtherEnd | None:
    if any(stall.since_ns - TOLERANCE_NS <= wait.since_ns <= stall.ended_ns for wait in end.waits):
        return _found(Finding.REPLY_LOST)
    is_covered = any(
        each.is_whole
        and each.began_ns <= stall.since_ns - TOLERANCE_NS
        and each.until_ns >= stall.ended_ns - TOLERANCE_NS
        for each in coverages
    )
    return _found(Finding.NO_REPLY) if end.comm and end.closing is None and is_covered else None


def _arrivals_ns(stall: Stall, end: ConnectionEnd) -> list[int]:
    """When something of this end arrived there while it waited here."""
    # What arrived within the tolerance may have been sent before, unless nothing was sent for longer than that.
    is_idle = stall.idle_ms * MS > 2 * TOLERANCE_NS
    first_ns = stall.since_ns + (-TOLERANCE_NS if is_idle else TOLERANCE_NS)
    heard = [*(span.heard_ns for span in end.spans), *end.arrivals_ns]
    return [each for each in heard if first_ns <= each <= stall.ended_ns - TOLERANCE_NS]


def _silent(stall: Stall, end: ConnectionEnd, verdict: Verdict) -> OtherEnd | None:
    """The other kernel's own clock of silence covers the time in which this end sent."""
    if verdict.subject is not Subject.ACKNOWLEDGEMENT or stall.sends_probes:
        return None  # probes do not count for that clock
    if end.closing is not None and end.closing.time_ns < _needed_ns(stall):
        return None
    for heard_ns, until_ns in end.spans:
        if heard_ns <= stall.since_ns - TOLERANCE_NS and until_ns >= _needed_ns(stall):
            return _found(Finding.NOTHING_ARRIVED, heard_ns, min(until_ns, stall.ended_ns))
    return None


def _not_an_event(stall: Stall, end: ConnectionEnd, coverages: Sequence[Coverage]) -> OtherEnd | None:
    """No arrival was recorded, though each would have been."""
    verdict = Verdict.of(stall.verdict)
    if verdict is not None and verdict.subject is Subject.CONNECTION:
        return None
    was_open = bool(end.open_ns or end.spans)
    for each in coverages:
        until_ns = min(each.until_ns - TOLERANCE_NS, stall.ended_ns)
        is_covered = each.began_ns <= stall.since_ns - TOLERANCE_NS and until_ns >= _needed_ns(stall) - TOLERANCE_NS
        # An end that left ESTABLISHED meanwhile is not looked at any more.
        is_open = was_open and (end.closing is None or end.closing.time_ns > until_ns)
        if is_covered and is_open and each.shows_arrivals_after(stall.idle_ms - TOLERANCE_NS // MS):
            before = [span.heard_ns for span in end.spans if span.heard_ns < stall.since_ns]
            return _found(Finding.NOTHING_ARRIVED, max(before, default=0), until_ns)
    return None


def _needed_ns(stall: Stall) -> int:
    """Up to when the silence of the other end has to be known, to be no chance."""
    if stall.verdict == Verdict.KEEPALIVE_FAILED:  # a minute may lie between two probes
        return stall.ended_ns
    return stall.since_ns + TOLERANCE_NS + _SENT_OFTEN_NS


def _not_recorded(stall: Stall, coverages: Sequence[Coverage]) -> OtherEnd | None:
    if not coverages or any(
        each.began_ns <= stall.ended_ns + TOLERANCE_NS and each.until_ns >= stall.since_ns - TOLERANCE_NS
        for each in coverages
    ):
        return None
    ended_ns = max((each.until_ns for each in coverages if each.until_ns < stall.since_ns), default=0)
    return _found(Finding.NOT_RECORDED, until_ns=ended_ns)


def _waited_ns(stall: Stall, end: ConnectionEnd) -> int:
    overlapping = [
        wait.since_ns
        for wait in end.waits
        if wait.since_ns <= stall.ended_ns - TOLERANCE_NS and wait.ended_ns >= stall.since_ns - TOLERANCE_NS
    ]
    return min(overlapping, default=0)


def _is_lost_back(stall: Stall, waited_ns: int) -> bool:
    """Whether the other end sent while this one waited, and nothing arrived here. waited_ns: since when it waited."""
    is_long = waited_ns + TOLERANCE_NS + _SENT_OFTEN_NS <= stall.ended_ns
    return bool(waited_ns) and is_long and stall.heard_ns < waited_ns - TOLERANCE_NS


def _is_local(address: str) -> bool:
    """Whether another host may have the same address for itself."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return True
    return parsed.is_loopback or parsed.is_link_local or parsed.is_unspecified
