"""How long tcpwatch's programs run in the kernel."""

from __future__ import annotations

from benchmarks import programs, workloads
from benchmarks.programs import Runs
from benchmarks.results import Line, Result
from benchmarks.scale import Scale
from benchmarks.watchers import TCPWATCH_PORT, watchers


def hooks(scale: Scale) -> Result:
    """Hook by hook, under short connections and under stalls."""
    storms = (
        workloads.short_connections(scale.of(20_000, 4_000), 2_000),
        workloads.stalls(scale.of(1_000, 300)),
    )
    lines = []
    with programs.counted(), watchers() as started:
        for prepared in storms:
            with prepared as storm, started.start(TCPWATCH_PORT, storm.target) as watcher:
                before = _by_hook(watcher.pid)
                storm.go()
                total_ns = 0
                for name, runs in _by_hook(watcher.pid).items():
                    count = runs.count - before[name].count
                    spent_ns = runs.total_ns - before[name].total_ns
                    total_ns += spent_ns
                    if count:
                        cells = {"runs per connection": count / storm.count, "ns a run": spent_ns / count}
                        lines.append(Line(f"{storm.what}: {name}", cells))
                cells = {"ns per connection": total_ns / storm.count}
                lines.append(Line(f"{storm.what}: all", cells))
    notes = [
        "the kernel's own count (kernel.bpf_stats_enabled), with the runs that end at the port filter, such as those "
        "of other connections of this host",
    ]
    return Result("hooks", "nanoseconds in the kernel", "hook", lines, notes)


def _by_hook(pid: int) -> dict[str, Runs]:
    named: dict[str, Runs] = {}
    for runs in programs.runs_of(pid):
        named[f"{runs.hook}, second" if runs.hook in named else runs.hook] = runs
    return named
