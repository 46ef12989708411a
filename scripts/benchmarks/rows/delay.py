"""Time from the kernel's timestamp of an event to its line."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from benchmarks import workloads
from benchmarks.processes import wait_until_idle
from benchmarks.results import Line, Result, at_most
from benchmarks.scale import Scale
from benchmarks.spread import percentile
from benchmarks.watchers import TCPWATCH_JSON, Watchers, watchers
from benchmarks.workloads import Storm

BUDGET_MS = 50.0
"""From the first retransmission to the line about the stall."""

Json = dict[str, Any]


def delay(scale: Scale) -> Result:
    """On a pipe, when little happens and when much does."""
    seconds = scale.of(10, 2)
    with watchers() as started:
        few = _delays(lambda: workloads.short_connections(20 * seconds, 20), started)
        many = _delays(lambda: workloads.short_connections(2_000 * seconds, 2_000), started)
        stalls = _delays(lambda: workloads.stalls(scale.of(500, 100), 0.01), started)
    begun = [each for each in stalls if each[0]["event"] == "stall" and each[0]["phase"] == "begin"]
    lines = [
        _line("20 connections/s: each event", few),
        _line("2,000 connections/s: each event", many),
        _line("stalls: retransmissions", [each for each in stalls if each[0]["event"] == "retransmit"]),
        _line("stalls: the line that one begins", begun),
    ]
    lines[-1].verdict = at_most(percentile([ms for _, ms in begun], 99), BUDGET_MS, " ms (p99)")
    notes = [
        "from ktime_ns to the line being read from the pipe of tcpwatch --json; a stall has the stamp of its first "
        "retransmission"
    ]
    return Result("delay", "how late a line is", "load", lines, notes)


def _line(name: str, delays: list[tuple[Json, float]]) -> Line:
    values = [ms for _, ms in delays]
    places = {"median, ms": 50, "p99, ms": 99, "longest, ms": 100}
    cells = {heading: percentile(values, percent) for heading, percent in places.items()}
    return Line(name, {"events": len(values), **cells})


def _delays(prepared: Callable[[], AbstractContextManager[Storm]], started: Watchers) -> list[tuple[Json, float]]:
    """Each event, and its delay in milliseconds."""
    with (
        lines_read() as (read, output),
        prepared() as storm,
        started.start(TCPWATCH_JSON, storm.target, output=output) as watcher,
    ):
        storm.go()
        wait_until_idle(watcher.pid)
    return list(by_line(read))


@contextmanager
def lines_read() -> Iterator[tuple[list[tuple[bytes, int]], int]]:
    """What is written to a descriptor, complete when the block has ended, and that descriptor."""
    read_end, write_end = os.pipe()
    read: list[tuple[bytes, int]] = []
    reader = threading.Thread(target=_read, args=(read_end, read))
    reader.start()
    try:
        yield read, write_end
    finally:
        os.close(write_end)
        reader.join()
        os.close(read_end)


def _read(descriptor: int, read: list[tuple[bytes, int]]) -> None:
    """What comes, each with the time that it came, CLOCK_BOOTTIME in nanoseconds."""
    while data := os.read(descriptor, 1 << 16):
        read.append((data, time.clock_gettime_ns(time.CLOCK_BOOTTIME)))


def by_line(read: list[tuple[bytes, int]]) -> list[tuple[Json, float]]:
    """Each line's event, and its delay in milliseconds: a line is there when its end is."""
    delays = []
    left = b""
    for data, came_ns in read:
        *lines, left = (left + data).split(b"\n")
        for line in lines:
            event = json.loads(line)
            delays.append((event, (came_ns - event["ktime_ns"]) / 1e6))
    return delays
