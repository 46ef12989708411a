"""What a report counts and lists: stalls by service, rows of stalls, missing files."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from tracer.analysis.idle_timeouts import Service
from tracer.model.events import Event
from tracer.model.times import InvalidTime, parse_time
from tracer.output.format import endpoint, process

MAX_WORDS = 16
"""Verdicts, or outcomes, of one service that are counted apart: more than there are. Further ones are `other`."""
OTHER = "other"


class Missing(NamedTuple):
    """A file that could not be read completely. until_ns: its events up to then are there; None where none is."""

    file: str
    reason: str
    until_ns: int | None


@dataclass(slots=True)
class ServiceStalls:
    """The stalls of one service's connections."""

    verdicts: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    longest_ms: int = 0
    hosts: set[int] = field(default_factory=set)  # their hashes

    def add(self, verdict: str, outcome: str, duration_ms: int | None) -> None:
        """Count a stall."""
        count(self.verdicts, verdict, 1, MAX_WORDS)
        count(self.outcomes, outcome, 1, MAX_WORDS)
        if duration_ms is not None:
            self.longest_ms = max(self.longest_ms, duration_ms)

    def take(self, other: ServiceStalls) -> None:
        """Count the stalls of another service here, too."""
        for verdict, number in other.verdicts.items():
            count(self.verdicts, verdict, number, MAX_WORDS)
        for outcome, number in other.outcomes.items():
            count(self.outcomes, outcome, number, MAX_WORDS)
        self.longest_ms = max(self.longest_ms, other.longest_ms)


class StallRow(NamedTuple):
    """A stall's row in the table. `weight` comes first, so that a heap has the shortest stall on top."""

    weight: int  # its duration, below every duration where that is not known
    number: int
    lasted_ms: int | None
    began_ns: int
    host: str
    local: str
    remote: str
    idle_ms: int | None
    verdict: str
    outcome: str
    owner: str


def count(counts: Counter[str], name: str, number: int, most: int, other: str = OTHER) -> None:
    """Count under that name, or as other where there are `most` names already."""
    counts[name if name in counts or len(counts) < most else other] += number


def row_of(stall: Event, number: int, host: str) -> StallRow:
    """The row of a stall that is the number-th of the report."""
    return StallRow(
        weight=weight_of(stall),
        number=number,
        lasted_ms=stall.duration_ms,
        began_ns=_began_ns(stall),
        host=host,
        local=endpoint(stall.laddr, stall.lport),
        remote=endpoint(stall.raddr, stall.rport),
        idle_ms=stall.idle_ms,
        verdict=stall.verdict or "?",
        outcome=stall.outcome or "?",
        owner=process(stall),
    )


def weight_of(stall: Event) -> int:
    """The duration of a stall, milliseconds; -1 where that is not known."""
    return -1 if stall.duration_ms is None else stall.duration_ms


def _began_ns(stall: Event) -> int:
    """When what was unanswered was first sent; in a recording without that, when the stall was first noticed."""
    if stall.since is not None:
        with suppress(InvalidTime):
            return parse_time(stall.since)
    return stall.time_ns if stall.duration_ms is None else stall.time_ns - stall.duration_ms * 1_000_000


def service_name(service: Service) -> str:
    """`10.66.2.2:3306`, or `port 22 here, from 10.66.1.2`."""
    if service.is_local:
        return f"port {service.port} here, from {endpoint(service.host, None).removesuffix(':*')}"
    return endpoint(service.host, service.port)
