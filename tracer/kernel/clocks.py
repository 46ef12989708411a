"""The clock that events are stamped with (CLOCK_BOOTTIME), and its distance from the wall clock."""

from __future__ import annotations

import time
from functools import lru_cache
from pathlib import Path

_OFFSETS = Path("/proc/self/timens_offsets")


def boottime_ns() -> int:
    """CLOCK_BOOTTIME of the initial time namespace, nanoseconds: what bpf_ktime_get_boot_ns() returns."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) - _shift_ns()


def offset_ns() -> int:
    """The wall clock minus CLOCK_BOOTTIME, nanoseconds."""
    before = boottime_ns()
    wall = time.time_ns()
    after = boottime_ns()
    return wall - (before + after) // 2


@lru_cache(maxsize=1)
def _shift_ns() -> int:
    """The offset of CLOCK_BOOTTIME in our time namespace (time_namespaces(7)), nanoseconds. 0 in the initial one."""
    try:
        lines = _OFFSETS.read_text(encoding="ascii").splitlines()
    except OSError:  # before 5.6
        return 0
    return boottime_shift_ns(lines)


def boottime_shift_ns(lines: list[str]) -> int:
    """The offset in nanoseconds, from the lines of /proc/PID/timens_offsets: `boottime  SECONDS  NANOSECONDS`."""
    for line in lines:
        words = line.split()
        if len(words) == 3 and words[0] == "boottime":
            return int(words[1]) * 1_000_000_000 + int(words[2])
    return 0
