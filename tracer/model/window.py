"""The part of a recording that --since and --until choose, by the wall clock of the recorded host."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import NamedTuple

from tracer.model.dataclass import dataclass
from tracer.model.events import Batch, Event


class Part(NamedTuple):
    """A batch that lies within a window, or before it. is_wanted: it is within."""

    batch: Batch
    is_wanted: bool


@dataclass(frozen=True, slots=True)
class Window:
    """Nanoseconds since 1970, both included; None: no limit."""

    since_ns: int | None = None
    until_ns: int | None = None

    def __bool__(self) -> bool:
        """Whether there is a limit."""
        return self.since_ns is not None or self.until_ns is not None

    def is_early(self, event: Event) -> bool:
        """Whether the event lies before the window."""
        return self.since_ns is not None and event.time_ns < self.since_ns

    def _is_late(self, event: Event) -> bool:
        return self.until_ns is not None and event.time_ns > self.until_ns

    def parts(self, source: Iterable[Batch]) -> Iterator[Part]:
        """The batches up to the end of the window. A batch that the window's beginning divides becomes two.

        What lies before the window is needed as well: a stall that is open at its beginning has its signs there.
        """
        for batch in source:
            if not self or not batch.events:
                yield Part(batch, is_wanted=True)
                continue
            has_gap = batch.has_gap
            pieces = [(place, list(events)) for place, events in groupby(batch.events, key=self._place)]
            for number, (place, events) in enumerate(pieces, 1):
                if place > 0:
                    yield Part(self._end(events[0], has_gap=has_gap), is_wanted=True)
                else:
                    is_last = number == len(pieces)
                    until_ns = batch.until_ns if is_last else events[-1].ktime_ns
                    yield Part(Batch(events, until_ns, has_gap), is_wanted=place == 0)
                has_gap = False

    def _place(self, event: Event) -> int:
        """-1 before the window, 0 within it, 1 after it."""
        return -1 if self.is_early(event) else 1 if self._is_late(event) else 0

    def _end(self, event: Event, *, has_gap: bool) -> Batch:
        """Nothing more happens until the end of the window, which lies before this event."""
        assert self.until_ns is not None
        return Batch((), max(0, event.ktime_ns - (event.time_ns - self.until_ns)), has_gap)


EVERYTHING = Window()
