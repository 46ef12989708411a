"""System suspends, and the durations that lack them.

The kernel measures a silence in jiffies, and jiffies stop while the host is suspended. What the host slept since this
program started is added to silent_ms, stuck_ms and asked_ms. Earlier suspends are unknown.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from tracer.kernel.layout import OFFSETS, SIZE
from tracer.kernel.program.ring import HEADER_BYTES
from tracer.model.events import Event
from tracer.model.kinds import Kind

MIN_SUSPEND_NS = 100_000_000
"""A smaller difference is the time between reading one clock and the other."""
MAX_SUSPENDS = 64
"""The latest suspends, which are remembered."""
DURATIONS = ("silent_ms", "stuck_ms", "asked_ms")
"""The fields of an event that the kernel measures by clocks that stop during a suspend."""
_UNKNOWN = 0xFFFFFFFF  # UNKNOWN in bpf/event.h
_SLOT_BYTES = (HEADER_BYTES + SIZE + 7) // 8 * 8


class Suspend(NamedTuple):
    """One system suspend. CLOCK_BOOTTIME went on; jiffies, and with them every timer of TCP, stopped."""

    before_ns: int  # CLOCK_BOOTTIME, not later than its beginning
    slept_ns: int

    @property
    def until_ns(self) -> int:
        """CLOCK_BOOTTIME, not later than its end."""
        return self.before_ns + self.slept_ns


class Suspends:
    """The suspends since the start.

    CLOCK_MONOTONIC stops during a suspend, CLOCK_BOOTTIME goes on (timekeeping_resume(), kernel/time/timekeeping.c).
    boottime_ns, monotonic_ns: the two clocks at the start.
    """

    def __init__(self, boottime_ns: int, monotonic_ns: int) -> None:
        self._boottime_ns = boottime_ns
        self._monotonic_ns = monotonic_ns
        self._known: deque[Suspend] = deque(maxlen=MAX_SUSPENDS)

    def check(self, boottime_ns: int, monotonic_ns: int) -> Suspend | None:
        """Compare the two clocks: the suspend since the previous call, or None."""
        slept_ns = (boottime_ns - self._boottime_ns) - (monotonic_ns - self._monotonic_ns)
        before_ns, self._boottime_ns, self._monotonic_ns = self._boottime_ns, boottime_ns, monotonic_ns
        if slept_ns < MIN_SUSPEND_NS:
            return None
        self._known.append(Suspend(before_ns, slept_ns))
        return self._known[-1]

    def slept_ms(self, duration_ms: int, until_ns: int) -> int:
        """How long the host was suspended during a duration that ended at until_ns (CLOCK_BOOTTIME)."""
        slept_ns = 0
        for suspend in reversed(self._known):
            if until_ns - duration_ms * 1_000_000 - slept_ns > suspend.until_ns:
                break
            if suspend.before_ns < until_ns:
                slept_ns += suspend.slept_ns
        return slept_ns // 1_000_000

    def add_to(self, events: Iterable[Event]) -> None:
        """Add to the durations of these events what the host slept during them."""
        if not self._known:
            return
        for event in events:
            for name in DURATIONS:
                duration_ms = getattr(event, name)
                if duration_ms is not None:
                    setattr(event, name, duration_ms + self.slept_ms(duration_ms, event.ktime_ns))

    def add_to_taken(self, events: Iterable[Event], taken: bytes, hz: int) -> None:
        """The same for events of the ring.

        A state change is read, and thereby decoded, only where its silence reaches back to a suspend.
        taken: what the ring's `take` gave, which these events were decoded from. hz: jiffies per second.
        """
        if not self._known:
            return
        reaching = self._reaching_back(taken, hz)
        self.add_to(event for event in events if event.event != Kind.STATE or event.ktime_ns in reaching)

    def _reaching_back(self, taken: bytes, hz: int) -> set[int]:
        """The times (ktime_ns) of the records with a silence that began before the latest suspend ended."""
        until_ns, jiffy_ns = self._known[-1].until_ns, 1_000_000_000 // hz
        times = memoryview(taken).cast("Q")[(HEADER_BYTES + OFFSETS["ktime_ns"]) // 8 :: _SLOT_BYTES // 8]
        silences = memoryview(taken).cast("I")[(HEADER_BYTES + OFFSETS["silent"]) // 4 :: _SLOT_BYTES // 4]
        return {
            ktime_ns
            for ktime_ns, silent in zip(times.tolist(), silences.tolist())
            if silent != _UNKNOWN and ktime_ns - silent * jiffy_ns <= until_ns
        }
