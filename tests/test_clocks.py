"""Suspends of the host, and time namespaces."""

from __future__ import annotations

from typing import Any

import pytest
from builders import SECOND, event, record

from tracer.analysis.stalls import StallTracker
from tracer.kernel.clocks import boottime_shift_ns
from tracer.kernel.layout import SIZE
from tracer.kernel.program.ring import HEADER_BYTES
from tracer.kernel.suspends import MAX_SUSPENDS, Suspend, Suspends
from tracer.kernel.wire import Decoder
from tracer.model.events import SUSPEND

HOUR = 3600 * SECOND


def suspended_twice() -> Suspends:
    """For an hour, found at 01:00:10 after a look at 00:00:10; and for a minute, found at 02:01:00."""
    suspends = Suspends(0, 0)
    assert suspends.check(10 * SECOND, 10 * SECOND) is None
    assert suspends.check(10 * SECOND + HOUR, 10 * SECOND + 200) == Suspend(10 * SECOND, HOUR - 200)
    assert suspends.check(2 * HOUR, HOUR) is None
    assert suspends.check(2 * HOUR + 60 * SECOND, HOUR) == Suspend(2 * HOUR, 60 * SECOND)
    return suspends


def test_without_a_suspend_nothing_is_added() -> None:
    suspends = Suspends(0, 0)
    for second in range(1000):
        assert suspends.check(second * SECOND + 5000, second * SECOND) is None
    assert suspends.slept_ms(10_000, 500 * SECOND) == 0


def test_a_silence_includes_the_suspends_within_it() -> None:
    suspends = suspended_twice()
    now = 2 * HOUR + 70 * SECOND
    assert suspends.slept_ms(5_000, now) == 0, "it began after both"
    assert suspends.slept_ms(20_000, now) == 60_000
    assert suspends.slept_ms(3_000_000, now) == 60_000
    assert suspends.slept_ms(3_700_000, now) == 60_000 + 3_599_999, "it began before both"
    assert suspends.slept_ms(1_000_000, 2 * HOUR - SECOND) == 0, "it ended before the second"


def test_only_the_latest_suspends_are_remembered() -> None:
    suspends = Suspends(0, 0)
    for number in range(1, 1001):
        assert suspends.check(number * 2 * SECOND, number * SECOND) is not None
    assert suspends.slept_ms(3600_000, 2001 * SECOND) == MAX_SUSPENDS * 1000


class Unread:
    """A state change that nobody may look into: only what every event has at hand."""

    event = "state"

    def __init__(self, ktime_ns: int) -> None:
        self.ktime_ns = ktime_ns

    def __getattr__(self, name: str) -> None:
        raise AssertionError(f"{name} was read, so that the event is decoded for nothing")


def taken(*silent_s: int | None, at_ns: int = 2 * HOUR + 70 * SECOND) -> bytes:
    """State changes as the ring hands them over, one nanosecond apart, at HZ=250."""
    return b"".join(
        bytes(HEADER_BYTES)
        + record(type=3, ktime_ns=at_ns + place, silent=0xFFFFFFFF if seconds is None else seconds * 250)
        + bytes(-SIZE % 8)
        for place, seconds in enumerate(silent_s)
    )


def test_state_changes_with_silences_since_the_last_suspend_are_not_read() -> None:
    suspends = suspended_twice()
    now = 2 * HOUR + 70 * SECOND
    events: list[Any] = [Unread(now), Unread(now + 1), Unread(now + 2)]
    suspends.add_to_taken(events, taken(5, 0, None), 250)
    with pytest.raises(AssertionError, match="was read"):
        suspends.add_to_taken(events, taken(5, 0, 20), 250)


def test_events_of_the_ring_get_what_was_slept_during_their_silence() -> None:
    suspends = suspended_twice()
    records = taken(5, 20, 3_700)
    events = [event for event, _ in Decoder(hz=250, reasons={}, key=b"k").decode_all(records, 0)]
    suspends.add_to_taken(events, records, 250)
    assert [each.silent_ms for each in events] == [5_000, 80_000, 3_760_000 + 3_599_999]


def test_what_shows_trouble_is_read_whatever_its_silence() -> None:
    """Its other durations may be longer than its silence."""
    suspends = suspended_twice()
    now = 2 * HOUR + 70 * SECOND
    stuck = event("error", now / SECOND, silent_ms=1_000, stuck_ms=20_000)
    suspends.add_to_taken([stuck], taken(1, at_ns=stuck.ktime_ns), 250)
    assert (stuck.silent_ms, stuck.stuck_ms) == (1_000, 80_000)


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
