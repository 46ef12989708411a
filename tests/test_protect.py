"""`tcpwatch protect` without a kernel: what it sets, what it shows, and when it refuses."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from builders import socket

from tracer.act.protection import ends_on_one_probe, is_armed_late, may_be_idle, protected
from tracer.model.protection import Protection, Settings

OFF = Settings(keepalive=False, keepalive_idle_s=7200, keepalive_interval_s=75, keepalive_probes=9, user_timeout_ms=0)
MINUTE = Protection(idle_s=60)


def settings(**members: Any) -> Settings:
    return replace(OFF, keepalive=True, **members)


def by_minute(user_timeout_ms: int) -> Settings:
    return settings(keepalive_idle_s=60, keepalive_interval_s=60, user_timeout_ms=user_timeout_ms)


@pytest.mark.parametrize(
    ("before", "wanted", "after"),
    [
        (OFF, MINUTE, settings(keepalive_idle_s=60, keepalive_interval_s=60)),
        (OFF, Protection(600), settings(keepalive_idle_s=600)),
        (OFF, Protection(60, 10, 3), settings(keepalive_idle_s=60, keepalive_interval_s=10, keepalive_probes=3)),
        (OFF, Protection(60, 300, 99), settings(keepalive_idle_s=60)),
        (settings(), Protection(9000), settings()),
        (settings(keepalive_idle_s=15, keepalive_interval_s=15), MINUTE,
         settings(keepalive_idle_s=15, keepalive_interval_s=15)),
        (settings(keepalive_idle_s=15), MINUTE, settings(keepalive_idle_s=15, keepalive_interval_s=60)),
        (OFF, Protection(60, 10, 3, 30_000),
         settings(keepalive_idle_s=60, keepalive_interval_s=10, keepalive_probes=3, user_timeout_ms=30_000)),
        (by_minute(5000), replace(MINUTE, user_timeout_ms=30_000),
         by_minute(5000)),
        (by_minute(50_000), replace(MINUTE, user_timeout_ms=30_000),
         by_minute(30_000)),
    ],
)  # fmt: skip
def test_what_is_set(before: Settings, wanted: Protection, after: Settings) -> None:
    assert protected(before, wanted) == after


def test_a_long_user_timeout_does_not_delay_what_keepalive_ends() -> None:
    """A user timeout replaces the count of probes."""
    own = settings(keepalive_idle_s=10, keepalive_interval_s=5, keepalive_probes=3)
    assert protected(own, Protection(60, user_timeout_ms=600_000)).user_timeout_ms == 25_000
    long = replace(own, user_timeout_ms=900_000)
    assert protected(long, Protection(60, user_timeout_ms=600_000)).user_timeout_ms == 25_000
    assert protected(long, MINUTE).user_timeout_ms == 900_000, "not asked for"


def gives_up_ms(settings: Settings) -> float:
    """When the kernel ends an idle connection with a dead peer: tcp_keepalive_timer()."""
    if not settings.keepalive:
        return float("inf")
    probes, at_ms = 0, 1000 * settings.keepalive_idle_s
    while True:
        timeout_ms = settings.user_timeout_ms
        if (timeout_ms and probes and at_ms >= timeout_ms) or (
            not timeout_ms and probes >= settings.keepalive_probes
        ):
            return at_ms
        probes += 1
        at_ms += 1000 * settings.keepalive_interval_s


def test_nothing_is_ever_loosened() -> None:
    times, counts, timeouts_ms = (1, 10, 60, 7200), (1, 3, 9), (0, 5_000, 70_000, 700_000)
    checked = 0
    for keepalive, idle, interval, probes, timeout in product((False, True), times, times, counts, timeouts_ms):
        before = Settings(keepalive, idle, interval, probes, timeout)
        for asked in product(times, (None, *times), (None, *counts), (None, *timeouts_ms[1:])):
            after = protected(before, Protection(*asked))
            assert after.keepalive and after.keepalive_idle_s <= min(idle, asked[0])
            assert after.keepalive_interval_s <= interval and after.keepalive_probes <= probes
            assert not timeout or 0 < after.user_timeout_ms <= timeout
            assert asked[3] is None or 0 < after.user_timeout_ms <= asked[3]
            # The kernel compares a user timeout with the silence only when a probe is due.
            granularity_ms = 1000 * after.keepalive_interval_s if after.user_timeout_ms else 0
            assert gives_up_ms(after) <= gives_up_ms(before) + granularity_ms, (before, asked, after)
            assert protected(after, Protection(*asked)) == after, "a second time changes nothing"
            checked += 1
    assert checked > 10_000


@pytest.mark.parametrize(
    ("user_timeout_ms", "is_one"), [(0, False), (30_000, True), (70_000, True), (70_001, False), (80_000, False)]
)
def test_a_user_timeout_that_one_lost_probe_would_reach(user_timeout_ms: int, is_one: bool) -> None:
    found = settings(keepalive_idle_s=60, keepalive_interval_s=10, user_timeout_ms=user_timeout_ms)
    assert ends_on_one_probe(found) == is_one
    if user_timeout_ms:
        assert (gives_up_ms(found) == 70_000) == is_one


@pytest.mark.parametrize(
    ("members", "late"),
    [
        ({"timer_ms": 7_140_000}, True),
        ({"timer_ms": 60_000}, False),
        ({"timer_ms": 60_500}, False),
        ({"timer_ms": 75_000, "attempt": 2}, False),
        ({"timer": "on", "timer_ms": 7_140_000}, False),
        ({"timer": None, "timer_ms": None}, False),
    ],
)
def test_a_timer_that_a_lowered_sysctl_left_behind(members: dict[str, Any], late: bool) -> None:
    assert is_armed_late(socket(**members), settings(keepalive_idle_s=60)) == late


def test_states() -> None:
    assert may_be_idle(socket()) and may_be_idle(socket(state="CLOSE_WAIT"))
    assert not may_be_idle(socket(state="SYN_SENT"))
    assert not may_be_idle(socket(state="FIN_WAIT2", orphan=True))
