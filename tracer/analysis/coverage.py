"""When each host was recorded, and whether a segment that ends a silence would have been recorded."""

from __future__ import annotations

from collections.abc import Iterator

from tracer.analysis.connection_ends import STEP_NS
from tracer.model.dataclass import dataclass
from tracer.model.events import Event
from tracer.model.kinds import Kind

MAX_COVERAGES = 64
"""Runs of one host that are kept: the last."""
MAX_HOSTS = 4096
RESUME_MS = 60_000
"""From this silence on the next segment is a `resume` event, unless --min-idle is less (docs/events.md)."""
_OVERLAP_NS = 1_000_000_000
"""Recordings that overlap by more than this are of the same time."""
_RESUME, _LOST = Kind.RESUME.value, Kind.LOST.value


@dataclass(slots=True)
class Coverage:
    """One run of tcpwatch, wall clock of its host.

    is_whole: all events of its connections are there. has_resumes: one of them is a `resume`, so segments were looked
    at (not --no-resume, and a kernel with tcp_probe). clock_ns: the wall clock minus CLOCK_BOOTTIME; 0: unknown.
    was_set: the clock was set meanwhile.
    """

    run: str
    began_ns: int
    until_ns: int
    is_whole: bool = True
    has_resumes: bool = False
    clock_ns: int = 0
    was_set: bool = False

    def shows_arrivals_after(self, silent_ms: int) -> bool:
        """Whether a segment that comes after that silence is certainly an event."""
        return self.is_whole and self.has_resumes and silent_ms >= RESUME_MS


class Coverages:
    """The runs of tcpwatch on each host. is_filtered: the reader leaves out events of some connections."""

    def __init__(self, *, is_filtered: bool = False) -> None:
        self._hosts: dict[str, list[Coverage]] = {}
        self.is_filtered = is_filtered
        self._current = Coverage("", 0, 0)

    def __iter__(self) -> Iterator[tuple[str, Coverage]]:
        return ((host, each) for host, coverages in self._hosts.items() for each in coverages)

    def opened(self, host: str, run: str, began_ns: int, *, is_whole: bool) -> None:
        """A recording begins, at that time of the wall clock. is_whole: it has all events of its connections."""
        last = self._hosts[host][-1] if host in self._hosts else None
        if last is not None and run and last.run == run:
            self._current = last
            return
        self._current = Coverage(run, began_ns, began_ns, is_whole and not self.is_filtered)
        self.add(host, self._current)

    def add(self, host: str, coverage: Coverage) -> None:
        """Add a run of tcpwatch on a host."""
        if host in self._hosts or len(self._hosts) < MAX_HOSTS:
            coverages = self._hosts.setdefault(host, [])
            coverages.append(coverage)
            del coverages[:-MAX_COVERAGES]

    def take(self, event: Event) -> None:
        """Take an event of the recording."""
        current = self._current
        current.until_ns = time_ns = event.time_ns
        clock_ns = time_ns - event.ktime_ns
        if not -STEP_NS <= clock_ns - current.clock_ns <= STEP_NS:
            current.was_set = bool(current.clock_ns)
            current.clock_ns = current.clock_ns or clock_ns
        kind = event.event
        if kind == _RESUME:
            current.has_resumes = True
        elif kind == _LOST:
            current.is_whole = False

    def missed(self) -> None:
        """Something of the recording cannot be read."""
        self._current.is_whole = False

    def merge(self, other: Coverages) -> None:
        """Include those of another report."""
        for host, coverage in other:
            self.add(host, coverage)

    @property
    def ambiguous(self) -> list[str]:
        """The names of hosts with recordings of the same time by clocks that differ."""
        return [host for host, coverages in self._hosts.items() if _have_two_clocks(coverages)]

    def of(self, host: str) -> list[Coverage]:
        """The runs on a host."""
        return self._hosts.get(host, [])


def _have_two_clocks(coverages: list[Coverage]) -> bool:
    in_order = sorted((each for each in coverages if each.clock_ns), key=lambda each: each.began_ns)
    return any(
        later.began_ns + _OVERLAP_NS < earlier.until_ns and abs(later.clock_ns - earlier.clock_ns) > STEP_NS
        for number, earlier in enumerate(in_order)
        for later in in_order[number + 1 :]
    )
