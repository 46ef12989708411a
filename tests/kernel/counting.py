"""A second witness of a storm: what tcpwatch should have seen, counted where nothing can be lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tracer.filters import Filter
from tracer.kernel import host
from tracer.kernel.btf import KernelTypes
from tracer.kernel.probes import Attachment, Probe
from tracer.kernel.program import Program, recursion_misses

SLOT_NS = 10_000_000
_SOURCE = str(Path(__file__).with_name("counting.bpf.c"))


class Witness:
    """Counts the changes of state in one network namespace, from the construction until it is closed."""

    def __init__(self, netns: int) -> None:
        with KernelTypes() as types:
            self._program = Program(types, hz=host.hz(), source=_SOURCE)
        self._program.set_filter(Filter(netns=frozenset({netns})))
        self._program.attach([Probe("state", "ok", Attachment("raw tracepoint", "inet_sock_set_state"))])

    def close(self) -> None:
        """Detach it."""
        self._program.close()

    def counted(self, within: Callable[[int], bool] = lambda _: True) -> int:
        """Changes of state in all slots, or in those whose beginning (CLOCK_BOOTTIME, ns) is as asked."""
        table = self._program._bpf[b"counted"]
        return sum(count.value for slot, count in table.items() if within(slot.value * SLOT_NS))

    def missed(self) -> int:
        """Calls that the kernel did not make, and says so."""
        descriptor = self._program._bpf.funcs[b"on_inet_sock_set_state"].fd
        return recursion_misses(Path(f"/proc/self/fdinfo/{descriptor}").read_text(encoding="ascii"))
