"""Stalls that are in several recordings: of two recorders on one host, or of a file and its copy or report."""

from __future__ import annotations

from collections import Counter
from hashlib import blake2b

from tracer.analysis.connection_ends import ends_of
from tracer.analysis.incidents import began_ns
from tracer.model.events import Event
from tracer.output.report_rows import count

MAX_STALLS = 4096
"""Stalls that are compared: the last."""
MAX_HOSTS = 64
"""Hosts with a count of their own."""
_SAME_NS = 20_000_000
"""Two recorders see the beginning of a stall within two jiffies."""


class Repeats:
    """Takes the ends of stalls. hosts: for each host, the number of stalls that were counted before."""

    def __init__(self) -> None:
        self.hosts: Counter[str] = Counter()
        self._seen: dict[int, str] = {}  # hosts, by connection and beginning

    def add(self, host: str, stall: Event) -> None:
        """Count a stall that was there before, of the same connection and with the same beginning."""
        ends = ends_of(stall)
        if ends is not None:
            connection = blake2b(repr((host, ends, stall.netns)).encode(), digest_size=8).digest()
            self._put(int.from_bytes(connection, "big") + began_ns(stall) // _SAME_NS, host)

    def merge(self, other: Repeats) -> None:
        """Include another report."""
        for host, number in other.hosts.items():
            count(self.hosts, host, number, MAX_HOSTS)
        for key, host in other._seen.items():
            self._put(key, host)

    def _put(self, key: int, host: str) -> None:
        if any(key + by in self._seen for by in (-1, 0, 1)):
            count(self.hosts, host, 1, MAX_HOSTS)
        self._seen[key] = host
        if len(self._seen) > MAX_STALLS:
            del self._seen[next(iter(self._seen))]
