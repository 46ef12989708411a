"""The clocks that events are stamped with, and what stood still while the host slept."""

from __future__ import annotations

import time
from collections import deque
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

_OFFSETS = Path("/proc/self/timens_offsets")
SHORTEST_SLEEP_NS = 100_000_000
"""Less is the time between reading one clock and the other."""
REMEMBERED_SLEEPS = 64


def boottime_ns() -> int:
    """CLOCK_BOOTTIME as the kernel side reads it (bpf_ktime_get_boot_ns()), whatever time namespace we are in."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) - _shift_ns()


def offset_ns() -> int:
    """What to add to CLOCK_BOOTTIME to get the wall clock, nanoseconds."""
    before = boottime_ns()
    wall = time.time_ns()
    after = boottime_ns()
    return wall - (before + after) // 2


@lru_cache(maxsize=1)
def _shift_ns() -> int:
    """By how much our time namespace has moved CLOCK_BOOTTIME: time_namespaces(7). 0 outside of one."""
    try:
        lines = _OFFSETS.read_text(encoding="ascii").splitlines()
    except OSError:  # before 5.6
        return 0
    return boottime_shift_ns(lines)


def boottime_shift_ns(lines: list[str]) -> int:
    """From the lines of /proc/PID/timens_offsets: `boottime  86400  0`, seconds and nanoseconds."""
    for line in lines:
        match line.split():
            case ["boottime", seconds, nanoseconds]:
                return int(seconds) * 1_000_000_000 + int(nanoseconds)
    return 0


class Sleep(NamedTuple):
    """The host was suspended. CLOCK_BOOTTIME went on; jiffies, and with them every timer of TCP, stood still."""

    before_ns: int  # CLOCK_BOOTTIME, not later than its beginning
    slept_ns: int


class Sleeps:
    """Finds them: CLOCK_MONOTONIC stands still, too (timekeeping_resume(), kernel/time/timekeeping.c).

    Silence is measured in jiffies, so it lacks what the host slept. What it slept before this was made is not known.
    """

    def __init__(self, boottime: int | None = None, monotonic: int | None = None) -> None:
        self._boottime = boottime_ns() if boottime is None else boottime
        self._monotonic = time.monotonic_ns() if monotonic is None else monotonic
        self._known: deque[Sleep] = deque(maxlen=REMEMBERED_SLEEPS)

    def look(self, boottime: int, monotonic: int) -> Sleep | None:
        """The two clocks now: whether the host slept since the last look."""
        slept_ns = (boottime - self._boottime) - (monotonic - self._monotonic)
        before_ns, self._boottime, self._monotonic = self._boottime, boottime, monotonic
        if slept_ns < SHORTEST_SLEEP_NS:
            return None
        self._known.append(Sleep(before_ns, slept_ns))
        return self._known[-1]

    def __bool__(self) -> bool:
        return bool(self._known)

    def slept_ms(self, silent_ms: int, until_ns: int) -> int:
        """How much longer a silence was than its jiffies say that ended then (CLOCK_BOOTTIME)."""
        slept_ns = 0
        for sleep in reversed(self._known):
            if until_ns - silent_ms * 1_000_000 - slept_ns > sleep.before_ns + sleep.slept_ns:
                break
            if sleep.before_ns < until_ns:
                slept_ns += sleep.slept_ns
        return slept_ns // 1_000_000
