"""What one look may call stuck, and what it must not."""

from __future__ import annotations

from typing import Any

import pytest
from builders import START, event, socket

from tracer.analysis.stuck import Stuck, hangs_ms, mark, stuck, worst_first
from tracer.model.sockets import Socket, to_json
from tracer.output.sockets import View
from tracer.output.sockets_stuck import stuck_as_text

HZ = 250
SEND: dict[str, Any] = {"timer": "on", "timer_ms": 3000, "unacked_bytes": 34, "snd_wnd": 65536, "stuck_ms": 107_000}
WINDOW: dict[str, Any] = {"timer": "persist", "timer_ms": 100, "unsent_bytes": 9, "snd_wnd": 0, "rto_ms": 204}
PROBES: dict[str, Any] = {"timer": "keepalive", "timer_ms": 10_000, "rto_ms": 204}
REQUEST: dict[str, Any] = {"timer": None, "timer_ms": None, "attempt": None, "waiting": True, "has_reader": True}


@pytest.mark.parametrize(
    ("reason", "fields"),
    [
        (Stuck.RETRANSMITTING, {**SEND, "attempt": 3}),
        (Stuck.RETRANSMITTING, {**SEND, "attempt": 9, "state": "FIN_WAIT1", "orphan": True, "snd_wnd": 0}),
        (Stuck.PROBING, {**PROBES, "attempt": 2}),
        (Stuck.PROBING, {**PROBES, "attempt": 3, "timer_ms": 75_000}),
        (Stuck.PROBING, {**WINDOW, "attempt": 3}),
        (Stuck.PROBING, {**SEND, "attempt": 0, "snd_wnd": 0, "silent_ms": 60_000, "rto_ms": 6000}),
        (Stuck.UNSENT, {**WINDOW, "snd_wnd": 65536, "attempt": 3}),
        (Stuck.WINDOW, {**WINDOW, "attempt": 0, "backoff": 6}),
        (Stuck.WINDOW, {**SEND, "attempt": 0, "snd_wnd": 0, "silent_ms": 2000, "rto_ms": 6000}),
        (Stuck.SYN, {"state": "SYN_SENT", "timer": "on", "attempt": 2, "silent_ms": None}),
        (Stuck.REPLY, {**REQUEST, "waiting_ms": 60_000}),
        (Stuck.REPLY, {**REQUEST, "waiting_ms": 60_000, "timer": "keepalive", "timer_ms": 7_000_000, "attempt": 0}),
        (Stuck.REPLY, {**REQUEST, "waiting_ms": 130_000, "silent_ms": 130_000, "rport": 5672}),
    ],
)
def test_what_hangs(reason: Stuck, fields: dict[str, Any]) -> None:
    assert stuck(socket(**fields)) is reason


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"timer": None, "attempt": None, "timer_ms": None, "keepalive": False},
        {**SEND, "attempt": 0},
        {**SEND, "attempt": 2},
        {**SEND, "attempt": 3, "stuck_ms": 50},  # an RTO of milliseconds
        {**SEND, "attempt": 0, "snd_wnd": 0, "stuck_ms": 500},
        {**PROBES, "attempt": 1},
        {**PROBES, "attempt": 2, "timer_ms": 74_990},  # the second one has just left
        {**PROBES, "attempt": 2, "keepalive": False},
        {"timer": "keepalive", "state": "FIN_WAIT2", "attempt": 0},
        {**WINDOW, "attempt": 0, "backoff": 0, "stuck_ms": 3_600_000},  # a slow reader, for an hour
        {**WINDOW, "attempt": 0, "backoff": 4},
        {**WINDOW, "snd_wnd": 1000, "attempt": 0, "backoff": 0, "stuck_ms": 60_000},  # TCP_CORK
        {**WINDOW, "snd_wnd": 1000, "attempt": 1},
        {"state": "SYN_SENT", "timer": "on", "attempt": 1, "silent_ms": None},
        {**REQUEST, "waiting_ms": 59_000},
        {**REQUEST, "waiting_ms": 900_000, "silent_ms": 14_000},  # it answers keepalive probes
        {**REQUEST, "waiting_ms": 900_000, "silent_ms": 900_000, "has_reader": False},  # an idle log shipper
        {**REQUEST, "waiting_ms": 110_000, "silent_ms": 110_000, "rport": 5672},  # a heartbeat
        {**REQUEST, "waiting_ms": 70_000, "silent_ms": 70_000, "keepalive_idle_s": 60, "keepalive_interval_s": 30},
        {"waiting": False, "silent_ms": 86_400_000},
    ],
)
def test_what_does_not_hang(fields: dict[str, Any]) -> None:
    assert stuck(socket(**fields)) is None


def test_the_worst_first() -> None:
    fin: dict[str, Any] = {**SEND, "attempt": 9, "state": "FIN_WAIT1", "orphan": True, "silent_ms": 999_000}
    found = [
        socket(lport=1, **REQUEST, waiting_ms=70_000),
        socket(lport=2, **SEND, attempt=9),
        socket(lport=3, **fin),
        socket(lport=4),
        socket(lport=5, **SEND, attempt=4, **{"silent_ms": 61_000}),
        socket(lport=6, **PROBES, attempt=5),
    ]
    assert [(reason.name, each.lport) for reason, each in worst_first(found)] == [
        ("RETRANSMITTING", 5), ("RETRANSMITTING", 2), ("RETRANSMITTING", 3), ("PROBING", 6), ("REPLY", 1),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("backoff", "timer_ms", "stuck_ms", "closed_ms"),
    [
        (6, 13_056, None, 204 * 63),
        (6, 6_528, None, 204 * 95),
        (6, 13_056, 204 * 63 + 900, 204 * 63 + 900),  # the kernel's clock agrees
        (6, 13_056, 3_600_000, 204 * 63),  # its clock runs since a slow reader first filled the window
        (0, 100, 3_600_000, 104),
    ],
)
def test_since_when_a_window_is_closed(backoff: int, timer_ms: int, stuck_ms: int | None, closed_ms: int) -> None:
    found = socket(**{**WINDOW, "timer_ms": timer_ms, "backoff": backoff, "stuck_ms": stuck_ms, "attempt": 0})
    assert hangs_ms(found, Stuck.WINDOW, HZ) == closed_ms


def test_a_window_is_closed_for_longer_than_the_probes_show_that_the_kernel_counts() -> None:
    probed: dict[str, Any] = {"kind": "window-probe", "backoff": 6, "unsent_bytes": 9, "snd_wnd": 0}
    clocks: dict[str, Any] = {**WINDOW, "timer_ms": 13_056, "backoff": 6, "stuck_ms": 3_600_000, "attempt": 0}
    for retries, closed_ms in ((6, 3_600_000), (15, 204 * 63)):
        found = socket(**clocks)
        found.trouble = event("found", retries=retries, **probed)
        assert hangs_ms(found, Stuck.WINDOW, HZ) == closed_ms


def retransmitting(**fields: Any) -> Socket:
    """After the third RTO of 204 ms, with tcp_retries2 = 15."""
    ordinary: dict[str, Any] = {
        **SEND, "attempt": 3, "rto_ms": 1632, "silent_ms": 4_000_000, "stuck_ms": 2000, "timer_ms": 1000,
        "backoff": 3, "raddr": "10.77.2.3", "rport": 5432,
    }  # fmt: skip
    found = socket(**{**ordinary, **fields})
    found.trouble = event(
        "found", kind="retransmit", attempt=3, backoff=3, ca_state="Loss", rto_ms=1632, rto_max_ms=120_000,
        retries=15, retrying_ms=1500, stuck_ms=found.stuck_ms, timer_ms=found.timer_ms, silent_ms=found.silent_ms,
        jiffies=1000, unacked_bytes=34, snd_wnd=65536, user_timeout_ms=0,
    )  # fmt: skip
    return found


def test_since_when_and_until_when_in_json() -> None:
    (found,) = mark([retransmitting(), socket()], HZ)
    told = to_json(found)
    assert (told["stuck"], told["since"]) == ("retransmitting", "2027-01-15T07:59:58.000000Z")
    # 924.6 s after the first retransmission at the latest expiry: as the kernel computes it.
    assert 900_000 < told["gives_up_in_ms"] < 1_000_000
    assert told["gives_up_at"].startswith("2027-01-15T08:15:")
    (unknown,) = mark([socket(**SEND, attempt=3)], HZ)
    assert not {"gives_up_at", "gives_up_in_ms"} & to_json(unknown).keys()


def text_of(*found: Socket, **options: Any) -> list[str]:
    return "".join(stuck_as_text(mark(found, HZ), View(hz=HZ, stuck=True, **options))).splitlines()


def test_probes_of_a_closed_window_without_an_answer_are_named() -> None:
    for attempt, unanswered in ((1, False), (2, True)):
        lines = text_of(socket(**{**WINDOW, "attempt": attempt, "backoff": 8}))
        assert lines[0] == "Closed window: the peer's application does not read."
        assert ("2 probes unanswered" in lines[2]) is unanswered


def test_an_account_of_each_group() -> None:
    pool = [retransmitting(comm="gunicorn", pid=pid, pids=[pid], lport=pid) for pid in range(1, 201)]
    lines = text_of(*pool, socket(**REQUEST, waiting_ms=81_000, silent_ms=81_000, keepalive=False), socket())
    assert lines[:2] == [
        "Retransmitting: the peer acknowledges nothing.",
        "  gunicorn (200 processes) → 10.77.2.3:5432 × 200",
    ]
    facts = " ".join(line.strip() for line in lines[2:4])
    assert facts.startswith(
        "since 07:59:58 (2.0s), 3 retransmissions, silent for 1h06m, 6800 B unacked, gives up at 08:15:"
    )
    assert lines[4:6] == ["      sudo tcpwatch end --stuck --host 10.77.2.3 --rport 5432", ""]
    assert lines[-3:] == [
        "  php[8506] → 10.66.2.2:3306",
        "      since 07:58:39 (1m21s), keepalive off: no time limit",
        "      sudo tcpwatch end --host 10.66.2.2 --lport 33356 --rport 3306",
    ]
    assert all(len(line) <= 80 for line in lines)


def test_each_connection_with_its_own_command() -> None:
    lines = text_of(retransmitting(lport=1), retransmitting(lport=2), each=True)
    assert [line for line in lines if "sudo" in line] == [
        f"      sudo tcpwatch end --stuck --host 10.77.2.3 --lport {port} --rport 5432" for port in (1, 2)
    ]
    assert "  php[8506]  10.66.1.2:1 → 10.77.2.3:5432" in lines


def test_the_clients_of_a_local_service() -> None:
    clients = [
        retransmitting(accepted=True, lport=443, raddr=f"10.0.0.{number}", rport=50_000, comm="nginx")
        for number in (1, 2)
    ]
    assert "      sudo tcpwatch end --stuck --lport 443" in text_of(*clients)
    assert "      sudo tcpwatch end --stuck --host 10.0.0.1 --lport 443" in text_of(clients[0])


def test_no_command_where_it_would_end_others_or_help_nobody() -> None:
    waiting = [socket(**REQUEST, waiting_ms=90_000, silent_ms=90_000, lport=port) for port in range(1, 20)]
    assert "sudo" not in "".join(text_of(*waiting))
    orphan = retransmitting(orphan=True, state="FIN_WAIT1", pid=None, comm=None, pids=None)
    lines = text_of(orphan)
    assert "sudo" not in "".join(lines) and "closed by its process" in " ".join(line.strip() for line in lines)


def test_a_give_up_time_of_a_group_is_a_window_and_needs_all_of_them() -> None:
    early, late = retransmitting(), retransmitting(lport=2)
    assert late.trouble is not None
    late.trouble.known()["retries"] = 8
    assert "gives up between 08:01:" in " ".join(line.strip() for line in text_of(early, late))
    late.trouble = None
    assert "gives up" not in " ".join(text_of(early, late))


def test_another_day_has_its_date() -> None:
    old = socket(**REQUEST, waiting_ms=86_400_000 * 2, silent_ms=86_400_000 * 2)
    assert "since 2027-01-13 08:00:00 (2d00h)" in " ".join(line.strip() for line in text_of(old))
    assert START // 10**9 == 1_800_000_000
