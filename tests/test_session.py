"""The last word of a live run."""

from __future__ import annotations

from collections import Counter

from tracer.pipeline import Totals
from tracer.session import summary


def test_the_kernels_count_stands_beside_ours() -> None:
    totals = Totals(events=9, retransmits=Counter({1: 3, 2: 4}), stalls=Counter({"timed-out": 2}))
    said = summary(totals, 61, {1: 3, 2: 5})
    assert said == (
        "9 events, 0 lost, 0 connections in 1m01s; 7 retransmissions shown, "
        "the kernel counted 8 (TcpRetransSegs, all connections); 2 stalls: 2 timed-out"
    )


def test_namespaces_that_are_gone_took_their_count_with_them() -> None:
    said = summary(Totals(retransmits=Counter({1: 3, 2: 4})), 1, {1: 3})
    assert "7 retransmissions (4 of network namespaces that are gone) shown, the kernel counted 3 (" in said
