"""Source → filter → stall tracker → sinks: the path that live tracing and replay share.

hook → ring buffer → LiveSource ─┐
file → RecordingReader ──────────┴→ Event → filter → StallTracker → text | JSON lines | recording | metrics | OTLP
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import field
from typing import Protocol

from tracer.analysis.outcomes import WITHOUT_EVIDENCE, Outcome
from tracer.model.counts import Tally, counts_of
from tracer.model.dataclass import dataclass
from tracer.model.events import Batch, Event
from tracer.model.filters import Filter
from tracer.model.kinds import Kind
from tracer.model.window import EVERYTHING, Window
from tracer.output.sink import Sink

MAX_KNOWN = 32768
"""Connections in one of the two sets that count each connection once."""
MAX_REVOCABLE = 8192
"""Stalls that ended without evidence and may be revoked."""
MAX_OUTCOMES = 32
MAX_FINISHED = 64
"""Connections that are finished in one step."""
OTHER = "other"
"""Outcomes beyond MAX_OUTCOMES. Only a newer or a damaged recording has them."""
_NOT_COUNTED = frozenset({Kind.LOST, Kind.STALL, Kind.COUNTERS, Kind.ACTION})
"""Kinds of event that tcpwatch itself makes."""


class Tracker(Protocol):
    """What events pass on their way to the sinks: it may add stalls to them."""

    @property
    def unfollowed(self) -> int:
        """Connections that stalled while too many others did, so that nothing is known but their number."""

    def feed(self, *events: Event) -> list[Event]:
        """Take events. Returns them and the stalls that they begin, update and end."""

    def missed(self) -> None:
        """Events before the next one were lost."""

    def advance(self, until_ns: int) -> list[Event]:
        """What to pass on because nothing came until then (CLOCK_BOOTTIME)."""

    def finish(self, until_ns: int, most: int | None = None) -> list[Event]:
        """The last stalls of the run. most: connections to finish in this call; call again for the others."""


@dataclass(slots=True)
class Totals:
    """Counts of the events that reached the sinks."""

    events: int = 0  # without `lost`, `stall` and `counters`
    seen: Tally = field(default_factory=Tally)  # what the kernel counts, too
    lost: int = 0
    stalls: Counter[str] = field(default_factory=Counter)  # ended stalls, by outcome
    until_ns: int = 0  # the source is complete up to this time, CLOCK_BOOTTIME
    unfollowed: int = 0  # connections that stalled while too many others did
    connections: int = 0  # one without events while MAX_KNOWN others had some may count again
    _known: set[int] = field(default_factory=set)  # hashes of socket ids: less memory
    _known_before: set[int] = field(default_factory=set)
    _revocable: OrderedDict[str | None, str] = field(default_factory=OrderedDict)  # outcomes by the stall's id

    def add(self, events: Iterable[Event]) -> None:
        """Count events."""
        for event in events:
            kind = event.event
            if kind not in _NOT_COUNTED:
                self.events += 1
                if kind != "state":
                    self.seen.add(event.netns, counts_of(event))
                sock = event.sock
                if sock is not None and hash(sock) not in self._known:
                    self._meet(hash(sock))
            elif kind == "lost":
                self.lost += event.count if event.count is not None else 0
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
        if len(self._known) >= MAX_KNOWN:
            self._known_before, self._known = self._known, set()
        self._known.add(sock)


def run(
    source: Iterable[Batch],
    wanted: Filter,
    tracker: Tracker | None,
    sinks: Sequence[Sink],
    totals: Totals,
    window: Window = EVERYTHING,
    observers: Sequence[Sink] = (),
) -> None:
    """Write every batch of the source to the sinks, and flush them after each batch.

    The tracker gets every event of the wanted connections, also of kinds that are not wanted. Without a tracker the
    source's own stalls are passed on. totals counts a batch before it is written, so it is right after an error of
    the source or of a sink. A sink gets a batch after all sinks before it. What precedes the window reaches only the
    tracker. observers get the events of the wanted connections before any sink, also of other kinds.
    """
    chooses = wanted.chooses_events
    for batch in source:
        totals.until_ns = max(totals.until_ns, batch.until_ns)
        events: Sequence[Event] = wanted.followed(batch.events)
        if tracker is not None:
            if batch.has_gap:
                tracker.missed()
            events = [*tracker.feed(*events), *tracker.advance(batch.until_ns)]
        for observer in observers:
            observer.write(events)
        if chooses:
            events = [event for event in events if wanted.chooses(event)]
        if window.since_ns is not None:
            events = [event for event in events if not window.is_early(event)]
        totals.add(events)
        for sink in sinks:
            sink.write(events)
        for sink in (*observers, *sinks):
            sink.flush(batch.until_ns)


def finish(
    tracker: Tracker,
    wanted: Filter,
    sinks: Sequence[Sink],
    totals: Totals,
    window: Window = EVERYTHING,
    observers: Sequence[Sink] = (),
) -> None:
    """Write the stalls that go on at the end of the run."""
    ended = tracker.finish(totals.until_ns, MAX_FINISHED)
    while True:
        run([Batch(ended, totals.until_ns)], wanted, None, sinks, totals, window, observers)
        ended = tracker.finish(totals.until_ns, MAX_FINISHED) if ended else []
        if not ended:
            break
    totals.unfollowed += tracker.unfollowed
