"""Sockets as they are: from the record to the row, and what a person sees."""

from __future__ import annotations

import json
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from builders import SECOND, START, record, socket
from hypothesis import given
from hypothesis import strategies as st
from running import tcpwatch

from tracer.analysis.idle_timeouts import IdleTimeoutRange
from tracer.analysis.keepalive_time import keepalive_for
from tracer.analysis.risk import at_risk
from tracer.kernel import held_records, host
from tracer.kernel import sockets as walk
from tracer.kernel.holders import Held
from tracer.kernel.owner_names import NameFinder
from tracer.kernel.processes import Process
from tracer.kernel.program.btf import KernelTypes
from tracer.kernel.socket_records import SocketRecords
from tracer.model.errors import TcpwatchError
from tracer.model.filters import Filter
from tracer.model.sockets import Socket, longest_silence_first, to_json
from tracer.output.rows import columns_of
from tracer.output.sockets import View, about_sockets, sockets_as_json, sockets_as_text
from tracer.output.sockets_risk import risks_as_text

KEEPALIVE_TIMER, WAITS, ACCEPTED, HAS_WAITER = 100, 64, 32, 512
HZ = 250
OFF: dict[str, Any] = {"keepalive": False, "timer": None, "timer_ms": None, "attempt": None}


ORDINARY = {"type": 8, "pending": 0, "unacked": 0, "since_sent": 2053, "since_data": 2100, "silent": 2052}


def decode_all(data: bytes, held: Held | None = None, **options: Any) -> list[Socket]:
    return list(
        SocketRecords(
            HZ, held or {}, 100 * SECOND, names=NameFinder(lambda _: "/a", proc=Path("/nowhere")), **options
        ).decode(data)
    )


def decode(**members: Any) -> Socket:
    (found,) = decode_all(record(**{**ORDINARY, **members}))
    return found


def test_a_waiting_client() -> None:
    found = decode(flags=1 | 2 | WAITS | HAS_WAITER, timer=KEEPALIVE_TIMER, timer_in=1_700_000, unread=0)
    assert to_json(found) == {
        "time": "1970-01-01T00:01:45.000000Z",
        "family": 4,
        "laddr": "10.66.1.2",
        "lport": 33356,
        "raddr": "10.66.2.2",
        "rport": 3306,
        "netns": 4026532000,
        "state": "ESTABLISHED",
        "accepted": False,
        "inode": 4711,
        "silent_ms": 8208,
        "since_sent_ms": 8212,
        "since_received_ms": 8400,
        "waiting": True,
        "waiting_ms": 8212,
        "has_reader": True,
        "unacked_bytes": 0,
        "unread_bytes": 0,
        "snd_wnd": 65536,
        "timer": "keepalive",
        "timer_ms": 6_800_000,
        "attempt": 0,
        "rto_ms": 204,
        "srtt_ms": 0.039,
        "ca_state": "Open",
        "backoff": 0,
        "keepalive": True,
        "keepalive_idle_s": 7200,
        "keepalive_idle_own": False,
        "keepalive_interval_s": 75,
        "keepalive_probes": 9,
        "user_timeout_ms": 0,
    }


def test_an_end_that_was_accepted_has_answered_and_waits_for_nothing() -> None:
    found = decode(flags=1 | 2 | WAITS | ACCEPTED)
    assert (found.accepted, found.waiting, found.waiting_ms) == (True, False, None)


def test_only_an_open_connection_waits() -> None:
    assert decode(flags=1 | WAITS, state=8).waiting is False


@pytest.mark.parametrize(("number", "name"), [(1, "on"), (5, "on"), (6, "on"), (3, "persist"), (100, "keepalive")])
def test_timers_have_the_names_that_ss_gives_them(number: int, name: str) -> None:
    found = decode(timer=number, timer_in=758, attempt=4)
    assert (found.timer, found.timer_ms, found.attempt) == (name, 3032, 4)


def test_the_owner_and_the_trouble_of_each_socket() -> None:
    php, node = Process(8506, "php", None), Process(8600, "MainThread", "node")
    data = b"".join(
        (
            record(**ORDINARY, sk=1, inode=11, cgroup=5),
            record(**ORDINARY, sk=2, inode=12),
            record(**{**ORDINARY, "type": 9}, sk=2, inode=12, found_like=1, attempt=4, timer_in=500),
            record(**ORDINARY, sk=3, inode=0),
            record(type=0, sk=4),
        )
    )
    first, second, orphan = decode_all(data, {11: (php,), 12: (php, node)})
    assert (first.pid, first.comm, first.pids, first.cgroup) == (8506, "php", [8506], "/a")
    assert (second.pid, second.pids, second.cgroup) == (8506, [8506, 8600], None)
    assert (orphan.pid, orphan.pids, orphan.inode) == (None, None, None)
    assert first.trouble is None and orphan.trouble is None
    assert second.trouble is not None
    assert (second.trouble.event, second.trouble.kind, second.trouble.timer_ms) == ("found", "retransmit", 2000)
    assert "trouble" not in to_json(second)


def test_a_held_socket_in_trouble_has_two_records_and_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = record(**ORDINARY, sk=2)
    trouble = record(**{**ORDINARY, "type": 9}, sk=2, found_like=1)
    listener = record(**{**ORDINARY, "type": 0}, sk=3)
    held = held_records.HeldRecords(plain + trouble + listener + plain + trouble)
    monkeypatch.setattr(held_records, "_sockets_in_use", lambda: 2)
    assert held.are_all(4026532000)
    assert held.records(4026532000) == plain + trouble
    (found,) = decode_all(held.records(4026532000))
    assert found.trouble is not None


def test_filters_of_processes_and_of_silence() -> None:
    data = record(**ORDINARY, inode=11) + record(**{**ORDINARY, "silent": 10}, inode=12)
    held: Held = {11: (Process(8506, "php", None),), 12: (Process(8600, "MainThread", "node"),)}

    def pids(wanted: Filter) -> list[int | None]:
        return [each.pid for each in decode_all(data, held, wanted=wanted.of_any_connection().chooses)]

    assert pids(Filter(pids=frozenset({8506}))) == [8506]
    assert pids(Filter(comms=frozenset({"node"}))) == [8600]
    assert pids(Filter(min_idle_ms=1000)) == [8506]


def test_without_a_timer_there_is_nothing_to_count() -> None:
    found = decode(timer=0, timer_in=0, attempt=0)
    assert (found.timer, found.timer_ms, found.attempt) == (None, None, None)


def test_what_was_never_sent_nor_received_is_absent() -> None:
    found = decode(state=2, since_sent=0xFFFFFFFF, since_data=0xFFFFFFFF, silent=0xFFFFFFFF)
    assert not {"since_sent_ms", "since_received_ms", "silent_ms", "waiting_ms"} & to_json(found).keys()


def test_the_longest_silence_comes_first_and_the_unknown_last() -> None:
    found = longest_silence_first([socket(silent_ms=ms) for ms in (5, None, 70, 0)])
    assert [each.silent_ms for each in found] == [70, 5, 0, None]


def test_json_is_one_object_a_line_and_harmless() -> None:
    (line,) = sockets_as_json([socket(comm="\x1b[2J\xe9")])
    assert line.endswith("}\n") and line.isascii() and line.count("\n") == 1
    assert json.loads(line) == to_json(socket(comm="\x1b[2J\xe9"))


@given(st.data())
def test_a_line_is_what_json_makes_of_it(data: st.DataObject) -> None:
    values = {"str": st.text(), "int": st.integers(0, 2**63), "bool": st.booleans(), "float": st.floats(0, 1e9)}
    values |= {"list[int]": st.lists(st.integers(0, 9)), "list[str]": st.lists(st.text(), max_size=3)}
    known: dict[str, Any] = {
        field.name: data.draw(st.none() | values[str(field.type).removesuffix(" | None")])
        for field in fields(Socket)
        if field.name not in ("time_ns", "trouble")
    }
    found = Socket(time_ns=START, **known)
    assert list(sockets_as_json([found])) == [json.dumps(to_json(found), separators=(",", ":")) + "\n"]


def text_of(*found: Socket, **options: Any) -> str:
    return "".join(sockets_as_text(found, View(hz=HZ, **options)))


def cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.split("  ") if cell.strip()]


def test_a_row_for_each_connection() -> None:
    text = text_of(
        socket(silent_ms=3_720_000, timer_ms=3_480_000),
        socket(timer="on", timer_ms=3032, attempt=4, unacked_bytes=527, soft_error="EHOSTUNREACH"),
        socket(timer="persist", timer_ms=5200, attempt=0, unsent_bytes=717_656, unread_bytes=3, snd_wnd=0),
        socket(**OFF, state="CLOSE_WAIT", waiting=True, waiting_ms=5800, silent_ms=None, pid=None, comm=None),
        socket(family=6, laddr="fd66:1::2", raddr="fd66:2::2", comm="a\x1bb", pids=[8506, 8507]),
        socket(keepalive_idle_s=90, keepalive_interval_s=5400, keepalive_probes=3),
        socket(attempt=1, timer_ms=40_000),
        each=True,
        width=84,
    )
    ends = ["10.66.1.2:33356", "10.66.2.2:3306"]
    assert [cells(row) for row in text.splitlines()] == [
        ["LOCAL", "REMOTE", "SILENT", "WAITING", "KEEPALIVE", "OWNER"],
        [*ends, "1m00s", "-", "2h+9x75s", "php[8506]"],
        ["4 retransmissions unanswered, next in 3.0s, 527 B unacked, EHOSTUNREACH"],
        [*ends, "1h02m", "-", "2h+9x75s", "php[8506]"],
        [*ends, "1m00s", "-", "2h+9x75s", "php[8506]"],
        ["closed window, next probe in 5.2s, 700 KB unsent, 3 B unread"],
        [*ends, "-", "5.8s", "off", "-", "CLOSE_WAIT"],
        ["[fd66:1::2]:33356", "[fd66:2::2]:3306", "1m00s", "-", "2h+9x75s", "a\\x1bb[8506] +1"],
        [*ends, "1m00s", "-", "90s+3x1h30m", "php[8506]"],
        [*ends, "1m00s", "-", "2h+9x75s", "php[8506]"],
        ["1 keepalive probe unanswered, next in 40.0s"],
    ]


LONG6 = {
    "family": 6,
    "laddr": "2001:db8:85a3:8d3:1319:8a2e:370:7348",
    "raddr": "2001:db8:85a3:8d3:1319:8a2e:370:7349",
}
WORST4: dict[str, Any] = {"laddr": "192.168.100.100", "lport": 60999, "raddr": "192.168.200.200", "rport": 65535}


@pytest.mark.parametrize("each", [False, True], ids=["groups", "each"])
def test_a_long_pair_stands_alone_and_widens_no_other_row(each: bool) -> None:
    short = [socket(lport=number, comm=f"app{number}", rport=3306 + number) for number in range(1, 4)]
    alone = text_of(*short, each=each)
    together = text_of(*short, socket(**LONG6, silent_ms=1), each=each).splitlines()
    assert alone.splitlines() == together[:4]
    assert "[2001:db8:85a3:8d3:1319:8a2e:370:7349]:3306" in together[4]
    assert cells(together[5])[:3] == ["1ms", "-", "2h+9x75s"]
    assert together[5].index("1ms") == together[1].index("1m00s")


@pytest.mark.parametrize("each", [False, True], ids=["groups", "each"])
@pytest.mark.parametrize("is_terminal", [False, True], ids=["pipe", "terminal"])
def test_ipv4_fits_eighty_columns(each: bool, is_terminal: bool) -> None:
    trouble: dict[str, Any] = {
        "timer": "on", "timer_ms": 100_000, "attempt": 12, "unacked_bytes": 99_999, "unsent_bytes": 2**31,
        "unread_bytes": 2**31, "soft_error": "EHOSTUNREACH", "silent_ms": 59_000, "state": "CLOSE_WAIT",
    }  # fmt: skip
    found = [
        socket(**WORST4, comm="pgbouncer", pid=4_194_303),
        socket(**WORST4, **trouble, comm="pgbouncer", pid=4_194_303),
        socket(**{**WORST4, "lport": 65535}, comm="nginx", accepted=True),
        socket(waiting=True, waiting_ms=100 * 3_600_000, keepalive_idle_s=3660, keepalive_interval_s=3661),
    ]
    for line in text_of(*found, each=each, is_terminal=is_terminal).splitlines():
        assert len(line) <= 80, line
    ttl = risks_as_text(at_risk(found, 3600, HZ), 3600, View(hz=HZ, each=each, is_terminal=is_terminal))
    sentences = [line for line in "".join(ttl).splitlines() if not line.startswith("    sudo ")]
    assert max(map(len, sentences)) <= 80


@pytest.mark.parametrize("each", [False, True], ids=["groups", "each"])
@pytest.mark.parametrize("name", ["x" * 200, "\x1b[2J" * 20, "名" * 60, "e\u0301" * 60])
def test_a_terminal_shortens_names_last(name: str, each: bool) -> None:
    found = [socket(comm=name, rport=port) for port in (1, 2)]
    for width in (60, 80, 132):
        lines = text_of(*found, each=each, width=width, is_terminal=True).splitlines()
        assert all(columns_of(line) <= width for line in lines)
        assert "10.66.2.2:1" in "\n".join(lines) and "2h+9x75s" in "\n".join(lines)
        assert "…" in "\n".join(lines) or columns_of(name) < width
    assert "…" not in text_of(*found, each=each, width=80), "a pipe has room"


def test_a_wide_terminal_is_used() -> None:
    row = socket(timer="on", timer_ms=3032, attempt=4, unacked_bytes=527)
    assert len(text_of(row, each=True, width=80).splitlines()) == 3
    assert len(text_of(row, each=True, width=140).splitlines()) == 2


def test_a_pool_is_one_row_and_what_hangs_comes_first() -> None:
    pool = {"comm": "pgbouncer", "pid": 30903, "raddr": "10.77.2.3", "rport": 5432}
    hanging: dict[str, Any] = {"timer": "on", "attempt": 9, "unacked_bytes": 34, "stuck_ms": 107_000}
    text = text_of(
        *(socket(comm="php", silent_ms=90_000_000) for _ in range(3)),
        *(socket(**pool, lport=number, silent_ms=number) for number in range(1, 498)),
        socket(**pool, **hanging),
        socket(**pool, waiting=True, waiting_ms=130_000),
        socket(**pool, state="CLOSE_WAIT", **OFF),
    )
    heading, first, *note, last = text.splitlines()
    assert cells(heading) == ["OWNER → SERVICE × CONNECTIONS", "SILENT", "WAITING", "KEEPALIVE"]
    assert cells(first) == ["pgbouncer[30903] → 10.77.2.3:5432 × 500", "1ms–1m00s", "2m10s", "mixed"]
    assert " ".join(line.strip() for line in note) == (
        "1 retransmitting, 1 waiting for a reply, 9 retransmissions unanswered, 1 CLOSE_WAIT, keepalive off on 1, "
        "34 B unacked"
    )
    assert cells(last) == ["php[8506] → 10.66.2.2:3306 × 3", "1d01h", "-", "2h+9x75s"]


def test_of_each_connection_too_what_hangs_comes_first() -> None:
    hanging: dict[str, Any] = {"timer": "on", "attempt": 9, "unacked_bytes": 34, "silent_ms": 3}
    found = [socket(lport=1, silent_ms=9000), socket(lport=2, silent_ms=8000), socket(lport=3, **hanging)]
    rows = [row for row in text_of(*found, each=True).splitlines() if row.startswith("10.")]
    assert [row.split()[0] for row in rows] == ["10.66.1.2:3", "10.66.1.2:1", "10.66.1.2:2"]


def test_what_is_remarkable_is_never_shortened() -> None:
    pool = [socket(state=state, lport=number) for number, state in enumerate(["CLOSE_WAIT", "FIN_WAIT2", "SYN_SENT"])]
    trouble: dict[str, Any] = {"timer": "on", "attempt": 9, "unacked_bytes": 34, "unsent_bytes": 99_999}
    text = text_of(*pool, socket(**trouble, **{"keepalive": False}), width=60, is_terminal=True)
    assert "…" not in text and "97" not in text and "99999 B unsent" in " ".join(text.split())


def test_many_workers_are_one_group() -> None:
    text = text_of(*(socket(comm="gunicorn", pid=pid, pids=[pid], lport=pid) for pid in range(1, 201)))
    assert cells(text.splitlines()[1])[0] == "gunicorn (200 processes) → 10.66.2.2:3306 × 200"


def test_clients_of_a_local_service_are_one_group() -> None:
    clients = [
        socket(comm="sshd", pid=9, lport=22, raddr=f"10.0.0.{number}", rport=50000 + number, accepted=True)
        for number in (1, 2, 2)
    ]
    assert cells(text_of(*clients).splitlines()[1])[0] == "sshd[9] port 22, from 2 clients × 3"
    assert cells(text_of(clients[0]).splitlines()[1])[0] == "sshd[9] port 22, from 10.0.0.1"


def test_many_servers_on_one_port_are_one_group() -> None:
    servers = [socket(comm="prometheus", raddr=f"10.0.0.{number}", rport=9100) for number in range(200)]
    (row,) = text_of(*servers).splitlines()[1:]
    assert cells(row)[0] == "prometheus[8506] → port 9100 of 200 hosts × 200"
    assert len(text_of(*servers[:8]).splitlines()) == 9


def test_one_address_in_two_namespaces_is_two_services_only_if_it_is_local() -> None:
    remote = [socket(netns=netns) for netns in (1, 2)]
    local = [socket(netns=netns, laddr="127.0.0.1", raddr="127.0.0.1") for netns in (1, 2)]
    accepted = [socket(netns=netns, accepted=True) for netns in (1, 2)]
    assert [len(text_of(*found).splitlines()) - 1 for found in (remote, local, accepted)] == [1, 2, 2]


def test_no_connection_is_no_text() -> None:
    assert text_of() == text_of(each=True) == ""


def shown(*found: Socket, ttl_s: float = 3600, each: bool = True, own_netns: int | None = None) -> str:
    view = View(hz=HZ, each=each, width=300, own_netns=own_netns)
    return "".join(risks_as_text(at_risk(found, ttl_s, HZ), ttl_s, view))


def test_those_at_risk_are_grouped_too() -> None:
    text = shown(*(socket(lport=number, silent_ms=number, **OFF) for number in range(1, 501)), each=False)
    heading, columns, row, *_ = text.splitlines()
    assert heading == "500 connections would be forgotten after 1h of silence. Keepalive is off."
    assert cells(columns) == ["OWNER → SERVICE × CONNECTIONS", "SILENT"]
    assert cells(row) == ["php[8506] → 10.66.2.2:3306 × 500", "1ms–500ms"]
    late = shown(*(socket(silent_ms=number) for number in (1, 2)), each=False)
    assert cells(late.splitlines()[2]) == ["php[8506] → 10.66.2.2:3306 × 2", "1ms–2ms", "2h+9x75s", "2h02m"]


def test_each_kind_of_risk_has_its_sentence_and_its_table() -> None:
    waiting: dict[str, Any] = {"waiting": True, "waiting_ms": 60_000}
    text = shown(
        socket(lport=1, **OFF, **waiting, silent_ms=4_200_000),
        socket(lport=2, **OFF, **waiting),
        socket(lport=3, **OFF, **waiting),
        socket(lport=4, **waiting),
        socket(lport=5, **OFF, silent_ms=4_200_000),
        socket(lport=6),
        socket(lport=7, silent_ms=59_000),
    )
    paragraphs = [paragraph.splitlines() for paragraph in text.split("\n\n")]
    assert [paragraph[0] for paragraph in paragraphs[:-1]] == [
        "1 connection waits for a reply, silent for more than 1h. Such a firewall drops the reply. "
        "Keepalive is off: it waits with no time limit.",
        "1 connection has been silent for more than 1h. Such a firewall has forgotten it. Keepalive is off.",
        "2 connections wait for a reply. After 1h of silence such a firewall drops the reply. "
        "Keepalive is off: they wait with no time limit.",
        "1 connection waits for a reply. After 1h of silence such a firewall drops the reply. "
        "Keepalive comes too late: it waits until keepalive gives up.",
        "2 connections would be forgotten after 1h of silence. Keepalive comes too late.",
    ]
    assert [[row.split()[0] for row in paragraph[2:]] for paragraph in paragraphs[:-1]] == [
        ["10.66.1.2:1"], ["10.66.1.2:5"], ["10.66.1.2:2", "10.66.1.2:3"], ["10.66.1.2:4"],
        ["10.66.1.2:6", "10.66.1.2:7"],
    ]  # fmt: skip
    assert paragraphs[0][1].split() == ["LOCAL", "REMOTE", "SILENT", "WAITING", "OWNER"]
    headings = ["LOCAL", "REMOTE", "SILENT", "WAITING", "KEEPALIVE", "PROBE", "GIVES", "UP", "OWNER"]
    assert paragraphs[3][1].split() == headings
    assert paragraphs[3][2].split()[2:] == ["1m00s", "1m00s", "2h+9x75s", "2h02m", "2h13m", "php[8506]"]
    assert paragraphs[4][3].split()[2:] == ["59.0s", "2h+9x75s", "2h02m", "php[8506]"]


def test_what_helps_can_be_typed() -> None:
    helps = shown(
        socket(), socket(netns=4026532001, pids=None, pid=None), socket(**OFF), socket(keepalive_idle_own=True)
    )
    value = "sysctl -w net.ipv4.tcp_keepalive_time=60\n"
    assert f"In network namespace 4026532000:\n    sudo nsenter -t 8506 -n {value}" in helps
    assert "In network namespace 4026532001:\n    sudo nsenter" not in helps
    assert f"In network namespace 4026532001:\n    sudo {value}" in helps
    assert f"In this network namespace:\n    sudo {value}" in shown(socket(), own_netns=4026532000)
    assert (
        "The application has to set SO_KEEPALIVE, and TCP_KEEPIDLE=60 or net.ipv4.tcp_keepalive_time=60.\n" in helps
    )
    assert (
        "If the application set TCP_KEEPIDLE itself, only the application can lower it: TCP_KEEPIDLE=60 and" in helps
    )
    assert "60s is below the default idle timeout of every firewall" in helps


def test_the_settings_of_known_programs_can_be_typed() -> None:
    server: dict[str, Any] = {"accepted": True, "lport": 443, "rport": 51000, "comm": "haproxy"}
    helps = shown(
        socket(**OFF, comm="node", rport=5672),
        socket(**OFF, comm="MainThread", exe="node", rport=5432),
        socket(**OFF, comm="gunicorn", exe="python3.11", rport=5432),
        socket(**OFF, **server),
        socket(keepalive_idle_own=True, comm="python3", rport=5672),
    )
    for line in (
        "node to port 5672, if this is amqplib: {keepAlive: true, keepAliveDelay: 60000} as its socket options\n",
        "MainThread to port 5432, if this is node-postgres: keepAlive: true, keepAliveInitialDelayMillis: 60000\n",
        "gunicorn to port 5432, if this is asyncpg: server_settings={'tcp_keepalives_idle': '60', ",
        "haproxy from port 443, for HAProxy alone: option clitcpka, clitcpka-idle 60s, clitcpka-intvl 60s in its",
        "python3 to port 5672, if this is kombu: transport_options={'socket_settings': {socket.TCP_KEEPIDLE: 60, ",
    ):
        assert f"\n{line}" in helps
    many = shown(
        *(
            socket(**OFF, comm="pg_dump", rport=5432, exe=None),
            *(
                socket(**{**OFF, "comm": "curl", "rport": port, "keepalive": True, "keepalive_idle_own": True})
                for port in range(9)
            ),
        )
    )
    assert "… and settings of 3 more programs" in many


def test_no_sysctl_is_advised_where_it_would_change_nothing() -> None:
    assert "sysctl" not in shown(socket(keepalive_idle_own=True))
    # Lowered already; only the armed timer is still the old one.
    lowered = shown(socket(keepalive_idle_s=300))
    assert "sysctl -w" not in lowered
    assert "Open connections use a new value when their current timer expires." in lowered
    assert "below the default" not in lowered, "no value is advised"


def test_the_interval_is_lowered_where_it_is_what_comes_too_late() -> None:
    text = shown(socket(keepalive_idle_s=300, keepalive_interval_s=7200))
    assert "-n sysctl -w net.ipv4.tcp_keepalive_intvl=60\n" in text


@pytest.mark.parametrize("ttl_s", [4, 8.8, 70, 90, 240, 3600, 4 * 3600, 12 * 3600])
def test_the_value_is_the_one_that_is_advised_after_as_long_a_silence(ttl_s: float) -> None:
    advised = keepalive_for(IdleTimeoutRange(None, round(ttl_s * 1000)), None, HZ)
    assert f"sysctl -w net.ipv4.tcp_keepalive_time={advised}" in shown(socket(keepalive_idle_s=86400), ttl_s=ttl_s)
    assert f"TCP_KEEPIDLE={advised} or" in shown(socket(**OFF), ttl_s=ttl_s)


def test_where_keepalive_is_off_the_interval_may_be_too_long_as_well() -> None:
    too = "The interval must be short, too: TCP_KEEPINTVL=30 or net.ipv4.tcp_keepalive_intvl=30.\n"
    assert too in shown(socket(**OFF), ttl_s=70)
    assert "interval" not in shown(socket(**OFF))


def test_many_namespaces_are_counted() -> None:
    text = shown(*(socket(netns=4026532000 + number) for number in range(10)))
    assert text.count("In network namespace") == 4
    assert "… and likewise in 6 more network namespaces." in text


def test_what_is_at_risk_is_protected_by_a_command_for_each_service() -> None:
    text = shown(socket(), socket(rport=5432, keepalive=False), socket(lport=6379, accepted=True))
    for filters in ("--rport 3306", "--rport 5432", "--lport 6379"):
        assert f"\n    sudo tcpwatch protect {filters} --idle 60s\n" in text
    many = shown(*(socket(rport=port) for port in range(1, 6)))
    assert many.count("sudo tcpwatch protect") == 3 and "… and likewise for 2 more services.\n" in many


def test_nothing_at_risk_is_no_text() -> None:
    assert shown(socket(keepalive_idle_s=60, timer_ms=0)) == ""


def test_what_is_said_beside_the_rows() -> None:
    found = [socket(), socket(netns=1, keepalive_idle_s=60, timer_ms=0)]
    assert list(about_sockets(found, found, View(hz=HZ))) == ["2 connections in 2 network namespaces"]
    first, hedge = about_sockets(found, at_risk(found, 90.5, HZ), View(hz=HZ, ttl_s=90.5))
    assert first.startswith("1 of 2 connections in 2 network namespaces would be dropped by a firewall")
    assert first.endswith("with an idle timeout of 90.5s")
    assert "not visible from this host" in hedge
    assert list(about_sockets(found, [], View(hz=HZ, stuck=True))) == [
        "nothing hangs: 2 connections in 2 network namespaces"
    ]
    assert list(about_sockets(found, found[:1], View(hz=HZ, stuck=True))) == [
        "1 of 2 connections in 2 network namespaces hang now"
    ]


def test_every_namespace_by_process_and_by_mount(tmp_path: Path) -> None:
    for pid in ("1", "20"):
        (tmp_path / pid / "ns").mkdir(parents=True)
        (tmp_path / pid / "ns/net").touch()
    (tmp_path / "20/ns/net").unlink()
    os.link(tmp_path / "1/ns/net", tmp_path / "20/ns/net")  # the same inode, as two processes of one namespace
    (tmp_path / "30").mkdir()  # ended
    (tmp_path / "self").mkdir()
    inode = (tmp_path / "1/ns/net").stat().st_ino
    (tmp_path / "self/mountinfo").write_text(
        "22 28 0:21 / /sys rw,nosuid - sysfs sysfs rw\n"
        "36 25 0:4 net:[4026532000] /run/netns/a\\040name rw shared:17 - nsfs nsfs rw\n"
        f"37 25 0:4 net:[{inode}] /run/netns/known rw - nsfs nsfs rw\n"
        "38 25 0:4 mnt:[4026532999] /run/other rw - nsfs nsfs rw\n"
    )
    found = walk.namespaces(tmp_path)
    assert found.keys() == {4026532000, inode}
    assert found[4026532000] == ["/run/netns/a name"]
    assert found[inode][0] == "/run/netns/known", "a mount lasts longer than a process"
    assert sorted(found[inode][1:]) == [f"{tmp_path}/1/ns/net", f"{tmp_path}/20/ns/net"]


def test_a_kernel_without_the_iterator_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Older(KernelTypes):
        def __init__(self) -> None:
            pass

        def __exit__(self, *_: object) -> None:
            pass

        def function(self, name: str) -> None:
            return None

    monkeypatch.setattr(walk, "KernelTypes", Older)
    monkeypatch.setattr(host, "require_privilege", lambda: None)
    with pytest.raises(TcpwatchError, match=r"no BPF iterator over TCP sockets.*Linux 5\.9") as caught:
        walk.read_sockets(Filter())
    assert caught.value.hint.startswith("uname -r")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--at-risk", "soon"], "invalid duration 'soon'"),
        (["--at-risk", "0s"], "--at-risk must be greater than zero"),
        (["--at-risk", "1h", "--stuck"], "--stuck and --at-risk are mutually exclusive"),
        (["-e", "retransmit"], "--event cannot be used with sockets"),
        (["--port", "0"], "invalid port"),
    ],
)
def test_wrong_usage(arguments: list[str], complaint: str) -> None:
    shown = tcpwatch("sockets", *arguments)
    assert (shown.returncode, shown.stdout) == (2, "")
    first, second = shown.stderr.splitlines()
    assert complaint in first
    assert second.startswith("Hint: ")


def test_help_has_room_on_eighty_columns() -> None:
    shown = tcpwatch("sockets", "--help", COLUMNS="80")
    assert shown.returncode == 0
    assert max(len(line) for line in shown.stdout.splitlines()) <= 80


@pytest.mark.parametrize(
    ("files", "count"),
    [
        (
            {
                "sockstat": "sockets: used 9\nTCP: inuse 5 orphan 1 tw 2\nUDP: inuse 7\n",
                "sockstat6": "TCP6: inuse 3\n",
            },
            8,
        ),
        ({"sockstat": "TCP: inuse 5 orphan 1\n"}, 5),
        ({}, None),
    ],
    ids=["both", "without IPv6", "not to be read"],
)
def test_how_many_sockets_the_kernel_counts(tmp_path: Path, files: dict[str, str], count: int | None) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert held_records._sockets_in_use(tmp_path) == count
