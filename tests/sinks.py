"""Sinks of a pipeline that keep events for a test to look at."""

from __future__ import annotations

from collections.abc import Sequence

from tracer.model.events import Event
from tracer.recordings.header import Header


class Shown:
    """Keeps stalls."""

    def __init__(self) -> None:
        self.stalls: list[Event] = []

    def opened(self, header: Header) -> None:
        pass

    def write(self, events: Sequence[Event]) -> None:
        self.stalls += [each for each in events if each.event == "stall"]

    def flush(self, until_ns: int) -> None:
        pass

    def close(self) -> None:
        pass
