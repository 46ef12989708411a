"""Source → filter → stall tracker → sinks: the one path that live and replay take.

hook → ring buffer → LiveSource ─┐
file → RecordingReader ──────────┴→ Event → filter → StallTracker → text | JSON lines | recording
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tracer.analysis.stalls import StallTracker
from tracer.events import Batch, Event
from tracer.filters import Filter

COUNTED_CONNECTIONS = 1_000_000
"""More connections than this are not told apart any more: memory stays bounded."""


class Sink(Protocol):
    """Where events go."""

    def write(self, event: Event) -> None:
        """Take one event; it may wait in a buffer until `flush`."""

    def flush(self, until_ns: int) -> None:
        """Let everything written so far be seen; nothing from before until_ns (CLOCK_BOOTTIME) comes any more."""

    def close(self) -> None:
        """Nothing comes any more."""


@dataclass(slots=True)
class Totals:
    """What went through."""

    events: int = 0  # without `lost` and `stall`
    retransmits: Counter[int | None] = field(default_factory=Counter)  # by network namespace
    lost: int = 0
    stalls: Counter[str] = field(default_factory=Counter)  # that ended, by outcome
    until_ns: int = 0  # how far the source came, CLOCK_BOOTTIME
    _connections: set[str] = field(default_factory=set)

    @property
    def connections(self) -> int:
        """Distinct sockets, at most COUNTED_CONNECTIONS."""
        return len(self._connections)

    def add(self, event: Event) -> None:
        """Count one event."""
        if event.event == "lost":
            self.lost += event.count or 0
            return
        if event.event == "stall":
            if event.phase == "end":
                self.stalls[event.outcome or "ongoing"] += 1
            return
        self.events += 1
        if event.event == "retransmit":
            self.retransmits[event.netns] += 1
        if event.sock is not None and len(self._connections) < COUNTED_CONNECTIONS:
            self._connections.add(event.sock)


def run(
    source: Iterable[Batch], wanted: Filter, tracker: StallTracker | None, sinks: Sequence[Sink], totals: Totals
) -> None:
    """Carry every batch of the source to the sinks, and flush them after each one.

    The tracker sees every event of the wanted connections, also those of a kind that is not wanted itself. Without a
    tracker the source's own stalls are passed on. totals grows as events go through, so that it is right wherever an
    error of the source or a sink ends the run.
    """

    def carry(events: Iterable[Event]) -> None:
        for event in events:
            if wanted.wants(event):
                totals.add(event)
                for sink in sinks:
                    sink.write(event)

    for batch in source:
        totals.until_ns = max(totals.until_ns, batch.until_ns)
        if tracker is None:
            carry(batch.events)
        else:
            for event in batch.events:
                carry(tracker.feed(event) if wanted.follows(event) else tracker.advance(event.ktime_ns))
            carry(tracker.advance(batch.until_ns))
        for sink in sinks:
            sink.flush(batch.until_ns)


def finish(tracker: StallTracker, wanted: Filter, sinks: Sequence[Sink], totals: Totals) -> None:
    """What is still stalled at the end goes to the sinks as such."""
    run([Batch(tracker.finish(totals.until_ns), totals.until_ns)], wanted, None, sinks, totals)
