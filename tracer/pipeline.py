"""Source → filter → sinks: the one path that live and replay take.

hook → ring buffer → LiveSource ─┐
file → RecordingReader ──────────┴→ Event → filter → text | JSON lines | recording
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tracer.events import Event
from tracer.filters import Filter

COUNTED_CONNECTIONS = 1_000_000
"""More connections than this are not told apart any more: memory stays bounded."""


class Sink(Protocol):
    """Where events go."""

    def write(self, event: Event) -> None:
        """Take one event; it may wait in a buffer until `flush`."""

    def flush(self) -> None:
        """Let everything written so far be seen."""


@dataclass(slots=True)
class Totals:
    """What went through."""

    events: int = 0  # without `lost`
    retransmits: int = 0
    lost: int = 0
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
        self.events += 1
        if event.event == "retransmit":
            self.retransmits += 1
        if event.sock is not None and len(self._connections) < COUNTED_CONNECTIONS:
            self._connections.add(event.sock)


def run(source: Iterable[Sequence[Event]], wanted: Filter, sinks: Sequence[Sink], totals: Totals) -> None:
    """Carry every batch of the source to the sinks, and flush them after each one.

    totals grows as events go through, so that it is right wherever a sink's error ends the run.
    """
    for batch in source:
        for event in batch:
            if not wanted.wants(event):
                continue
            totals.add(event)
            for sink in sinks:
                sink.write(event)
        for sink in sinks:
            sink.flush()
