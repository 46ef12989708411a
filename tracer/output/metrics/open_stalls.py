"""The stalls that have not ended, as gauges show them."""

from __future__ import annotations

from collections import Counter

from tracer.analysis.outcomes import Outcome
from tracer.analysis.survival import is_fatal
from tracer.analysis.verdicts import Verdict
from tracer.model.dataclass import dataclass
from tracer.model.events import Event
from tracer.output.metrics.services import OTHER, Label

MS = 1_000_000


@dataclass
class _Stall:
    label: Label
    verdict: str
    stuck_bytes: int = 0
    gives_up_ns: int | None = None  # wall clock
    idle_ms: int | None = None
    retransmits: int = 0


class OpenStalls:
    """Takes the begins, updates and ends of stalls, and what happens to their connections in between.

    The stall tracker bounds their number, and reports the end of each. min_idle_ms: the tracker's.
    """

    def __init__(self, min_idle_ms: int) -> None:
        self._min_idle_ms = min_idle_ms
        self._by_sock: dict[str, _Stall] = {}
        # A gauge that had a value falls to 0, and does not vanish.
        self._known: set[tuple[Label, str]] = set()

    def take(self, event: Event, label: Label) -> None:
        """Take the begin or an update of a stall."""
        if event.sock is None:
            return
        verdict = event.verdict or OTHER
        self._known.add((label, verdict))
        stall = self._by_sock[event.sock] = _Stall(label, verdict, idle_ms=event.idle_ms)
        stall.retransmits = event.retransmits or 0
        if event.gives_up_in_ms is not None:
            stall.gives_up_ns = event.time_ns + event.gives_up_in_ms * MS
        _take_bytes(stall, event)

    def end(self, sock: str | None) -> None:
        """A stall has ended."""
        if sock is not None:
            self._by_sock.pop(sock, None)

    def progress(self, event: Event) -> None:
        """Take a retransmission or probe, which may be of a connection with an open stall."""
        stall = self._by_sock.get(event.sock) if event.sock is not None else None
        if stall is not None:
            stall.retransmits = max(stall.retransmits, event.attempt or 0)
            _take_bytes(stall, event)

    def by_verdict(self) -> Counter[tuple[Label, str]]:
        """Their number by label and verdict; 0 for those that there were before."""
        counts = Counter(dict.fromkeys(self._known, 0))
        counts.update((stall.label, stall.verdict) for stall in self._by_sock.values())
        return counts

    def stuck_bytes(self) -> Counter[Label]:
        """The bytes that they have not got rid of, by label."""
        sums: Counter[Label] = Counter({label: 0 for label, _ in self._known})
        for stall in self._by_sock.values():
            sums[stall.label] += stall.stuck_bytes
        return sums

    def gives_up_s(self) -> dict[Label, float]:
        """When the kernel gives up the first of them, by label: Unix time in seconds."""
        first: dict[Label, float] = {}
        for stall in self._by_sock.values():
            if stall.gives_up_ns is not None:
                at_s = stall.gives_up_ns / 1e9
                first[stall.label] = min(at_s, first.get(stall.label, at_s))
        return first

    def fatal_ms(self) -> dict[Label, int]:
        """The shortest silence before one of them that counts as fatal if the run ends now, by label."""
        shortest: dict[Label, int] = {}
        for stall in self._by_sock.values():
            idle_ms = stall.idle_ms
            if idle_ms is None or idle_ms < self._min_idle_ms or stall.label.service == OTHER:
                continue
            if is_fatal(Verdict.of(stall.verdict), Outcome.ONGOING, idle_ms, stall.retransmits):
                shortest[stall.label] = min(idle_ms, shortest.get(stall.label, idle_ms))
        return shortest


def _take_bytes(stall: _Stall, event: Event) -> None:
    if event.unacked_bytes is not None:
        stall.stuck_bytes = event.unacked_bytes + (event.unsent_bytes or 0)
