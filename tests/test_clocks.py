"""What the host slept, and time namespaces."""

from __future__ import annotations

from builders import SECOND, event

from tracer.analysis.stalls import StallTracker
from tracer.kernel.clocks import Sleep, Sleeps, boottime_shift_ns
from tracer.model.events import SUSPEND

HOUR = 3600 * SECOND


def slept() -> Sleeps:
    """For an hour, found at 01:00:10 after a look at 00:00:10; and for a minute, found at 02:01:00."""
    sleeps = Sleeps(0, 0)
    assert sleeps.look(10 * SECOND, 10 * SECOND) is None
    assert sleeps.look(10 * SECOND + HOUR, 10 * SECOND + 200) == Sleep(10 * SECOND, HOUR - 200)
    assert sleeps.look(2 * HOUR, HOUR) is None
    assert sleeps.look(2 * HOUR + 60 * SECOND, HOUR) == Sleep(2 * HOUR, 60 * SECOND)
    return sleeps


def test_no_sleep_no_difference() -> None:
    sleeps = Sleeps(0, 0)
    for second in range(1000):
        assert sleeps.look(second * SECOND + 5000, second * SECOND) is None
    assert not sleeps
    assert sleeps.slept_ms(10_000, 500 * SECOND) == 0


def test_a_silence_has_what_was_slept_within_it() -> None:
    sleeps = slept()
    assert sleeps
    now = 2 * HOUR + 70 * SECOND
    assert sleeps.slept_ms(5_000, now) == 0, "it began after both"
    assert sleeps.slept_ms(20_000, now) == 60_000
    assert sleeps.slept_ms(3_000_000, now) == 60_000
    assert sleeps.slept_ms(3_700_000, now) == 60_000 + 3_599_999, "it began before both"
    assert sleeps.slept_ms(1_000_000, 2 * HOUR - SECOND) == 0, "it ended before the second"


def test_many_sleeps_are_forgotten_in_the_end() -> None:
    sleeps = Sleeps(0, 0)
    for number in range(1, 1001):
        assert sleeps.look(number * 2 * SECOND, number * SECOND) is not None
    assert sleeps.slept_ms(3600_000, 2001 * SECOND) == 64_000


def test_a_stall_is_not_taken_for_over_because_its_timer_stood_still() -> None:
    tracker = StallTracker(hz=250)
    begin = tracker.feed(event(kind="rto", attempt=1, rto_ms=400, silent_ms=70_000, unacked_bytes=9, at=0))[-1]
    assert begin.phase == "begin"
    tracker.feed(event("lost", 0.1, count=0, hook=SUSPEND, duration_ms=3_600_000, sock=None))
    (end,) = [each for each in tracker.advance(begin.ktime_ns + HOUR) if each.phase == "end"]
    assert end.outcome == "ongoing"


def test_a_time_namespace_moves_the_clock() -> None:
    assert boottime_shift_ns(["monotonic           0         0", "boottime        86400   5"]) == 86400 * SECOND + 5
    assert boottime_shift_ns(["monotonic 7 0", "boottime -3 0"]) == -3 * SECOND
    assert boottime_shift_ns([]) == 0
