"""The interface of everything that events are written to: text, JSON lines, a report, a recording."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tracer.model.events import Event
from tracer.recordings.header import Header


class Sink(Protocol):
    """Takes events in the order of the run. Every method may raise OSError or TcpwatchError."""

    def opened(self, header: Header) -> None:
        """A recording or a live run begins: its host, time zone and filters. Comes before its first event."""

    def write(self, events: Sequence[Event]) -> None:
        """Take events. They may wait in a buffer until `flush`."""

    def flush(self, until_ns: int) -> None:
        """Make everything written so far visible. No later event is from before until_ns (CLOCK_BOOTTIME)."""

    def close(self) -> None:
        """Finish the output. No event follows."""
