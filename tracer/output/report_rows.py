"""What a report counts and lists: stalls by service, missing files."""

from __future__ import annotations

from collections import Counter
from dataclasses import field
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple

from tracer.analysis.idle_timeouts import Service
from tracer.model.dataclass import dataclass
from tracer.model.events import Event
from tracer.output.format import endpoint

MAX_WORDS = 16
"""Verdicts, or outcomes, of one service that are counted apart: more than there are. Further ones are `other`."""
OTHER = "other"


class Missing(NamedTuple):
    """A file that could not be read completely. until_ns: its events up to then are there; None where none is.

    is_failure: it should have been.
    """

    file: str
    reason: str
    until_ns: int | None
    is_failure: bool = True


class StallEnd(NamedTuple):
    """The end of a stall that counts.

    host: where it was recorded. hz: jiffies per second of its kernel. own_netns: inode of the host's own network
    namespace; 0: unknown.
    """

    host: str
    stall: Event
    hz: int
    own_netns: int


@dataclass(slots=True)
class ServiceStalls:
    """The stalls of one service's connections."""

    verdicts: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    longest_ms: int = 0
    hosts: set[int] = field(default_factory=set)  # their keys

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


@lru_cache(maxsize=4096)
def host_key(host: str) -> int:
    """64 bits for a host's name, the same in every process."""
    return int.from_bytes(blake2b(host.encode(errors="surrogatepass"), digest_size=8).digest(), "big")


def count(counts: Counter[str], name: str, number: int, most: int, other: str = OTHER) -> None:
    """Count under that name, or as other where there are `most` names already."""
    counts[name if name in counts or len(counts) < most else other] += number


def service_name(service: Service) -> str:
    """`10.66.2.2:3306`, or `port 22 here, from 10.66.1.2`."""
    if service.is_local:
        return f"port {service.port} here, from {endpoint(service.host, None).removesuffix(':*')}"
    return endpoint(service.host, service.port)
