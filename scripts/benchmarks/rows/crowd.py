"""How late events are, and how many are lost, on a host with many processes, sockets and network namespaces."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks.processes import cpu_s, first_in_line, wait_until_idle
from benchmarks.results import Cell, Line, Result, at_most
from benchmarks.rows.delay import by_line, lines_read
from benchmarks.scale import Scale
from benchmarks.spread import percentile
from benchmarks.watchers import (
    TCPRETRANS,
    TCPWATCH_EVERYTHING,
    TCPWATCH_SMALL_RING,
    Peer,
    Target,
    Watchers,
    counts,
    watchers,
)
from benchmarks.workloads import PORT, loopback, population, trickling
from tracer.lab.namespace import Namespace

BUDGET_MS = 100.0
"""From the kernel's stamp of a retransmission to its line, of 99 in a hundred."""
WATCHED_S = 70.0
"""As long as it takes to see two walks over all sockets and the counters of a minute."""
SETTLED_NS = 1_000_000_000
"""What came during the start waits for the first walk and the first look-up of owners, which last longer here."""
_CONNECTIONS = 50
"""Short ones a second, beside 200 retransmissions."""
_PEERS = (TCPRETRANS,)


@dataclass(frozen=True)
class Crowd:
    """Idle processes, the sockets of each, and how many of them have a network namespace of their own."""

    processes: int
    sockets: int
    namespaces: int = 0

    def __str__(self) -> str:
        among = f", {self.namespaces:,} namespaces" if self.namespaces else ""
        return f"{self.processes:,} processes, {self.processes * self.sockets:,} sockets{among}"


LARGE = Crowd(20_000, 5)
CROWDS = (Crowd(100, 5), Crowd(1_000, 11), Crowd(10_000, 5), LARGE, Crowd(2_000, 5, 2_000))
_OF_SMALL_RING = Crowd(10_000, 5)
_QUICK = Crowd(5_000, 5)


def crowd(scale: Scale) -> Result:
    """A steady stream of retransmissions and short connections among processes that do nothing."""
    seconds = scale.of(WATCHED_S, 10.0)
    lines: list[Line] = []
    with watchers() as started, first_in_line():
        for each in scale.of(CROWDS, (_QUICK,)):
            lines.append(_by_tcpwatch(started, TCPWATCH_EVERYTHING, each, seconds))
        lines.append(_by_tcpwatch(started, TCPWATCH_SMALL_RING, scale.of(_OF_SMALL_RING, _QUICK), seconds))
        with loopback() as namespace, trickling(namespace) as target:
            usable = started.usable(_PEERS, target)
        for peer in usable:
            lines.append(_by_peer(started, peer, scale.of(LARGE, _QUICK), seconds))
    notes = [
        f"200 retransmissions and {_CONNECTIONS} short connections a second, watched for {seconds:g} s; "
        "late: from ktime_ns of a retransmission to its line being read from the pipe of tcpwatch --json",
        "each process holds both ends of idle connections; the first second is not measured",
        "all of it has priority over other work of this host (SCHED_RR)",
        "lost: for tcpwatch, all events that it reports as lost; for others, retransmissions that the kernel counted "
        "and they did not print, which include those that no BPF program sees on this machine",
    ]
    return Result("crowd", "how late a line is on a busy host", "", lines, notes + started.notes(_PEERS))


@contextmanager
def _among(crowd: Crowd) -> Iterator[tuple[Namespace, Target]]:
    with (
        loopback() as namespace,
        population(namespace, crowd.processes, crowd.sockets, crowd.namespaces),
        trickling(namespace, _CONNECTIONS) as target,
    ):
        yield namespace, target


def _by_tcpwatch(started: Watchers, peer: Peer, crowd: Crowd, seconds: float) -> Line:
    with _among(crowd) as (namespace, target), lines_read() as (read, output):
        with started.start(peer, target, output=output) as watcher:
            settled_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) + SETTLED_NS
            time.sleep(seconds)
            used_s = cpu_s(watcher.pid)
            summary = counts(watcher.stop())
        netns = namespace.netns
    assert summary is not None
    late_ms = [
        ms
        for event, ms in by_line(read)
        if event["event"] == "retransmit" and event["netns"] == netns and event["ktime_ns"] > settled_ns
    ]
    places = {"late: median, ms": 50, "p99, ms": 99, "longest, ms": 100}
    cells: dict[str, Cell] = {"retransmissions": len(late_ms)}
    cells |= {heading: percentile(late_ms, percent) for heading, percent in places.items()}
    cells |= {"lost": summary.lost, "CPU, s": used_s}
    verdict = f"{at_most(percentile(late_ms, 99), BUDGET_MS, ' ms (p99)')}; {at_most(summary.lost, 0, ' lost')}"
    return Line(f"{peer.name}: {crowd}", cells, verdict)


def _by_peer(started: Watchers, peer: Peer, crowd: Crowd, seconds: float) -> Line:
    with _among(crowd) as (namespace, target), started.start(peer, target) as watcher:
        before = namespace.counter("TcpRetransSegs"), watcher.printed().count(str(PORT))
        time.sleep(seconds)
        # First what it printed: what the kernel counts later is not missed.
        counted = namespace.counter("TcpRetransSegs") - before[0]
        wait_until_idle(watcher.pid)
        used_s = cpu_s(watcher.pid)
        printed = watcher.printed().count(str(PORT)) - before[1]
    return Line(
        f"{peer.name}: {crowd}",
        {"retransmissions": printed, "lost": max(0, counted - printed), "CPU, s": used_s},
    )
