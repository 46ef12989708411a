"""Lost events, by hook and cause."""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping
from typing import NamedTuple

from tracer.kernel.probes import LOST_HOOKS, STATE_HOOK

FULL, REENTERED = "full", "reentered"
"""Causes: no room in the ring buffer; and an interrupt that re-entered the program of a hook (bpf/reentry.h)."""


class Loss(NamedTuple):
    """Where events were lost, and why: FULL or REENTERED."""

    hook: str
    cause: str


class Losses:
    """Counts lost events.

    counters: the memory of the map `lost` in bpf/submit.h.
    """

    def __init__(self, counters: mmap.mmap) -> None:
        self._counters = counters
        self._counted: dict[Loss, int] = {}

    def read(self, fdinfos: Mapping[str, int]) -> dict[Loss, int]:
        """The lost events so far; only where there are any.

        fdinfos: open /proc/self/fdinfo files of programs, by hook. The kernel counts there how often it skipped the
        program because an interrupt re-entered it (__bpf_trace_run(), kernel/trace/bpf_trace.c). The second program
        recovers most of the state changes among them. Left out are hooks with calls that mostly produce no event.
        """
        # Misses first: what the second program recovers in between was counted before, or is counted the next time.
        missed = {hook: recursion_misses(os.pread(fd, mmap.PAGESIZE, 0)) for hook, fd in fdinfos.items()}
        *full, recovered = memoryview(self._counters).cast("Q")[: len(LOST_HOOKS) + 1].tolist()
        if STATE_HOOK in missed:
            missed[STATE_HOOK] -= recovered
        counts = {Loss(hook, FULL): count for hook, count in zip(LOST_HOOKS, full)}
        counts |= {Loss(hook, REENTERED): count for hook, count in missed.items()}
        for loss, count in counts.items():
            if count > self._counted.get(loss, 0):
                self._counted[loss] = count
        return dict(self._counted)


def recursion_misses(fdinfo: bytes) -> int:
    """How often the kernel skipped a program that was already running: its fdinfo (5.12); 0 before."""
    for line in fdinfo.splitlines():
        if line.startswith(b"recursion_misses:"):
            return int(line.split()[1])
    return 0
