"""`tcpwatch sockets` beside `ss`, with many connections, and with many network namespaces."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import median

from benchmarks.processes import MIB, TCPWATCH, measured
from benchmarks.results import Line, Result, median_at_most
from benchmarks.scale import Scale
from benchmarks.spread import Spread
from benchmarks.workloads import load, loopback, population
from tracer.kernel.namespaces import ProcNamespaceFinder

_SS = "ss -tinop"
_BUDGET = 1.0
"""Times the wall time of ss."""
_BUDGETED = ("tcpwatch sockets", "tcpwatch sockets --stuck")


def sockets(scale: Scale) -> Result:
    """All ends of the connections in one namespace, and a few in each of many."""
    count, namespaces = scale.of((50_000, 2_000), (5_000, 200))
    rounds = scale.of(5, 3)
    with loopback() as namespace, load(namespace, "crowd", count // 2):
        commands = {
            "tcpwatch sockets": [*TCPWATCH, "sockets", "--netns", str(namespace.netns)],
            "tcpwatch sockets -a": [*TCPWATCH, "sockets", "--netns", str(namespace.netns), "-a"],
            "tcpwatch sockets --stuck": [*TCPWATCH, "sockets", "--netns", str(namespace.netns), "--stuck"],
            "tcpwatch sockets --json": [*TCPWATCH, "sockets", "--netns", str(namespace.netns), "--json"],
            "tcpwatch sockets --at-risk 1h": [
                *(*TCPWATCH, "sockets", "--netns", str(namespace.netns), "--at-risk", "1h"),
            ],
            _SS: namespace.command(["ss", "-tinop"]),
        }
        lines = _measured(commands, rounds, beside=_SS)
    with loopback() as namespace:
        before = ProcNamespaceFinder()().keys()
        with population(namespace, namespaces, 5, namespaces):
            new = [members.pids[0] for netns, members in ProcNamespaceFinder()().items() if netns not in before]
            each = f"for pid in {' '.join(map(str, new))}; do nsenter --net=/proc/$pid/ns/net ss -tino; done"
            commands = {
                f"tcpwatch sockets --json, {namespaces:,} namespaces": [*TCPWATCH, "sockets", "--json"],
                f"ss -tino in each of {namespaces:,} namespaces": ["sh", "-c", each],
            }
            lines += _measured(commands, scale.of(3, 1))
    notes = [
        f"{count:,} sockets, the two ends of half as many connections; {rounds} rounds, output to /dev/null",
        f"{namespaces:,} namespaces with two connections and a listener each, {scale.of(3, 1)} rounds; ss without "
        "-p, which would search /proc each time",
    ]
    return Result("sockets", "every connection as it is now", "command", lines, notes)


def _measured(commands: Mapping[str, Sequence[str]], rounds: int, beside: str | None = None) -> list[Line]:
    """The commands in turns. beside: compare the wall time of each round with that of this command in it."""
    wall, cpu, peak = (defaultdict[str, list[float]](list) for _ in range(3))
    for _ in range(rounds):
        for name, argv in commands.items():
            usage = measured(argv)
            wall[name].append(usage.wall_s)
            cpu[name].append(usage.cpu_s)
            peak[name].append(usage.peak_bytes / MIB)
    lines = []
    for name in commands:
        line = Line(
            name,
            {
                "wall, s": Spread.of(wall[name]),
                "CPU, s": Spread.of(cpu[name]),
                "peak memory, MiB": Spread.of(peak[name]),
            },
        )
        if beside not in (None, name):
            ratios = [ours / theirs for ours, theirs in zip(wall[name], wall[beside])]
            line.cells = {**line.cells, f"wall ÷ {beside}": Spread.of(ratios)}
            if name in _BUDGETED:
                used = median(ours / theirs for ours, theirs in zip(cpu[name], cpu[beside]))
                line.verdict = median_at_most(ratios, _BUDGET, used)
        lines.append(line)
    return lines
