"""The settings of servers that advice can print as commands, typed exactly as they are printed."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import services
from typed import PATH, command_of, run, sysctl

from tracer.analysis.advice.context import AdviceContext
from tracer.analysis.idle_timeouts import IdleTimeoutRange
from tracer.analysis.verdicts import Verdict
from tracer.lab.mariadb import MariaDB
from tracer.lab.network import CLIENT, SERVER, Lab
from tracer.model.events import Event

IDLE_MS = 3_600_000


@pytest.fixture(autouse=True)
def _path(monkeypatch: pytest.MonkeyPatch) -> None:
    """The servers' own hosts have sudo."""
    monkeypatch.setenv("PATH", PATH)


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that every user can enter."""
    with tempfile.TemporaryDirectory(prefix="tcpwatch-settings-") as name:
        made = Path(name)
        made.chmod(0o755)
        yield made


def advised(verdict: str, own_netns: int, *, over: bool, **fields: Any) -> list[str]:
    """The advice about a connection that was silent for an hour."""
    ordinary = {"keepalive": True, "keepalive_idle_s": 7200, "keepalive_interval_s": 75, "keepalive_idle_own": False}
    stall = Event(time_ns=0, ktime_ns=0, event="stall", **{**ordinary, **fields})
    known = Verdict.of(verdict)
    assert known is not None
    silence = IdleTimeoutRange(None, IDLE_MS)
    return known.advice(AdviceContext(stall, IDLE_MS, over, 250, silence, False, False, own_netns))


def of_a_server(lab: Lab, comm: str, port: int, verdict: str = "idle-drop", **fields: Any) -> list[str]:
    """The advice about a connection that this server accepted."""
    ends = {"laddr": SERVER, "lport": port, "raddr": CLIENT, "rport": 40000}
    netns = lab.server.netns
    return advised(verdict, netns, over=False, netns=netns, pids=[1], comm=comm, **ends, **fields)


def of_a_client(port: int, verdict: str = "peer-closed", **fields: Any) -> list[str]:
    """The advice about a connection to a server on that port."""
    ends = {"laddr": CLIENT, "lport": 40000, "raddr": SERVER, "rport": port}
    return advised(verdict, 0, over=True, **ends, **fields)


@pytest.fixture
def postgresql(lab: Lab, open_directory: Path) -> Iterator[services.PostgreSQL]:
    made = services.PostgreSQL(lab.server, SERVER, open_directory)
    yield made
    made.close()


def test_postgresql(lab: Lab, postgresql: services.PostgreSQL) -> None:
    server = postgresql
    shown = server.type(command_of(of_a_client(5432), "Check: its idle limit, on the peer: "))
    assert "idle_session_timeout" in shown
    for contains, name, value in (
        ("Or for PostgreSQL alone", "tcp_keepalives_idle", "60"),
        ("To limit the wait next time", "tcp_user_timeout", "30000"),
    ):
        server.type(command_of(of_a_server(lab, "postgres", 5432), contains))
        show = f"psql -Atc \"SELECT setting FROM pg_file_settings WHERE name = '{name}' AND applied\""
        assert server.type(show).strip() == value
    own = command_of(of_a_server(lab, "postgres", 5432, keepalive_idle_own=True), "Cure: for PostgreSQL alone: ")
    server.type(own)
    limit = command_of(
        of_a_server(lab, "postgres", 5432, "path-loss"), "Cure: limit the wait; for PostgreSQL alone: "
    )
    server.type(limit)


def test_mariadb(lab: Lab) -> None:
    with MariaDB(lab.server, SERVER) as server:
        limit = server.type(command_of(of_a_client(3306), "Check: its idle limit, on the peer: "))
        assert "wait_timeout\t28800" in limit
        server.type(command_of(of_a_server(lab, "mariadbd", 3306), "Or for MariaDB alone"))
        assert server.sql("SELECT @@GLOBAL.tcp_keepalive_time, @@GLOBAL.tcp_keepalive_interval") == [["60", "60"]]


def test_redis(lab: Lab, tmp_path: Path) -> None:
    configuration = tmp_path / "redis.conf"
    configuration.write_text(f'bind 127.0.0.1\nsave ""\ndir {tmp_path}\n')
    argv: list[str | Path] = [services.tool("redis-server"), configuration]
    with services.Service(lab.server, 6379, argv, tmp_path):
        limit = run(command_of(of_a_client(6379), "Check: its idle limit, on the peer: "), lab.server)
        assert limit.split() == ["timeout", "0"]
        for lines in (of_a_server(lab, "redis-server", 6379), of_a_client(6379, "idle-drop", keepalive=False)):
            run(command_of(lines, "CONFIG SET"), lab.server)
        run(command_of(of_a_server(lab, "redis-server", 6379), "To write this into"), lab.server)
        assert "tcp-keepalive 60" in configuration.read_text()


@pytest.mark.parametrize("port", [3306, 5432])
def test_a_servers_sysctls(lab: Lab, port: int) -> None:
    names = ("tcp_keepalive_time", "tcp_keepalive_intvl")
    before = {name: sysctl(lab.server, name) for name in names}
    lines = of_a_client(port, "idle-drop", keepalive=False)
    run(command_of(lines, "On the peer: sudo sysctl"), lab.server)
    assert [sysctl(lab.server, name) for name in names] == ["60", "60"]
    for name, value in before.items():
        lab.server.set_sysctl(f"net.ipv4.{name}", value)
