"""A second witness of a storm: what tcpwatch should have seen, counted where nothing can be lost."""

from __future__ import annotations

import mmap
import time
from pathlib import Path

from tracer.kernel import host
from tracer.kernel.probes import Attachment, Probe, with_second
from tracer.kernel.program.btf import KernelTypes
from tracer.kernel.program.compiler import compile_source
from tracer.kernel.program.program import Program
from tracer.kernel.program.source import source_for
from tracer.model.filters import Filter

SLOT_NS, SLOTS = 10_000_000, 65536
_SOURCE = str(Path(__file__).with_name("counting.bpf.c"))


class Witness:
    """Counts the changes of state in one network namespace, from the construction until it is closed."""

    def __init__(self, netns: int) -> None:
        with KernelTypes() as types:
            self._program = Program(compile_source(source_for(_SOURCE, types, hz=host.hz())))
        self._program.configure(Filter(netns=frozenset({netns})))
        self._program.attach([with_second(Probe("state", "ok", Attachment("raw tracepoint", "inet_sock_set_state")))])
        self._memory = mmap.mmap(self._program._maps["counted"], SLOTS * 8)

    def close(self) -> None:
        """Detach it."""
        self._memory.close()
        self._program.close()

    def counted(self) -> int:
        """Changes of state so far, in the ten minutes before `clear` has to be called."""
        with memoryview(self._memory).cast("Q") as slots:
            return sum(slots)

    def by_second(self) -> dict[int, int]:
        """The same by second of CLOCK_BOOTTIME."""
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // SLOT_NS
        with memoryview(self._memory).cast("Q") as slots:
            counts = slots.tolist()
        seconds: dict[int, int] = {}
        for slot in range(now - SLOTS + 1, now + 1):
            second = slot * SLOT_NS // 1_000_000_000
            seconds[second] = seconds.get(second, 0) + counts[slot % SLOTS]
        return seconds

    def clear(self) -> None:
        """Begin anew. What happens at the same time may be counted or not."""
        with memoryview(self._memory).cast("B") as slots:
            slots[:] = bytes(SLOTS * 8)
