"""Clocks that are set, that live in a namespace of their own, or that went on while the host slept."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime

import pytest
from watching import PATIENCE_S, Watch, both_ends

from tracer.kernel import clocks
from tracer.kernel.live import LiveSource
from tracer.lab.network import SERVER, Lab
from tracer.lab.peers import Server, embedded_client
from tracer.model.events import SUSPEND, Event
from tracer.model.filters import Filter

HOUR_NS = 3600 * 1_000_000_000


@pytest.fixture
def source(lab: Lab) -> Iterator[LiveSource]:
    with LiveSource(Filter(netns=frozenset({lab.client.netns})), lambda: False) as made:
        yield made


def connect_and_look(lab: Lab, source: LiveSource) -> list[Event]:
    """The events of a connection that comes and goes."""
    with embedded_client(lab.client, SERVER, 3306) as client:
        client.ask("query")
    found: list[Event] = []
    deadline = time.monotonic() + PATIENCE_S
    for batch in source:
        found += batch.events
        if any(each.new_state == "CLOSE" for each in found) or time.monotonic() > deadline:
            break
    return found


def test_the_wall_clock_may_be_set_and_the_order_of_events_stays(
    lab: Lab, source: LiveSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Server(lab.server, SERVER, 3306):
        before = connect_and_look(lab, source)
        offset_ns = clocks.offset_ns()
        monkeypatch.setattr(clocks, "offset_ns", lambda: offset_ns - HOUR_NS)
        after = connect_and_look(lab, source)
    assert after[0].ktime_ns > before[-1].ktime_ns
    for each in before:
        assert abs(each.time_ns - each.ktime_ns - offset_ns) < 1_000_000
    for each in after:
        assert abs(each.time_ns - each.ktime_ns - offset_ns + HOUR_NS) < 1_000_000


def test_a_host_that_slept_says_so_and_its_silences_are_longer(
    lab: Lab, source: LiveSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Server(lab.server, SERVER, 3306):
        connect_and_look(lab, source)
        # CLOCK_MONOTONIC and jiffies stand still for an hour, as it looks to us: the other clock is an hour ahead.
        shown = time.monotonic_ns
        monkeypatch.setattr(time, "monotonic_ns", lambda: shown() - HOUR_NS)
        events = connect_and_look(lab, source)
    (slept,) = [each for each in events if each.event == "lost"]
    assert (slept.hook, slept.count) == (SUSPEND, 0)
    assert slept.duration_ms is not None and abs(slept.duration_ms - 3_600_000) < 1000
    assert events[0] is slept


def test_in_a_time_namespace_events_have_the_hosts_time(lab: Lab) -> None:
    """A container may have clocks of its own; the kernel side reads the host's."""
    began = time.time()
    seen = Watch(
        "--netns", both_ends(lab), before=["unshare", "--time", "--boottime", "1000000", "--fork", "--kill-child"]
    )
    try:
        with Server(lab.server, SERVER, 3306), embedded_client(lab.client, SERVER, 3306) as client:
            client.ask("query")
        seen.wait_for(new_state="CLOSE", old_state="FIN_WAIT2")
    finally:
        seen.kill()
    for each in seen.events:
        assert began <= datetime.fromisoformat(each["time"]).timestamp() <= time.time()
