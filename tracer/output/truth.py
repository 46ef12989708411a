"""What the kernel counted by itself beside what was seen of it, in words."""

from __future__ import annotations

from tracer.counts import NOTHING, Counts
from tracer.output.words import plural

_NOUNS = ("retransmitted segment", "keepalive probe", "timeout")


def beside_the_kernel(seen: Counts, counted: Counts, gone: Counts = NOTHING) -> str:
    """`the kernel counted 8 retransmitted segments (7 seen), …`. gone: of what was seen, in namespaces that ended."""
    parts = []
    for noun, ours, its, elsewhere in zip(_NOUNS, seen, counted, gone, strict=True):
        ended = f", {elsewhere:,} of them in network namespaces that are gone" if elsewhere else ""
        parts.append(f"{plural(its, noun)} ({ours:,} seen{ended})")
    return f"the kernel counted {', '.join(parts)}"
