"""What is advised, branch by branch. That the commands work is for tests/kernel/test_printed_commands.py."""

from __future__ import annotations

from typing import Any

import pytest
from builders import event
from hypothesis import given
from hypothesis import strategies as st

from tracer.analysis.advice.context import AdviceContext
from tracer.analysis.clients import CLIENTS, SERVERS, clients_of, filled, server_of
from tracer.analysis.idle_timeouts import IdleTimeoutRange, IdleTimeouts
from tracer.analysis.keepalive_time import DEFAULT_KEEPALIVE_S, MAX_DEFAULT_S, keepalive_for
from tracer.analysis.middleboxes import KNOWN
from tracer.analysis.recorded import RecordedStalls
from tracer.analysis.stalls import MIN_IDLE_MS
from tracer.analysis.timeouts import gives_up
from tracer.analysis.timer_wheel import lateness
from tracer.analysis.verdicts import Verdict

HZ = 250
HOUR_MS = 3_600_000
FATAL_MS = 62 * 60_000
PROBE = "sudo tcpwatch probe --host 10.66.2.2 --rport 3306 --connect"
PROTECT = "sudo tcpwatch protect --host 10.66.2.2 --rport 3306"


def advised(
    verdict: str = "idle-drop",
    *,
    idle_ms: int | None = FATAL_MS,
    survived_ms: int | None = None,
    over: bool = False,
    refused_reset: bool = False,
    survived_as_much: bool = False,
    own_netns: int = 0,
    **fields: Any,
) -> list[str]:
    """The advice for php's connection to MySQL: keepalive on, all else the system's."""
    ordinary: dict[str, Any] = {
        "pids": [8506],
        "pid": 8506,
        "comm": "php",
        "keepalive": True,
        "keepalive_idle_s": 7200,
        "keepalive_idle_own": False,
        "keepalive_interval_s": 75,
        "user_timeout_ms": 0,
        "orphan": False,
    }
    newest = event("stall", **{**ordinary, **fields})
    idle_timeout = IdleTimeoutRange(survived_ms, idle_ms)
    context = AdviceContext(newest, idle_ms, over, HZ, idle_timeout, refused_reset, survived_as_much, own_netns)
    known = Verdict.of(verdict)
    assert known is not None
    return known.advice(context)


def one(lines: list[str], contains: str) -> str:
    """The one line that has it."""
    (line,) = [line for line in lines if contains in line]
    return line


def step(lines: list[str], name: str) -> str:
    """The text of that step; empty without it."""
    return next((line.removeprefix(f"{name}: ") for line in lines if line.startswith(f"{name}: ")), "")


def cure(lines: list[str]) -> str:
    return step(lines, "Cure")


def has(lines: list[str], contains: str) -> bool:
    return any(contains in line for line in lines)


# --- idle-drop: the cure


def test_a_first_probe_that_comes_too_late_is_set_sooner_in_its_namespace() -> None:
    assert cure(advised()) == (
        "keepalive is on, first probe after 2h: sudo nsenter -t 8506 -n sysctl -w net.ipv4.tcp_keepalive_time=60"
    )


def test_in_the_hosts_own_namespace_no_command_enters_one() -> None:
    own: dict[str, Any] = {"own_netns": 4026532000}
    assert cure(advised(**own)).endswith(": sudo sysctl -w net.ipv4.tcp_keepalive_time=60")
    assert step(advised("handshake", **own), "Check") == "nc -zvw5 10.66.2.2 3306", "no root is needed"
    for verdict in Verdict:
        for fields in ({}, {"pids": None}, {"orphan": True}, {"send_error": "EPERM"}):
            lines = advised(verdict, **own, **fields)
            assert not has(lines, "nsenter") and not has(lines, "netns")


def test_a_file_is_for_the_hosts_own_namespace() -> None:
    echo = "echo net.ipv4.tcp_keepalive_time=60 | sudo tee -a /etc/sysctl.d/99-tcpwatch.conf"
    assert one(advised(own_netns=4026532000), "permanent") == f"To make it permanent: {echo}"
    assert "sysctls of the container" in one(advised(own_netns=4026531840), "permanent")
    unknown = one(advised(), "permanent")
    assert unknown == f"To make it permanent, unless this is a container: {echo}"
    assert one(advised(idle_ms=6500, own_netns=4026532000), "permanent").endswith(
        ": printf '%s\\n' net.ipv4.tcp_keepalive_time=2 net.ipv4.tcp_keepalive_intvl=2 "
        "| sudo tee -a /etc/sysctl.d/99-tcpwatch.conf"
    )


def test_what_the_sysctl_does_to_open_connections_is_said() -> None:
    assert one(advised(), "New connections") == (
        "New connections use it at once, existing ones when their current timer expires (in up to 2h). "
        "tcpwatch protect changes these at once."
    )


@pytest.mark.parametrize("nobody", [{"pids": None, "pid": None}, {"pids": None}, {"orphan": True}])
def test_without_a_process_the_namespace_is_named_in_words(nobody: dict[str, Any]) -> None:
    """Also where the process is known that held it last: its number may be another's by now."""
    lines = advised(**nobody)
    assert cure(lines).endswith(", in netns 4026532000: sudo sysctl -w net.ipv4.tcp_keepalive_time=60")
    assert one(lines, "lsns") == (
        "To run a command in netns 4026532000, put sudo nsenter -t PID -n before it, with a process of this list: "
        "sudo lsns -t net"
    )
    assert step(advised("handshake", **nobody), "Check") == "in netns 4026532000: nc -zvw5 10.66.2.2 3306"
    assert not has(advised(netns=None, **nobody), "netns")


def test_an_interval_longer_than_the_new_time_is_lowered_with_it() -> None:
    assert cure(advised(idle_ms=6500)).endswith(
        "sysctl -w net.ipv4.tcp_keepalive_time=2 net.ipv4.tcp_keepalive_intvl=2"
    )


def test_an_interval_that_outlasts_the_session_is_the_fault_even_of_an_early_first_probe() -> None:
    line = cure(advised(idle_ms=60_000, keepalive_idle_s=10))
    assert line == (
        "keepalive is on, later probes after 75s: sudo nsenter -t 8506 -n sysctl -w net.ipv4.tcp_keepalive_intvl=20"
    )
    line = cure(advised(idle_ms=60_000, keepalive_idle_s=10, keepalive_idle_own=True))
    assert line == "TCP_KEEPINTVL of 20s in the application, not 75s"


def test_the_sockets_own_time_is_for_the_application_to_change() -> None:
    lines = advised(keepalive_idle_own=True, comm="worker")
    assert cure(lines) == "TCP_KEEPIDLE of 60s in the application, not 2h"
    assert has(lines, "TCP_KEEPIDLE of its own, which no sysctl changes")
    assert not has(lines, "sysctl -w")
    assert has(advised(keepalive_idle_own=True, idle_ms=6500), "TCP_KEEPINTVL has to be as short")


def test_the_sockets_own_time_in_the_words_of_its_client() -> None:
    line = cure(advised(keepalive_idle_own=True, comm="psql", rport=5432))
    assert line == "for psql: keepalives_idle=60 keepalives_interval=60"
    lines = advised(keepalive_idle_own=True, comm="node", rport=5432)
    assert cure(lines) == "TCP_KEEPIDLE of 60s in the application, not 2h", "the setting is too long for a step"
    assert has(lines, "In the application, if this is node-postgres: keepAlive: true, keepAliveInitialDelayMillis: ")
    lines = advised(keepalive_idle_own=True, comm="ssh", rport=22)
    assert cure(lines) == "TCP_KEEPIDLE of 60s in the application, not 2h"
    assert has(lines, "send something while idle; if this is ssh: ServerAliveInterval 60 in ssh_config")


def test_keepalive_off_is_turned_on_where_the_client_has_a_setting() -> None:
    lines = advised(keepalive=False, comm="java", rport=5432)
    assert cure(lines) == "keepalive is off; for pgjdbc: tcpKeepAlive=true in its URL"
    assert has(
        lines,
        "Keepalive is off on this socket, and no sysctl turns it on; if this is pgjdbc: tcpKeepAlive=true in its URL",
    )
    line = one(lines, "With keepalive on, the first probe must come within 60s")
    assert line.endswith(": sudo nsenter -t 8506 -n sysctl -w net.ipv4.tcp_keepalive_time=60")
    assert one(lines, "let the server probe") == (
        "Or let the server probe, one end is enough; if this is pgjdbc: "
        "options=-c%20tcp_keepalives_idle=60%20-c%20tcp_keepalives_interval=60 in its URL"
    )
    assert one(advised(keepalive=False, comm="dotnet", rport=5432), "let the server probe") == (
        "Or let the server probe, one end is enough: PostgreSQL has keepalive on. "
        "On the peer: sudo sysctl -w net.ipv4.tcp_keepalive_time=60 net.ipv4.tcp_keepalive_intvl=60"
    )


def test_keepalive_off_in_an_unknown_client() -> None:
    lines = advised(keepalive=False, comm=None)
    assert cure(lines) == f"keepalive is off; from outside: {PROTECT} --idle 60s --follow"
    assert has(lines, "no sysctl turns it on; the application has to set SO_KEEPALIVE")
    assert not step(lines, "Protect"), "the cure takes the open connections, too"
    as_a_service = one(lines, "As a service")
    assert as_a_service.endswith(
        ": echo OPTIONS=--host 10.66.2.2 --rport 3306 --idle 60s "
        "| sudo install -D -m 644 /dev/stdin /etc/tcpwatch/port-3306.conf"
    )
    start = lines[lines.index(as_a_service) + 1]
    assert start == "Then start that service: sudo systemctl enable --now tcpwatch-protect@port-3306"
    assert cure(advised(keepalive=False, comm=None, raddr=None)) == (
        "keepalive is off; the application has to set SO_KEEPALIVE"
    )
    assert cure(advised(keepalive=False, comm=None, idle_ms=1500)) == (
        "keepalive is off; the application has to set SO_KEEPALIVE"
    ), "no whole second is short enough"


def test_keepalive_off_where_the_namespaces_times_would_do() -> None:
    assert not has(advised(keepalive=False, keepalive_idle_s=60), "-n sysctl -w")


def test_a_client_with_a_time_of_its_own_needs_no_sysctl() -> None:
    lines = advised(keepalive=False, comm="node", rport=5432)
    assert cure(lines) == "keepalive is off; turn it on in node-postgres"
    turning = lines.index(
        "Keepalive is off on this socket, and no sysctl turns it on; if this is node-postgres: "
        "keepAlive: true, keepAliveInitialDelayMillis: 60000"
    )
    assert lines[turning + 1].endswith("every firewall, NAT and load balancer that tcpwatch knows."), "why 60 s"
    assert one(lines, "let the server probe") == (
        "Or let the server probe, one end is enough; if this is node-postgres: "
        "options: '-c tcp_keepalives_idle=60 -c tcp_keepalives_interval=60'"
    )
    assert not has(lines, "sysctl -w")


def test_a_client_that_cannot_turn_it_on_lets_the_server_probe() -> None:
    """libpq, and so psycopg, has it on: a socket of Python's without it is another driver's."""
    lines = advised(keepalive=False, comm="python3", rport=5432)
    assert cure(lines) == (
        "keepalive is off; for asyncpg, from outside: "
        "sudo tcpwatch protect --host 10.66.2.2 --rport 5432 --idle 60s --follow"
    )
    assert has(lines, "/etc/tcpwatch/port-5432.conf") and not step(lines, "Protect")
    cannot = lines.index(
        "Keepalive is off on this socket, and no sysctl turns it on; if this is asyncpg, it has no setting for that."
    )
    assert lines[cannot + 1] == (
        "Or let the server probe, one end is enough; if this is asyncpg: "
        "server_settings={'tcp_keepalives_idle': '60', 'tcp_keepalives_interval': '60'}"
    )
    assert not has(lines, "psycopg") and not has(lines, "sysctl -w")


def test_a_postgresql_client_that_is_late_may_let_the_server_probe() -> None:
    for comm, name in (("python3", "psycopg"), ("pg_dump", "a libpq client")):
        lines = advised(comm=comm, rport=5432)
        assert has(lines, f"Or for this client alone, if this is {name}: keepalives_idle=60 keepalives_interval=60")
        assert f"if this is {name}: options='-c tcp_keepalives_idle=60 -c tcp_keepalives_interval=60'" in one(
            lines, "let the server probe"
        )


def test_two_libraries_are_named_in_one_sentence() -> None:
    line = one(advised(comm="python3", rport=5432), "let the server probe")
    assert "if this is psycopg: options=" in line and "; if pg8000: startup_params=" in line
    line = one(advised(comm="python3"), "To limit the wait next")
    assert line == (
        "To limit the wait next time, if this is PyMySQL, mysqlclient or mysql-connector-python: "
        "read_timeout=N (N: seconds, more than its slowest answer takes)"
    )
    line = one(advised(keepalive=False, comm="python3"), "no sysctl")
    assert line.endswith("if this is mysql-connector-python: use_pure=False"), "the others have it on"


def test_a_heartbeat_is_offered_where_there_is_one() -> None:
    lines = advised(keepalive=False, comm="python3", rport=5672)
    assert one(lines, "no sysctl").endswith("if this is pika: tcp_options={'TCP_KEEPIDLE': 60, 'TCP_KEEPINTVL': 60}")
    assert one(lines, "something while idle").endswith("if this is pika: heartbeat=60")


def test_redis_probes_with_a_time_of_its_own_that_no_sysctl_changes() -> None:
    line = one(advised(keepalive=False, comm="worker", rport=6379), "let the server probe")
    assert line.endswith("with a time of its own. On the peer: redis-cli CONFIG SET tcp-keepalive 60")


def test_a_silence_of_seconds_gets_the_shortest_time() -> None:
    lines = advised(keepalive=False, comm="node", rport=6379, idle_ms=1500)
    assert cure(lines) == "keepalive is off; for ioredis: keepAlive: 1000"
    assert not has(lines, "less than half"), "it is not"


def test_probes_that_were_due_and_not_answered() -> None:
    lines = advised(keepalive_idle_s=60)
    assert has(lines, "A keepalive probe was due after 75s of silence, and none was answered")
    assert cure(lines) == "for PDO or mysqli: mysqlnd.net_read_timeout=N in php.ini", "that is what is left to do"
    assert not has(lines, "sysctl -w")
    assert not has(lines, "raise the firewall's idle timeout")


def test_a_server_is_told_its_own_settings() -> None:
    lines = advised(lport=3306, rport=51000, comm="mariadbd")
    assert one(lines, "SET GLOBAL tcp") == (
        "Or for MariaDB alone: sudo mariadb -e 'SET GLOBAL tcp_keepalive_time=60, tcp_keepalive_interval=60'"
    )
    assert has(
        lines, "To make it permanent, set tcp_keepalive_time and tcp_keepalive_interval in the section [mariadb]"
    )
    assert not has(lines, "A ping before use")
    lines = advised(lport=5432, rport=51000, comm="postgres")
    assert one(lines, "keepalives_idle") == (
        "Or for PostgreSQL alone: sudo -u postgres psql -c 'ALTER SYSTEM SET tcp_keepalives_idle = 60' "
        "-c 'ALTER SYSTEM SET tcp_keepalives_interval = 60' -c 'SELECT pg_reload_conf()'"
    )
    assert one(lines, "To limit the wait next") == (
        "To limit the wait next time, for PostgreSQL alone: "
        "sudo -u postgres psql -c 'ALTER SYSTEM SET tcp_user_timeout = 30000' -c 'SELECT pg_reload_conf()'"
    )
    own = cure(advised(lport=5432, rport=51000, comm="postgres", keepalive_idle_own=True))
    assert own.startswith(
        "for PostgreSQL alone: sudo -u postgres psql -c 'ALTER SYSTEM SET tcp_keepalives_idle = 60'"
    )
    assert has(advised(lport=6379, rport=51000, comm="redis-server"), "file: redis-cli CONFIG REWRITE")


# --- idle-drop: the rest


def test_the_firewalls_timeout_is_the_alternative_with_room_for_a_late_timer() -> None:
    late_s = lateness(7200, HZ)
    line = one(advised(), "raise the firewall's")
    assert "idle timeout to 2h03m or more. The probe due after 2h may be 2m11s late." in line
    assert 7200 + late_s <= 2 * 3600 + 3 * 60 < 7500
    assert not has(advised(keepalive=False), "raise the firewall's")


def test_the_freeze_is_ended_by_a_line_for_this_socket_alone() -> None:
    assert one(advised(), "ss -K").endswith(
        "ECONNABORTED for the application (CONFIG_INET_DIAG_DESTROY): sudo nsenter -t 8506 -n "
        "ss -K -t -n src 10.66.1.2 sport = :33356 dst 10.66.2.2 dport = :3306"
    )
    lines = advised(laddr="fd66:1::2", raddr="fd66:2::2", family=6)
    assert one(lines, "ss -K").endswith("src '[fd66:1::2]' sport = :33356 dst '[fd66:2::2]' dport = :3306")
    mapped = advised(laddr="::ffff:10.66.1.2", raddr="::ffff:10.66.2.2", family=6)
    assert mapped == advised(), "as the kernel's IPv4 code sends it"


def test_the_release_frees_what_hangs_at_this_service() -> None:
    assert step(advised(), "Release") == "sudo tcpwatch end --stuck --host 10.66.2.2 --rport 3306"
    six = advised(laddr="fd66:1::2", raddr="fd66:2::2", family=6)
    assert step(six, "Release") == "sudo tcpwatch end --stuck --host fd66:2::2 --rport 3306"
    server = advised(lport=3306, rport=51000)
    assert step(server, "Release") == "sudo tcpwatch end --stuck --host 10.66.2.2 --lport 3306"
    alone = "sudo tcpwatch end --lport 33356 --host 10.66.2.2 --rport 3306"
    for verdict in ("unanswered", "zero-window"):
        assert step(advised(verdict), "Release") == alone, "the kernel does not show that it hangs"


def test_an_address_that_is_no_route_is_not_called() -> None:
    """A link-local address leads nowhere without the interface, which no event has."""
    fields: dict[str, Any] = {"laddr": "fe80::1", "raddr": "fe80::2", "family": 6}
    lines = advised(**fields)
    assert not has(lines, "nc -zvw5") and has(lines, "dst '[fe80::2]'") and has(lines, "--host fe80::2")
    assert not has(advised("unreachable", **fields), "ip route get")


@pytest.mark.parametrize("fields", [{"over": True}, {"orphan": True}, {"laddr": None}, {"lport": None}])
def test_nothing_to_relieve(fields: dict[str, Any]) -> None:
    assert not has(advised(**fields), "ss -K")
    for verdict in Verdict if fields in ({"over": True}, {"orphan": True}) else ():
        assert not step(advised(verdict, **fields), "Release")


def test_an_address_that_is_none_reaches_no_command() -> None:
    for verdict in Verdict:
        for bad in ("$(reboot)", "10.66.2.2; reboot", "fe80::1%$(reboot)", "\x1b[2J"):
            assert not has(advised(verdict, raddr=bad), bad)


def test_the_wait_is_bounded_by_the_clients_setting_or_a_socket_option() -> None:
    assert one(advised(), "To limit the wait next").endswith(
        "if this is PDO or mysqli: mysqlnd.net_read_timeout=N in php.ini "
        "(N: seconds, more than its slowest answer takes)"
    )
    assert "TCP_USER_TIMEOUT" in one(advised(comm="worker"), "To limit the wait")
    assert one(advised(), "To limit it to 30s").endswith(
        f" after 10s of silence: {PROTECT} --idle 10s --interval 5s --user-timeout 30s"
    )
    assert cure(advised("path-loss", comm="worker")) == "limit the wait: TCP_USER_TIMEOUT or a read timeout"
    assert cure(advised("path-loss")) == "for PDO or mysqli: mysqlnd.net_read_timeout=N in php.ini"
    assert cure(advised("path-loss", comm="java")) == "limit the wait; for Connector/J: socketTimeout=N in its URL"
    assert not cure(advised("path-loss", user_timeout_ms=30_000))
    assert not has(advised(user_timeout_ms=30_000), "To limit")


def test_a_refused_reset_names_the_choices() -> None:
    line = one(advised(refused_reset=True), "RFC 5961")
    assert "drop silently" in line and "exact sequence number" in line
    assert not has(advised(), "RFC 5961")


def test_as_long_a_silence_before_speaks_against_an_idle_timeout() -> None:
    lines = advised(survived_as_much=True)
    assert has(lines, "This connection survived a silence this long before")
    assert has(lines, "failover") and has(lines, "ss -K")
    assert not has(lines, "sysctl -w") and not has(lines, "raise the firewall's")


def test_a_longer_silence_that_was_survived_speaks_against_it_too() -> None:
    lines = advised(survived_ms=2 * HOUR_MS)
    assert "A connection to this service survived 2h00m of silence, so an idle timeout is unlikely." in lines
    assert not has(lines, "sysctl -w")


def test_suspects_are_those_that_act_like_this() -> None:
    assert "FortiGate (default session-ttl) 1h, " in one(
        advised(survived_ms=58 * 60_000), "its default idle timeout would fit"
    )
    near: dict[str, Any] = {"idle_ms": 360_000, "survived_ms": 300_000}
    silent = one(advised(**near), "its default idle timeout would fit")
    assert "AWS Network Firewall" in silent and "NLB" not in silent
    reset = one(advised("idle-reset", **near), "its default idle timeout would fit")
    assert "AWS NLB" in reset and "Network Firewall" not in reset


@pytest.mark.parametrize("verdict", ["idle-drop", "keepalive-failed", "path-loss"])
def test_a_probe_finds_the_others_that_are_dead_and_a_new_connection_tells_more(verdict: str) -> None:
    lines = advised(verdict)
    assert step(lines, "Check") == PROBE, "in every network namespace, without nsenter"
    assert one(lines, "If the new connection opens").count("If it times out, the path or the peer is down.") == 1
    in_flight = verdict != "keepalive-failed"
    assert one(lines, "no-answer marks").startswith("This connection itself is busy") is in_flight
    six = advised(verdict, raddr="fd66:2::2", own_netns=4026532000)
    assert step(six, "Check") == "sudo tcpwatch probe --host fd66:2::2 --rport 3306 --connect"
    assert not step(advised(verdict, raddr=None), "Check")
    orphan = step(advised(verdict, orphan=True), "Check")
    assert orphan == "in netns 4026532000: nc -zvw5 10.66.2.2 3306", "there may be no other connection"


def test_after_the_end_the_others_may_be_dead() -> None:
    for verdict in ("idle-drop", "keepalive-failed"):
        lines = advised(verdict, over=True)
        assert step(lines, "Check") == PROBE and not has(lines, "If the new connection opens")
        assert has(lines, "The result no-answer marks connections that are dead already.")
        assert not has(lines, "is busy")
    assert not step(advised("path-loss", over=True), "Check")


def test_a_closed_window_without_answers_has_nothing_in_flight() -> None:
    assert not has(advised("path-loss", probes_out=3), "is busy")


def test_others_of_a_reset_connection_are_reset_by_a_probe() -> None:
    assert step(advised("idle-reset", rport=11300, over=True), "Check") == (
        "which others are dead; a reset ends these: sudo tcpwatch probe --host 10.66.2.2 --rport 11300 --connect"
    )
    lines = advised("idle-reset", over=True)
    assert step(lines, "Check").startswith("its idle limit, on the peer: ")
    assert f"Which others are dead; a reset ends these: {PROBE}" in lines


def test_a_server_probes_what_this_client_has_open() -> None:
    lines = advised(lport=3306, rport=51000)
    assert step(lines, "Check") == "sudo tcpwatch probe --host 10.66.2.2 --lport 3306", "it connects to no client"
    assert has(lines, "If others from this client are alive, its host and the path work")
    assert one(lines, "ss -tno") == (
        "What the client's kernel knows of this one, on the peer: ss -tno sport = :51000 dst 10.66.1.2 dport = :3306"
    )
    assert not has(lines, "nc -zvw5") and not has(lines, "--connect")


def test_a_wait_for_a_reply_is_probed_itself() -> None:
    lines = advised("unanswered", keepalive=False)
    assert step(lines, "Check") == ("sudo tcpwatch probe --lport 33356 --rport 3306 --connect"), (
        "nothing is in flight"
    )
    assert one(lines, "If it is alive").endswith(
        "its socket, on the peer: ss -tno sport = :3306 dst 10.66.1.2 dport = :33356"
    )
    assert one(lines, "To end this wait if").endswith(f": {PROTECT} --idle 60s")
    assert has(advised("unanswered"), f"{PROTECT} --idle 60s"), "its first probe comes after 2h"
    assert not has(advised("unanswered", keepalive_idle_s=60), "tcpwatch protect")
    server = advised("unanswered", lport=3306, rport=51000)
    assert step(server, "Check") == "sudo tcpwatch probe --lport 3306 --rport 51000"


@pytest.mark.parametrize("fields", [{"state": "FIN_WAIT2"}, {"over": True}, {"orphan": True}])
def test_what_the_kernel_does_not_probe_is_looked_at_on_the_peer(fields: dict[str, Any]) -> None:
    lines = advised("unanswered", **fields)
    assert step(lines, "Check") == "on the peer: ss -tno sport = :3306 dst 10.66.1.2 dport = :33356"
    assert not has(lines, "tcpwatch probe") and not has(lines, "alive means")


def test_no_probe_of_what_no_probe_explains() -> None:
    """A SYN, a packet that this host drops, a route, a peer that does not read, one that has closed."""
    for verdict in ("handshake", "local-drop", "unreachable", "zero-window", "peer-closed", "packet-loss"):
        for fields in ({}, {"over": True}, {"lport": 3306, "rport": 51000}, {"kind": "syn", "state": "SYN_SENT"}):
            assert not has(advised(verdict, **fields), "tcpwatch probe"), verdict
    for verdict in Verdict:
        lines = advised(verdict, mptcp=True)
        assert not has(lines, "tcpwatch"), "a subflow has no descriptor"


# --- what is open now


@pytest.mark.parametrize("verdict", ["idle-drop", "idle-reset", "keepalive-failed"])
def test_open_connections_are_protected_with_the_time_of_the_cure(verdict: str) -> None:
    for over in (False, True):
        assert step(advised(verdict, over=over), "Protect") == f"{PROTECT} --idle 60s"
    assert step(advised(verdict, survived_ms=58 * 60_000), "Protect") == f"{PROTECT} --idle 45m"
    assert step(advised(verdict, idle_ms=6500), "Protect") == f"{PROTECT} --idle 2s"
    assert step(advised(verdict, keepalive_idle_own=True, comm="worker"), "Protect") == f"{PROTECT} --idle 60s"
    server = advised(verdict, lport=3306, rport=51000)
    assert step(server, "Protect") == "sudo tcpwatch protect --host 10.66.2.2 --lport 3306 --idle 60s"
    assert not step(advised(verdict, idle_ms=1500), "Protect"), "no whole second is short enough"
    assert not step(advised(verdict, raddr=None), "Protect")
    assert not step(advised(verdict, survived_as_much=True), "Protect"), "idleness is not the cause"


def test_a_client_with_a_setting_gets_both() -> None:
    lines = advised(keepalive=False, comm="java", rport=5432)
    assert step(lines, "Protect") == "sudo tcpwatch protect --host 10.66.2.2 --rport 5432 --idle 60s"
    assert cure(lines).startswith("keepalive is off; for pgjdbc: ")


def test_a_probe_in_vain_that_came_in_time_is_not_helped_by_another() -> None:
    assert not step(advised("keepalive-failed", keepalive_idle_s=30, keepalive_interval_s=30), "Protect")
    armed = advised(keepalive_idle_s=60)
    assert step(armed, "Protect") == f"{PROTECT} --idle 60s" and has(armed, "tcpwatch protect arms it anew")


def test_an_orphan_freezes_nobody() -> None:
    lines = advised(orphan=True)
    assert "No process holds this socket any more, so nobody waits for it." in lines
    assert not has(lines, "To limit")


# --- the other verdicts


def test_idle_reset_has_the_same_cure_and_no_freeze() -> None:
    lines = advised("idle-reset")
    assert cure(lines).endswith("net.ipv4.tcp_keepalive_time=60")
    assert has(lines, "A peer that restarted")
    assert not has(lines, "ss -K") and not has(lines, "To limit") and not step(lines, "Release")
    assert not has(advised("idle-reset", survived_as_much=True), "sysctl -w")


def test_keepalive_failed_at_the_first_probe_or_later() -> None:
    lines = advised("keepalive-failed", idle_ms=7_200_000)
    assert cure(lines).endswith("net.ipv4.tcp_keepalive_time=60")
    assert lines[4].startswith("The keepalive probes are not answered")
    assert lines[5].startswith("If the first probe always fails")
    lines = advised("keepalive-failed", survived_as_much=True)
    assert has(lines, "failover") and not has(lines, "sysctl -w")


def test_unreachable_looks_at_the_route_in_the_connections_namespace() -> None:
    lines = advised("unreachable", soft_error="EHOSTUNREACH")
    assert step(lines, "Check") == "the route to the peer: sudo nsenter -t 8506 -n ip route get 10.66.2.2"
    assert has(lines, "An ICMP error came back (EHOSTUNREACH)")
    assert has(advised("unreachable", send_error="ENETUNREACH"), "This host cannot send to the peer (ENETUNREACH)")
    assert not has(advised("unreachable", soft_error="\x1b[2J"), "\x1b")


def test_local_drop_is_the_firewall_or_the_queue() -> None:
    rules = "rules with hook output or postrouting: sudo nsenter -t 8506 -n nft list ruleset"
    lines = advised("local-drop", send_error="EPERM")
    assert step(lines, "Check") == rules and cure(lines) == "change the firewall rule that drops these packets"
    assert not has(lines, "tc -s qdisc")
    lines = advised("local-drop", send_error="NET_XMIT_DROP", own_netns=4026532000)
    assert step(lines, "Check") == "drops in the interface's queue: sudo tc -s qdisc" and not has(lines, "nft")
    lines = advised("local-drop")
    assert step(lines, "Check") == rules and has(lines, "tc -s qdisc") and has(lines, "ip route get")


def test_path_loss_blames_no_idle_timeout() -> None:
    lines = advised("path-loss", idle_ms=100)
    assert step(lines, "Check") == PROBE and has(lines, "ss -K")
    assert not has(lines, "sysctl") and not has(lines, "its default idle timeout would fit")
    assert not step(lines, "Protect")
    assert not has(advised("path-loss", over=True), "If the new connection opens")


def test_packet_loss_changes_nothing() -> None:
    lines = advised("packet-loss")
    assert lines[0] == "Check: errors and drops of its interfaces: sudo nsenter -t 8506 -n ip -s -s link"
    assert "Nothing needs to change" in lines[1] and not cure(lines)


def test_zero_window_is_the_peers_application() -> None:
    lines = advised("zero-window")
    assert step(lines, "Check") == "its unread bytes are Recv-Q, on the peer: ss -tn sport = :3306"
    assert has(lines, "is stopped or slow")


def test_handshake_of_a_client_and_of_a_server() -> None:
    lines = advised("handshake", idle_ms=None, kind="syn", state="SYN_SENT")
    assert lines[3].startswith("The SYN is not answered")
    assert cure(lines) == (
        "give up a connect after about 7s: sudo nsenter -t 8506 -n sysctl -w net.ipv4.tcp_syn_retries=2"
    )
    assert has(lines, "echo net.ipv4.tcp_syn_retries=2 | sudo tee -a /etc/sysctl.d/")
    lines = advised("handshake", idle_ms=None, kind="synack", own_netns=4026532000)
    assert step(lines, "Check") == "the way back to the client: ip route get 10.66.2.2" and len(lines) == 2


def test_peer_closed_tells_the_services_own_limit() -> None:
    assert step(advised("peer-closed"), "Check") == (
        "its idle limit, on the peer: sudo mariadb -e \"SHOW GLOBAL VARIABLES LIKE 'wait_timeout'\""
    )
    assert step(advised("peer-closed", rport=5432), "Check").endswith(
        ": sudo -u postgres psql -c 'SHOW idle_session_timeout'"
    )
    assert not has(advised("peer-closed", rport=11300), "SHOW")
    assert advised("peer-closed", lport=3306, rport=51000)[0].startswith("The client had closed")


def test_a_verdict_of_a_later_version_gets_no_advice() -> None:
    later = event("stall", phase="end", id="x", verdict="quantum-loss", outcome="recovered", advice=["rm -rf /"])
    RecordedStalls(min_idle_ms=MIN_IDLE_MS, idle_timeouts=IdleTimeouts()).feed(later)
    assert later.advice == []


def test_each_verdict_that_is_decided_gets_advice() -> None:
    assert [verdict for verdict in Verdict if not advised(verdict)] == ["no-answer"], "it is not decided yet"


# --- the value


@pytest.mark.parametrize(
    ("survived_ms", "fatal_ms", "expected"),
    [
        (None, None, None),
        (3_600_000, None, None),
        (None, 350_100, 60),
        (None, 4 * HOUR_MS, 60),  # whatever it was, the timeout may be anywhere below
        (None, 12 * HOUR_MS, 60),
        (None, 300 * HOUR_MS, 60),
        (None, 130_000, 60),
        (None, 120_000, 30),  # the timer of 60 s may be late
        (None, 70_000, 30),
        (None, 8820, 3),
        (7504, 8820, 5),
        (None, 6500, 2),
        (None, 2500, 1),
        (None, 1500, None),  # no whole second is left
        (58 * 60_000, FATAL_MS, 2700),  # below what was survived
        (11 * HOUR_MS, 12 * HOUR_MS, 7200),
        (90_000, 12 * HOUR_MS, 60),  # 90 s may come late
        (100_000, 12 * HOUR_MS, 90),  # survived, however far from the fatal one
        (2000, FATAL_MS, 60),  # survived next to nothing: tells nothing
        (2 * HOUR_MS, FATAL_MS, 60),  # a contradiction
    ],
)
def test_keepalive_for(survived_ms: int | None, fatal_ms: int | None, expected: int | None) -> None:
    assert keepalive_for(IdleTimeoutRange(survived_ms, fatal_ms), None, HZ) == expected


@given(st.integers(0, 10**9), st.none() | st.integers(0, 10**9), st.sampled_from([100, 250, 300, 1000]))
def test_the_probe_comes_in_time_even_when_its_timer_is_late(fatal_ms: int, survived_ms: int | None, hz: int) -> None:
    seconds = keepalive_for(IdleTimeoutRange(survived_ms, fatal_ms), None, hz)
    if seconds is None:
        assert fatal_ms < 3000 or survived_ms is not None
    else:
        assert (seconds + lateness(seconds, hz)) * 1000 <= fatal_ms


@given(st.integers(0, 10**9), st.none() | st.integers(0, 10**9), st.sampled_from([100, 250, 300, 1000]))
def test_more_than_the_default_is_advised_only_where_it_was_survived(
    fatal_ms: int, survived_ms: int | None, hz: int
) -> None:
    seconds = keepalive_for(IdleTimeoutRange(survived_ms, fatal_ms), None, hz) or 0
    if seconds > DEFAULT_KEEPALIVE_S:
        assert survived_ms is not None and (seconds + lateness(seconds, hz)) * 1000 <= survived_ms < fatal_ms


@pytest.mark.parametrize("hz", [100, 250, 300, 1000])
def test_the_default_is_in_time_for_every_known_middlebox_even_after_a_lost_probe(hz: int) -> None:
    longest = MAX_DEFAULT_S
    assert longest >= DEFAULT_KEEPALIVE_S
    for box in KNOWN:
        assert 2 * (longest + lateness(longest, hz)) < box.timeout_s, box.name


def test_the_shorter_of_two_fatal_silences_counts() -> None:
    assert (
        keepalive_for(IdleTimeoutRange(None, 8820), 70_000, HZ)
        == keepalive_for(IdleTimeoutRange(None, 70_000), 8820, HZ)
        == 3
    )
    assert keepalive_for(IdleTimeoutRange(7504, 70_000), 6500, HZ) == 2, "what was survived elsewhere contradicts it"


def test_what_the_value_rests_on_is_said() -> None:
    lines = advised(idle_ms=4 * HOUR_MS, keepalive=False)
    assert (
        "No silence close to 4h00m is known to have been survived, so the idle timeout may be far shorter. "
        "60s is below the default idle timeout of every firewall, NAT and load balancer that tcpwatch knows."
    ) in lines
    assert one(advised(idle_ms=8820), "No silence").endswith("may be far shorter. 3s is less than half of 8.8s.")
    assert has(
        advised(survived_ms=58 * 60_000),
        "A connection survived 58m00s of silence, and a probe after 45m comes sooner.",
    )
    contradicted = advised("keepalive-failed", survived_ms=2 * HOUR_MS)
    assert has(contradicted, "tcp_keepalive_time=60")
    assert not has(contradicted, "known to have been survived") and not has(contradicted, "A connection survived")


def test_a_setting_that_is_short_enough_is_left_alone() -> None:
    assert cure(advised()).endswith("net.ipv4.tcp_keepalive_time=60"), "an interval of 75 s is in time"
    assert cure(advised(keepalive_interval_s=120)).endswith(
        "net.ipv4.tcp_keepalive_time=60 net.ipv4.tcp_keepalive_intvl=60"
    )
    assert not has(advised(keepalive=False, keepalive_idle_s=90), "-n sysctl -w")


def test_without_a_survived_silence_nobody_is_suspected() -> None:
    for idle_ms in (360_000, 10 * 60_000, 4 * HOUR_MS, 12 * HOUR_MS):
        assert not has(advised(idle_ms=idle_ms), "its default idle timeout would fit")


# --- clients


def named(comm: str | None, port: int | None, exe: str | None = None, keepalive: bool | None = None) -> list[str]:
    return [each.name for each in clients_of(comm, exe, port, keepalive)]


@pytest.mark.parametrize("comm", ["php", "php8.2", "php-fpm8.2", "php-fpm: pool w", "php-fpm7.4", "php-cgi", "PHP"])
def test_php_under_its_names(comm: str) -> None:
    (client,) = clients_of(comm, None, 3306)
    assert client.name == "PDO or mysqli"
    assert client.probes is None, "mysqlnd has no setting: the sysctl is in force"


def test_a_client_is_a_program_and_a_service() -> None:
    assert clients_of("python3.11", None, 5432) == clients_of("python3", None, 5432)
    assert clients_of("python3", None, 5432) != clients_of("python3", None, 3306)
    for comm, port in (("python3", 11300), ("worker", 3306), (None, 3306), ("php", None), ("", 3306), (":", 3306)):
        assert clients_of(comm, None, port) == ()
    (oracle,) = clients_of(None, None, 1521)
    assert oracle.probes == "(ENABLE=BROKEN) in its connect descriptor"
    assert named("anything", 5432) == ["a libpq client"]
    assert server_of("mariadbd") is not None
    assert server_of("mysqld") is None, "MySQL has no setting for it"
    assert server_of(None) is None


def test_the_program_file_counts_behind_the_name_of_a_thread_or_script() -> None:
    assert named("MainThread", 6379, "node") == ["ioredis", "node-redis"]
    assert named("gunicorn", 5432, "python3.11") == ["psycopg", "asyncpg"]
    assert named("celery", 6379, "python3.11") == ["Celery"], "a script that has a row of its own"
    assert named("MainThread", 6379) == []
    server = server_of("worker", "mariadbd")
    assert server is not None and server.name == "MariaDB"


def test_the_socket_rules_libraries_out() -> None:
    assert named("python3", 5432, keepalive=False) == ["asyncpg"]
    assert named("python3", 5432, keepalive=True) == ["psycopg", "pg8000"]
    assert named("python3", 5672, keepalive=False) == ["pika"]
    assert named("python3", 5672, keepalive=True) == ["kombu", "pika"], "pika only where it was told to"
    assert named("php", 3306, keepalive=False) == []


def test_every_setting_can_be_filled_in_and_says_where_it_was_read() -> None:
    for client in (*CLIENTS, *SERVERS):
        assert client.source
        knobs = [client.probes, client.server_probes, client.heartbeat, client.bound]
        assert any(knobs), client.name
        for setting in filter(None, knobs):
            text = filled(setting, 600)
            assert text.isascii() and text.isprintable()
            assert "seconds}" not in text and "interval}" not in text
            assert ("seconds}" in setting) == ("600" in text)
    assert filled("{seconds} {milliseconds} {interval} {x}", 600) == "600 600000 75 {x}"


# a client's own wait


def test_a_wait_of_a_client_with_a_heartbeat_is_hedged() -> None:
    lines = advised("unanswered", keepalive=False, comm="python3", rport=5672)
    assert has(lines, "A heartbeat or request timeout of the AMQP client, if it has one, ends this wait")
    assert not has(advised("unanswered", keepalive=False, comm="php"), "heartbeat")


# --- anything at all


NUMBER = st.none() | st.integers(0, 2**32)
TEXT = (
    st.none()
    | st.text(max_size=15)
    | st.sampled_from(["php", "python3", "java", "node", "mariadbd", "postgres", "celery", "haproxy", "sshd", "curl"])
)
FLAG = st.none() | st.booleans()
ADDRESS = st.none() | st.text(max_size=20) | st.ip_addresses().map(str)
PORT = st.none() | st.integers(0, 65535) | st.sampled_from([3306, 5432, 6379, 1521, 5672, 11211, 22])


@given(
    verdict=st.sampled_from(Verdict),
    fields=st.fixed_dictionaries(
        {
            "laddr": ADDRESS,
            "raddr": ADDRESS,
            "lport": PORT,
            "rport": PORT,
            "netns": NUMBER,
            "pids": st.none() | st.lists(st.integers(-1, 2**22), max_size=2),
            "comm": TEXT,
            "exe": TEXT,
            "kind": TEXT,
            "state": TEXT,
            "soft_error": TEXT,
            "send_error": TEXT,
            "keepalive": FLAG,
            "keepalive_idle_s": NUMBER,
            "keepalive_idle_own": FLAG,
            "keepalive_interval_s": NUMBER,
            "user_timeout_ms": NUMBER,
            "orphan": FLAG,
        }
    ),
    idle_ms=NUMBER,
    idle_timeout=st.builds(IdleTimeoutRange, NUMBER, NUMBER),
    flags=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    hz=st.sampled_from([100, 250, 300, 1000]),
)
def test_any_case_gets_sentences_that_can_be_printed(
    verdict: Verdict,
    fields: dict[str, Any],
    idle_ms: int | None,
    idle_timeout: IdleTimeoutRange,
    flags: tuple[bool, bool, bool],
    hz: int,
) -> None:
    over, refused_reset, survived_as_much = flags
    context = AdviceContext(event(**fields), idle_ms, over, hz, idle_timeout, refused_reset, survived_as_much)
    lines = verdict.advice(context)
    assert len(lines) == len(set(lines)), "nothing is said twice"
    for line in lines:
        assert line.isprintable() and line.isascii() and line.strip() == line
        assert "None" not in line


@pytest.mark.parametrize("linear_timeouts", [None, 4])
def test_how_long_two_retries_of_a_syn_take(linear_timeouts: int | None) -> None:
    """The advice is right for kernels without tcp_syn_linear_timeouts (before 6.5), and with its default."""
    first = event(
        kind="syn", state="SYN_SENT", attempt=1, jiffies=100_000, rto_ms=1000, rto_max_ms=120_000, retries=2,
        retrying_ms=1000, user_timeout_ms=0, syn_linear_timeouts=linear_timeouts,
    )  # fmt: skip
    give_up = gives_up(first, HZ)
    assert give_up is not None
    assert 1 + (give_up.earliest_ns - first.ktime_ns) / 1e9 == pytest.approx(7, rel=0.05)
    assert "about 7s" in cure(advised("handshake"))
