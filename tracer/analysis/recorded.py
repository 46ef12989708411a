"""Idle-timeout ranges from a recording that lacks some events of its connections.

Such a recording was made with a filter on events. Its stalls cannot be found again, so those that it holds are taken
as they are. :mod:`tracer.analysis.idle` has the rules by which a silence counts as survived or fatal, here as in
:mod:`tracer.analysis.stalls`.
"""

from __future__ import annotations

from collections import OrderedDict

from tracer.analysis.idle import Silences, is_fatal, service_of, survived_silence_ms
from tracer.analysis.verdicts import WITHOUT_EVIDENCE
from tracer.events import Event

MAX_REMEMBERED = 65536
"""Connections of which a stall or a probe is remembered; the one remembered first is forgotten first."""


class RecordedStalls:
    """Passes all events on, and collects the silences that they prove survived or fatal.

    min_idle_ms: shorter silences are ignored. silences: where the others are collected.
    """

    def __init__(self, *, min_idle_ms: int, silences: Silences) -> None:
        self.min_idle_ms = min_idle_ms
        self.silences = silences
        self._stalled: OrderedDict[str, None] = OrderedDict()  # with data in flight; as a set that keeps its order
        self._revocable: OrderedDict[str, Event] = OrderedDict()  # ends without evidence, by id
        self._probed_ns: OrderedDict[str, int] = OrderedDict()  # when the peer's latest keepalive probe came

    def feed(self, *events: Event) -> list[Event]:
        """Learn from events in the order of time. Returns them."""
        for event in events:
            if event.event == "resume":
                self._resume(event)
            elif event.event == "stall":
                self._stall(event)
            elif event.event == "state" and event.new_state == "CLOSE" and event.sock is not None:
                self._probed_ns.pop(event.sock, None)
        return list(events)

    def missed(self) -> None:
        """Events are missing here. Nothing is concluded from what does not come."""

    def advance(self, until_ns: int) -> list[Event]:
        """Nothing ends because time passed."""
        return []

    def finish(self, until_ns: int) -> list[Event]:
        """Nothing is left open: each stall ends in the recording. What no later sign has revoked counts."""
        while self._revocable:
            self._count(self._revocable.popitem(last=False)[1])
        return []

    def _resume(self, event: Event) -> None:
        if event.sock is None or event.sock in self._stalled:
            return
        survived_ms = survived_silence_ms(event, self._probed_ns.get(event.sock))
        if event.cause == "keepalive":
            self._probed_ns[event.sock] = event.ktime_ns
            _limit(self._probed_ns)
        if survived_ms is not None and survived_ms >= self.min_idle_ms:
            self.silences.survived(service_of(event), survived_ms)

    def _stall(self, event: Event) -> None:
        if event.sock is None:
            return
        if event.phase == "end" or event.verdict == "unanswered":
            self._stalled.pop(event.sock, None)
        else:
            self._stalled[event.sock] = None
            _limit(self._stalled)
        if event.revoked:
            self._revocable.pop(event.id or "", None)
        if event.phase != "end":
            return
        if event.outcome not in WITHOUT_EVIDENCE:
            self._count(event)
            return
        self._revocable[event.id or ""] = event
        if len(self._revocable) > MAX_REMEMBERED:
            self._count(self._revocable.popitem(last=False)[1])

    def _count(self, event: Event) -> None:
        if event.idle_ms is None or event.idle_ms < self.min_idle_ms:
            return
        if event.outcome == "recovered":
            self.silences.survived(service_of(event), event.idle_ms)
        elif is_fatal(event.verdict or "", event.outcome or "", event.idle_ms, event.retransmits or 0):
            self.silences.fatal(service_of(event), event.idle_ms)


def _limit(remembered: OrderedDict[str, None] | OrderedDict[str, int]) -> None:
    if len(remembered) > MAX_REMEMBERED:
        remembered.popitem(last=False)
