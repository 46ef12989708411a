"""Source → filter → stall tracker → sinks: the one path that live and replay take.

hook → ring buffer → LiveSource ─┐
file → RecordingReader ──────────┴→ Event → filter → StallTracker → text | JSON lines | recording
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tracer.analysis.outcomes import WITHOUT_EVIDENCE, Outcome
from tracer.model.counts import Tally, counts_of
from tracer.model.events import Batch, Event
from tracer.model.filters import Filter

TOLD_APART = 32768
"""Connections that are remembered at least, so as to count each once, and twice as many at most."""
MAX_REVOCABLE = 8192
"""Stalls that ended without evidence of which the outcome is remembered."""
MAX_OUTCOMES = 32
FINISHED_AT_ONCE = 64
OTHER = "other"
"""The outcomes beyond MAX_OUTCOMES, which only a newer or a damaged recording has."""
_OF_OURS = frozenset({"lost", "stall", "counters"})
"""Kinds of event that the kernel does not send."""


class Sink(Protocol):
    """Where events go."""

    def write(self, *events: Event) -> None:
        """Take some events; they may wait in a buffer until `flush`."""

    def flush(self, until_ns: int) -> None:
        """Let everything written so far be seen; nothing from before until_ns (CLOCK_BOOTTIME) comes any more."""

    def close(self) -> None:
        """Nothing comes any more."""


class Tracker(Protocol):
    """What events pass on their way to the sinks: it may add stalls to them."""

    @property
    def unfollowed(self) -> int:
        """Connections that stalled while too many others did, so that nothing is known but their number."""

    def feed(self, *events: Event) -> list[Event]:
        """What to pass on for these events."""

    def missed(self) -> None:
        """Events are missing before the next one."""

    def advance(self, until_ns: int) -> list[Event]:
        """What to pass on because nothing came until then (CLOCK_BOOTTIME)."""

    def finish(self, until_ns: int, most: int | None = None) -> list[Event]:
        """What to pass on at the end of the run. most: of about so many connections at once, the others next time."""


@dataclass(slots=True)
class Totals:
    """What went through."""

    events: int = 0  # without `lost`, `stall` and `counters`
    seen: Tally = field(default_factory=Tally)  # of what the kernel counts as well
    lost: int = 0
    stalls: Counter[str] = field(default_factory=Counter)  # that ended, by outcome
    until_ns: int = 0  # how far the source came, CLOCK_BOOTTIME
    unfollowed: int = 0  # connections that stalled while too many others did
    connections: int = 0  # one of which nothing was seen for the length of TOLD_APART others may count again
    _known: set[int] = field(default_factory=set)  # hashes of socks, which take less memory
    _known_before: set[int] = field(default_factory=set)
    _revocable: OrderedDict[str | None, str] = field(default_factory=OrderedDict)  # outcomes by the stall's id

    def add(self, *events: Event) -> None:
        """Count events."""
        for event in events:
            kind = event.event
            if kind not in _OF_OURS:
                self.events += 1
                if kind != "state":
                    self.seen.add(event.netns, counts_of(event))
                sock = event.sock
                if sock is not None and hash(sock) not in self._known:
                    self._meet(hash(sock))
            elif kind == "lost":
                self.lost += event.count or 0
            elif kind == "stall":
                self._add_stall(event)

    def _add_stall(self, stall: Event) -> None:
        outcome = stall.outcome or Outcome.ONGOING.value
        if outcome not in self.stalls and len(self.stalls) >= MAX_OUTCOMES:
            outcome = OTHER
        if stall.phase == "end":
            self.stalls[outcome] += 1
            if outcome in WITHOUT_EVIDENCE:
                self._revocable[stall.id] = outcome
                if len(self._revocable) > MAX_REVOCABLE:
                    self._revocable.popitem(last=False)
        elif stall.revoked and stall.id in self._revocable:
            self.stalls -= Counter([self._revocable.pop(stall.id)])

    def _meet(self, sock: int) -> None:
        if sock not in self._known_before:
            self.connections += 1
        if len(self._known) >= TOLD_APART:
            self._known_before, self._known = self._known, set()
        self._known.add(sock)


def run(
    source: Iterable[Batch], wanted: Filter, tracker: Tracker | None, sinks: Sequence[Sink], totals: Totals
) -> None:
    """Carry every batch of the source to the sinks, and flush them after each one.

    The tracker sees every event of the wanted connections, also those of a kind that is not wanted itself. Without a
    tracker the source's own stalls are passed on. totals grows with each batch before it is written, so that it is
    right wherever an error of the source or a sink ends the run. What a sink has taken, the ones before it have.
    """
    chooses = wanted.chooses_events
    for batch in source:
        totals.until_ns = max(totals.until_ns, batch.until_ns)
        told: Sequence[Event] = wanted.followed(batch.events)
        if tracker is not None:
            if batch.has_gap:
                tracker.missed()
            told = [*tracker.feed(*told), *tracker.advance(batch.until_ns)]
        if chooses:  # Stalls are of connections that are followed.
            told = [event for event in told if wanted.chooses(event)]
        totals.add(*told)
        for sink in sinks:
            sink.write(*told)
        for sink in sinks:
            sink.flush(batch.until_ns)


def finish(tracker: Tracker, wanted: Filter, sinks: Sequence[Sink], totals: Totals) -> None:
    """What is still stalled at the end goes to the sinks as such."""
    ended = tracker.finish(totals.until_ns, FINISHED_AT_ONCE)
    while True:
        run([Batch(ended, totals.until_ns)], wanted, None, sinks, totals)
        ended = tracker.finish(totals.until_ns, FINISHED_AT_ONCE) if ended else []
        if not ended:
            break
    totals.unfollowed += tracker.unfollowed
