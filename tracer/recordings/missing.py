"""Events that a recording lacks."""

from __future__ import annotations

from tracer.model.events import RECORDING, Event


class Missing:
    """The number of missing events, and the last of them."""

    def __init__(self) -> None:
        self.count = 0
        self._last: Event | None = None

    def add(self, last: Event | None, count: int) -> None:
        """Count more of them. last: None if there are none."""
        if count and last is not None:
            self.count += count
            self._last = last

    def event(self) -> Event:
        """The `lost` event with this number, at the time of the last one."""
        assert self._last is not None
        time_ns, ktime_ns = self._last.time_ns, self._last.ktime_ns
        return Event(time_ns=time_ns, ktime_ns=ktime_ns, event="lost", count=self.count, hook=RECORDING)
