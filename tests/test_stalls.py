"""When an episode begins, goes on and ends, and what belongs to it: from events as the kernel gives them."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
from builders import SECOND, event
from hypothesis import example, given
from hypothesis import strategies as st
from stall_events import (
    HOUR_MS,
    LOSS_PROBE_MS,
    close,
    freeze,
    heard,
    probe,
    reset,
    rtx,
    waiting,
    window,
)

from tracer.analysis import stall_lifecycle, stall_store
from tracer.analysis.idle_timeouts import IdleTimeoutRange, service_of
from tracer.analysis.outcomes import WITHOUT_EVIDENCE
from tracer.analysis.stalls import StallTracker
from tracer.model.events import STATES, Event
from tracer.model.kinds import EVENTS
from tracer.model.times import format_time, parse_time

NAMES = [field.name for field in fields(Event)]


def told(*events: Event, until: float | None = None, **settings_: Any) -> list[Event]:
    """The stall events of a stream, to its end. However they are asked for, their ends are the same."""
    until_ns = SECOND + round(until * SECOND) if until is not None else events[-1].ktime_ns
    tracker, of_ends = StallTracker(hz=250, **settings_), StallTracker(hz=250, ends_only=True, **settings_)
    out: list[Event] = []
    for each in events:
        out += tracker.feed(each)
    out += tracker.finish(until_ns)
    stalls_ = [each for each in out if each.event == "stall"]
    ends = [each for each in (*of_ends.feed(*events), *of_ends.finish(until_ns)) if each.phase == "end"]
    assert ends == [each for each in stalls_ if each.phase == "end"]
    for each in stalls_:
        assert list(each.known()) == [name for name in NAMES if getattr(each, name) is not None], "Event's order"
    return stalls_


def words(stalls_: list[Event]) -> list[str]:
    return [f"{each.phase} {each.verdict}" + (f" {each.outcome}" if each.outcome else "") for each in stalls_]


def test_the_incident_is_one_stall_from_its_first_retransmission_to_its_error() -> None:
    events = [*freeze(), *close(13.4)]
    seen = told(*events)
    assert words(seen) == ["begin idle-drop", "end idle-drop timed-out"]
    begin, end = seen
    assert begin.id == end.id
    assert (begin.ktime_ns, begin.idle_ms, begin.retransmits, begin.unacked_bytes) == (SECOND, HOUR_MS, 1, 527)
    assert begin.gives_up_in_ms is not None and 12_000 < begin.gives_up_in_ms < 15_000
    assert parse_time(begin.gives_up_at or "") == begin.time_ns + begin.gives_up_in_ms * 1_000_000
    assert (end.errno, end.error, end.duration_ms, end.retransmits) == (110, "ETIMEDOUT", 13600, 5)
    assert begin.since == end.since == format_time(begin.time_ns - LOSS_PROBE_MS * 1_000_000)
    assert (end.laddr, end.lport, end.rport, end.sock) == (begin.laddr, 33356, 3306, begin.sock)


def test_the_owner_that_is_known_at_last_counts() -> None:
    seen = told(rtx("tlp"), rtx("rto", 0.2, pid=8506, comm="php", pids=[8506], cgroup="/a"), *close(13))
    assert [each.pid for each in seen] == [None, 8506]
    assert (seen[-1].comm, seen[-1].cgroup) == ("php", "/a")


def test_an_active_connection_that_dies_is_no_idle_drop() -> None:
    events = [*freeze(silent_ms=210), *close(13.4)]
    assert words(told(*events))[-1] == "end path-loss timed-out"
    assert words(told(*events))[:2] == ["begin no-answer", "update path-loss"], "one loss may be chance, three not"


def test_the_threshold_of_idleness_is_the_users() -> None:
    events = [*freeze(silent_ms=6500), *close(13.4)]
    assert words(told(*events))[-1] == "end path-loss timed-out"
    assert words(told(*events, min_idle_ms=3000))[-1] == "end idle-drop timed-out"


def test_an_answer_after_a_long_silence_ends_it_at_once_and_is_no_idle_drop() -> None:
    seen = told(rtx("tlp"), rtx("rto", 0.2), heard(0.3), until=0.3)
    assert words(seen)[-1] == "end packet-loss recovered"
    assert (seen[-1].duration_ms, seen[-1].ktime_ns) == (300 + LOSS_PROBE_MS, heard(0.3).ktime_ns)


def test_loss_on_a_busy_connection_is_one_episode_with_one_end() -> None:
    events: list[Event] = []
    for second in range(5):
        events += [rtx("rto", second, silent_ms=210), heard(second + 0.2, silent_ms=410)]
    seen = told(*events, until=20)
    assert words(seen) == ["begin no-answer", "end packet-loss recovered"]
    assert seen[-1].duration_ms == 604, "of the last loss, to its answer"
    assert seen[-1].ktime_ns == events[-1].ktime_ns + stall_lifecycle.SETTLE_NS


def test_a_loss_that_was_no_chance_ends_with_its_own_answer() -> None:
    lost = [rtx("rto", at, number, silent_ms=400 << (number - 1)) for number, at in ((1, 0), (2, 0.4), (3, 1.2))]
    later = [rtx("rto", 2, silent_ms=210), heard(2.2, silent_ms=410)]
    seen = told(*lost, heard(1.6, silent_ms=2000), *later, until=20)
    assert words(seen)[1:3] == ["update path-loss", "end packet-loss recovered"], "what was reported as lasting"
    assert seen[2].ktime_ns == heard(1.6).ktime_ns and (seen[2].duration_ms or 0) > 1600
    assert words(seen)[3:] == ["begin no-answer", "end packet-loss recovered"]


def test_a_retransmission_that_does_not_come_lets_an_answer_be_presumed() -> None:
    tracker = StallTracker(hz=250)
    tracker.feed(rtx("tlp"))
    tracker.feed(rtx("rto", 0.2))
    assert tracker.advance(SECOND + 700_000_000) == [] and not tracker.take_overdue(), "it may be late"
    assert tracker.advance(SECOND + 3 * SECOND) == [], "a hook may have missed it"
    assert tracker.take_overdue() and not tracker.take_overdue()
    (end,) = tracker.advance(SECOND + 6 * SECOND)
    assert (end.phase, end.outcome, end.verdict) == ("end", "presumed", "no-answer")
    assert end.duration_ms == 200 + LOSS_PROBE_MS, "to the last sign of it"
    assert tracker.idle_timeouts.range_of(service_of(rtx())) == IdleTimeoutRange(None, None), (
        "nothing is known to have survived"
    )


def test_where_the_kernel_would_have_given_up_by_then_no_answer_is_presumed() -> None:
    """A hook may have missed that, too."""
    for idle_ms, verdict in ((HOUR_MS, "idle-drop"), (210, "path-loss")):
        for ends_only in (False, True):
            tracker = StallTracker(hz=250, ends_only=ends_only)
            *_, last = tracker.feed(*freeze(5, silent_ms=idle_ms + 200))
            (end,) = [each for each in tracker.advance(last.ktime_ns + 60 * SECOND) if each.phase == "end"]
            assert (end.outcome, end.verdict) == ("unseen", verdict)
            assert tracker.idle_timeouts.range_of(service_of(last)) == IdleTimeoutRange(None, None)


@pytest.mark.parametrize(
    ("errors", "dropped"),
    [
        ("D", True),
        ("DDD", True),
        ("-D", False),  # by chance: a queue was full for a moment
        ("--DD", False),
        ("--DDD", True),
        ("DDD-", False),
        ("bDD", True),  # EBUSY: the first copy has not left yet
    ],
)
def test_one_packet_that_a_full_queue_drops_does_not_mean_that_nothing_leaves_this_host(
    errors: str, dropped: bool
) -> None:
    names = {"D": "NET_XMIT_DROP", "b": "EBUSY", "-": None}
    signs = freeze(len(errors))[1:]
    for each, error in zip(signs, errors):
        each.send_error = names[error]
    verdicts = [each.verdict for each in StallTracker(hz=250).feed(*signs) if each.event == "stall"]
    assert (verdicts[-1] == "local-drop") is dropped
    tracker = StallTracker(hz=250)
    tracker.feed(*signs)
    (end,) = tracker.finish(signs[-1].ktime_ns)
    assert (end.verdict == "local-drop") is dropped


def test_a_run_that_ends_while_a_retransmission_is_overdue_shows_no_fatal_silence() -> None:
    for after_s, fatal_ms in ((4, HOUR_MS), (7, None)):
        tracker = StallTracker(hz=250)
        *_, last = tracker.feed(*freeze(4))
        (end,) = tracker.finish(last.ktime_ns + after_s * SECOND)
        assert end.outcome == "ongoing"
        assert tracker.idle_timeouts.range_of(service_of(last)) == IdleTimeoutRange(None, fatal_ms)


def test_a_missed_retransmission_that_a_walk_found_lets_nothing_be_presumed() -> None:
    tracker = StallTracker(hz=250)
    *first, third, fourth, fifth = freeze(5)
    seen = tracker.feed(*first)
    seen += tracker.advance(fourth.ktime_ns - 200_000_000)
    assert tracker.take_overdue()
    # A walk, just before the next one.
    late_ns = fourth.ktime_ns - third.ktime_ns - 100_000_000
    seen += tracker.feed(
        replace(
            third, event="found", ktime_ns=third.ktime_ns + late_ns, time_ns=third.time_ns + late_ns, timer_ms=100
        )
    )
    seen += tracker.feed(fourth, fifth, *close(13.4))
    stalls = [each for each in seen if each.event == "stall"]
    assert [each.outcome for each in stalls if each.phase == "end"] == ["timed-out"]
    assert not any(each.revoked for each in stalls)


def test_what_was_presumed_is_revoked_by_the_next_retransmission() -> None:
    first, second, third = freeze(2)
    last = freeze(5)[-1]
    for ends_only in (False, True):
        tracker = StallTracker(hz=250, ends_only=ends_only)
        out = tracker.feed(first, second, third, last, *close(13.4))
        seen = [each for each in out if each.event == "stall" and each.phase != "begin"]
        assert words(seen) == ["end no-answer presumed", "update idle-drop", "end idle-drop timed-out"]
        assert len({each.id for each in seen}) == 1 and len({each.since for each in seen}) == 1
        assert [each.revoked for each in seen] == [None, True, None]
        assert (seen[-1].retransmits, seen[-1].duration_ms) == (5, 13600)
        bracket = tracker.idle_timeouts.range_of(service_of(first))
        assert bracket == IdleTimeoutRange(None, HOUR_MS)


def test_what_was_presumed_is_revoked_by_the_error_of_a_peer_that_was_not_heard() -> None:
    closed, error = close(13.4, silent_ms=HOUR_MS + 13_600)
    seen = told(*freeze(2), closed, error)
    assert words(seen)[1:] == ["end no-answer presumed", "update idle-drop", "end idle-drop timed-out"]


def test_an_error_of_something_else_revokes_nothing() -> None:
    closed, error = close(13.4, silent_ms=5000)
    assert words(told(*freeze(2), closed, error))[1:] == ["end no-answer presumed"]
    other = [*freeze(2), *freeze(start=700, silent_ms=210), *close(713.4)]
    seen = words(told(*other))
    assert seen[1:3] == ["end no-answer presumed", "begin no-answer"], "its data was sent later"


def test_where_events_were_lost_nobody_knows_how_it_ended() -> None:
    tracker = StallTracker(hz=250)
    tracker.feed(rtx("tlp"))
    tracker.feed(rtx("rto", 0.2))
    tracker.feed(event("lost", 0.3, count=3, sock=None))
    (end,) = tracker.advance(20 * SECOND)
    assert end.outcome == "ongoing"


def test_a_second_loss_on_a_connection_that_was_idle_is_a_second_stall() -> None:
    seen = told(rtx("tlp"), rtx("rto", 0.2), *freeze(start=1, silent_ms=300), *close(14.4))
    assert words(seen) == [
        "begin idle-drop",
        "end packet-loss recovered",
        "begin no-answer",
        "update path-loss",
        "end path-loss timed-out",
    ]
    assert len({each.id for each in seen}) == 2


@pytest.mark.parametrize(
    ("error", "number", "outcome"),
    [
        ("ETIMEDOUT", 110, "timed-out"),
        ("ECONNRESET", 104, "reset"),
        ("EPIPE", 32, "reset"),
        ("EHOSTUNREACH", 113, "unreachable"),
        ("ENETUNREACH", 101, "unreachable"),
        ("ECONNABORTED", 103, "closed"),
    ],
)
def test_the_error_is_the_outcome(error: str, number: int, outcome: str) -> None:
    assert told(*freeze(), *close(13.4, error, number))[-1].outcome == outcome


def ended_by_command(at: float, result: str = "ended", **fields: Any) -> Event:
    return event("action", at, action="end", result=result, **fields)


def test_a_stall_that_the_command_ended() -> None:
    """Its message comes after the error."""
    for is_older in (False, True):
        closing = close(13.4, "ECONNABORTED", 103)
        if is_older:  # the error is reported first, of a socket that is still open
            closing = [closing[1], closing[0]]
            closing[0].state = "ESTABLISHED"
        seen = told(*freeze(), *closing, ended_by_command(14.0), until=20)
        assert words(seen)[-1].endswith(" ended") and seen[-1].error == "ECONNABORTED"


@pytest.mark.parametrize("other", [{"result": "gone"}, {"result": "unreachable"}, {"sock": "another"}])
def test_only_the_action_on_this_connection_counts(other: dict[str, Any]) -> None:
    seen = told(*freeze(), *close(13.4, "ECONNABORTED", 103), ended_by_command(13.5, **other), until=20)
    assert words(seen)[-1].endswith(" closed")


def test_an_older_kernel_reports_the_error_before_the_state_is_stored() -> None:
    closed, error = close(13.4)
    error.state = "ESTABLISHED"
    assert told(*freeze(), closed, error)[-1].outcome == "timed-out"


def test_an_application_that_gives_up_first_closes_it_and_its_fin_is_no_new_stall() -> None:
    fin = event("state", 3, old_state="ESTABLISHED", new_state="FIN_WAIT1", state="FIN_WAIT1")
    for held in ({"orphan": True}, {"retries": None}):  # of an older version, which does not show orphans
        seen = told(*freeze(3), fin, rtx("rto", 3.1, 4, state="FIN_WAIT1", **held), until=60)
        assert words(seen)[-1] == "end idle-drop closed"
        assert seen[-1].duration_ms == 3000 + LOSS_PROBE_MS
        assert len({each.id for each in seen}) == 1


def test_a_process_that_only_shuts_down_its_side_may_wait_for_the_answer() -> None:
    fin = event("state", 3, old_state="ESTABLISHED", new_state="FIN_WAIT1", state="FIN_WAIT1")
    *before, fourth, fifth = freeze(5)
    seen = told(*before, fin, *(replace(each, state="FIN_WAIT1") for each in (fourth, fifth)), *close(13.4))
    assert words(seen)[-3:] == ["end idle-drop closed", "begin idle-drop", "end idle-drop timed-out"]


def test_an_orphan_dies_without_a_report() -> None:
    seen = told(*freeze(state="FIN_WAIT1", orphan=True), *close(13.4, None), until=14)
    assert words(seen)[-1] == "end idle-drop timed-out"


def test_a_close_that_is_acknowledged_late_has_recovered() -> None:
    seen = told(
        rtx("fin", 0, state="LAST_ACK", unacked_bytes=0),
        event("state", 0.4, old_state="LAST_ACK", new_state="CLOSE", state="CLOSE", silent_ms=0),
    )
    assert words(seen)[-1] == "end packet-loss recovered"


def test_icmp_is_unreachable_and_the_errno_is_foretold() -> None:
    seen = told(*freeze(soft_error="EHOSTUNREACH"), *close(13.4, "EHOSTUNREACH", 113))
    assert words(seen)[0] == "begin unreachable" and words(seen)[-1] == "end unreachable unreachable"
    assert seen[0].soft_error == "EHOSTUNREACH"


def test_what_could_not_even_be_sent_is_unreachable() -> None:
    assert words(told(*freeze(send_error="ENETUNREACH"), *close(13)))[-1] == "end unreachable timed-out"


def test_a_peer_that_is_heard_and_acknowledges_nothing_is_no_idle_drop() -> None:
    seen = told(*freeze(2), heard(0.7, "no-progress"), *freeze()[3:], *close(13.4))
    assert words(seen)[-1] == "end path-loss timed-out"
    assert seen[-1].one_way is True


def syn(at: float, attempt: int, **fields: Any) -> Event:
    return rtx("syn", at, attempt, state="SYN_SENT", silent_ms=None, rto_ms=1000, unacked_bytes=0, **fields)


def test_a_syn_that_nobody_answers() -> None:
    seen = told(syn(1, 1), syn(2, 2), *close(3.1, state="CLOSE"))
    assert words(seen)[-1] == "end handshake timed-out"
    assert seen[-1].idle_ms is None


def test_a_syn_that_is_answered_late() -> None:
    established = event("state", 2.1, old_state="SYN_SENT", new_state="ESTABLISHED")
    assert words(told(syn(1, 1), syn(2, 2), established))[-1] == "end handshake recovered"
    assert told(syn(1, 1), established)[-1].outcome == "recovered"


def test_a_reset_after_a_long_silence_is_a_stall_that_is_over_as_it_is_seen() -> None:
    seen = told(reset(0, unacked_bytes=34), *close(0, "ECONNRESET", 104))
    assert words(seen) == ["end idle-reset reset"]
    assert seen[0].idle_ms == HOUR_MS


def test_a_reset_of_a_connection_in_use_is_no_stall() -> None:
    assert told(reset(0, silent_ms=20), *close(0, "ECONNRESET", 104)) == []


def test_a_refused_connection_is_no_stall() -> None:
    refused = reset(0, state="SYN_SENT", silent_ms=None)
    closed = event("state", 0, old_state="SYN_SENT", new_state="CLOSE", state="CLOSE")
    assert told(refused, closed, event("error", 0, error="ECONNREFUSED", errno=111, state="CLOSE")) == []


def test_writing_to_a_peer_that_had_closed() -> None:
    seen = told(reset(0, state="CLOSE_WAIT"), *close(0, "EPIPE", 32))
    assert words(seen) == ["end peer-closed reset"]


def test_a_reset_amid_retransmissions_ends_them() -> None:
    seen = told(*freeze(3), reset(2, unacked_bytes=527), *close(2, "ECONNRESET", 104))
    assert words(seen)[-1] == "end idle-reset reset"
    active = told(*freeze(3, silent_ms=204), reset(2, silent_ms=2300), *close(2, "ECONNRESET", 104))
    assert words(active)[-1] == "end path-loss reset"


def test_a_reset_whose_close_was_not_seen_ends_it_too() -> None:
    assert words(told(*freeze(3), reset(2), until=30))[-1] == "end idle-reset reset"


def test_a_first_probe_is_no_stall_the_second_says_that_it_was_not_answered() -> None:
    seen = told(*(probe(75 * n, n + 1) for n in range(9)), *close(675))
    assert words(seen)[0] == "begin keepalive-failed" and words(seen)[-1] == "end keepalive-failed timed-out"
    slot_ms = 776  # an interval of 75 s takes so much longer by the timer wheel, and the silences above do not
    assert seen[0].idle_ms == 7_200_000 - slot_ms, "the silence at the probe that was not answered"
    assert [seen[0].retransmits, seen[-1].retransmits] == [2, 9]
    assert seen[0].gives_up_in_ms is not None


def test_a_probe_that_is_answered_late() -> None:
    seen = told(probe(0, 1), probe(75, 2), heard(75.1, "keepalive", unacked_bytes=0))
    assert words(seen)[-1].endswith("recovered")


def test_a_probe_of_the_peer_does_not_answer_ours() -> None:
    """Its probes arrive, and whether ours do is not known. The answer to the next one shows it."""
    probes = [probe(75 * n, n + 1) for n in range(3)]
    seen = told(
        *probes[:2], heard(80, "probe", unacked_bytes=0), probes[2], heard(150.1, "keepalive", unacked_bytes=0)
    )
    assert [each.phase for each in seen] == ["begin", "update", "end"]
    assert words(seen)[-1] == "end keepalive-failed recovered" and seen[-1].ktime_ns > probes[2].ktime_ns


def test_with_a_single_probe_the_reset_that_the_kernel_sends_tells() -> None:
    given_up = event("reset", 75, direction="sent", reason="TCP_KEEPALIVE_TIMEOUT", silent_ms=7_275_000, attempt=None)
    seen = told(probe(0, 1, keepalive_probes=1), given_up, *close(75))
    assert words(seen) == ["end keepalive-failed timed-out"]


def test_a_window_that_stays_closed() -> None:
    probes = [window(0.2, 1), window(0.6, 2), window(1.4, 3), window(3.0, 4)]
    seen = told(rtx("tlp", 0, snd_wnd=0, silent_ms=200), *probes, heard(5, "window", unacked_bytes=0))
    assert words(seen) == ["begin zero-window", "end zero-window recovered"]
    assert seen[0].unsent_bytes == 717_656
    assert told(*probes[:2], until=60) == [], "flow control"


def closed_window(at: float, attempt: int, probes_out: int, **fields: Any) -> Event:
    ordinary: dict[str, Any] = {
        "rto_ms": 204,
        "rto_max_ms": 120_000,
        "retries": 15,
        "backoff": attempt - 1,
        "retrying_ms": round(at * 1000) - 204,
        "stuck_ms": round(at * 1000),
        "jiffies": round(at * 250),
        "user_timeout_ms": 0,
        "unsent_bytes": 3_000,
        "unacked_bytes": 0,
        "snd_wnd": 0,
        "silent_ms": 300,
    }
    return event("window-probe", at, attempt=attempt, probes_out=probes_out, **{**ordinary, **fields})


def test_a_window_whose_probes_nobody_answers_any_more_is_a_path_or_a_peer_that_died() -> None:
    probes = [closed_window(1.4, 3, 0), closed_window(3.1, 4, 1), closed_window(6.4, 5, 2), closed_window(13.0, 6, 3)]
    seen = told(*probes, *close(28), until=29)
    assert [each.verdict for each in seen] == ["zero-window", "zero-window", "path-loss", "path-loss"]
    assert [each.probes_out for each in seen] == [0, 2, 3, 3], "a peer may leave one without an answer"
    assert [each.gives_up_in_ms is None for each in seen] == [True, False, False, True]
    answered = told(*probes, closed_window(26, 7, 0), until=27)
    assert words(answered)[-2:] == ["update zero-window", "end zero-window ongoing"], "it was there after all"


def test_a_window_whose_probes_are_answered_again_has_no_end() -> None:
    unanswered = [closed_window(1.4, 3, 0), closed_window(3.1, 4, 1), closed_window(6.4, 5, 2)]
    seen = told(*unanswered, closed_window(13.0, 6, 0), until=14)
    assert [(each.phase, each.gives_up_in_ms is None, each.probes_out) for each in seen] == [
        ("begin", True, 0), ("update", False, 2), ("update", True, 0), ("end", True, 0),
    ]  # fmt: skip


def test_probes_that_the_kernel_counts_no_further_show_no_answer() -> None:
    probes = [closed_window(0.2 * 2**number, number, 0, retries=5) for number in range(3, 7)]
    uncounted = [closed_window(12.8 + 6.6 * number, 6, 0, retries=5) for number in range(1, 5)]
    seen = told(*probes, *uncounted, until=40)
    assert words(seen) == ["begin zero-window", "end zero-window ongoing"]
    assert (seen[-1].retransmits, seen[-1].since) == (10, seen[0].since)
    again = replace(closed_window(41, 5, 0, retries=5, backoff=5), event="found", kind="window-probe", timer_ms=4000)
    seen = told(*probes, *uncounted, again, until=42)
    assert words(seen) == ["begin zero-window", "end zero-window ongoing"], "a walk sees one probe less"
    assert seen[-1].retransmits == 10
    opened = told(*probes, *uncounted, closed_window(45, 4, 0, retries=5), until=46)
    assert words(opened)[:2] == ["begin zero-window", "end zero-window recovered"], "its count began anew"


def into_closed_window(at: float, silent_ms: int) -> Event:
    times = {"stuck_ms": round(at * 1000), "retrying_ms": round(at * 1000) - 200, "jiffies": round(at * 250)}
    uncounted = rtx("rto", at, 1, snd_wnd=0, silent_ms=silent_ms, rto_ms=max(204, round(at * 1000)), **times)
    uncounted.attempt = 0
    return uncounted


def test_retransmissions_into_a_closed_window_are_counted_though_the_kernel_does_not() -> None:
    answered = told(*(into_closed_window(0.2 * 2**n, 100) for n in range(8)), until=26)
    assert words(answered) == ["begin zero-window", "end zero-window ongoing"] and answered[-1].retransmits == 8
    assert all(each.gives_up_in_ms is None for each in answered)
    at_once = told(*(into_closed_window(0.2 * 2**n, round(100 * 2**n) + 3) for n in range(8)), until=26)
    assert words(at_once) == words(answered), "an answer within the same jiffy is one"
    alone = told(*(into_closed_window(0.2 * 2**n, round(200 * 2**n)) for n in range(5)), until=4)
    assert words(alone)[-1] == "end path-loss ongoing" and alone[-1].probes_out == 4


def unsent(at: float, probes_out: int, **fields: Any) -> Event:
    ordinary = {"snd_wnd": 65_536, "unsent_bytes": 34, "backoff": probes_out, "silent_ms": HOUR_MS + round(at * 1000)}
    probe = closed_window(at, probes_out + 1, probes_out, **{**ordinary, **fields})
    return Event(**{**vars(probe), "event": "unsent"})


def test_what_this_host_does_not_let_out_is_its_own_doing() -> None:
    attempts = [unsent(0.6, 1), unsent(1.4, 2), unsent(3.1, 3)]
    seen = told(*attempts, *close(6), until=7)
    assert words(seen) == ["begin local-drop", "end local-drop timed-out"]
    assert seen[0].idle_ms is not None and abs(seen[0].idle_ms - HOUR_MS) < 300 and seen[0].retransmits == 2
    assert seen[0].since == format_time(unsent(0.0, 1).time_ns), "when it was written"
    tracker = StallTracker(hz=250)
    tracker.feed(*attempts, *close(6))
    assert tracker.idle_timeouts.range_of(service_of(attempts[0])) == IdleTimeoutRange(None, None), (
        "no silence was fatal"
    )


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        ("EPERM", "local-drop"),
        ("NET_XMIT_DROP", "local-drop"),
        ("ENOBUFS", "local-drop"),
        ("EHOSTUNREACH", "unreachable"),
        ("EBUSY", "idle-drop"),
    ],
)
def test_why_it_was_not_sent_decides(error: str, verdict: str) -> None:
    assert words(told(*freeze(4, send_error=error)))[0] == f"begin {verdict}"


def test_a_setting_that_changed_meanwhile_moves_the_end() -> None:
    signs = freeze(5, retries=15)
    for changed in ({"retries": 5}, {"user_timeout_ms": 5_000}):
        last = Event(**{**vars(signs[-1]), **changed})
        seen = told(*signs[:-1], last)
        before, after = seen[0].gives_up_in_ms, seen[-2].gives_up_in_ms
        assert seen[-2].phase == "update" and before is not None and after is not None
        assert after < 20_000 < before


def test_a_close_after_a_shutdown_answers_nothing() -> None:
    again = event("state", 700, old_state="FIN_WAIT2", new_state="FIN_WAIT2", state="FIN_WAIT2")
    seen = told(*(probe(75 * n, n + 1, state="FIN_WAIT2") for n in range(3)), again, until=701)
    assert "recovered" not in " ".join(words(seen))


def test_a_reset_of_what_was_just_heard_ends_no_stall() -> None:
    seen = told(
        rtx("tlp", silent_ms=210), heard(0.1, silent_ms=250), reset(0.6, silent_ms=500), *close(0.6, "ECONNRESET")
    )
    assert words(seen) == ["begin no-answer", "end packet-loss recovered"]


def test_a_fin_that_a_reset_answers_was_lost() -> None:
    seen = told(
        rtx("fin", 0, 1, silent_ms=410, state="FIN_WAIT1", unacked_bytes=0), reset(0.5, state="FIN_WAIT1"), until=2
    )
    assert words(seen)[-1] == "end packet-loss reset"


def test_a_walk_that_comes_by_within_a_retransmission_is_no_answer() -> None:
    """The kernel has counted it already, and its event comes a moment later."""
    first, second, third = freeze(3)[1:]
    found = Event(**{**vars(third), "event": "found", "kind": "retransmit", "timer_ms": 0})
    found.time_ns, found.ktime_ns = third.time_ns - 10_000, third.ktime_ns - 10_000
    assert words(told(first, second, found, third)) == ["begin idle-drop", "end idle-drop ongoing"]


def test_an_end_of_which_nothing_was_seen_before() -> None:
    """A retransmission that this host drops is no event before Linux 6.17; and any event may be missing."""
    facts: dict[str, Any] = {"unacked_bytes": 527, "stuck_ms": 13_600, "attempt": 5, "silent_ms": HOUR_MS + 13_600}
    (end,) = told(*close(20, **facts), until=21)
    assert words([end]) == ["end idle-drop timed-out"] and (end.idle_ms, end.retransmits) == (HOUR_MS, 5)
    assert end.duration_ms == 13_600
    (end,) = told(*close(20, **{**facts, "silent_ms": 13_700}), until=21)
    assert words([end]) == ["end path-loss timed-out"]
    (end,) = told(*close(20, unacked_bytes=0, stuck_ms=7_000, attempt=3), until=21)
    assert words([end]) == ["end handshake timed-out"] and end.idle_ms is None
    assert told(*close(20, "ECONNRESET", **facts), until=21) == []


def test_a_retransmission_because_later_segments_arrived_is_no_stall() -> None:
    assert told(rtx("fast", silent_ms=0), rtx("synack", 1), until=10) == []


def test_what_is_open_at_the_end_is_ongoing() -> None:
    seen = told(*freeze(3), until=2)
    assert words(seen)[-1] == "end idle-drop ongoing"
    assert seen[-1].duration_ms == 2000 + LOSS_PROBE_MS


def test_a_long_stall_is_updated_sparingly() -> None:
    events = freeze(15, retries=15)
    last = events[-1]
    gives_up_s = (last.ktime_ns - SECOND) / SECOND + 120
    seen = told(*events, *close(gives_up_s))
    assert words(seen) == ["begin idle-drop", *["update idle-drop"] * (len(seen) - 2), "end idle-drop timed-out"]
    assert 4 <= len(seen) <= 7, "some, ever further apart"
    foretold = {each.ktime_ns + (each.gives_up_in_ms or 0) * 1_000_000 for each in seen[:-1]}
    assert max(foretold) - min(foretold) < SECOND / 10
    assert abs(min(foretold) - seen[-1].ktime_ns) < 10 * SECOND


def test_recorded_stalls_are_found_again_and_not_passed_on_twice() -> None:
    events = [*freeze(), *close(13.4)]
    first = StallTracker(hz=250)
    recorded = [out for each in events for out in first.feed(each)]
    again = StallTracker(hz=250)
    assert [out for each in recorded for out in again.feed(each)] == recorded


def test_a_reused_address_joins_no_two_lives() -> None:
    seen = told(*freeze(), *close(13.4), rtx("tlp", 14, sock="another", silent_ms=210), until=14)
    assert len({each.id for each in seen}) == 2


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stall_store, "MAX_OPEN", 10)
    monkeypatch.setattr(stall_store, "MAX_REMEMBERED", 10)
    tracker = StallTracker(hz=250)
    ended = []
    for number in range(50):
        ended += tracker.feed(rtx("tlp", number / 1000, sock=f"{number:x}"))
        tracker.feed(probe(number / 1000, 1, sock=f"p{number:x}"))
    assert len(tracker.open_sockets) == 10 and len(tracker._store.histories) == 10
    assert sum(each.outcome == "ongoing" for each in ended) == 40


# Silences that were survived, and silences that were not.


def test_the_bracket_grows_from_both_sides() -> None:
    tracker = StallTracker(hz=250)
    service = service_of(rtx())
    for minutes in (10, 58, 30):
        tracker.feed(heard(minutes, silent_ms=minutes * 60_000, sock=f"s{minutes}"))
    assert tracker.idle_timeouts.range_of(service) == IdleTimeoutRange(58 * 60_000, None)
    for number, minutes in enumerate((90, 61, 75)):
        silent_ms = minutes * 60_000 + LOSS_PROBE_MS
        for each in [*freeze(silent_ms=silent_ms, sock=f"d{number}"), *close(13, sock=f"d{number}")]:
            tracker.feed(each)
    assert tracker.idle_timeouts.range_of(service) == IdleTimeoutRange(58 * 60_000, 61 * 60_000)


def test_closed_after_one_retransmission_it_proves_nothing() -> None:
    fin = event("state", 0.3, old_state="ESTABLISHED", new_state="FIN_WAIT1", state="FIN_WAIT1")
    assert words(told(*freeze(1, silent_ms=200), fin))[-1] == "end no-answer closed"
    tracker = StallTracker(hz=250)
    for each in [*freeze(1), fin]:
        tracker.feed(each)
    assert tracker.idle_timeouts.range_of(service_of(rtx())).fatal_ms is None


def test_an_open_stall_is_fatal_once_it_is_likely() -> None:
    service = service_of(rtx())
    for signs, fatal in ((3, None), (4, HOUR_MS)):
        tracker = StallTracker(hz=250)
        for each in freeze()[:signs]:
            tracker.feed(each)
        tracker.finish(SECOND + SECOND // 2)
        assert tracker.idle_timeouts.range_of(service).fatal_ms == fatal


@pytest.mark.parametrize("cause", ["keepalive", "probe", "answer", "ack"])
def test_a_path_that_the_peer_kept_alive_was_not_silent(cause: str) -> None:
    """Its probes do not end the kernel's own clock of silence, but they pass every firewall."""
    tracker = StallTracker(hz=250)
    for minute in range(1, 60):
        tracker.feed(heard(60 * minute, cause, silent_ms=60_000 * minute, unacked_bytes=0))
    tracker.feed(heard(3600, "data", silent_ms=HOUR_MS))
    assert tracker.idle_timeouts.range_of(service_of(rtx())) == IdleTimeoutRange(60_000, None)
    tracker.feed(heard(3620, cause, silent_ms=20_000, unacked_bytes=0))
    begin = tracker.feed(rtx("tlp", 3670, silent_ms=70_000))[-1]
    assert (begin.verdict, begin.idle_ms) == ("no-answer", 50_000 - LOSS_PROBE_MS)


# Whatever comes.

_EVENTS = st.builds(
    lambda name, at, fields: event(name, at, **fields),
    st.sampled_from([*EVENTS, "unheard-of"]),
    st.floats(0, 2000),
    st.fixed_dictionaries(
        {},
        optional={
            "sock": st.sampled_from(["a", "b", "c", None]),
            "kind": st.sampled_from(["tlp", "rto", "syn", "fin", "fast", "synack", "?"]),
            "attempt": st.integers(-1, 300),
            "silent_ms": st.one_of(st.none(), st.integers(-1, 10**10)),
            "rto_ms": st.one_of(st.none(), st.integers(-1, 10**6)),
            "rto_max_ms": st.one_of(st.none(), st.integers(0, 10**6)),
            "retrying_ms": st.one_of(st.none(), st.integers(0, 10**7)),
            "retries": st.one_of(st.none(), st.integers(0, 255)),
            "jiffies": st.one_of(st.none(), st.integers(0, 2**32)),
            "state": st.sampled_from([*STATES.values(), None]),
            "new_state": st.sampled_from(list(STATES.values())),
            "old_state": st.sampled_from(list(STATES.values())),
            "direction": st.sampled_from(["received", "sent", "refused"]),
            "cause": st.sampled_from(["data", "keepalive", "window", "no-progress", "probe", "answer", "ack"]),
            "error": st.sampled_from(["ETIMEDOUT", "ECONNRESET", "EHOSTUNREACH"]),
            "keepalive_interval_s": st.integers(0, 10**5),
            "keepalive_probes": st.integers(0, 255),
        },
    ),
)


@example(events=[event("window-probe", attempt=10, rto_ms=-1)])
@given(events=st.lists(_EVENTS, max_size=40))
def test_any_stream_gives_stalls_that_begin_once_and_end_once(events: list[Event]) -> None:
    events.sort(key=lambda each: each.ktime_ns)
    for number, each in enumerate(events):
        each.ktime_ns += number  # the kernel's clock stands still for no two events
    tracker = StallTracker(hz=250)
    out = [each for one in events for each in tracker.feed(one)]
    out += tracker.finish(events[-1].ktime_ns if events else 0)
    assert [each for each in out if each.event != "stall"] == [each for each in events if each.event != "stall"]
    assert not tracker.open_sockets
    by_id: dict[str, list[Event]] = {}
    for each in out:
        if each.event == "stall" and each not in events:
            by_id.setdefault(each.id or "", []).append(each)
    for seen in by_id.values():
        phases = [each.phase for each in seen]
        assert phases[-1] == "end"
        assert phases.count("begin") <= 1 and (len(phases) == 1 or phases[0] == "begin")
        for number, each in enumerate(seen[:-1]):
            # An end stands, but for one without evidence, and that one is taken back at once.
            assert (each.phase == "end") == (seen[number + 1].revoked is True)
            assert each.phase != "end" or each.outcome in WITHOUT_EVIDENCE
        assert [each.duration_ms for each in seen if each.duration_ms is not None and each.duration_ms < 0] == []
    times = [each.ktime_ns for each in out]
    assert times == sorted(times)


# Requests without a reply.


def test_a_request_without_a_reply_is_a_stall_since_it_was_sent() -> None:
    (begin, end) = told(waiting(), until=501)
    assert words([begin, end]) == ["begin unanswered", "end unanswered ongoing"]
    assert begin.since == format_time(begin.time_ns - 81_040 * 1_000_000)
    assert (begin.asked_ms, begin.silent_ms, begin.idle_ms, begin.gives_up_at) == (81_040, 81_000, None, None)
    assert end.duration_ms == 82_040


def test_a_wait_ends_when_keepalive_gives_up_at_the_latest() -> None:
    begin = told(waiting(keepalive=True, keepalive_idle_s=600, keepalive_probes=3, keepalive_interval_s=10))[0]
    left_ms = (600 - 81 + 30) * 1000
    assert begin.gives_up_in_ms is not None and begin.gives_up_window_ms is not None
    assert begin.gives_up_in_ms <= left_ms + 1000 <= begin.gives_up_in_ms + begin.gives_up_window_ms + 1000
    with_user_timeout = told(
        waiting(keepalive=True, keepalive_idle_s=600, keepalive_interval_s=10, user_timeout_ms=620_000)
    )[0]
    assert abs((with_user_timeout.gives_up_in_ms or 0) - (600 - 81 + 20) * 1000) < 2000
    exact = told(
        waiting(keepalive=True, keepalive_idle_s=600, keepalive_interval_s=10, keepalive_probes=3, timer_ms=99_000)
    )[0]
    assert 127_000 < (exact.gives_up_in_ms or 0) <= 130_000, "its timer is armed for less than the setting says"


def test_a_wait_that_goes_on_is_one_stall() -> None:
    seen = told(waiting(), waiting(81, 162_040), waiting(243, 324_040), until=900)
    assert words(seen) == ["begin unanswered", "update unanswered", "update unanswered", "end unanswered ongoing"]
    assert len({each.id for each in seen}) == 1 and len({each.since for each in seen}) == 1


def test_a_reply_ends_a_wait_and_its_silence_was_survived() -> None:
    tracker = StallTracker(hz=250)
    tracker.feed(waiting())
    out = tracker.feed(heard(510, silent_ms=91_000, unacked_bytes=0))
    assert words(out[1:]) == ["end unanswered recovered"]
    assert out[1].duration_ms == 91_040
    assert tracker.idle_timeouts.range_of(service_of(out[1])) == IdleTimeoutRange(91_000, None)


def test_a_peer_that_answers_a_probe_is_slow_and_no_stall() -> None:
    for cause in ("keepalive", "answer", "probe"):
        out = told(waiting(keepalive=True), heard(510, cause, silent_ms=91_000, unacked_bytes=0))
        assert words(out)[-1] == "end unanswered alive"
    heartbeat = told(waiting(), heard(510, silent_ms=91_000, unacked_bytes=8))
    assert words(heartbeat)[-1] == "end unanswered alive", "it acknowledged more data, and has not replied"


def test_a_wait_whose_peer_answers_no_probe_is_a_failed_keepalive_with_a_request_open() -> None:
    probes = [probe(600 + 75 * n, n + 1, asked_ms=600_000 + 75_000 * n) for n in range(3)]
    seen = told(waiting(keepalive=True), *probes, *close(826))
    assert words(seen)[-1] == "end keepalive-failed timed-out" and len({each.id for each in seen}) == 1
    assert seen[-1].asked_ms is not None


def test_data_that_is_sent_again_while_waiting_is_what_hangs_now() -> None:
    seen = told(waiting(), *freeze(start=600, silent_ms=181_000), *close(614))
    assert words(seen)[-1] == "end idle-drop timed-out"
    assert len({each.id for each in seen}) == 1 and 180_000 <= (seen[-1].idle_ms or 0) <= 181_000


def test_what_waits_has_nothing_in_flight_and_so_was_acknowledged() -> None:
    seen = told(*freeze(3, start=400), waiting(asked_ms=95_000, silent_ms=60_000))
    assert words(seen)[:3] == ["begin idle-drop", "end no-answer presumed", "begin unanswered"]
    at_once = StallTracker(hz=250)
    out = at_once.feed(*freeze(15, start=400, retries=15)[:9], waiting(20, asked_ms=118_000, silent_ms=60_000))
    assert [each.outcome for each in out if each.phase == "end"] == ["recovered"]


def test_a_connection_that_is_found_is_described_like_one_that_was_watched() -> None:
    late = rtx("retransmit", 0, 8, kind="retransmit", timer_ms=4000, stuck_ms=70_000, silent_ms=145_000)
    late.event = "found"
    begin = told(late)[0]
    assert (begin.verdict, begin.idle_ms, begin.retransmits) == ("idle-drop", 75_000, 8)
    probes = probe(0, 3, kind="keepalive", timer_ms=20_000, silent_ms=7_400_000)
    probes.event = "found"
    begin = told(probes)[0]
    assert (begin.verdict, begin.retransmits) == ("keepalive-failed", 3)
    assert abs((begin.idle_ms or 0) - (7_400_000 - 2 * 75_776 - 55_776)) <= 1
    closed = event(
        "found", kind="window-probe", attempt=5, timer_ms=900, stuck_ms=12_000, silent_ms=300, snd_wnd=0, rto_ms=204
    )
    begin = told(closed)[0]
    assert (begin.verdict, begin.retransmits, begin.gives_up_at) == ("zero-window", 5, None)
    connecting = syn(20, 5, kind="retransmit", timer_ms=3000, stuck_ms=9000)
    connecting.event = "found"
    begin = told(connecting)[0]
    assert (begin.verdict, begin.retransmits, begin.idle_ms) == ("handshake", 5, None)
    assert begin.since == format_time(begin.time_ns - 9_000_000_000)


def test_an_idle_drop_that_is_confirmed_is_asked_about_once() -> None:
    tracker = StallTracker(hz=250)
    service = service_of(rtx())
    tracker.feed(*freeze(2))
    assert tracker.confirmed() == [], "that may be chance"
    tracker.feed(freeze(3)[-1])
    assert tracker.confirmed() == [(service, HOUR_MS)]
    tracker.feed(freeze(4)[-1])
    assert tracker.confirmed() == []
    tracker.feed(*freeze(4, sock="used", silent_ms=300))
    assert tracker.confirmed() == [], "it was in use: others need not be dead"


def test_a_connection_that_is_merely_silent_is_no_stall() -> None:
    other = event("found", kind="idle", silent_ms=HOUR_MS + 1, sock="other")
    tracker = StallTracker(hz=250)
    assert tracker.feed(*freeze(3), other)[-1] is other
    assert len(tracker.open_sockets) == 1


# Where events are missing, the kernel's counts tell what happened meanwhile.


def test_a_count_of_probes_that_begins_anew_is_an_answer() -> None:
    seen = told(probe(0, 2), probe(75, 5), probe(100, 2, silent_ms=90_000), until=101)
    assert words(seen)[-3:-1] == ["end keepalive-failed recovered", "begin keepalive-failed"]
    assert seen[-1].retransmits == 2


def test_data_of_a_connection_whose_syn_was_not_answered_yet_says_that_it_was() -> None:
    seen = told(syn(1, 1), syn(2, 2), *freeze(start=2.5, silent_ms=300), until=3)
    assert words(seen)[-4:-2] == ["end handshake recovered", "begin no-answer"]


def test_a_window_that_had_opened_is_closed_since_later() -> None:
    probes = [window(1.4, 3), window(3.0, 4), window(4.0, 3)]
    seen = told(*probes, until=4.1)
    assert words(seen) == ["begin zero-window", "end zero-window ongoing"] and seen[-1].retransmits == 3
    assert seen[0].since is not None and seen[-1].since is not None and seen[0].since < seen[-1].since


def test_another_request_is_what_waits_now() -> None:
    seen = told(waiting(), waiting(100, 81_040), until=601)
    assert words(seen) == ["begin unanswered", "update unanswered", "end unanswered ongoing"]
    assert seen[0].since != seen[1].since and seen[1].since == format_time(seen[1].time_ns - 81_040 * 1_000_000)


def test_the_end_of_the_peers_data_ends_a_wait() -> None:
    closed = event("state", 510, old_state="ESTABLISHED", new_state="CLOSE_WAIT", state="CLOSE_WAIT")
    assert words(told(waiting(), closed))[-1] == "end unanswered recovered"


def test_a_silence_is_not_fatal_where_the_answer_may_have_been_lost() -> None:
    tracker = StallTracker(hz=250)
    signs = freeze(4)
    out = tracker.feed(*signs, event("lost", 3, count=9, sock=None), event("state", 60, sock="other"))
    assert words([each for each in out if each.phase == "end"]) == ["end idle-drop ongoing"]
    tracker.feed(heard(61, silent_ms=61_000 + HOUR_MS, stuck_ms=61_000))
    bracket = tracker.idle_timeouts.range_of(service_of(signs[0]))
    assert bracket == IdleTimeoutRange(HOUR_MS, None), "it was answered after all"
