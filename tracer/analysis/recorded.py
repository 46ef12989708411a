"""Stalls and idle-timeout ranges from a recording that lacks some events of its connections.

Such a recording was made with a filter on events. Its stalls cannot be found again, so those that it holds are passed
on. Their advice is derived anew from their other fields: a file may hold any text, and advice is there to be typed.
:mod:`tracer.analysis.survival` decides which silences count as survived or fatal, here as in
:mod:`tracer.analysis.stalls`.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple, TypeVar

from tracer.analysis.advice.derived import advice_for
from tracer.analysis.idle_timeouts import IdleTimeouts, Service, service_of
from tracer.analysis.outcomes import WITHOUT_EVIDENCE, Outcome
from tracer.analysis.recorded_open import RecordedOpenStalls
from tracer.analysis.survival import EMPTY_SEGMENTS, is_fatal, survived_silence_ms
from tracer.analysis.verdicts import Subject, Verdict
from tracer.model.events import Event
from tracer.model.kinds import Kind

MAX_REMEMBERED = 16384
"""Connections with a stall or a probe that is remembered. The oldest is forgotten first."""
_V = TypeVar("_V")


class _End(NamedTuple):
    """The end of a stall, as far as it proves that a silence was survived or fatal."""

    service: Service | None
    verdict: Verdict | None
    outcome: Outcome | None
    idle_ms: int
    retransmits: int


class RecordedStalls:
    """Passes all events on, and collects the silences that they prove survived or fatal.

    min_idle_ms: shorter silences are ignored. idle_timeouts: where the others are collected. hz: jiffies per second
    of the kernel that the events come from. own_netns: inode of its host's own network namespace; 0: unknown.
    has_all_stalls: the recording has every event of its stalls, so that one without an end was open when it ended.
    """

    def __init__(
        self,
        *,
        min_idle_ms: int,
        idle_timeouts: IdleTimeouts,
        hz: int = 250,
        own_netns: int = 0,
        has_all_stalls: bool = False,
    ) -> None:
        self.unfollowed = 0
        self.min_idle_ms = min_idle_ms
        self.own_netns = own_netns
        self.idle_timeouts = idle_timeouts
        self.hz = hz
        self._open = RecordedOpenStalls()
        self._has_all_stalls = has_all_stalls
        self._stalled: OrderedDict[str, None] = OrderedDict()  # with data in flight; as a set that keeps its order
        self._revocable: OrderedDict[str, _End] = OrderedDict()  # ends without evidence, by id
        self._probed_ns: OrderedDict[str, int] = OrderedDict()  # when the peer's latest keepalive probe came
        self._survived_ms: OrderedDict[str, int] = OrderedDict()  # the longest silence that the connection survived
        self._refused: OrderedDict[str, None] = OrderedDict()  # connections on which the kernel refused a RST

    def feed(self, *events: Event) -> list[Event]:
        """Learn from events in the order of time. Returns them, and the ends of stalls that are too many."""
        passed: list[Event] = []
        for event in events:
            if event.event == Kind.STALL:
                passed += self._stall(event)
                continue
            passed.append(event)
            if event.event == Kind.RESUME:
                self._resume(event)
            elif event.event == Kind.LOST:
                self._open.missed()
            elif event.event == Kind.RESET and event.direction == "refused" and event.sock is not None:
                _put(self._refused, event.sock, None)
            elif event.event == Kind.STATE and event.new_state == "CLOSE" and event.sock is not None:
                self._probed_ns.pop(event.sock, None)
        return passed

    def missed(self) -> None:
        """Events are missing here. An end without evidence proves nothing, because it may have been revoked."""
        self._revocable.clear()
        self._open.missed()

    def advance(self, until_ns: int) -> list[Event]:
        """Nothing ends because time passed."""
        return []

    def finish(self, until_ns: int, most: int | None = None) -> list[Event]:
        """The stalls that are open then end as `ongoing`, and what nothing revoked counts. most: stalls to end."""
        ended = self._open.finish(until_ns, most)
        for end in ended:
            self._learn(end.stall, is_uncertain=end.is_uncertain)
        while self._revocable:
            self._count(self._revocable.popitem(last=False)[1])
        return [self._completed(end.stall) for end in ended]

    def _stall(self, event: Event) -> list[Event]:
        """Take a `stall` event. Returns the ends of others, for which there is no room, and the event."""
        self._learn(event, is_uncertain=self._open.is_uncertain(event))
        self._completed(event)
        if not self._has_all_stalls:
            return [event]
        ends = self._open.take(event)
        self.unfollowed += len(ends)
        for end in ends:
            self._learn(end.stall, is_uncertain=end.is_uncertain)
        return [*(self._completed(end.stall) for end in ends), event]

    def _completed(self, stall: Event) -> Event:
        """Set what follows from earlier events, and derive the advice anew."""
        sock = stall.sock or ""
        survived_ms = self._survived_ms.get(sock)
        if sock in self._refused:
            stall.refused_reset = True
        if survived_ms is not None and stall.idle_ms is not None and survived_ms >= stall.idle_ms:
            stall.survived_before = True
        idle_timeout = self.idle_timeouts.range_of(service_of(stall))
        stall.survived_ms, stall.fatal_ms = idle_timeout.survived_ms, idle_timeout.fatal_ms
        stall.advice = advice_for(stall, hz=self.hz, own_netns=self.own_netns)
        return stall

    def _resume(self, event: Event) -> None:
        if event.sock is None or (event.idle_ms is None and event.sock in self._stalled):
            return
        survived_ms = event.idle_ms
        if survived_ms is None:  # of an earlier version
            survived_ms = survived_silence_ms(event, self._probed_ns.get(event.sock))
        if event.cause in EMPTY_SEGMENTS:
            _put(self._probed_ns, event.sock, event.ktime_ns)
        if survived_ms is not None:
            _put(self._survived_ms, event.sock, max(survived_ms, self._survived_ms.get(event.sock, 0)))
            if survived_ms >= self.min_idle_ms:
                self.idle_timeouts.survived(service_of(event), survived_ms)

    def _learn(self, event: Event, *, is_uncertain: bool) -> None:
        if event.sock is None:
            return
        verdict = Verdict.of(event.verdict)
        if event.phase == "end" or (verdict is not None and verdict.subject is Subject.REPLY):
            self._stalled.pop(event.sock, None)
        else:
            _put(self._stalled, event.sock, None)
        if event.revoked:
            self._revocable.pop(event.id or "", None)
        if is_uncertain and event.outcome == Outcome.ONGOING:
            return
        if event.phase != "end" or event.idle_ms is None or event.idle_ms < self.min_idle_ms:
            return
        retransmits = 0 if event.retransmits is None else event.retransmits
        end = _End(service_of(event), verdict, Outcome.of(event.outcome), event.idle_ms, retransmits)
        if event.outcome not in WITHOUT_EVIDENCE:
            self._count(end)
            return
        self._revocable[event.id or ""] = end
        if len(self._revocable) > MAX_REMEMBERED:
            self._count(self._revocable.popitem(last=False)[1])

    def _count(self, end: _End) -> None:
        if end.outcome is Outcome.RECOVERED:
            self.idle_timeouts.survived(end.service, end.idle_ms)
        elif is_fatal(end.verdict, end.outcome, end.idle_ms, end.retransmits):
            self.idle_timeouts.fatal(end.service, end.idle_ms)


def _put(remembered: OrderedDict[str, _V], sock: str, value: _V) -> None:
    remembered[sock] = value
    if len(remembered) > MAX_REMEMBERED:
        remembered.popitem(last=False)
