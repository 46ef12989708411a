"""The kernel's timer wheel (kernel/time/timer.c), which rounds the expiry of each timer up to a slot.

Exact to the jiffy for a timer that its own handler arms.
"""

from __future__ import annotations

from functools import lru_cache

from tracer.model.events import Event
from tracer.model.kinds import Kind

_LATE_MS = 4
"""How late a timer may run on a machine that is not busy."""


def bucket(jiffies: int, timeout: int) -> int:
    """The jiffy at which a timer expires that its own handler arms at `jiffies` for `timeout` jiffies.

    calc_wheel_index() and calc_index(), kernel/time/timer.c: level n of the wheel is for timeouts of at least
    63 * 8^(n-1) jiffies and has slots of 8^n jiffies. A timer expires with the slot after the one that it falls in.
    While a handler runs, the wheel's clock is already at the next jiffy (__run_timers()), so the timeout counts one
    jiffy less.
    """
    shift = slot_shift(timeout - 1)
    return ((jiffies + timeout >> shift) + 1) << shift


@lru_cache(maxsize=1024)
def lateness(timeout_s: float, hz: int) -> float:
    """How late a timer of that length may expire, seconds: one slot of the wheel. hz: jiffies per second."""
    return (1 << slot_shift(round(timeout_s * hz))) / hz


def slot_shift(ahead: int) -> int:
    """The binary logarithm of the slot, in jiffies, of a timer that expires in `ahead` jiffies.

    The least multiple n of 3 with ahead < 63 * 2^n.
    """
    return ((max(0, ahead) // 63).bit_length() + 2) // 3 * 3


def time_ns(event: Event, hz: int, jiffy: int) -> int:
    """The CLOCK_BOOTTIME nanoseconds of a jiffy, from the two clocks of an event that has `jiffies`."""
    assert event.jiffies is not None
    return event.ktime_ns + (jiffy - event.jiffies) * 1_000_000_000 // hz


def max_lag(hz: int) -> int:
    """The jiffies by which a timer may run late, at least one."""
    return max(1, to_jiffies(_LATE_MS, hz))


def to_jiffies(duration_ms: float, hz: int) -> int:
    """Milliseconds as jiffies, rounded up as msecs_to_jiffies() does."""
    return -int(-duration_ms * hz // 1000)


def timer_of(event: Event) -> str | None:
    """The kind of event that shows the timer: the event's own, or the one that a `found` connection is between."""
    return event.kind if event.event == Kind.FOUND else event.event


def armed_expiry(event: Event, hz: int) -> int | None:
    """The jiffy at which the timer of a `found` connection expires; None for other events."""
    if event.event != Kind.FOUND or event.timer_ms is None or event.jiffies is None:
        return None
    return event.jiffies + round(event.timer_ms * hz / 1000)
