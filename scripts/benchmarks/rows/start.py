"""From the start to the first event, and the memory that a tracer holds then."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Sequence

from benchmarks import workloads
from benchmarks.processes import MIB, cpu_s, memory_of
from benchmarks.results import Line, Result, at_most
from benchmarks.scale import Scale
from benchmarks.spread import Spread
from benchmarks.watchers import (
    PEERS,
    STRACE,
    TCPDUMP_TEXT,
    TCPRETRANS,
    TCPWATCH_COMPILING,
    TCPWATCH_NO_RESUME,
    TCPWATCH_PORT,
    TCPWATCH_RECORD,
    Target,
    watchers,
)
from benchmarks.workloads import PORT

BUDGET = 0.333
"""Of what bcc's tcpretrans takes, for tcpwatch: of time, of private and of total memory."""

_SETTLED_S = 0.5


def start(scale: Scale) -> Result:
    """While connections come and go, and SYNs are sent again."""
    ready, first, cpu = (defaultdict[str, list[float]](list) for _ in range(3))
    every = (TCPWATCH_PORT, TCPWATCH_COMPILING, TCPWATCH_NO_RESUME, *PEERS, TCPDUMP_TEXT)
    rounds = scale.of(15, 3)
    with workloads.trickle() as target, watchers() as started:
        peers = started.usable(every, target)
        for _ in range(rounds):
            for peer in random.sample(peers, len(peers)):
                with started.start(peer, target) as watcher:
                    cpu[peer.name].append(cpu_s(watcher.pid))
                    ready[peer.name].append(watcher.ready_s)
                    if peer.prints:
                        first[peer.name].append(watcher.wait_for_line(f"{PORT}"))
    lines = [
        Line(
            peer.name,
            {
                "to ready, s": Spread.of(ready[peer.name]) if peer in peers else None,
                "to the first event, s": Spread.of(first[peer.name]) if peer.name in first else None,
                "CPU until ready, s": Spread.of(cpu[peer.name]) if peer in peers else None,
            },
            _verdict(ready[peer.name], ready[TCPRETRANS.name]) if peer == TCPWATCH_PORT else "",
        )
        for peer in every
    ]
    notes = [f"{rounds} rounds in random order; caches warm; several events in every hundredth of a second"]
    return Result("start", "from the start to the first event", "program", lines, notes + started.notes(every))


def memory(scale: Scale) -> Result:
    """Once everything is attached."""
    private, total = (defaultdict[str, list[float]](list) for _ in range(2))
    every = (TCPWATCH_PORT, TCPWATCH_COMPILING, TCPWATCH_NO_RESUME, TCPWATCH_RECORD, *PEERS, STRACE)
    rounds = scale.of(5, 2)
    with workloads.trickle() as target, watchers() as started:
        # Nothing that they could show: the trickle is at another port.
        elsewhere = Target(PORT + 1, target.pid)
        peers = started.usable(every, elsewhere)
        for _ in range(rounds):
            for peer in random.sample(peers, len(peers)):
                with started.start(peer, elsewhere) as watcher:
                    time.sleep(_SETTLED_S)
                    found = memory_of(watcher.pid)
                    private[peer.name].append(found.private / MIB)
                    total[peer.name].append(found.total / MIB)
    lines = [
        Line(
            peer.name,
            {
                "private, MiB": Spread.of(private[peer.name]) if peer in peers else None,
                "total, MiB": Spread.of(total[peer.name]) if peer in peers else None,
            },
            f"private {_verdict(private[peer.name], private[TCPRETRANS.name])}; "
            f"total {_verdict(total[peer.name], total[TCPRETRANS.name])}"
            if peer == TCPWATCH_PORT
            else "",
        )
        for peer in every
    ]
    notes = [
        f"/proc/PID/smaps_rollup, {rounds} rounds; total: resident memory; private: the unshared part of it",
    ]
    return Result("memory", "memory after the start", "program", lines, notes + started.notes(every))


def _verdict(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """As parts of bcc's tcpretrans."""
    if not theirs:
        return "not known: bcc's tcpretrans cannot run here"
    return at_most(Spread.of(ours).median / Spread.of(theirs).median, BUDGET, " of tcpretrans")
