"""What the walks over all sockets cost: `found` and `waiting`."""

from __future__ import annotations

import time
from collections import defaultdict

from benchmarks.results import Line, Result, at_most
from benchmarks.scale import Scale
from benchmarks.spread import Spread
from benchmarks.workloads import load, loopback
from tracer.kernel import host, probes
from tracer.kernel.program import syscalls
from tracer.kernel.program.btf import KernelTypes
from tracer.kernel.program.compiler import compile_source
from tracer.kernel.program.program import WAITING_AFTER_S, Program
from tracer.kernel.program.source import TRACER, source_for
from tracer.kernel.walks import WALK_EVERY_S
from tracer.model.filters import Filter

FIRST_S = 1.0
"""The budget of the first walk, which the start waits for."""
SHARE_OF_CORE = 0.005
"""That of those after it."""


def walk(scale: Scale) -> Result:
    """Both ends of idle connections."""
    count = scale.of(10_000, 2_000)
    rounds = scale.of(50, 10)
    wall, cpu = (defaultdict[str, list[float]](list) for _ in range(2))
    with KernelTypes() as types:
        chosen = probes.choose(types, kprobes=False, timers=probes.TimerFunctions(0, 0))
        compiled = compile_source(source_for(TRACER, types, hz=host.hz()))
    (of_walk,) = (each for each in chosen if each.event == probes.FOUND_BY_WALK)
    with loopback() as namespace, load(namespace, "crowd", count // 2):
        for _ in range(rounds):
            with Program(compiled, waiting_jiffies=round(WAITING_AFTER_S * host.hz())) as program:
                program.configure(Filter())
                began, used = time.monotonic(), time.thread_time()
                program.attach([of_walk])
                wall["load"].append(1000 * (time.monotonic() - began))
                cpu["load"].append(1000 * (time.thread_time() - used))
                assert program.iterator is not None, of_walk.note
                for name, first in (("first walk", True), ("later walk", False)):
                    program.request_walk(trouble=first, all_waiting=first)
                    began, used = time.monotonic(), time.thread_time()
                    syscalls.read_iterator(program.iterator)
                    wall[name].append(1000 * (time.monotonic() - began))
                    cpu[name].append(1000 * (time.thread_time() - used))
    verdicts = {
        "first walk": at_most(Spread.of(wall["first walk"]).median / 1000, FIRST_S, " s"),
        "later walk": at_most(
            Spread.of(cpu["later walk"]).median / 1000 / WALK_EVERY_S * 100, SHARE_OF_CORE * 100, " % of a core"
        ),
    }
    lines = [
        Line(name, {"wall, ms": Spread.of(wall[name]), "CPU, ms": Spread.of(cpu[name])}, verdicts.get(name, ""))
        for name in wall
    ]
    notes = [f"{count:,} idle sockets of one process; {rounds} rounds; a walk every {WALK_EVERY_S:.0f} s"]
    return Result("walk", "walks over all sockets", "step", lines, notes)
