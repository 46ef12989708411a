"""What is not known is not zero: events of older versions, and of damaged recordings, lack fields."""

from __future__ import annotations

from typing import Any

from builders import event
from stall_events import HOUR_MS, probe, reset

from tracer.analysis.outstanding import at_keepalive_timeout, outstanding
from tracer.analysis.stalls import StallTracker
from tracer.analysis.timeouts import gives_up
from tracer.output.stall_sentences import how_it_ended

HZ = 250
MS = 1_000_000


def test_an_end_without_a_duration_does_not_claim_that_it_took_no_time() -> None:
    for outcome, sentence in (
        ("recovered", "Answered."),
        ("timed-out", "Timed out: the application gets ETIMEDOUT."),
        ("ongoing", "Not over yet."),
        ("of-a-later-version", "Ended."),
    ):
        error = "ETIMEDOUT" if outcome == "timed-out" else None
        assert how_it_ended(event("stall", phase="end", outcome=outcome, error=error)) == sentence


def test_a_duration_of_zero_is_a_duration() -> None:
    assert how_it_ended(event("stall", phase="end", outcome="recovered", duration_ms=0)) == "Answered after 0ms."


def test_a_probe_without_a_silence_was_sent_after_those_before_it() -> None:
    fourth = probe(1000, 4, silent_ms=None)
    now = outstanding(fourth, HZ)
    assert now is not None and now.idle_ms is None
    assert fourth.ktime_ns - now.since_ns >= 3 * 75_000 * MS


def test_a_connection_found_without_its_timer_has_sent_its_probe_just_now() -> None:
    found = event("found", kind="keepalive", attempt=1, keepalive_interval_s=75, silent_ms=HOUR_MS)
    now = outstanding(found, HZ)
    assert now is not None and now.idle_ms == HOUR_MS, "nothing shows that an interval has passed"


def test_keepalive_that_gave_up_without_a_silence_has_sent_its_probes() -> None:
    late = event("reset", 3600, direction="sent", keepalive_interval_s=75, keepalive_probes=9)
    now = at_keepalive_timeout(late, HZ)
    assert now.idle_ms is None and late.ktime_ns - now.since_ns >= 9 * 75_000 * MS


def test_retransmissions_without_a_number_are_no_answer() -> None:
    events = [
        event(at=at, kind="rto", unacked_bytes=527, silent_ms=HOUR_MS + at * 1000, stuck_ms=at * 1000)
        for at in (1, 2, 4, 8)
    ]
    tracker = StallTracker(hz=HZ)
    out = [each for each in tracker.feed(*events) if each.event == "stall"]
    assert [each.phase for each in out] == ["begin"], "it goes on"


def test_a_closed_window_of_unknown_age_may_end_at_once() -> None:
    known: dict[str, Any] = {
        "kind": "rto",
        "attempt": 3,
        "snd_wnd": 0,
        "jiffies": 1000,
        "rto_ms": 200,
        "rto_max_ms": 120_000,
    }
    closed = event(**known, retries=15, retrying_ms=600, user_timeout_ms=0, unacked_bytes=9)
    give_up = gives_up(closed, HZ)
    assert give_up is not None and give_up.earliest_ns == closed.ktime_ns
    assert give_up.latest_ns >= closed.ktime_ns + 240_000 * MS


def test_a_reset_of_a_connection_of_unknown_silence_was_not_idle() -> None:
    tracker = StallTracker(hz=HZ)
    assert [each.event for each in tracker.feed(reset(1, silent_ms=None))] == ["reset"]
