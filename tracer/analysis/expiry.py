"""Expiries of the kernel's timers, and when a row of them ends.

The timer wheel (kernel/time/timer.c) rounds each expiry up to a slot. What is computed here is exact to the jiffy
for a timer that is armed by its own handler.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from tracer.model.events import Event

EXACT_MS = 50
"""A window no wider than this is called exact: machines are late by as much now and then."""
_LATE_MS = 4  # by so much every timer may be late on a machine that is not busy
MAX_EXPIRIES = 1000
"""What takes more expiries is given as a window."""
CONGESTED_MS = 500
"""TCP_RESOURCE_PROBE_INTERVAL (include/net/tcp.h): when to try again what local congestion did not let out."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """When the kernel gives up, CLOCK_BOOTTIME nanoseconds: not before `earliest_ns`, not after `latest_ns`.

    Both are equal where it is known exactly, which is to 50 ms on a machine that is not late by itself.
    """

    earliest_ns: int
    latest_ns: int


def bucket(jiffies: int, timeout: int) -> int:
    """The jiffy at which a timer expires that a timer's handler arms at `jiffies` for `timeout` jiffies.

    calc_wheel_index() and calc_index(), kernel/time/timer.c: level n is for what is at least 63 * 8^(n-1) jiffies
    ahead and has slots of 8^n jiffies; a timer expires with the slot after the one that it falls in. While a handler
    runs the wheel's clock is at the next jiffy already (__run_timers()), so that one jiffy less is ahead.
    """
    shift = slot_shift(timeout - 1)
    return ((jiffies + timeout >> shift) + 1) << shift


@lru_cache(maxsize=1024)
def lateness(timeout_s: float, hz: int) -> float:
    """How late a timer of that length may be at worst, seconds: one slot of the wheel. hz: jiffies per second."""
    return (1 << slot_shift(round(timeout_s * hz))) / hz


def slot_shift(ahead: int) -> int:
    """The slot of a timer that is `ahead` jiffies ahead, as the binary logarithm of its jiffies.

    The least multiple of 3 for which `ahead` is below 63 times so many jiffies.
    """
    return ((max(0, ahead) // 63).bit_length() + 2) // 3 * 3


def when_over(expiries: Iterable[tuple[int, bool, bool]]) -> tuple[int, int] | None:
    """The expiry at which the kernel may give up, and the one at which it must; None if the row ends before.

    expiries: the jiffy of each, and whether the kernel may give up then, and must.
    """
    first = None
    for expiry, may, must in expiries:
        if may and first is None:
            first = expiry
        if first is not None and must:
            return first, expiry
    return None


def give_up_at(event: Event, hz: int, candidates: Sequence[tuple[int, int]]) -> GiveUp:
    """Of the jiffies at which the kernel may and must give up, one pair for each way in which it may go."""
    earliest = min(may for may, _ in candidates)
    latest = max(must for _, must in candidates)
    if (latest - earliest) * 1000 <= EXACT_MS * hz:
        latest = earliest
    return GiveUp(time_ns(event, hz, earliest), time_ns(event, hz, latest))


def time_ns(event: Event, hz: int, jiffy: int) -> int:
    """CLOCK_BOOTTIME nanoseconds of a jiffy that is counted on from the event's."""
    return event.ktime_ns + (jiffy - (event.jiffies or 0)) * 1_000_000_000 // hz


def max_lag(hz: int) -> int:
    """Jiffies by which a timer may be late, at least one."""
    return max(1, to_jiffies(_LATE_MS, hz))


def to_jiffies(duration_ms: float, hz: int) -> int:
    """Rounded up, as msecs_to_jiffies() does."""
    return -int(-duration_ms * hz // 1000)
