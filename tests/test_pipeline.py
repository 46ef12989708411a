from __future__ import annotations

import contextlib

from builders import event

from tracer.events import Event
from tracer.filters import Filter
from tracer.pipeline import Totals, run


class Recorder:
    def __init__(self) -> None:
        self.log: list[str] = []

    def write(self, each: Event) -> None:
        self.log.append(each.event)

    def flush(self) -> None:
        self.log.append("flush")


def test_batches_are_filtered_counted_and_flushed_together() -> None:
    sink, totals = Recorder(), Totals()
    batches = [
        [event(), event("keepalive"), event(sock="other")],
        [],
        [event("lost", count=5, sock=None)],
    ]
    run(batches, Filter(events=frozenset({"retransmit"})), [sink], totals)
    assert sink.log == ["retransmit", "retransmit", "flush", "flush", "lost", "flush"]
    assert (totals.events, totals.retransmits, totals.lost, totals.connections) == (2, 2, 5, 2)


def test_totals_stay_right_when_a_sink_fails() -> None:
    class Full(Recorder):
        def write(self, each: Event) -> None:
            if self.log:
                raise BrokenPipeError
            super().write(each)

    totals = Totals()
    with contextlib.suppress(BrokenPipeError):
        run([[event(), event(), event()]], Filter(), [Full()], totals)
    assert totals.events == 2
