"""Whether BPF programs run in the context of every process of this host.

Some virtual machines hide the process of their hypervisor's agent from BPF: no program runs while it is current, nor
in a softirq that interrupts it. A timer or a segment that the kernel handles then is not seen (observed with Linux
6.18: a timer_expire_entry in tracefs without a run of a raw tracepoint program, and no miss counted). A test that
expects each single event fails without a fault of tcpwatch.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import bcc

from tracer.kernel.program.source import bpf_directory

_PROGRAM = b"""
#include <linux/types.h>
BPF_HASH(switched, u32, u64, 16384);
int on_sched_switch(struct bpf_raw_tracepoint_args *ctx)
{
    u32 thread = bpf_get_current_pid_tgid();
    switched.increment(thread);
    return 0;
}
"""
_MIN_SWITCHES = 20
_MAX_WAIT_S = 3.0


def hidden_process() -> str | None:
    """The name of process 1 if it runs and BPF does not see it. None if BPF sees it, or if it sleeps."""
    os.environ["BCC_KERNEL_SOURCE"] = str(bpf_directory())
    with_bpf = bcc.BPF(text=_PROGRAM)
    try:
        with_bpf.attach_raw_tracepoint(tp=b"sched_switch", fn_name=b"on_sched_switch")
        before = _switches()
        deadline = time.monotonic() + _MAX_WAIT_S
        while (
            sum((now := _switches()).values()) - sum(before.values()) < _MIN_SWITCHES and time.monotonic() < deadline
        ):
            time.sleep(0.05)
        counted = {thread.value for thread, _ in with_bpf[b"switched"].items()}
    finally:
        with_bpf.cleanup()
    ran = {thread for thread, count in now.items() if count > before.get(thread, count) + 1}
    return Path("/proc/1/comm").read_text(encoding="utf-8").strip() if ran and not ran & counted else None


def _switches() -> dict[int, int]:
    """How often each thread of process 1 has been put on a CPU."""
    counts = {}
    for thread in Path("/proc/1/task").iterdir():
        try:
            lines = (thread / "status").read_text(encoding="utf-8").splitlines()
        except OSError:  # ended
            continue
        counts[int(thread.name)] = sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)
    return counts
