"""Sinks of a pipeline that keep events for a test to look at."""

from __future__ import annotations

from tracer.model.events import Event


class Shown:
    """Keeps stalls."""

    def __init__(self) -> None:
        self.stalls: list[Event] = []

    def write(self, *events: Event) -> None:
        self.stalls += [each for each in events if each.event == "stall"]

    def flush(self, until_ns: int) -> None:
        pass

    def close(self) -> None:
        pass
