"""How much slower a workload is while it is watched."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

from benchmarks import programs, segments, workloads
from benchmarks.processes import cpu_s, one_processor
from benchmarks.results import Cell, Line, Result, median_at_most
from benchmarks.scale import Scale
from benchmarks.spread import Spread, median_between, ratios
from benchmarks.watchers import (
    BPFTRACE,
    NOBODY,
    STRACE,
    TCPDUMP,
    TCPRETRANS,
    TCPSTATES,
    TCPWATCH_NO_RESUME,
    TCPWATCH_PORT,
    Peer,
    Watchers,
    watchers,
)
from benchmarks.workloads import Workload, Workloads

PEERS = (NOBODY, STRACE, TCPDUMP, TCPRETRANS, TCPSTATES, BPFTRACE, TCPWATCH_PORT, TCPWATCH_NO_RESUME)
BUDGET = 1.01
"""tcpwatch's budget, relative to the time of an unwatched operation."""
WARM_S = 0.4
"""Warm-up before each measurement: the kernel cleans up after the last watcher, and the virtual CPU runs."""
OFTEN = 4
"""Measurements a round where there is a budget: 1 % is less than the noise of a single one."""
_SLOWER, _PROCESS, _HOOKS = "time each, unwatched = 1", "process, µs each", "hooks, µs each"


def mariadb(scale: Scale) -> Result:
    """Queries of a MariaDB."""
    return _row(
        "mariadb", "queries of MariaDB through PyMySQL, one at a time, behind a firewall", workloads.mariadb, scale
    )


def redis(scale: Scale) -> Result:
    """GETs of a Redis."""
    return _row("redis", "redis-benchmark, GET on 50 connections over loopback", workloads.redis, scale)


def storm(scale: Scale) -> Result:
    """Short connections only."""
    return _row("storm", "short connections over loopback: connect, one byte, close", workloads.storm, scale)


def _row(name: str, title: str, workload: Workloads, scale: Scale) -> Result:
    # The budget is for useful work.
    judged = () if name == "storm" else (TCPWATCH_PORT, TCPWATCH_NO_RESUME)
    # On one processor a watcher's CPU time is missing for the work, and no time is spent waiting for a wakeup.
    together = one_processor() if judged else nullcontext()
    with together, watchers() as started, workload() as work:
        work.run(scale.of(2.0, 0.5))
        peers = started.usable(PEERS, work.target)
        often = [NOBODY, *judged] if judged else []
        measured, unwatched = _measure(work, started, [*peers, *often * (OFTEN - 1)], scale)
        for peer in peers:
            times = OFTEN if peer in judged else 1
            measured[peer.name].hooks = [_in_hooks(work, started, peer, scale) for _ in range(times)]
        segment_us = segments.hook_us(scale.of(40.0, 1.0)) if judged else []
    lines = [Line("unwatched", {f"{work.what}/s": Spread.of(unwatched), _SLOWER: 1.0})]
    operation_us = 1e6 / statistics.median(unwatched)
    for peer in PEERS:
        of_peer = measured.get(peer.name)
        if of_peer is None:
            lines.append(Line(peer.name, dict.fromkeys((f"{work.what}/s", _SLOWER, _PROCESS, _HOOKS))))
        else:
            cells = {f"{work.what}/s": Spread.of(of_peer.rates), **of_peer.cells}
            lines.append(Line(peer.name, cells, of_peer.verdict(operation_us, segment_us) if peer in judged else ""))
    rounds, seconds = _extent(scale)
    traced = "server" if name == "redis" else "client"
    notes = [
        f"{rounds} rounds in random order, {seconds:g} s watched between {seconds:g} s unwatched each time; "
        "median and quartiles",
        "process: CPU time of the watcher; hooks: CPU time of its BPF programs in the kernel, measured separately",
        f"output goes to a file; tcpdump writes to /dev/null; strace follows the {traced}",
    ]
    if judged:
        notes.append("client, server and watcher share one processor: what a watcher uses is missing for the work")
        notes.append(f"nothing and tcpwatch {OFTEN} times a round; budget: the median, with 95 % confidence")
        low, high = (1000 * us for us in median_between(segment_us))
        notes.append(
            "by CPU time: process and hooks together, relative to the unwatched time; the hook of "
            f"received segments is measured by the clock, {1000 * statistics.median(segment_us):.0f} ns each "
            f"({low:.0f} to {high:.0f}), separately"
        )
    return Result(name, title, "watched by", lines, notes + started.notes(PEERS))


@dataclass(frozen=True)
class _Hooks:
    """The time that a watcher's BPF programs take per operation, as the kernel measures it.

    others_us: without the hook on received segments. segments: calls of that hook per operation.
    """

    all_us: float
    others_us: float
    segments: float


@dataclass
class _Measured:
    """Of one watcher, in the order in which it was measured.

    rates: operations a second. times: of an operation, unwatched = 1. process_us: for one operation.
    """

    rates: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    process_us: list[float] = field(default_factory=list)
    hooks: list[_Hooks] = field(default_factory=list)

    @property
    def cells(self) -> dict[str, Cell]:
        """The cells of its costs."""
        return {
            _SLOWER: Spread.of(self.times),
            _PROCESS: Spread.of(self.process_us),
            _HOOKS: statistics.median(each.all_us for each in self.hooks) or "",
        }

    def verdict(self, operation_us: float, segment_us: Sequence[float]) -> str:
        """The verdict. operation_us: time of an unwatched operation. segment_us: of a segment, by segments.py."""
        of_segment_us = statistics.median(segment_us)
        hooks_us = statistics.median(each.others_us + each.segments * of_segment_us for each in self.hooks)
        return median_at_most(self.times, BUDGET, 1 + (statistics.median(self.process_us) + hooks_us) / operation_us)


def _extent(scale: Scale) -> tuple[int, float]:
    """Rounds, and seconds of each measurement."""
    return scale.of((8, 1.0), (3, 0.7))


def _in_hooks(work: Workload, started: Watchers, peer: Peer, scale: Scale) -> _Hooks:
    """The median, which shows small costs in spite of the noise."""
    _, seconds = _extent(scale)
    with programs.counted(), started.start(peer, work.target) as watcher:
        before = programs.runs_of(watcher.pid)
        operations = work.run(seconds) * seconds
        all_runs = programs.since(before, programs.runs_of(watcher.pid))
    of_segments = [runs for runs in all_runs if runs.hook == segments.HOOK]
    all_ns, of_segments_ns = (sum(runs.total_ns for runs in some) for some in (all_runs, of_segments))
    return _Hooks(
        all_us=all_ns / operations / 1e3,
        others_us=(all_ns - of_segments_ns) / operations / 1e3,
        segments=sum(runs.count for runs in of_segments) / operations,
    )


def _measure(
    work: Workload, started: Watchers, peers: list[Peer], scale: Scale
) -> tuple[dict[str, _Measured], list[float]]:
    """Measurements by peer, and the operations per second of each unwatched time."""
    rounds, seconds = _extent(scale)
    measured = {peer.name: _Measured() for peer in peers}
    all_unwatched: list[float] = []
    for _ in range(rounds):
        order = random.sample(peers, len(peers))
        unwatched = [_warm(work, seconds)]
        watched = []
        for peer in order:
            with started.start(peer, work.target) as watcher:
                work.run(WARM_S)
                before_s = cpu_s(watcher.pid)
                watched.append(work.run(seconds))
                cpu_us = 1e6 * (cpu_s(watcher.pid) - before_s) / (watched[-1] * seconds)
                measured[peer.name].process_us.append(cpu_us)
            unwatched.append(_warm(work, seconds))
        for peer, rate, ratio in zip(order, watched, ratios(watched, unwatched)):
            measured[peer.name].rates.append(rate)
            measured[peer.name].times.append(1 / ratio)
        all_unwatched += unwatched
    return measured, all_unwatched


def _warm(work: Workload, seconds: float) -> float:
    work.run(WARM_S)
    return work.run(seconds)
