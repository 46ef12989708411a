"""Any event may be the first one seen, and any may be missing: what is said stays true.

tests/incidents holds recordings of real connections, their addresses replaced. Each was reported wrongly once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from timelines import Frozen, frozen

from tracer.analysis.advice.derived import advice_for
from tracer.analysis.idle_timeouts import IdleTimeoutRange, IdleTimeouts, Service
from tracer.analysis.outstanding import first_rto_ms, outstanding
from tracer.analysis.stalls import StallTracker
from tracer.model.events import Event
from tracer.model.times import parse_time
from tracer.model.validation import from_json

INCIDENTS = Path(__file__).parent / "incidents"
RECORDED = sorted(INCIDENTS.glob("*.tw"))
KEPT = [Path(__file__).parent / "recordings" / "v1" / f"{name}.tw" for name in ("everything", "counted", "late")]
"""Made by hand: their silences do not grow with time, so that only what ends a stall is asked of them."""
GRAIN_MS = 20
"""Of what is computed from events some jiffies apart."""
NEAR_A_LIMIT = Frozen(idle_ms=64_000, srtt_ms=180.0, rto=140, retries=15, tells_send_time=False)
"""A silence that is estimated a little longer than it was, and a longer keepalive time suits that."""


def recorded(path: Path) -> tuple[int, list[Event]]:
    header, *lines = map(json.loads, path.read_text().splitlines())
    return header["hz"], [from_json(line) for line in lines]


def stalls_of(events: Sequence[Event], hz: int, idle_timeouts: IdleTimeouts | None = None) -> list[Event]:
    tracker = StallTracker(hz=hz, idle_timeouts=idle_timeouts)
    out = [*tracker.feed(*events), *tracker.finish(events[-1].ktime_ns)]
    return [each for each in out if each.event == "stall"]


def ends_of(stalls: Sequence[Event]) -> list[Event]:
    """Those that stand."""
    last = {each.id: each for each in stalls}
    return [each for each in last.values() if each.phase == "end"]


def exact_end_ns(stalls: Sequence[Event]) -> set[int]:
    """When the kernel gives up, wherever that was told exactly; wall clock."""
    return {parse_time(each.gives_up_at) for each in stalls if each.gives_up_at and not each.gives_up_window_ms}


def advised_values(advice: Sequence[str] | None) -> list[str]:
    return re.findall(r"(?:tcp_keepalive_\w+=|within |to )(\d+)\b", " ".join(advice or ()))


def advice_with_silence_of(other: Event, stall: Event, hz: int) -> list[str] | None:
    """Where the estimated silence is another one, it may be on the other side of a limit between two values."""
    if other.idle_ms == stall.idle_ms:
        return stall.advice
    same = replace(stall, idle_ms=other.idle_ms, survived_ms=other.survived_ms, fatal_ms=other.fatal_ms)
    return advice_for(same, hz=hz, own_netns=0)


def rto_ms(events: Sequence[Event]) -> float:
    return max(first_rto_ms(each) for each in events if each.rto_ms)


def assert_same(
    whole: Sequence[Event], part: Sequence[Event], events: Sequence[Event], hz: int, context: str
) -> None:
    """Both tell of one stall, and the same."""
    (expected,), (end,) = ends_of(whole), ends_of(part)
    tolerance_ms = 1.25 * rto_ms(events) + GRAIN_MS
    for name in ("verdict", "outcome", "retransmits"):
        assert getattr(end, name) == getattr(expected, name), context
    assert (end.idle_ms is None) == (expected.idle_ms is None), context
    if end.idle_ms is not None and expected.idle_ms is not None:
        assert abs(end.idle_ms - expected.idle_ms) <= tolerance_ms, context
    for told in part:
        since_ns = parse_time(told.since or "")
        assert abs(since_ns - parse_time(expected.since or "")) <= tolerance_ms * 1e6, context
        assert since_ns <= told.time_ns, context
    exact = exact_end_ns(whole)
    if exact:
        for at_ns in exact_end_ns(part):
            assert min(abs(at_ns - each) for each in exact) <= GRAIN_MS * 1e6, context
    assert advised_values(end.advice) == advised_values(advice_with_silence_of(end, expected, hz)), context
    lasted = [each.duration_ms for each in part if each.duration_ms is not None]
    assert lasted == sorted(lasted) and all(each >= 0 for each in lasted), context


def of_one_stall(events: Sequence[Event], hz: int) -> list[list[Event]]:
    """The events of each connection that stalled once, alone."""
    groups = []
    for sock in dict.fromkeys(each.sock for each in events if each.sock):
        mine = [each for each in events if each.sock == sock]
        if len(ends_of(stalls_of(mine, hz))) == 1:
            groups.append(mine)
    return groups


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_a_recorded_stall_without_its_beginning(path: Path) -> None:
    hz, events = recorded(path)
    groups = of_one_stall(events, hz)
    assert groups
    for mine in groups:
        whole = stalls_of(mine, hz)
        for first in range(1, len(mine)):
            rest = mine[first:]
            if not any(outstanding(each, hz) or each.reason == "TCP_KEEPALIVE_TIMEOUT" for each in rest):
                break
            assert_same(whole, stalls_of(rest, hz), mine, hz, f"{path.stem} {mine[0].sock} from {first}")


@settings(max_examples=150)
@given(history=frozen(), first=st.integers(0, 30), ends=st.booleans())
@example(history=NEAR_A_LIMIT, first=9, ends=False)
def test_a_stall_without_its_beginning(history: Frozen, first: int, ends: bool) -> None:
    signs = history.signs()
    events = [*signs, *(history.gave_up() if ends else [])]
    first = min(first, len(signs) - 1)
    assert_same(
        stalls_of(events, history.hz), stalls_of(events[first:], history.hz), signs, history.hz, f"from {first}"
    )


@settings(max_examples=150)
@given(history=frozen(), index=st.integers(0, 30), part=st.floats(0.0, 0.99))
def test_a_stall_that_was_found(history: Frozen, index: int, part: float) -> None:
    signs = history.signs()
    index = max(1 if history.loss_probe else 0, min(index, len(signs) - 1))
    found = history.found(index, part)
    whole = stalls_of([*signs, *history.gave_up()], history.hz)
    late = stalls_of([found, *signs[index + 1 :], *history.gave_up()], history.hz)
    assert_same(whole, late, signs, history.hz, f"found after {index}")
    begin = late[0]
    assert begin.retransmits == found.attempt and begin.ktime_ns == found.ktime_ns
    error = history.gave_up()[-1]
    assert begin.gives_up_at is not None, "its timer says when"
    slack_ms = GRAIN_MS + (begin.gives_up_window_ms or 0)
    assert abs(parse_time(begin.gives_up_at) - error.time_ns) <= slack_ms * 1e6


def test_the_end_of_a_found_stall_is_exact() -> None:
    history = Frozen(retries=15)
    for index in range(1, len(history.signs())):
        begin = stalls_of([history.found(index, 0.5)], history.hz)[0]
        assert begin.gives_up_window_ms is None
        assert abs(parse_time(begin.gives_up_at or "") - history.gave_up()[-1].time_ns) <= 10e6


# What the recordings must give.


def test_started_nine_minutes_into_a_stall() -> None:
    hz, events = recorded(INCIDENTS / "started-late.tw")
    begin = stalls_of(events, hz)[0]
    assert begin.idle_ms is not None and 69_900 <= begin.idle_ms <= 70_416
    assert (begin.verdict, begin.retransmits, begin.since) == ("idle-drop", 13, "2026-11-26T14:03:33.316832Z")
    assert begin.gives_up_at == "2026-11-26T14:19:11.852832Z"
    advice = " ".join(begin.advice or ())
    assert "GCP" not in advice and "AWS" not in advice
    assert advised_values(begin.advice) and all(int(each) < 70 for each in advised_values(begin.advice))


def test_one_probe_and_the_user_timeout() -> None:
    hz, events = recorded(INCIDENTS / "keepalive-with-user-timeout.tw")
    for first in (0, 1, 2):
        (end,) = ends_of(stalls_of(events[first:], hz))
        assert (end.verdict, end.retransmits, end.idle_ms) == ("keepalive-failed", 1, 9028)


def test_retransmissions_that_were_missed_are_no_answers() -> None:
    hz, events = recorded(INCIDENTS / "missed-retransmissions.tw")
    idle_timeouts = IdleTimeouts()
    stalls = stalls_of(events, hz, idle_timeouts)
    assert {each.outcome for each in ends_of(stalls)} == {"timed-out", "unreachable"}
    assert "recovered" not in {each.outcome for each in stalls}
    assert [idle_timeouts.range_of(service).survived_ms for service in idle_timeouts] == [None]


# Whatever is missing.


def answered(history: Frozen, signs: int, at_ms: int = 10) -> list[Event]:
    """The first so many signs, and then an answer."""
    seen = history.signs()[:signs]
    last = seen[-1]
    known = {**last.known(), "event": "resume", "cause": "data"}
    for name in ("kind", "attempt", "retries", "retrying_ms", "rto_max_ms", "jiffies"):
        known.pop(name, None)
    known["time_ns"] += at_ms * 1_000_000
    known["ktime_ns"] += at_ms * 1_000_000
    known["silent_ms"] += at_ms
    if known["stuck_ms"] is not None:
        known["stuck_ms"] += at_ms
    return [*seen, Event.of(known)]


def a_day(tells_send_time: bool) -> list[Event]:
    """Connections of one service: frozen, answered at once, after loss, after an outage; all with their ends."""
    made: list[Event] = []
    for number, (idle_ms, signs) in enumerate(
        [(120, 1), (90_000, 1), (150_000, 2), (400, 9), (40, 3), (7_200_000, 0), (3_600_000, 0), (75_000, 4), (80, 0)]
    ):
        history = Frozen(
            idle_ms=idle_ms,
            retries=8,
            sock=f"s{number}",
            start_s=number * 1.7,
            tells_send_time=tells_send_time,
        )
        made += answered(history, signs) if signs else [*history.signs(), *history.gave_up()]
    return sorted(made, key=lambda each: each.ktime_ns)


def verdict_on(events: Sequence[Event], hz: int) -> tuple[set[str | None], dict[Service, IdleTimeoutRange]]:
    """The sockets that recovered, and what each service survived and did not."""
    idle_timeouts = IdleTimeouts()
    ends = ends_of(stalls_of(events, hz, idle_timeouts))
    return (
        {each.sock for each in ends if each.outcome == "recovered"},
        {service: idle_timeouts.range_of(service) for service in idle_timeouts},
    )


def assert_nothing_new(whole: Sequence[Event], part: Sequence[Event], hz: int, context: str) -> None:
    recovered, brackets = verdict_on(whole, hz)
    still, left = verdict_on(part, hz)
    assert still <= recovered, context
    for service, bracket in left.items():
        expected = brackets.get(service, IdleTimeoutRange(None, None))
        if bracket.survived_ms is not None:
            assert expected.survived_ms is not None, context
            assert bracket.survived_ms <= expected.survived_ms + GRAIN_MS, context
        if bracket.fatal_ms is not None:
            assert expected.fatal_ms is not None, context
            assert bracket.fatal_ms >= expected.fatal_ms - 1000, context


@pytest.mark.parametrize("tells_send_time", [True, False])
def test_without_every_nth_event_nothing_has_recovered_or_survived(tells_send_time: bool) -> None:
    events = a_day(tells_send_time)
    recovered, brackets = verdict_on(events, 250)
    assert len(recovered) == 6
    (bracket,) = brackets.values()
    assert bracket.survived_ms is not None and 149_000 < bracket.survived_ms < 151_000
    assert bracket.fatal_ms is not None and 3_599_000 < bracket.fatal_ms <= 3_600_000 + GRAIN_MS
    for nth in range(2, 12):
        for offset in range(nth):
            part = [each for number, each in enumerate(events) if number % nth != offset]
            assert_nothing_new(events, part, 250, f"without every {nth}th from {offset}")
            rest = [each for number, each in enumerate(events) if number % nth == offset]
            assert_nothing_new(events, rest, 250, f"only every {nth}th from {offset}")


@pytest.mark.parametrize("path", [*RECORDED, *KEPT], ids=lambda path: path.stem)
def test_without_every_nth_event_of_a_recording(path: Path) -> None:
    hz, events = recorded(path)
    for nth in range(2, 8):
        for offset in range(nth):
            part = [each for number, each in enumerate(events) if number % nth != offset]
            if part:
                assert_nothing_new(events, part, hz, f"{path.stem} without every {nth}th from {offset}")


@settings(max_examples=60)
@given(keep=st.lists(st.booleans(), min_size=70, max_size=70), tells_send_time=st.booleans())
def test_whatever_is_missing_nothing_has_recovered_or_survived(keep: list[bool], tells_send_time: bool) -> None:
    events = a_day(tells_send_time)
    part = [each for each, kept in zip(events, keep) if kept]
    if part:
        assert_nothing_new(events, part, 250, "some are missing")
