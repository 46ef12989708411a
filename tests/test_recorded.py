"""The range of an idle timeout from a recording that lacks events, against the one from all of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from builders import event
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recording_files import header
from stall_events import close, freeze, heard, reset

from tracer.analysis.evidence import CHANCE
from tracer.analysis.idle_timeouts import IdleTimeoutRange, IdleTimeouts, Service, service_of
from tracer.analysis.outcomes import Outcome
from tracer.analysis.recorded import RecordedStalls
from tracer.analysis.stalls import MIN_IDLE_MS, StallTracker
from tracer.analysis.survival import is_fatal, survived_silence_ms
from tracer.analysis.verdicts import Verdict
from tracer.model.events import Batch, Event
from tracer.model.filters import Filter
from tracer.recordings.header import Header
from tracer.recordings.reader import RecordingReader
from tracer.recordings.writer import RecordingWriter
from tracer.run.pipeline import Totals, finish, run
from tracer.run.replay import play

TESTS = Path(__file__).parent
EVERYTHING = TESTS / "recordings/v1/everything.tw"
MINUTE_MS = 60_000
OWNED = {"pid": 8506, "comm": "php", "pids": [8506]}


class Recorder:
    """What `-w` writes."""

    def __init__(self, path: Path, head: Header) -> None:
        self._writer = RecordingWriter(path, head)

    def opened(self, header: Header) -> None:
        pass

    def write(self, events: Sequence[Event]) -> None:
        self._writer.write(events)

    def flush(self, until_ns: int) -> None:
        pass

    def close(self) -> None:
        self._writer.close()


def record(path: Path, events: Iterable[Event], wanted: Filter) -> Path:
    """Record the events live with that filter."""
    tracker = StallTracker(hz=250, min_idle_ms=wanted.min_idle_ms or MIN_IDLE_MS)
    path.unlink(missing_ok=True)
    sink, totals = Recorder(path, header(wanted)), Totals()
    in_order = sorted(events, key=lambda each: each.ktime_ns)
    run([Batch([each], each.ktime_ns) for each in in_order], wanted, tracker, [sink], totals)
    finish(tracker, wanted, [sink], totals)
    sink.close()
    return path


def ranges(*paths: Path, min_idle_ms: int | None = None) -> dict[Service, IdleTimeoutRange]:
    """The range of each service, as a report of these files has it."""
    idle_timeouts = IdleTimeouts()
    play(paths, Filter(min_idle_ms=min_idle_ms), [], warn=lambda said: None, idle_timeouts=idle_timeouts)
    return {service: idle_timeouts.range_of(service) for service in idle_timeouts}


def everything() -> list[Event]:
    """The events of a recording of all of them, as the kernel gave them."""
    with RecordingReader(EVERYTHING, lambda said: None) as reader:
        return [each for batch in reader for each in batch.events if each.event != "stall"]


FILTERS = [
    Filter(min_idle_ms=1000),
    Filter(min_idle_ms=MINUTE_MS),
    Filter(min_idle_ms=5 * MINUTE_MS),
    Filter(min_idle_ms=59 * MINUTE_MS),
    Filter(events=frozenset({"stall", "resume"})),
    Filter(events=frozenset({"stall", "resume"}), min_idle_ms=MINUTE_MS),
    Filter(comms=frozenset({"php"})),
    Filter(pids=frozenset({8506}), rports=frozenset({3306})),
]


@pytest.mark.parametrize("wanted", FILTERS)
def test_a_filtered_recording_gives_the_range_of_a_whole_one(wanted: Filter, tmp_path: Path) -> None:
    connections = Filter(rports=wanted.rports)
    whole = ranges(record(tmp_path / "whole.tw", everything(), connections), min_idle_ms=wanted.min_idle_ms)
    assert ranges(record(tmp_path / "filtered.tw", everything(), wanted)) == whole
    assert whole, "there was something to compare"


def test_stalls_alone_give_what_was_fatal(tmp_path: Path) -> None:
    survivor = heard(0, silent_ms=58 * MINUTE_MS, sock="survivor")
    recovers = [*freeze(2, start=1, silent_ms=50 * MINUTE_MS, sock="lossy"), heard(2, sock="lossy")]
    dies = [*freeze(start=10, silent_ms=61 * MINUTE_MS), *close(23.4)]
    path = record(tmp_path / "x.tw", [survivor, *recovers, *dies], Filter(events=frozenset({"stall"})))
    service = service_of(survivor)
    # The resume is not in it. A tail loss probe comes 200 ms after the data: these were not idle.
    assert ranges(path) == {service: IdleTimeoutRange(50 * MINUTE_MS - 200, 61 * MINUTE_MS - 200)}


# A connection's life: silences, each with what ended it.
_FATES = st.sampled_from(["answered", "lossy", "outage", "dead", "reset"])
_LIVES = st.lists(st.lists(st.tuples(st.integers(1000, 2 * 3_600_000), _FATES), max_size=5), min_size=1, max_size=5)


def lived(lives: list[list[tuple[int, str]]]) -> list[Event]:
    """The events of these connections, an hour of the clock for each silence."""
    events: list[Event] = []
    for number, life in enumerate(lives):
        who: dict[str, Any] = {"sock": f"{number}", "lport": 40000 + number, **OWNED}
        retransmitting: dict[str, Any] = {"ca_state": "Loss", "backoff": 3, **who}
        for hour, (silent_ms, fate) in enumerate(life):
            at = 3600 * hour + number
            if fate == "answered":
                events.append(heard(at, silent_ms=silent_ms, ca_state="Open", backoff=0, **who))
            elif fate == "reset":
                events += [reset(at, silent_ms=silent_ms, **who), *close(at, "ECONNRESET", 104, **who)]
            else:
                count = 2 if fate == "lossy" else 5
                signs = freeze(count, start=at, silent_ms=silent_ms, **who)
                until = (signs[-1].ktime_ns - signs[0].ktime_ns) / 1e9
                if fate == "dead":
                    events += [*signs, *close(at + until + 6, **who)]
                else:
                    back = heard(at + until + 0.1, silent_ms=silent_ms + round(until * 1000) + 100, **retransmitting)
                    events += [*signs, back]
            if fate in ("dead", "reset"):
                break
    return events


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lives=_LIVES, wanted=st.sampled_from(FILTERS))
def test_whatever_is_recorded(lives: list[list[tuple[int, str]]], wanted: Filter, tmp_path: Path) -> None:
    events = lived(lives)
    whole = ranges(record(tmp_path / "whole.tw", events, Filter()), min_idle_ms=wanted.min_idle_ms)
    assert ranges(record(tmp_path / "filtered.tw", events, wanted)) == whole


def test_a_recording_of_silences_of_more_than_a_second() -> None:
    """A firewall with an idle timeout of 8 s, recorded with --min-idle 1s."""
    mysql = Service("198.51.100.20", 3306, is_local=False)
    path = TESTS / "data/only-long-silences.tw"
    assert ranges(path)[mysql] == IdleTimeoutRange(7504, 8820)
    assert ranges(path, min_idle_ms=9000)[mysql] == IdleTimeoutRange(None, 9244), "the user's threshold comes first"


def test_the_parts_of_one_run_are_one_recording_and_another_filter_is_another(tmp_path: Path) -> None:
    wanted = Filter(events=frozenset({"stall", "resume"}))
    first = record(tmp_path / "1.tw", [heard(0, silent_ms=120_000, sock="a")], wanted)
    longer = Filter(events=wanted.events, min_idle_ms=180_000)
    events = [heard(10, silent_ms=150_000, sock="b"), heard(11, silent_ms=200_000, sock="c")]
    second = record(tmp_path / "2.tw", events, longer)
    third = record(tmp_path / "3.tw", [heard(20, silent_ms=240_000, sock="d")], wanted)
    service = service_of(heard(0))
    assert ranges(first, second) == {service: IdleTimeoutRange(200_000, None)}
    assert ranges(first, second, third) == {service: IdleTimeoutRange(240_000, None)}


# The rules.


@pytest.mark.parametrize(
    ("fields", "survived_ms"),
    [
        ({}, 120_000),
        ({"ca_state": "Open", "backoff": 0}, 120_000),
        ({"ca_state": "CWR", "backoff": 0}, 120_000),
        ({"ca_state": "Loss", "backoff": 0}, None),
        ({"ca_state": "Recovery", "backoff": 0}, None),
        ({"ca_state": "Open", "backoff": 1}, None),
        ({"ca_state": "Loss", "backoff": 3, "stuck_ms": 30_000}, 90_000),
        ({"ca_state": "Open", "backoff": 0, "stuck_ms": 30_000}, 90_000),
        ({"stuck_ms": 0}, 120_000),
        ({"stuck_ms": 150_000}, None),  # sent before the peer was last heard
        ({"cause": "no-progress"}, None),
        ({"cause": "keepalive"}, 120_000),
        ({"cause": "window"}, None),
        ({"cause": "window", "stuck_ms": 20_000}, 100_000),
        ({"silent_ms": None}, None),
    ],
)
def test_a_survived_silence_ends_when_what_waits_was_sent(fields: dict[str, Any], survived_ms: int | None) -> None:
    resumed = heard(0, **{"silent_ms": 120_000, **fields})
    assert survived_silence_ms(resumed) == survived_ms


def test_the_peers_own_probes_end_a_silence() -> None:
    resumed = heard(100, silent_ms=120_000)
    assert survived_silence_ms(resumed, heard(40).ktime_ns) == 60_000
    assert survived_silence_ms(heard(100, silent_ms=120_000, stuck_ms=20_000), heard(40).ktime_ns) == 40_000
    assert survived_silence_ms(resumed, heard(200).ktime_ns) == 0, "a clock that goes back"


def test_no_other_event_tells_of_a_survived_silence() -> None:
    assert survived_silence_ms(event("state", silent_ms=120_000)) is None


@pytest.mark.parametrize(
    ("verdict", "outcome", "idle_ms", "retransmits", "expected"),
    [
        ("idle-drop", "timed-out", 120_000, 1, True),
        ("idle-drop", "unreachable", 120_000, 1, True),
        ("idle-reset", "reset", 120_000, 0, True),
        ("keepalive-failed", "timed-out", 120_000, 1, True),
        ("idle-drop", "ongoing", 120_000, CHANCE, True),
        ("idle-drop", "ongoing", 120_000, CHANCE - 1, False),
        ("idle-drop", "closed", 120_000, CHANCE, True),
        ("idle-drop", "recovered", 120_000, 9, False),
        ("idle-drop", "presumed", 120_000, 9, False),
        ("idle-drop", "unseen", 120_000, 9, False),
        ("idle-drop", "vanished", 120_000, 9, False),
        ("path-loss", "timed-out", 120_000, 9, False),
        ("idle-drop", "timed-out", None, 9, False),
    ],
)
def test_what_counts_as_fatal(
    verdict: str, outcome: str, idle_ms: int | None, retransmits: int, expected: bool
) -> None:
    assert is_fatal(Verdict.of(verdict), Outcome.of(outcome), idle_ms, retransmits) is expected


def stall(at: float, phase: str, **fields: Any) -> Event:
    return event("stall", at, phase=phase, id="1", idle_ms=120_000, verdict="idle-drop", retransmits=6, **fields)


def learnt(*events: Event) -> IdleTimeoutRange:
    idle_timeouts = IdleTimeouts()
    tracker = RecordedStalls(min_idle_ms=MIN_IDLE_MS, idle_timeouts=idle_timeouts)
    assert tracker.feed(*events) == list(events)
    assert tracker.advance(10**18) == tracker.finish(10**18) == []
    return idle_timeouts.range_of(service_of(event()))


def test_a_presumed_outcome_is_evidence_of_nothing() -> None:
    assert learnt(stall(0, "begin"), stall(9, "end", outcome="presumed")) == IdleTimeoutRange(None, None)


def test_while_it_stalls_only_the_stalls_end_counts() -> None:
    back = heard(5, silent_ms=130_000, ca_state="Open", backoff=0)
    assert learnt(stall(0, "begin"), back) == IdleTimeoutRange(None, None)
    assert learnt(stall(0, "begin"), back, stall(5, "end", outcome="recovered")) == IdleTimeoutRange(120_000, None)
    ended = stall(5, "end", outcome="recovered")
    assert learnt(stall(0, "begin"), ended, heard(900, silent_ms=300_000)) == IdleTimeoutRange(300_000, None)


def test_a_connection_that_waits_for_a_reply_has_nothing_in_flight() -> None:
    waits = event("stall", 0, phase="begin", id="1", verdict="unanswered", idle_ms=70_000)
    assert learnt(waits, heard(5, silent_ms=130_000)) == IdleTimeoutRange(130_000, None)
    alive = event("stall", 5, phase="end", id="1", verdict="unanswered", idle_ms=140_000, outcome="alive")
    assert learnt(waits, alive) == IdleTimeoutRange(None, None), "its resume event tells"


def test_the_peers_probes_are_followed() -> None:
    probes = [heard(60 * minute, "keepalive", silent_ms=60_000 * minute) for minute in range(1, 60)]
    assert learnt(*probes, heard(3600, silent_ms=3_600_000)) == IdleTimeoutRange(60_000, None)


def test_an_end_that_was_revoked_counts_for_nothing() -> None:
    ongoing, revoked = stall(1, "end", outcome="ongoing"), stall(2, "update", revoked=True)
    assert learnt(ongoing, revoked, stall(3, "end", outcome="recovered")) == IdleTimeoutRange(120_000, None)
    assert learnt(ongoing) == IdleTimeoutRange(None, 120_000)
