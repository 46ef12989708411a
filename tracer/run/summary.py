"""The lines about a live run on stderr: its filters at the start, counts and costs at the end."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from tracer.kernel.counters import KernelCounters
from tracer.model.counts import Counts, Tally
from tracer.model.filters import Filter
from tracer.output.crosscheck import beside_the_kernel, what_was_missed
from tracer.output.format import duration, plural
from tracer.recordings.header import describe_filter
from tracer.run.pipeline import Totals

MAX_VALUES = 12
"""Values of one filter that are named."""
_NAMES = {
    "ports": "port", "lports": "local port", "rports": "remote port", "hosts": "host",
    "netns": "netns", "pids": "pid", "comms": "process", "containers": "container", "pods": "pod",
    "units": "unit", "events": "event",
}  # fmt: skip


def describe(wanted: Filter) -> str:
    """The filters as a phrase, with hosts and namespaces as they were typed: `port 3306 and idle for 10m00s`."""
    parts = []
    for name, value in {**describe_filter(wanted), **wanted.typed}.items():
        if name == "family":
            parts.append(f"IPv{value} only")
        elif name == "min_idle_ms":
            parts.append(f"idle for {duration(value)}")
        else:
            more = f",… ({len(value):,})" if len(value) > MAX_VALUES else ""
            parts.append(f"{_NAMES[name]} {','.join(map(str, value[:MAX_VALUES]))}{more}")
    return " and ".join(parts) if parts else "every TCP connection"


def opening(wanted: Filter, established: Mapping[int, int]) -> str:
    """What is traced. established: the connections that are open at the start, by namespace.

    Their number is known only where the filters choose no connections within a namespace.
    """
    what = describe(wanted)
    if not wanted.keeps_counts:
        return what
    there = [count for netns, count in established.items() if not wanted.netns or netns in wanted.netns]
    return f"{what} ({sum(there):,} open in {plural(len(there), 'network namespace')})"


def counts(totals: Totals, seconds: float, left_out: int) -> str:
    """Events, losses, connections with events, and stalls of a run of that length. left_out: events not printed."""
    shed = f" ({left_out:,} not shown)" if left_out else ""
    connections = plural(totals.connections, "connection")
    return (
        f"{plural(totals.events, 'event')}{shed}, {totals.lost:,} lost, on {connections} "
        f"in {duration(seconds * 1000)}{_stalls(totals)}"
    )


def kernel_counts(totals: Totals, counted: Mapping[int, Counts], wanted: Collection[int] = ()) -> str:
    """The kernel's own counts of the run beside ours.

    counted: by namespace, for those with a process at the end. wanted: the namespaces that were traced; empty: all.
    """
    every = Tally()
    for netns, counts_there in counted.items():
        if not wanted or netns in wanted:
            every.add(netns, counts_there)
    compared = beside_the_kernel(totals.seen.total(), every.total(), totals.seen.total(without=counted.keys()))
    return f"{compared}, of all connections" + (f" of {plural(len(wanted), 'network namespace')}" if wanted else "")


def missed(totals: Totals, counters: KernelCounters, wanted: Collection[int] = ()) -> str:
    """A sentence about what the kernel counted and no event reported; empty if there is nothing."""
    every, seen = Tally(), Tally()
    for netns, counts_there in counters.since_start.items():
        if netns in counters.from_start and (not wanted or netns in wanted):
            every.add(netns, counts_there)
            seen.add(netns, totals.seen.of(netns))
    return what_was_missed(seen.total(), every.total())


def cost(cpu_seconds: float, seconds: float, memory_bytes: int) -> str:
    """CPU time of a run of that length, and peak memory."""
    share = f" ({100 * cpu_seconds / seconds:.1f}% of one core)" if seconds > 0 else ""
    return f"used {cpu_seconds:.1f} s of CPU{share} and {memory_bytes >> 20} MB of memory"


def _stalls(totals: Totals) -> str:
    if not totals.stalls:
        return ""
    outcomes = ", ".join(f"{count:,} {outcome}" for outcome, count in totals.stalls.most_common())
    return f"; {plural(sum(totals.stalls.values()), 'stall')}: {outcomes}"
