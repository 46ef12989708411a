"""What tcpwatch's hook on received segments takes, by the clock.

The kernel's own count of a program (programs.py) has the reading of a clock in it, twice what a short program takes,
and not the way there. Here two sockets talk to each other with the hook attached, without, and so on; in a single
process, where nothing is woken up and nothing waits, so that a hundredth of it is seen.
"""

from __future__ import annotations

import os
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from benchmarks import programs
from benchmarks.processes import one_processor
from tracer.kernel import host, probes
from tracer.kernel.program.btf import KernelTypes
from tracer.kernel.program.compiler import compile_source
from tracer.kernel.program.program import RESUME_AFTER_S, Program
from tracer.kernel.program.source import TRACER, source_for
from tracer.model.filters import Filter

HOOK = "tcp_probe"
_SLICE_S = 0.1
_TURNS = 200
"""Between two looks at the clock."""


def hook_us(seconds: float) -> list[float]:
    """Microseconds that a segment takes longer with the hook, again and again for so long."""
    with one_processor(), _conversation() as talk, _attaching() as attached:
        with attached(), programs.counted():
            segments = _per_turn(talk)
        unwatched, watched = [_turn_us(talk)], []
        for _ in range(max(1, round(seconds / _SLICE_S / 2))):
            with attached():
                watched.append(_turn_us(talk))
            unwatched.append(_turn_us(talk))
    around = map(statistics.fmean, zip(unwatched, unwatched[1:]))
    return [(turn - other) / segments for turn, other in zip(watched, around)]


def _turn_us(talk: Callable[[int], None]) -> float:
    talk(_TURNS)
    turns = 0
    began = now = time.perf_counter()
    while now < began + _SLICE_S:
        talk(_TURNS)
        turns += _TURNS
        now = time.perf_counter()
    return 1e6 * (now - began) / turns


def _per_turn(talk: Callable[[int], None]) -> float:
    """How many segments a turn has, as the hook has seen them."""
    before = _runs()
    talk(_TURNS)
    return (_runs() - before) / _TURNS


def _runs() -> int:
    return sum(runs.count for runs in programs.runs_of(os.getpid()) if runs.hook == HOOK)


@contextmanager
def _conversation() -> Iterator[Callable[[int], None]]:
    """Exchange one byte in each direction, repeatedly, on a connection over loopback."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as one,
        listener.accept()[0] as other,
    ):

        def talk(turns: int) -> None:
            for _ in range(turns):
                one.send(b"?")
                other.recv(1)
                other.send(b"!")
                one.recv(1)

        yield talk


@contextmanager
def _attaching() -> Iterator[Callable[[], Program]]:
    """What attaches the hook until the block ends, with settings as any run of tcpwatch has them."""
    hz = host.hz()
    with KernelTypes() as types:
        chosen = probes.choose(types, kprobes=False, timers=probes.TimerFunctions(0, 0))
        compiled = compile_source(source_for(TRACER, types, hz=hz))
    of_segments = [probe for probe in chosen if probe.attachment is not None and probe.attachment.hook == HOOK]

    def attached() -> Program:
        program = Program(compiled, resume_jiffies=round(RESUME_AFTER_S * hz))
        try:
            program.configure(Filter())
            program.attach(of_segments)
        except BaseException:
            program.close()
            raise
        return program

    yield attached
