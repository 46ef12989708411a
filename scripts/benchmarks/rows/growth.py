"""How what tcpwatch takes grows with the number of connections, and of events."""

from __future__ import annotations

from benchmarks import recordings, sweeping, workloads
from benchmarks.processes import MIB, TCPWATCH, cpu_s, measured, memory_of, wait_until_idle
from benchmarks.results import Line, Result
from benchmarks.scale import Scale
from benchmarks.watchers import TCPWATCH_PORT, Watchers, counts, watchers
from benchmarks.workloads import load, loopback


def connections(scale: Scale) -> Result:
    """Open connections. tcpwatch has to know the owner of each."""
    with watchers() as started:
        counted = scale.of((10, 100, 1_000, 10_000, 50_000), (10, 500, 5_000))
        lines = [_with(count, started, scale) for count in counted]
    notes = [
        "sockets of few processes, the two ends of half as many connections",
        "live: tcpwatch --port, while 500 connections a second come and go beside them",
    ]
    return Result("connections", "growth with the number of connections", "sockets", lines, notes)


def _with(count: int, started: Watchers, scale: Scale) -> Line:
    with loopback() as namespace, load(namespace, "crowd", count // 2):
        usage = measured([*TCPWATCH, "sockets", "--netns", str(namespace.netns)])
        with (
            workloads.short_connections(scale.of(5_000, 1_000), 500) as storm,
            started.start(TCPWATCH_PORT, storm.target) as watcher,
        ):
            before_s = cpu_s(watcher.pid)
            storm.go()
            wait_until_idle(watcher.pid)
            spent_s = cpu_s(watcher.pid) - before_s
            memory = memory_of(watcher.pid)
            summary = counts(watcher.stop())
    cells = {
        "sockets: CPU, s": usage.cpu_s,
        "sockets: peak memory, MiB": usage.peak_bytes / MIB,
        "live: to ready, s": watcher.ready_s,
        "live: CPU, µs an event": 1e6 * spent_s / summary.events if summary and summary.events else None,
        "live: private memory, MiB": memory.private / MIB,
    }
    return Line(f"{count:,}", cells)


def events(scale: Scale) -> Result:
    """In a recording that is reported."""
    lines = []
    with sweeping.temporary_directory() as directory:
        sample = recordings.record(directory)
        for count in scale.of((1_000, 10_000, 100_000, 1_000_000, 3_000_000), (1_000, 10_000, 100_000)):
            usage = measured([*TCPWATCH, "report", "-"], stdin=recordings.multiply(sample, count))
            cells = {"report: CPU, s": usage.cpu_s, "report: peak memory, MiB": usage.peak_bytes / MIB}
            lines.append(Line(f"{count:,}", cells))
    return Result("events", "growth with the number of events", "events", lines)
