"""What a report knows about both ends of stalled connections, where both hosts were recorded."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

from tracer.analysis.clock_offsets import ClockOffsets
from tracer.analysis.closes import Closes
from tracer.analysis.connection_ends import ConnectionEnds
from tracer.analysis.coverage import Coverages
from tracer.analysis.two_ends import Join, OtherEnd, Stall, stall_of
from tracer.model.dataclass import dataclass
from tracer.model.events import Event
from tracer.model.kinds import Kind
from tracer.recordings.header import Header

_STATE = Kind.STATE.value
MAX_STALLS = 4096
"""Stalls that are joined with their other ends: the last."""


class GroupKey(NamedTuple):
    """What stalls with similar other ends have in common.

    how: of the closing; empty where it was not closed. has_clocks: the difference of both clocks is known.
    """

    verdict: str
    host: str
    other_host: str
    finding: str
    how: str
    has_clocks: bool


@dataclass(slots=True)
class Group:
    """Stalls with similar other ends. stall, other: the longest of them, and its other end."""

    count: int
    stall: Stall
    other: OtherEnd

    def add(self, stall: Stall, other: OtherEnd) -> None:
        """Count a stall."""
        self.count += 1
        if stall.ended_ns - stall.since_ns > self.stall.ended_ns - self.stall.since_ns:
            self.stall, self.other = stall, other


class TwoEnds:
    """Takes all that is recorded. Its results count once nothing comes any more.

    is_active: several hosts may come, or another report reads the output. Otherwise it keeps only when each was
    recorded.
    """

    def __init__(self) -> None:
        self.ends = ConnectionEnds()
        self.coverages = Coverages()
        self.closes = Closes()
        self.is_active = True
        self._stalls: deque[Stall] = deque(maxlen=MAX_STALLS)

    def opened(self, host: str, header: Header) -> None:
        """A recording of that host begins."""
        self.ends.begin()
        self.closes.begin()
        began_ns = header.started_ns + header.clock_offset_ns
        self.coverages.opened(host, header.run, began_ns, is_whole=header.is_whole and header.started_ns > 0)

    def take(self, host: str, event: Event) -> None:
        """Take an event of that host."""
        self.coverages.take(event)
        if not self.is_active:
            return
        self.ends.take(host, event)
        if event.event == _STATE:
            self.closes.take(host, event)

    def add(self, host: str, end: Event) -> None:
        """Take the end of a stall that no later event can revoke."""
        stall = stall_of(host, end) if self.is_active else None
        if stall is not None:
            self._stalls.append(stall)

    def merge(self, other: TwoEnds) -> None:
        """Include another report, to which nothing is added any more."""
        self.ends.merge(other.ends)
        self.closes.merge(other.closes)
        self.coverages.merge(other.coverages)
        self._stalls += other._stalls

    @cached_property
    def found(self) -> list[tuple[Stall, OtherEnd]]:
        """The stalls about which their other ends show something."""
        join = Join(self.ends, self.coverages, ClockOffsets(self.closes))
        return [(stall, other) for stall in self._stalls if (other := join.other_end(stall)) is not None]

    def groups(self) -> Iterator[tuple[GroupKey, Group]]:
        """Similar ones, those with the most stalls first."""
        groups: dict[GroupKey, Group] = {}
        for stall, other in self.found:
            how = "" if other.closing is None else other.closing.how
            has_clocks = other.ahead_ns is not None
            key = GroupKey(stall.verdict, stall.host, other.host, other.finding.value, how, has_clocks)
            group = groups.get(key)
            if group is None:
                groups[key] = Group(1, stall, other)
            else:
                group.add(stall, other)
        yield from sorted(groups.items(), key=lambda item: -item[1].count)
