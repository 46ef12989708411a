"""The kernel's own counts beside those of the events, summed over runs of tcpwatch and over hosts.

Namespaces of two hosts may have the same inode, so each run is settled by itself, and only sums are kept.
"""

from __future__ import annotations

from tracer.model.counts import MAX_NAMESPACES, NOTHING, Counts, Tally, counts_of, counts_of_kernel, counts_seen
from tracer.model.dataclass import dataclass
from tracer.model.events import Event


@dataclass(frozen=True, slots=True)
class Comparison:
    """Sums of both counts. The default is the neutral element of `plus`.

    counted: by the kernel. seen: events of the same time. out_of_sight: the part of seen in namespaces with counters
    that could not be read. sure_counted, sure_seen: only namespaces with counters that were read from the beginning.
    has_counts: whether any counters were read.
    """

    counted: Counts = NOTHING
    seen: Counts = NOTHING
    out_of_sight: Counts = NOTHING
    sure_counted: Counts = NOTHING
    sure_seen: Counts = NOTHING
    has_counts: bool = False

    def plus(self, other: Comparison) -> Comparison:
        """The sums of both."""
        return Comparison(
            self.counted.plus(other.counted),
            self.seen.plus(other.seen),
            self.out_of_sight.plus(other.out_of_sight),
            self.sure_counted.plus(other.sure_counted),
            self.sure_seen.plus(other.sure_seen),
            self.has_counts or other.has_counts,
        )


class Comparer:
    """Counts the events and the kernel's counters of one run of tcpwatch after the other, in bounded memory."""

    def __init__(self) -> None:
        self._settled = Comparison()
        self._run = ("", "")
        self._seen, self._counted = Tally(), Tally()
        self._uncompared = Tally()  # seen since the kernel's counts were last recorded
        self._late: set[int | None] = set()  # namespaces with counts that may be of the time before

    def begin(self, host: str, run: str) -> None:
        """A recording begins. The same host and run: it continues the last one."""
        if (host, run) != self._run:
            self._settled = self.sums()
            self._run = host, run
            self._seen, self._counted, self._uncompared, self._late = Tally(), Tally(), Tally(), set()

    def add(self, event: Event) -> None:
        """Take an event that the kernel may have counted."""
        self._uncompared.add(event.netns, counts_of(event))

    def add_counters(self, event: Event) -> None:
        """Take a `counters` event."""
        self._counted.add(event.netns, counts_of_kernel(event))
        if event.late and len(self._late) < MAX_NAMESPACES:
            self._late.add(event.netns)
        seen = counts_seen(event)
        if seen is None:
            self._seen.take(self._uncompared)
        else:  # of a compact recording, without the events
            self._seen.add(event.netns, seen)

    def sums(self) -> Comparison:
        """The sums of all runs so far. Events since the last counters are not compared."""
        namespaces = self._counted.namespaces()
        sure = [netns for netns in namespaces if netns not in self._late]
        return self._settled.plus(
            Comparison(
                self._counted.total(),
                self._seen.total(),
                self._seen.total(without=namespaces),
                _total(self._counted, sure),
                _total(self._seen, sure),
                bool(namespaces),
            )
        )


def _total(tally: Tally, namespaces: list[int | None]) -> Counts:
    total = NOTHING
    for netns in namespaces:
        total = total.plus(tally.of(netns))
    return total
