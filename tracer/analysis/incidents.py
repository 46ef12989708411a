"""Incidents: stalls of one owner and service with one verdict that begin within seconds of each other.

A pool of 200 connections that a firewall forgot is one incident, not 200. Live output gives it one account, a report
one row. Pure bookkeeping over stall events: times come from the events.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import field
from typing import NamedTuple

from tracer.analysis.idle_timeouts import Service, service_of
from tracer.model.dataclass import dataclass
from tracer.model.events import Event
from tracer.model.times import InvalidTime, parse_time

GAP_NS = 10_000_000_000
"""A stall that begins later than this after the last one of an incident begins another incident."""
MAX_INCIDENTS = 4096
"""Incidents that a stall may still join. The one that grew longest ago is closed first."""
MAX_PLACES = 2
"""Containers, pods and units of one incident that are kept: two show that it has no common one."""
MAX_PIDS = 64
"""Processes of one incident that are listed."""


class IncidentKey(NamedTuple):
    """What the stalls of one incident have in common."""

    host: str
    owner: str | None
    """The process's name (comm); None where it is not known."""
    service: Service | None
    verdict: str


def key_of(stall: Event, host: str = "") -> IncidentKey:
    """The key of the incident that a stall belongs to. host: where it happened, if there are several."""
    return IncidentKey(host, stall.comm or stall.exe, service_of(stall), stall.verdict or "?")


def began_ns(stall: Event) -> int:
    """When what is unanswered was first sent, wall clock; in an old recording, when the stall was first noticed."""
    if stall.since is not None:
        with suppress(InvalidTime):
            return parse_time(stall.since)
    return stall.time_ns if stall.duration_ms is None else stall.time_ns - stall.duration_ms * 1_000_000


@dataclass(slots=True)
class Range:
    """The least and the greatest of some numbers; None without any."""

    least: int | None = None
    greatest: int | None = None

    def add(self, number: int | None) -> None:
        """Include a number. None is ignored."""
        if number is not None:
            self.least = number if self.least is None else min(self.least, number)
            self.greatest = number if self.greatest is None else max(self.greatest, number)


@dataclass(slots=True)
class Incident:
    """What is known about the stalls of one incident.

    example: one of its stalls, the first. count: its stalls. pids: of their owners, at most MAX_PIDS. places: their
    pods, containers and units, at most MAX_PLACES. Times of day in
    wall-clock nanoseconds, durations in milliseconds.
    """

    key: IncidentKey
    example: Event
    count: int = 0
    pids: dict[int, None] = field(default_factory=dict)
    places: dict[tuple[str | None, ...], None] = field(default_factory=dict)
    began_ns: Range = field(default_factory=Range)
    idle_ms: Range = field(default_factory=Range)
    lasted_ms: Range = field(default_factory=Range)
    gives_up_ns: Range = field(default_factory=Range)
    stuck_bytes: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)

    @property
    def has_one_place(self) -> bool:
        """Whether all of its stalls are of one pod, container or unit."""
        return len(self.places) == 1

    def accepts(self, stall: Event) -> bool:
        """Whether a stall with the same key began near enough to belong to this incident."""
        least, greatest = self.began_ns.least, self.began_ns.greatest
        return least is None or greatest is None or least - GAP_NS <= began_ns(stall) <= greatest + GAP_NS

    def add(self, stall: Event) -> None:
        """Count a stall."""
        self.count += 1
        if stall.pid is not None and len(self.pids) < MAX_PIDS:
            self.pids[stall.pid] = None
        if len(self.places) < MAX_PLACES:
            self.places[stall.pod_namespace, stall.pod, stall.container, stall.unit] = None
        self.began_ns.add(began_ns(stall))
        self.idle_ms.add(stall.idle_ms)
        self.lasted_ms.add(stall.duration_ms)
        if stall.gives_up_in_ms is not None:
            earliest_ns = stall.time_ns + stall.gives_up_in_ms * 1_000_000
            window_ms = 0 if stall.gives_up_window_ms is None else stall.gives_up_window_ms
            self.gives_up_ns.add(earliest_ns)
            self.gives_up_ns.add(earliest_ns + window_ms * 1_000_000)
        self.stuck_bytes += 0 if stall.unacked_bytes is None else stall.unacked_bytes
        if stall.outcome is not None:
            self.outcomes[stall.outcome] += 1

    def absorb(self, other: Incident) -> None:
        """Count the stalls of another incident here, too."""
        self.count += other.count
        for pid in other.pids:
            if len(self.pids) < MAX_PIDS:
                self.pids[pid] = None
        for place in other.places:
            if len(self.places) < MAX_PLACES:
                self.places[place] = None
        for mine, more in (
            (self.began_ns, other.began_ns),
            (self.idle_ms, other.idle_ms),
            (self.lasted_ms, other.lasted_ms),
            (self.gives_up_ns, other.gives_up_ns),
        ):
            mine.add(more.least)
            mine.add(more.greatest)
        self.stuck_bytes += other.stuck_bytes
        self.outcomes += other.outcomes


def merged(incidents: Iterable[Incident]) -> Iterator[Incident]:
    """Incidents of one key that overlap become one: their stalls ended out of the order in which they began."""
    last: Incident | None = None
    for incident in sorted(incidents, key=lambda each: (repr(each.key), each.began_ns.least or 0)):
        if last is not None and last.key == incident.key and _begins_within(incident, last):
            last.absorb(incident)
            continue
        if last is not None:
            yield last
        last = incident
    if last is not None:
        yield last


def _begins_within(incident: Incident, before: Incident) -> bool:
    return (incident.began_ns.least or 0) <= (before.began_ns.greatest or 0) + GAP_NS


class Incidents:
    """Sorts stalls into incidents, in bounded memory. most: incidents that a stall may still join."""

    def __init__(self, most: int = MAX_INCIDENTS) -> None:
        self._most = most
        self._open: OrderedDict[IncidentKey, Incident] = OrderedDict()

    def put(self, stall: Event, host: str = "") -> Incident:
        """Count a stall in the incident that it belongs to, which may be a new one."""
        key = key_of(stall, host)
        incident = self._open.get(key)
        if incident is None or not incident.accepts(stall):
            incident = self._open[key] = Incident(key, stall)
        self._open.move_to_end(key)
        incident.add(stall)
        if len(self._open) > self._most:
            self._open.popitem(last=False)
        return incident
