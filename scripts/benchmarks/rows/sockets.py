"""`tcpwatch sockets` beside `ss`, with many connections."""

from __future__ import annotations

from collections import defaultdict

from benchmarks.processes import MIB, TCPWATCH, measured
from benchmarks.results import Line, Result
from benchmarks.scale import Scale
from benchmarks.spread import Spread
from benchmarks.workloads import load, loopback


def sockets(scale: Scale) -> Result:
    """All ends of the connections are in one namespace."""
    count = scale.of(50_000, 5_000)
    rounds = scale.of(5, 3)
    wall, cpu, peak = (defaultdict[str, list[float]](list) for _ in range(3))
    with loopback() as namespace, load(namespace, "crowd", count // 2):
        commands = {
            "tcpwatch sockets": [*TCPWATCH, "sockets", "--netns", str(namespace.netns)],
            "tcpwatch sockets --json": [*TCPWATCH, "sockets", "--netns", str(namespace.netns), "--json"],
            "tcpwatch sockets --at-risk 1h": [
                *(*TCPWATCH, "sockets", "--netns", str(namespace.netns), "--at-risk", "1h"),
            ],
            "ss -tinop": namespace.command(["ss", "-tinop"]),
        }
        for _ in range(rounds):
            for name, argv in commands.items():
                usage = measured(argv)
                wall[name].append(usage.wall_s)
                cpu[name].append(usage.cpu_s)
                peak[name].append(usage.peak_bytes / MIB)
    lines = [
        Line(
            name,
            {
                "wall, s": Spread.of(wall[name]),
                "CPU, s": Spread.of(cpu[name]),
                "peak memory, MiB": Spread.of(peak[name]),
            },
        )
        for name in commands
    ]
    notes = [f"{count:,} sockets, the two ends of half as many connections; {rounds} rounds, output to /dev/null"]
    return Result("sockets", "every connection as it is now", "command", lines, notes)
