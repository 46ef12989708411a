"""Recordings: how fast they are replayed and reported, and in how much memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks import recordings, sweeping
from benchmarks.processes import MIB, TCPWATCH, Usage, measured
from benchmarks.results import Line, Result, at_least, at_most
from benchmarks.scale import Scale

RATE = 100_000
"""Events a second that a report is to read."""
GROWTH = 1.1
"""How much more memory ten times as many events may take. None is meant; so much is measuring noise."""


def replay(scale: Scale) -> Result:
    """Ten times as many events for one report as for the rest."""
    few = scale.of(1_000_000, 50_000)
    many = 10 * few
    with sweeping.temporary_directory() as directory:
        sample = recordings.record(directory)
        lines = [
            _line("replay", ["replay"], sample, few)[0],
            _line("replay --json", ["replay", "--json"], sample, few)[0],
        ]
        short, small = _line("report", ["report"], sample, few)
        long, large = _line("report", ["report"], sample, many)
    long.verdict = (
        f"{at_least(many / large.cpu_s, RATE, '/s')}; "
        f"memory {at_most(large.peak_bytes / small.peak_bytes, GROWTH, ' of that of a tenth')}"
    )
    notes = [
        "a real recording of short connections and stalls, repeated with later times and other sockets, through a "
        "pipe; it is made at the same time, so the rate is per CPU time",
    ]
    return Result("replay", "recordings", "command", [*lines, short, long], notes)


def _line(name: str, command: Sequence[str], sample: Path, events: int) -> tuple[Line, Usage]:
    usage = measured([*TCPWATCH, *command, "-"], stdin=recordings.multiply(sample, events))
    cells = {
        "events": events,
        "events per CPU second": round(events / usage.cpu_s),
        "wall, s": usage.wall_s,
        "peak memory, MiB": usage.peak_bytes / MIB,
    }
    return Line(f"{name}, {events:,} events", cells), usage
