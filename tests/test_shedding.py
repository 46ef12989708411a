"""A slow reader of standard output holds nobody up, and learns what it has missed."""

from __future__ import annotations

import io
import json
import os
import threading
from collections.abc import Iterator

import pytest
from builders import event

from tracer.lab.namespace import wait_until
from tracer.output.background_writer import BackgroundWriter
from tracer.output.jsonlines import JsonSink
from tracer.output.page import Page
from tracer.output.text import TextSink
from tracer.run.shedding import Shedding

PATIENCE_S = 30


class Slow(io.StringIO):
    """A stream whose reader does not read before it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = threading.Event()

    def write(self, text: str) -> int:
        assert self.reads.wait(PATIENCE_S)
        return super().write(text)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"


@pytest.fixture
def slow() -> Iterator[Slow]:
    made = Slow()
    yield made
    made.reads.set()


def shown(slow: Slow) -> list[dict[str, object]]:
    return [json.loads(line) for line in slow.getvalue().splitlines()]


def test_what_is_written_comes_out_in_order(slow: Slow) -> None:
    slow.reads.set()
    outlet = BackgroundWriter(slow, 100)
    for number in range(1000):
        outlet.write(f"{number}\n")
        outlet.flush()
    outlet.close()
    assert slow.getvalue().split() == [str(number) for number in range(1000)]


def test_nothing_waits_for_a_reader_and_all_is_counted(slow: Slow) -> None:
    outlet = BackgroundWriter(slow, 1000)
    sink = Shedding(JsonSink(outlet), outlet)
    for number in range(100):
        sink.write([event(at=number)])
        sink.flush(0)
    assert sink.left_out > 90 and slow.getvalue() == ""
    slow.reads.set()
    wait_until(lambda: outlet.has_room, PATIENCE_S, "the reader takes it")
    sink.write([event(at=100)])
    sink.flush(0)
    sink.close()
    records = shown(slow)
    lost = [each for each in records if each["event"] == "lost"]
    assert [(each["hook"], each["count"]) for each in lost] == [("output", sink.left_out)]
    assert len(records) - len(lost) + sink.left_out == 101


def test_what_was_left_out_at_the_end_is_said_at_the_end(slow: Slow) -> None:
    outlet = BackgroundWriter(slow, 10)
    sink = Shedding(JsonSink(outlet), outlet)
    for each in range(3):
        sink.write([event(at=each)])
    sink.flush(0)
    slow.reads.set()
    sink.close()
    assert [each["event"] for each in shown(slow)] == ["retransmit", "lost"]
    assert shown(slow)[-1]["count"] == 2


def test_a_person_is_shown_less_before_the_kernel_loses_events(slow: Slow) -> None:
    slow.reads.set()
    behind = True
    outlet = BackgroundWriter(slow, 1 << 20)
    sink = Shedding(TextSink(outlet, Page()), outlet, lambda: behind)
    sink.write([event(at=0)])
    sink.flush(0)
    for each in range(1, 1001):
        sink.write([event(at=each / 100)])
        sink.flush(0)
    sink.write([event("stall", 11, phase="begin", verdict="idle-drop", id="x")])
    behind = False
    sink.flush(0)
    sink.write([event(at=12)])
    sink.close()
    lines = slow.getvalue().splitlines()[2:]
    assert "08:00:00.000" in lines[0]
    assert any("STALL idle-drop" in line for line in lines), "whatever happens"
    counted = [int(line.split()[1].replace(",", "")) for line in lines if "left out" in line]
    assert sum(counted) == sink.left_out == 1000
    assert any(line.startswith("08:00:12.000") and "10.66.1.2" in line for line in lines)


def test_a_reader_that_has_gone_is_an_error_of_the_next_flush() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stream:
        outlet = BackgroundWriter(stream, 1 << 20)
        outlet.write("x\n")
        with pytest.raises(BrokenPipeError):
            outlet.close()
        with pytest.raises(BrokenPipeError):
            outlet.flush()
        with pytest.raises(BrokenPipeError):
            stream.close()
