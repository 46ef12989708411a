"""What it costs to find who holds a socket."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator

from benchmarks.results import Line, Result, at_most
from benchmarks.scale import Scale
from benchmarks.spread import Spread
from benchmarks.workloads import load, loopback
from tracer.kernel import host
from tracer.kernel.holders import BpfHolderFinder, HolderFinder, ProcHolderFinder
from tracer.kernel.program.btf import KernelTypes
from tracer.kernel.program.compiler import compile_source
from tracer.kernel.program.program import Program
from tracer.kernel.program.source import TRACER, source_for
from tracer.model.filters import Filter

ONE_S = 0.1
"""The budget of one socket's holder among all sockets, processor time."""


def owners(scale: Scale) -> Result:
    """One of many sockets, and all of them, by the iterator over open files and through /proc."""
    with KernelTypes() as types:
        task_file = types.function("bpf_iter_task_file")
        compiled = compile_source(source_for(TRACER, types, hz=host.hz()))
    assert task_file is not None
    lines: list[Line] = []
    with Program(compiled) as program:
        program.configure(Filter())
        for count in scale.of((10_000, 120_000), (2_000,)):
            lines += _among(count, BpfHolderFinder(program, task_file), scale.of(15, 5))
    notes = ["idle sockets of one process", f"{scale.of(15, 5)} rounds"]
    return Result("owners", "who holds a socket", "sockets asked for", lines, notes)


def _among(count: int, in_kernel: HolderFinder, rounds: int) -> Iterator[Line]:
    with loopback() as namespace:
        namespace.set_sysctl("net.ipv4.ip_local_port_range", "1024 65535")
        with load(namespace, "crowd", count // 2) as crowd:
            held = in_kernel(None)
            one = next(inode for inode, holders in held.items() if holders[0].pid == crowd.pid)
            for name, look_up, inodes in (
                ("one of {}, iterator", in_kernel, {one}),
                ("one of {}, /proc", ProcHolderFinder(), {one}),
                ("all of {}, iterator", in_kernel, None),
                ("all of {}, /proc", ProcHolderFinder(), None),
            ):
                wall, cpu = _measured(look_up, inodes, rounds)
                is_budgeted = look_up is in_kernel and inodes is not None
                verdict = at_most(cpu.median / 1000, ONE_S, " s") if is_budgeted else ""
                yield Line(name.format(f"{count:,}"), {"wall, ms": wall, "CPU, ms": cpu}, verdict)


def _measured(look_up: HolderFinder, inodes: Collection[int] | None, rounds: int) -> tuple[Spread, Spread]:
    wall, cpu = [], []
    for _ in range(rounds):
        began, used = time.monotonic(), time.thread_time()
        look_up(inodes)
        wall.append(1000 * (time.monotonic() - began))
        cpu.append(1000 * (time.thread_time() - used))
    return Spread.of(wall), Spread.of(cpu)
