"""The silences behind the range of each service's idle timeout, for a picture of them.

They come with the same calls as the range itself, so a picture never contradicts the sentence about the range.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import field
from typing import NamedTuple

from tracer.analysis.idle_timeouts import IdleTimeouts, Service
from tracer.model.dataclass import dataclass

MAX_SERVICES = 1024
"""Services with marks. The one that was updated longest ago loses its marks first."""
MAX_MARKS = 48
"""Marks of one service that survived, and likewise fatal ones: those that are nearest to the range."""
PER_DECADE = 24
"""Silences this close to each other (10 %) have one mark."""


class Mark(NamedTuple):
    """Silences of almost the same length. ms: the one that is nearest to the range, milliseconds."""

    ms: int
    silences: int


@dataclass(slots=True)
class _Marks:
    """Marks by length. longest: whether the longest of a mark is kept, and the longest marks of too many."""

    longest: bool
    by_length: dict[int, Mark] = field(default_factory=dict)
    left_out: int = 0

    def add(self, ms: int, silences: int = 1) -> None:
        length = math.floor(PER_DECADE * math.log10(max(1, ms)))
        nearest = max if self.longest else min
        known = self.by_length.get(length, Mark(ms, 0))
        self.by_length[length] = Mark(nearest(ms, known.ms), known.silences + silences)
        if len(self.by_length) > MAX_MARKS:
            farthest = min(self.by_length) if self.longest else max(self.by_length)
            self.left_out += self.by_length.pop(farthest).silences

    def sorted(self) -> tuple[Mark, ...]:
        return tuple(sorted(self.by_length.values()))


class ServiceMarks(NamedTuple):
    """The silences of one service, the shortest first. left_out: silences without a mark, farther from the range."""

    survived: tuple[Mark, ...] = ()
    fatal: tuple[Mark, ...] = ()
    left_out: int = 0


class SilenceMarks(IdleTimeouts):
    """The ranges of the services' idle timeouts, and the silences that they follow from, in bounded memory."""

    def __init__(self) -> None:
        super().__init__()
        self._marks: OrderedDict[Service, tuple[_Marks, _Marks]] = OrderedDict()  # survived, fatal

    def marks_of(self, service: Service) -> ServiceMarks:
        """The marks of a service. They include both ends of its range."""
        survived, fatal = self._marks.get(service) or (_Marks(longest=True), _Marks(longest=False))
        known = self.range_of(service)
        return ServiceMarks(
            _with_end(survived.sorted(), known.survived_ms),
            _with_end(fatal.sorted(), known.fatal_ms),
            survived.left_out + fatal.left_out,
        )

    def survived(self, service: Service | None, silence_ms: int) -> None:
        """Record that a connection was alive after this silence."""
        super().survived(service, silence_ms)
        if service is not None and not self.is_paused:
            self._marks_for(service)[0].add(silence_ms)

    def fatal(self, service: Service | None, silence_ms: int) -> None:
        """Record that a connection was dead after this silence."""
        super().fatal(service, silence_ms)
        if service is not None and not self.is_paused:
            self._marks_for(service)[1].add(silence_ms)

    def take_marks(self, service: Service, marks: ServiceMarks) -> None:
        """Include marks from elsewhere. Their range has to be included as well."""
        survived, fatal = self._marks_for(service)
        survived.left_out += marks.left_out
        for mark in marks.survived:
            survived.add(*mark)
        for mark in marks.fatal:
            fatal.add(*mark)

    def merge(self, other: IdleTimeouts) -> None:
        """Include everything that is known elsewhere."""
        super().merge(other)
        if isinstance(other, SilenceMarks):
            for service in other._marks:
                self.take_marks(service, other.marks_of(service))

    def _marks_for(self, service: Service) -> tuple[_Marks, _Marks]:
        marks = self._marks.setdefault(service, (_Marks(longest=True), _Marks(longest=False)))
        self._marks.move_to_end(service)
        if len(self._marks) > MAX_SERVICES:
            self._marks.popitem(last=False)
        return marks


def _with_end(marks: tuple[Mark, ...], end_ms: int | None) -> tuple[Mark, ...]:
    """The marks, and the end of the range where it has none because the service had lost its marks."""
    if end_ms is None or any(mark.ms == end_ms for mark in marks):
        return marks
    return tuple(sorted((*marks, Mark(end_ms, 1))))
