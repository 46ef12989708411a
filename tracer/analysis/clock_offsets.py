"""The difference between the clocks of two hosts, from connections that both of them saw close.

Each of these gives limits, a round trip apart. A connection of another time that has the same addresses and ports
gives wrong ones, so a difference counts where most connections agree on it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from tracer.analysis.closes import Close
from tracer.analysis.connection_ends import MS, STEP_NS, Ends

TOLERANCE_NS = 1_000 * MS
"""By this much the known difference may be wrong."""
_SPREAD_NS = 500 * MS
"""Limits that lie within this agree."""
_DRIFT = 10_000
"""Two clocks without NTP drift by one part in this number at most: a quartz has an error of up to 50 millionths."""


class Clock(NamedTuple):
    """The wall clock of a host, which is another clock after it was set. clock_ns: as in :class:`Close`."""

    host: str
    clock_ns: int

    def rounded(self) -> Clock:
        """The same for all events of the clock, up to its resolution."""
        return Clock(self.host, round(self.clock_ns, -8))

    def has(self, clock_ns: int) -> bool:
        """Whether it is the clock of an event with that distance from CLOCK_BOOTTIME."""
        return abs(clock_ns - self.clock_ns) <= STEP_NS


class ClockOffset(NamedTuple):
    """The difference between this clock and that of another host.

    ahead_ns: how far the other one is ahead; negative: behind. error_ns: the limit of the error from first_ns to
    last_ns on this clock. Before and after, clocks may drift.
    """

    ahead_ns: int
    error_ns: int
    first_ns: int
    last_ns: int

    def is_known(self, since_ns: int, until_ns: int) -> bool:
        """Whether the difference is known to TOLERANCE_NS in that time of this clock."""
        away_ns = max(0, self.first_ns - since_ns, until_ns - self.last_ns)
        return self.error_ns + away_ns // _DRIFT <= TOLERANCE_NS


class _Limits(NamedTuple):
    """What one close shows: the other clock is ahead by low_ns to high_ns. time_ns: when, on this clock."""

    ends: Ends
    low_ns: int
    high_ns: int
    time_ns: int

    @property
    def middle_ns(self) -> int:
        return (self.low_ns + self.high_ns) // 2


class ClockOffsets:
    """The closes that each host saw, and the differences of clocks that follow from them."""

    def __init__(self, closes: Iterable[tuple[str, Ends, tuple[Close, ...]]]) -> None:
        self._hosts: dict[str, dict[Ends, tuple[Close, ...]]] = {}
        self._known: dict[tuple[Clock, Clock], ClockOffset | None] = {}
        for host, ends, each in closes:
            self._hosts.setdefault(host, {})[ends] = each

    def between(self, here: Clock, there: Clock) -> ClockOffset | None:
        """The difference of two clocks; None where the closes do not show it."""
        key = here.rounded(), there.rounded()
        if key not in self._known:
            self._known[key] = _agreed(sorted(self._limits(*key), key=lambda each: each.middle_ns))
        return self._known[key]

    def _limits(self, here: Clock, there: Clock) -> Iterator[_Limits]:
        ours, theirs = self._hosts.get(here.host, {}), self._hosts.get(there.host, {})
        for ends, closes in ours.items():
            swapped = ends.swapped()
            if swapped in ours or swapped not in theirs:
                continue  # a connection within a host says nothing
            for mine in closes:
                for other in theirs[swapped]:
                    if mine.is_sender != other.is_sender and here.has(mine.clock_ns) and there.has(other.clock_ns):
                        low_ns, high_ns = other.first_ns - mine.last_ns, other.last_ns - mine.first_ns
                        yield _Limits(ends, low_ns, high_ns, mine.first_ns)


def _agreed(limits: list[_Limits]) -> ClockOffset | None:
    """What most connections agree on. One alone may be another one, unless it shows that the clocks agree."""
    best, count = _most(limits)
    if not best or 2 * count <= len({each.ends for each in limits}):
        return None
    # Where ports are used again in the same order, connections agree on several differences.
    others = [each for each in limits if not best[0].middle_ns <= each.middle_ns <= best[-1].middle_ns]
    if 2 * _most(others)[1] > count:
        return None
    low_ns, high_ns = min(each.low_ns for each in best), max(each.high_ns for each in best)
    ahead_ns = (low_ns + high_ns) // 2
    if count < 2 and abs(ahead_ns) > TOLERANCE_NS:
        return None
    times_ns = [each.time_ns for each in best]
    return ClockOffset(ahead_ns, (high_ns - low_ns) // 2, min(times_ns), max(times_ns))


def _most(limits: list[_Limits]) -> tuple[list[_Limits], int]:
    """Of limits in order, those within _SPREAD_NS of the most connections, and the number of these connections."""
    best: list[_Limits] = []
    count = first = 0
    within: Counter[Ends] = Counter()
    for place, each in enumerate(limits, 1):
        within[each.ends] += 1
        while each.middle_ns - limits[first].middle_ns > _SPREAD_NS:
            within -= Counter([limits[first].ends])
            first += 1
        if len(within) > count:
            best, count = limits[first:place], len(within)
    return best, count
