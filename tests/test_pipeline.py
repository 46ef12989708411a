from __future__ import annotations

import contextlib
from collections.abc import Sequence

import pytest
from builders import event

from tracer.analysis.stalls import StallTracker
from tracer.model.events import Batch, Event
from tracer.model.filters import Filter
from tracer.recordings.header import Header
from tracer.run import pipeline
from tracer.run.pipeline import Totals, finish, run


class Recorder:
    def __init__(self) -> None:
        self.log: list[str] = []

    def opened(self, header: Header) -> None:
        pass

    def write(self, events: Sequence[Event]) -> None:
        self.log += [each.event for each in events]

    def flush(self, until_ns: int) -> None:
        self.log.append("flush")

    def close(self) -> None:
        self.log.append("close")


def test_batches_are_filtered_counted_and_flushed_together() -> None:
    sink, totals = Recorder(), Totals()
    batches = [
        Batch([event(), event("keepalive"), event(sock="other")], 1),
        Batch([], 2),
        Batch([event("lost", count=5, sock=None)], 3),
    ]
    run(batches, Filter(events=frozenset({"retransmit"})), None, [sink], totals)
    assert sink.log == ["retransmit", "retransmit", "flush", "flush", "lost", "flush"]
    assert (totals.events, totals.lost, totals.connections) == (2, 5, 2)
    assert totals.seen.total().segments == 2


def test_connections_are_counted_once_and_remembered_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "MAX_KNOWN", 2)
    totals = Totals()
    for sock in ("a", "b", "a", "b", "c", "b", "a", "c"):
        totals.add([event(sock=sock)])
    assert totals.connections == 3, "the last two others are remembered at least"
    for sock in ("d", "e", "f", "g"):
        totals.add([event(sock=sock)])
    totals.add([event(sock="a")])
    assert totals.connections == 3 + 4 + 1, "forgotten meanwhile"


def test_totals_stay_right_when_a_sink_fails() -> None:
    class Full(Recorder):
        def write(self, events: Sequence[Event]) -> None:
            if self.log:
                raise BrokenPipeError
            super().write(events)

    totals = Totals()
    with contextlib.suppress(BrokenPipeError):
        run(
            [Batch([event(), event()], 1), Batch([event()], 2), Batch([event()], 3)], Filter(), None, [Full()], totals
        )
    assert totals.events == 3, "what could not be written was seen"


def test_what_is_shown_has_been_kept() -> None:
    class Shown(Recorder):
        def write(self, events: Sequence[Event]) -> None:
            assert len(kept.log) == len(self.log) + len(events)
            super().write(events)

    kept, shown = Recorder(), Shown()
    run([Batch([event(), event("keepalive")], 1)], Filter(), None, [kept, shown], Totals())
    assert kept.log == shown.log == ["retransmit", "keepalive", "flush"]


def test_the_tracker_sees_what_the_filter_leaves_out() -> None:
    tracker, sink, totals = StallTracker(hz=250), Recorder(), Totals()
    wanted = Filter(events=frozenset({"stall"}), rports=frozenset({3306}))
    tlp = event(kind="tlp", attempt=0, silent_ms=70_000)
    elsewhere = event(kind="tlp", attempt=0, silent_ms=70_000, rport=80, sock="elsewhere")
    run([Batch([tlp, elsewhere], 2)], wanted, tracker, [sink], totals)
    assert sink.log == ["stall", "flush"]
    finish(tracker, wanted, [sink], totals)
    assert totals.stalls == {"ongoing": 1}
    assert totals.events == 0, "stalls are no events of the kernel's"


def test_an_outcome_that_is_revoked_is_no_longer_counted() -> None:
    totals = Totals()
    totals.add(
        [event("stall", phase="end", id="a", outcome="presumed"), event("stall", phase="end", outcome="reset")]
    )
    assert totals.stalls == {"presumed": 1, "reset": 1}
    totals.add([event("stall", phase="update", id="a", revoked=True)])
    totals.add([event("stall", phase="end", id="a", outcome="timed-out")])
    assert totals.stalls == {"reset": 1, "timed-out": 1}
