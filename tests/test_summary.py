"""The lines at the end of a live run."""

from __future__ import annotations

from collections import Counter
from typing import ClassVar

import pytest
from builders import event

from tracer.model.counts import Counts
from tracer.run.pipeline import Totals
from tracer.run.summary import cost, counts, kernel_counts, missed


def totals(**segments_by_netns: int) -> Totals:
    made = Totals()
    for netns, segments in segments_by_netns.items():
        made.add([event(netns=int(netns[1:]), segments=segments, kind="rto", attempt=1)])
    return made


def test_what_was_seen_lost_and_left_out() -> None:
    seen = Totals(events=9, lost=2, connections=3, stalls=Counter({"timed-out": 2}))
    assert counts(seen, 61, 0) == "9 events, 2 lost, on 3 connections in 1m01s; 2 stalls: 2 timed-out"
    assert counts(Totals(events=9000), 1, 1234) == "9,000 events (1,234 not shown), 0 lost, on 0 connections in 1.0s"


def test_the_kernels_counts_stand_beside_ours() -> None:
    counted = {1: Counts(segments=3, timeouts=2), 2: Counts(segments=5, keepalives=4, timeouts=1)}
    assert kernel_counts(totals(n1=3, n2=4), counted) == (
        "the kernel counted 8 retransmitted segments (7 seen), 4 keepalive probes (0 seen), 3 timeouts (2 seen), "
        "of all connections"
    )


def test_nobody_can_read_the_counters_of_a_namespace_without_a_process() -> None:
    said = kernel_counts(totals(n1=3, n2=4), {1: Counts(segments=3)})
    assert "3 retransmitted segments (7 seen, 4 of them in network namespaces without a process)" in said


def test_of_wanted_namespaces_both_counts_are_compared() -> None:
    counted = {1: Counts(segments=3), 2: Counts(segments=500)}
    assert "3 retransmitted segments (3 seen), " in kernel_counts(totals(n1=3), counted, {1})
    assert kernel_counts(totals(n1=3), counted, {1}).endswith(", of all connections of 1 network namespace")


@pytest.mark.parametrize(("seconds", "share"), [(100, " (2.5% of one core)"), (10, " (25.0% of one core)"), (0, "")])
def test_the_cost_of_a_run(seconds: float, share: str) -> None:
    assert cost(2.5, seconds, 48 << 20) == f"used 2.5 s of CPU{share} and 48 MB of memory"


def test_what_had_no_event_is_said_of_namespaces_that_were_there_from_the_start() -> None:
    class Counters:
        since_start: ClassVar = {1: Counts(segments=640), 2: Counts(segments=900), 3: Counts(segments=5)}
        from_start = frozenset({1, 3})

    seen = Totals()
    seen.seen.add(1, Counts(segments=565))
    seen.seen.add(3, Counts(segments=5))
    said = missed(seen, Counters())  # type: ignore[arg-type]
    assert said.startswith("75 retransmitted segments (11.6% of all) had no event: stalls may be missing")
    assert missed(seen, Counters(), {3}) == ""  # type: ignore[arg-type]
    seen.seen.add(1, Counts(segments=75))
    assert missed(seen, Counters()) == ""  # type: ignore[arg-type]
