"""One report of many hosts: from recordings on one processor and on two, and from outputs of `report --json`."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks import recordings, sweeping
from benchmarks.processes import MIB, TCPWATCH, Usage, environment, measured
from benchmarks.results import Cell, Line, Result, at_most
from benchmarks.scale import Scale
from benchmarks.spread import Spread

SPEEDUP = 1.7
"""The least ratio of the speed of two processors to that of one."""
OUTPUTS, OUTPUTS_S, OUTPUTS_MIB = 200, 5.0, 64
"""Outputs of `report --json`, the seconds that their report may take, and its memory."""
_NAME = "HOSTNAME"


def hosts(scale: Scale) -> Result:
    """Recordings of four hosts, in turns on one processor and on two; then a small output of each of 200 hosts."""
    events, rounds = scale.of(150_000, 30_000), scale.of(5, 3)
    with sweeping.temporary_directory() as directory:
        sample = recordings.record(directory)
        files = [_recording(sample, directory / f"{number}.tw", events) for number in range(4)]
        outputs = _outputs(sample, directory)
        commands: dict[str, list[str | Path]] = {
            "4 recordings, one processor": ["taskset", "-c", "0", *TCPWATCH, "report", *files],
            "4 recordings, two processors": ["taskset", "-c", "0,1", *TCPWATCH, "report", *files],
            f"{OUTPUTS} outputs of report --json": ["taskset", "-c", "0,1", *TCPWATCH, "report", *outputs],
        }
        usages: dict[str, list[Usage]] = {name: [] for name in commands}
        for _ in range(rounds):
            for name, argv in commands.items():
                usages[name].append(measured(argv))
    lines = [_line(name, each) for name, each in usages.items()]
    one, two, many = usages.values()
    speedup = median(slow.wall_s / fast.wall_s for slow, fast in zip(one, two))
    lines[1].verdict = f"{'met' if speedup >= SPEEDUP else 'missed'}: {speedup:.2f} times as fast, budget {SPEEDUP}"
    wall_s, peak = median(each.wall_s for each in many), max(each.peak_bytes for each in many) / MIB
    lines[2].verdict = f"{at_most(wall_s, OUTPUTS_S, ' s')}; memory {at_most(peak, OUTPUTS_MIB, ' MiB')}"
    notes = [f"{events:,} events in each recording; {rounds} rounds; peak memory: of the largest process"]
    return Result("hosts", "many hosts", "command", lines, notes)


def _recording(sample: Path, path: Path, events: int) -> Path:
    """A long recording of a host of its own."""
    with path.open("wb") as stream:
        for number, block in enumerate(recordings.multiply(sample, events)):
            stream.write(block if number else _of_host(block, path.stem))
    return path


def _of_host(block: bytes, host: str) -> bytes:
    """The beginning of a recording, as if it were that host's."""
    header, rest = block.split(b"\n", 1)
    return json.dumps({**json.loads(header), "host": host}, separators=(",", ":")).encode() + b"\n" + rest


def _outputs(sample: Path, directory: Path) -> list[Path]:
    """The output of `report --json` for the sample, as if each of many hosts had made it."""
    path = directory / "one.tw"
    path.write_bytes(_of_host(sample.read_bytes(), _NAME))
    argv = [*TCPWATCH, "report", str(path), "--json"]
    output = subprocess.run(argv, env=environment(), stdout=subprocess.PIPE, text=True, check=True).stdout
    made = []
    for number in range(OUTPUTS):
        made.append(directory / f"{number:03d}.json")
        made[-1].write_text(output.replace(_NAME, f"host{number:03d}"), encoding="utf-8")
    return made


def _line(name: str, usages: Sequence[Usage]) -> Line:
    cells: dict[str, Cell] = {
        "wall, s": Spread.of([each.wall_s for each in usages]),
        "CPU, s": Spread.of([each.cpu_s for each in usages]),
        "peak memory, MiB": max(each.peak_bytes for each in usages) / MIB,
    }
    return Line(name, cells)
