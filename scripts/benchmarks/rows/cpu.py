"""Processor time of an event: in the kernel's hooks, and of the process that shows it."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager

from benchmarks import programs, workloads
from benchmarks.processes import cpu_s, wait_until_idle
from benchmarks.results import Line, Result
from benchmarks.scale import Scale
from benchmarks.watchers import (
    BPFTRACE,
    TCPDUMP,
    TCPRETRANS,
    TCPSTATES,
    TCPWATCH_JSON,
    TCPWATCH_PORT,
    TCPWATCH_RECORD,
    Peer,
    Target,
    Watchers,
    counts,
    watchers,
)
from benchmarks.workloads import PORT, Storm

PEERS = (TCPWATCH_PORT, TCPWATCH_JSON, TCPWATCH_RECORD, TCPSTATES, TCPRETRANS, BPFTRACE, TCPDUMP)


def cpu(scale: Scale) -> Result:
    """Of each watcher, under short connections and under stalls."""
    storms: tuple[Callable[[], AbstractContextManager[Storm]], ...] = (
        lambda: workloads.short_connections(scale.of(20_000, 4_000), 2_000),
        lambda: workloads.stalls(scale.of(1_000, 300)),
    )
    with programs.counted(), watchers() as started:
        peers = started.usable(PEERS, Target(PORT, os.getpid()))
        lines = [_line(storm, peer, started) for storm in storms for peer in peers]
    notes = [
        "2,000 short connections a second; stalls: connections that a firewall drops all at once, given up 7 s later",
        "process: user and system time of the watcher, its output to a file; hooks: of its BPF programs "
        "(kernel.bpf_stats_enabled), charged to the interrupted process",
        "other tools: each printed line is an event",
    ]
    return Result("cpu", "processor time", "watched by", lines, notes + started.notes(PEERS))


def _line(prepared: Callable[[], AbstractContextManager[Storm]], peer: Peer, started: Watchers) -> Line:
    with prepared() as storm, started.start(peer, storm.target) as watcher:
        process_s, hooks_ns = cpu_s(watcher.pid), programs.total_ns(watcher.pid)
        storm.go()
        wait_until_idle(watcher.pid)
        process_us = 1e6 * (cpu_s(watcher.pid) - process_s)
        hooks_us = (programs.total_ns(watcher.pid) - hooks_ns) / 1e3
        summary = counts(watcher.stop())
        events = summary.events if summary else watcher.printed().count(str(storm.target.port))
    return Line(
        f"{storm.what}: {peer.name}",
        {
            "events": events or None,
            "process, µs an event": process_us / events if events else None,
            "process, µs a connection": process_us / storm.count,
            "hooks, µs a connection": hooks_us / storm.count,
        },
    )
