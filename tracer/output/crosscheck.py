"""The kernel's own counts beside the events: sentences for the summary and the report."""

from __future__ import annotations

from tracer.model.counts import NOTHING, Counts
from tracer.output.format import plural

_NOUNS = ("retransmitted segment", "keepalive probe", "timeout")


def what_was_missed(seen: Counts, counted: Counts) -> str:
    """A sentence where the kernel retransmitted more than the events have; empty where it did not.

    Both cover all connections of the namespaces that could be read all the time.
    """
    missed = counted.segments - seen.segments
    if missed <= 0:
        return ""
    share = f"{100 * missed / counted.segments:.1f}".removesuffix(".0")
    return (
        f"{plural(missed, 'retransmitted segment')} ({share}% of all) had no event: stalls may be missing, "
        "a presumed answer may not have come, and idle-timeout ranges may be wrong"
    )


def beside_the_kernel(seen: Counts, counted: Counts, out_of_sight: Counts = NOTHING) -> str:
    """`the kernel counted 8 retransmitted segments (7 seen), …`, for all connections of the namespaces.

    out_of_sight: the part of what was seen in namespaces with counters that could not be read.
    """
    parts = []
    for noun, ours, its, elsewhere in zip(_NOUNS, seen, counted, out_of_sight):
        where = f", {elsewhere:,} of them in network namespaces without a process" if elsewhere else ""
        parts.append(f"{plural(its, noun)} ({ours:,} seen{where})")
    return f"the kernel counted {', '.join(parts)}"
