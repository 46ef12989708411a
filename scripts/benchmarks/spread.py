"""Repeated measurements as one value: the median and the quartiles."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """median, the quartiles low and high, and of how many measurements."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one measurement."""
        low, median, high = (percentile(values, part) for part in (25, 50, 75))
        return cls(median, low, high, len(values))


def percentile(values: Sequence[float], percent: float) -> float:
    """The percentile of some values, interpolated."""
    if not values:
        raise ValueError("no measurement")
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def median_between(values: Sequence[float]) -> tuple[float, float]:
    """Between what the true median lies, with 95 % confidence; all of them where there are too few for that.

    A measurement is below the true median as often as above, so how many are is binomial, whatever is measured.
    """
    ordered = sorted(values)
    place = 0
    below = 0.5 ** len(ordered)  # how likely it is that at most `place` of them are
    while 2 * below <= 0.05:
        place += 1
        below += math.comb(len(ordered), place) * 0.5 ** len(ordered)
    outermost = max(0, place - 1)
    return ordered[outermost], ordered[-1 - outermost]


def ratios(watched: Sequence[float], before_and_after: Sequence[float]) -> list[float]:
    """Each watched measurement over the mean of the two unwatched ones around it, which takes out a slow drift.

    before_and_after has one more than watched.
    """
    if len(before_and_after) != len(watched) + 1:
        raise ValueError(f"{len(watched)} measurements between {len(before_and_after)}")
    around = zip(before_and_after, before_and_after[1:])
    return [value / statistics.fmean(pair) for value, pair in zip(watched, around)]
