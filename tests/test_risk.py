from __future__ import annotations

from typing import Any

import pytest
from builders import socket

from tracer.analysis.risk import at_risk, first_probe_s, gives_up_s, risks
from tracer.analysis.timer_wheel import lateness

HZ = 250
HOUR = 3600.0
OFF: dict[str, Any] = {"keepalive": False, "timer": None, "timer_ms": None, "attempt": None}


def idle(seconds: int, **fields: Any) -> dict[str, Any]:
    """Keepalive with that first probe, after a minute of silence."""
    return {"keepalive_idle_s": seconds, "timer_ms": (seconds - 60) * 1000, **fields}


@pytest.mark.parametrize(
    ("fields", "reasons"),
    [
        ({}, ["keepalive-late"]),
        (OFF, ["keepalive-off"]),
        (idle(300), []),
        (idle(300, silent_ms=7_000_000, timer_ms=0), ["stranded", "keepalive-late"]),
        ({**OFF, "waiting": True}, ["waiting", "keepalive-off"]),
        ({"waiting": True}, ["waiting", "keepalive-late"]),
        (idle(300, waiting=True), []),
        ({**OFF, "silent_ms": 4_200_000}, ["stranded", "keepalive-off"]),
        ({**OFF, "silent_ms": 4_200_000, "waiting": True}, ["stranded", "waiting", "keepalive-off"]),
        ({**OFF, "silent_ms": None}, ["keepalive-off"]),
        ({**OFF, "silent_ms": 3_600_000}, ["keepalive-off"]),
        ({**OFF, "state": "CLOSE_WAIT"}, []),
        ({**OFF, "state": "SYN_SENT"}, []),
        ({**OFF, "keepalive": None}, []),
    ],
)
def test_what_an_hours_timeout_would_do(fields: dict[str, Any], reasons: list[str]) -> None:
    assert risks(socket(**fields), HOUR, HZ) == reasons


@pytest.mark.parametrize(
    ("laddr", "raddr"),
    [("127.0.0.1", "127.0.0.1"), ("127.0.0.1", "127.8.0.1"), ("::1", "::1"), ("10.1.2.3", "10.1.2.3")],
)
def test_what_does_not_leave_this_host_meets_no_firewall(laddr: str, raddr: str) -> None:
    assert risks(socket(**OFF, laddr=laddr, raddr=raddr), HOUR, HZ) == []


@pytest.mark.parametrize(
    ("port", "waiting_ms", "waits"), [(5672, 30_000, False), (5672, 130_000, True), (80, 9, True)]
)
def test_what_was_sent_last_may_be_a_heartbeat(port: int, waiting_ms: int, waits: bool) -> None:
    found = socket(**OFF, rport=port, waiting=True, waiting_ms=waiting_ms)
    assert ("waiting" in risks(found, HOUR, HZ)) is waits


def look(at_s: float, waiting_ms: int | None, since_received_ms: int | None, **fields: Any) -> Any:
    ordinary: dict[str, Any] = {**OFF, "waiting": waiting_ms is not None, "waiting_ms": waiting_ms}
    found = socket(**{**ordinary, "since_received_ms": since_received_ms, **fields})
    found.time_ns += round(at_s * 1e9)
    return found


@pytest.mark.parametrize(
    ("first", "second", "reasons"),
    [
        (look(0, 60_000, 61_000), look(3, 63_000, 64_000), ["waiting", "keepalive-off"]),
        (look(0, 60_000, None), look(3, 63_000, None), ["waiting", "keepalive-off"]),
        (look(0, 20, 25), look(3, 20, 25), ["keepalive-off"]),  # it is in use
        (look(0, 60_000, 61_000), look(3, 63_000, 900), ["keepalive-off"]),  # an answer, or a part of one
        (look(0, 60_000, 61_000), look(3, 400, 64_000), ["keepalive-off"]),  # it sent again
        (look(0, 60_000, 61_000), look(3, None, 400), ["keepalive-off"]),
        (look(0, None, 400), look(3, 400, 3400), ["keepalive-off"]),
        (look(0, 60_000, 61_000, lport=1), look(3, 63_000, 64_000), ["keepalive-off"]),  # another one
        (
            look(0, 60_000, 61_000),
            look(3, 63_000, 64_000, silent_ms=4_000_000),
            ["stranded", "waiting", "keepalive-off"],
        ),
    ],
)
def test_who_was_heard_between_two_looks_does_not_wait(first: Any, second: Any, reasons: list[str]) -> None:
    (found,) = at_risk([second], HOUR, HZ, [first])
    assert found.at_risk == reasons


def test_a_probe_that_is_due_in_time_may_come_too_late() -> None:
    """The timer wheel's slots are as coarse as the timer is long."""
    in_time = HOUR - lateness(HOUR, HZ)
    assert risks(socket(**idle(int(in_time))), HOUR, HZ) == []
    assert risks(socket(**idle(int(in_time) + 1)), HOUR, HZ) == ["keepalive-late"]
    assert risks(socket(**idle(int(HOUR))), HOUR, HZ) == ["keepalive-late"]


def test_a_timer_that_was_armed_before_the_sysctl_was_lowered_keeps_its_expiry() -> None:
    armed_before = socket(keepalive_idle_s=300, silent_ms=10_000, timer_ms=7_190_000)
    assert first_probe_s(armed_before, HZ) == 7200 + lateness(7200, HZ)
    assert risks(armed_before, HOUR, HZ) == ["keepalive-late"]


def test_what_ends_the_armed_timer_sooner_than_the_idle_time_is_no_probe() -> None:
    """Data came since it was armed: the kernel arms it again for the rest."""
    assert first_probe_s(socket(keepalive_idle_s=300, silent_ms=1000, timer_ms=5000), HZ) == 300 + lateness(300, HZ)


def test_an_interval_longer_than_the_idle_time_decides() -> None:
    assert risks(socket(**idle(300, keepalive_interval_s=7200)), HOUR, HZ) == ["keepalive-late"]


def test_never_without_keepalive() -> None:
    assert first_probe_s(socket(**OFF), HZ) is None
    assert gives_up_s(socket(**OFF), HZ) is None


def test_keepalive_gives_up_after_its_probes() -> None:
    first = 7200 + lateness(7200, HZ)
    assert gives_up_s(socket(), HZ) == first + 9 * (75 + lateness(75, HZ))


@pytest.mark.parametrize(("user_timeout_s", "intervals"), [(1, 1), (7200, 1), (7400, 1), (7500, 3), (8000, 9)])
def test_a_user_timeout_decides_instead_of_the_number_of_probes(user_timeout_s: int, intervals: int) -> None:
    first, interval = 7200 + lateness(7200, HZ), 75 + lateness(75, HZ)
    sock = socket(user_timeout_ms=user_timeout_s * 1000, keepalive_probes=2)
    assert gives_up_s(sock, HZ) == first + intervals * interval


def test_the_worst_comes_first() -> None:
    def of(lport: int, **fields: Any) -> Any:
        return socket(lport=lport, **fields)

    waiting: dict[str, Any] = {**OFF, "waiting": True}
    found = at_risk(
        [
            of(1),
            of(2, **idle(60)),
            of(3, silent_ms=90_000),
            of(4, **OFF),
            of(5, **waiting),
            of(6, **OFF, silent_ms=None),
            of(7, **{**OFF, "silent_ms": 4_000_000}),
            of(8, waiting=True),
            of(9, **{**waiting, "silent_ms": 4_000_000}),
            of(10, **{**OFF, "silent_ms": 5_000_000}),
        ],
        HOUR,
        HZ,
    )
    assert [each.lport for each in found] == [9, 10, 7, 5, 8, 4, 6, 3, 1]
    assert found[0].at_risk == ["stranded", "waiting", "keepalive-off"]
