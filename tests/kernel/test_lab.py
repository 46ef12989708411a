"""The lab itself: what its firewall does, what its errors say, and that nothing of it is ever left behind."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from watching import PATIENCE_S, ROOT

from tracer.lab import mariadb
from tracer.lab.mariadb import MariaDB, mariadb_client
from tracer.lab.namespace import Namespace, wait_until
from tracer.lab.network import CLIENT, CLIENT6, SERVER, SERVER6, Lab
from tracer.lab.peers import Client, Server, embedded_client
from tracer.model.errors import TcpwatchError

pytestmark = pytest.mark.kernel

Connected = tuple[Lab, Client]

# Says which namespaces and processes it made, and then never ends by itself.
_MAKES_A_LAB = f"""
import signal
from tracer.lab.network import SERVER, Lab
from tracer.lab.peers import Server, embedded_client

lab = Lab()
server = Server(lab.server, SERVER, 3306)
client = embedded_client(lab.client, SERVER, 3306)
forked = client.ask("fork 2", {PATIENCE_S})["pids"]
print(*(each.netns for each in (lab.client, lab.firewall, lab.server)), flush=True)
print(*(each.pid for each in (lab.client, lab.firewall, lab.server, server, client)), *forked, flush=True)
signal.pause()
"""


@pytest.fixture
def connected(lab: Lab) -> Iterator[Connected]:
    """A lab in which an embedded client has asked its server once, and was answered."""
    with Server(lab.server, SERVER, 3306), embedded_client(lab.client, SERVER, 3306) as client:
        assert client.ask("query")["ok"]
        yield lab, client


def namespaces() -> set[int]:
    """The network namespaces that any process or thread is in."""
    found = set()
    for link in Path("/proc").glob("[0-9]*/task/[0-9]*/ns/net"):
        with suppress(OSError):  # it ended while we looked
            found.add(link.stat().st_ino)
    return found


def start_time(pid: int) -> str | None:
    """When the process started, in the kernel's ticks: another process with its pid is not taken for it."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else fields[18]


def running(processes: dict[int, str | None]) -> list[int]:
    """Those that have not ended."""
    return [pid for pid, started in processes.items() if started is not None and start_time(pid) == started]


@pytest.mark.parametrize(("host", "from_host", "family"), [(SERVER, CLIENT, "ipv4"), (SERVER6, CLIENT6, "ipv6")])
def test_queries_pass_the_firewall(lab: Lab, host: str, from_host: str, family: str) -> None:
    with Server(lab.server, host, 3306), embedded_client(lab.client, host, 3306) as client:
        answer = client.ask("query")
        (session,) = lab.sessions(3306)
    assert (answer["ok"], answer["errno"], answer["error"]) == (True, None, None)
    assert (client.connected["laddr"], client.connected["raddr"]) == (from_host, host)
    assert f"src={from_host} dst={host} sport={client.connected['lport']} dport=3306" in session, family
    assert "ESTABLISHED" in session and "[ASSURED]" in session
    assert lab.dropped_packets() == 0


def test_a_port_that_is_not_open_is_not_reached(lab: Lab) -> None:
    lab.client.set_sysctl("net.ipv4.tcp_syn_retries", 1)
    with (
        Server(lab.server, SERVER, 3307),
        embedded_client(lab.client, SERVER, 3307, wait=False) as client,
    ):
        answer = client.answer()
    assert (answer["connected"], answer["error"]) == (False, "ETIMEDOUT")


def test_a_forgotten_session_freezes_the_query(connected: Connected) -> None:
    lab, client = connected
    lab.client.set_sysctl("net.ipv4.tcp_retries2", 2)
    assert lab.dropped_packets() == 0
    lab.forget_sessions()
    assert lab.sessions(3306) == []
    client.send("query")
    wait_until(lambda: lab.dropped_packets() >= 3, PATIENCE_S, "the query and two retransmissions are dropped")
    assert not client.answered()
    assert lab.client.believes(client.connected["lport"], 3306) == "ESTABLISHED"
    assert lab.sessions(3306) == [], "loose=0: a packet in the middle of a connection makes no session"
    answer = client.answer()
    assert (answer["ok"], answer["errno"], answer["error"]) == (False, errno.ETIMEDOUT, "ETIMEDOUT")
    assert lab.dropped_packets() == 1 + lab.client.counter("TcpRetransSegs")
    assert lab.server.believes(3306, client.connected["lport"]) == "ESTABLISHED", "nobody told the server"


def test_a_firewall_that_rejects_ends_it_at_once(connected: Connected) -> None:
    lab, client = connected
    lab.reject_with_reset()
    assert client.ask("query")["ok"], "the session is known, and goes on"
    lab.forget_sessions()
    answer = client.ask("query")
    assert (answer["ok"], answer["error"]) == (False, "ECONNRESET")
    assert lab.client.counter("TcpRetransSegs") == 0


@pytest.mark.parametrize("cut", [{}, {"to_client": False}, {"to_server": False}], ids=["both", "there", "back"])
def test_a_black_hole_that_closes_in_time_is_survived(connected: Connected, cut: dict[str, bool]) -> None:
    lab, client = connected
    lab.drop_everything(**cut)
    client.send("query")
    wait_until(lambda: lab.client.counter("TcpRetransSegs") >= 1, PATIENCE_S, "the query is sent again")
    assert not client.answered()
    lab.restore()
    assert client.answer()["ok"]
    assert lab.dropped_packets() == 0, "the session was known all the time"


def test_an_idle_session_is_over_after_its_ttl() -> None:
    with (
        Lab(ttl_s=1) as lab,
        Server(lab.server, SERVER, 3306),
        embedded_client(lab.client, SERVER, 3306) as client,
    ):
        assert client.ask("query")["ok"]
        wait_until(lambda: not lab.sessions(3306), PATIENCE_S, "the session is over")
        assert lab.client.believes(client.connected["lport"], 3306) == "ESTABLISHED"


def test_mariadb_behind_a_firewall_that_forgot() -> None:
    with Lab(ttl_s=60, retries2=1) as lab, MariaDB(lab.server, SERVER) as server:
        with mariadb_client(lab.client, SERVER) as client:
            assert client.ask("query")["ok"]
            lab.forget_sessions()
            answer = client.ask("query")
        assert (answer["ok"], answer["errno"]) == (False, errno.ETIMEDOUT)
        assert "Lost connection" in answer["error"]
        assert server.sleeping_connections() == 1
        directory = server._directory
        assert directory.is_dir()
    assert not directory.exists()


def test_closing_ends_every_process_and_namespace() -> None:
    lab = Lab()
    inodes = {lab.client.netns, lab.firewall.netns, lab.server.netns}
    server = Server(lab.server, SERVER, 3306)
    client = embedded_client(lab.client, SERVER, 3306)
    pids = [lab.client.pid, lab.firewall.pid, lab.server.pid, server.pid, client.pid]
    pids += client.ask("fork 3")["pids"]
    processes = {pid: start_time(pid) for pid in pids}
    assert len(inodes) == 3 and inodes <= namespaces()
    assert running(processes) == pids
    for _ in range(2):
        client.close()
        server.close()
        lab.close()
    wait_until(lambda: not running(processes), PATIENCE_S, "the forked children have ended too")
    assert not inodes & namespaces()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_survives_the_process_that_made_it(number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _MAKES_A_LAB],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as maker:
        try:
            assert maker.stdout is not None
            inodes = {int(word) for word in maker.stdout.readline().split()}
            processes = {int(word): start_time(int(word)) for word in maker.stdout.readline().split()}
            assert len(inodes) == 3 and inodes <= namespaces()
            assert running(processes) == list(processes) and len(processes) == 7
            maker.send_signal(number)
            maker.wait(PATIENCE_S)
        finally:
            maker.kill()
    wait_until(lambda: not running(processes), PATIENCE_S, "the processes of the lab have ended")
    wait_until(lambda: not inodes & namespaces(), PATIENCE_S, "the namespaces of the lab are gone")


@pytest.mark.parametrize("exception", [TcpwatchError("no"), KeyboardInterrupt()], ids=["error", "^C"])
@pytest.mark.parametrize("step", range(9))
def test_a_set_up_that_fails_half_way_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, step: int, exception: BaseException
) -> None:
    made: list[Namespace] = []
    calls = iter(range(100))

    def failing(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: Namespace, *arguments: Any, **options: Any) -> Any:
            if function.__name__ == "__init__":
                made.append(self)
            if next(calls) == step:
                raise exception
            return function(self, *arguments, **options)

        return call

    # The three namespaces first, then the commands that are run in them.
    for name in ("__init__", "run"):
        original = vars(Namespace)[name]
        monkeypatch.setattr(Namespace, name, failing(original))
    with pytest.raises(type(exception)):
        Lab()
    monkeypatch.undo()
    complete = [each for each in made if hasattr(each, "netns")]
    assert len(complete) == min(step, 3)
    assert not {each.netns for each in complete} & namespaces()
    assert [each._holder.returncode for each in complete] == [-signal.SIGKILL] * len(complete)


def test_missing_tools_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(TcpwatchError, match=r"not installed: .*nft, conntrack") as raised:
        Lab()
    assert raised.value.hint.startswith("install the packages ")
    assert {"conntrack", "iproute2", "nftables"} <= set(raised.value.hint.split())


def test_mariadb_of_rhel_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its server is in no directory of a PATH."""
    monkeypatch.setattr(shutil, "which", lambda tool, path: path.split(":"))
    assert "/usr/libexec" in mariadb._find("mariadbd")  # type: ignore[operator]


def test_without_root_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(TcpwatchError, match="root") as raised:
        Lab()
    assert "sudo" in raised.value.hint


def test_a_host_that_forbids_namespaces_says_so(tmp_path: Path) -> None:
    program = "from tracer.lab.network import Lab\ntry:\n Lab()\nexcept Exception as error: print(type(error), error)"
    # Root, but without the capability: as inside an ordinary container.
    shown = subprocess.run(
        ["setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin", sys.executable, "-c", program],
        capture_output=True, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=PATIENCE_S,
    )  # fmt: skip
    assert "TcpwatchError" in shown.stdout and "unshare" in shown.stdout, shown.stdout + shown.stderr


def test_a_command_that_fails_says_why(lab: Lab) -> None:
    with pytest.raises(TcpwatchError, match="nowhere"):
        lab.client.run("ip", "link", "show", "nowhere")
    with pytest.raises(TcpwatchError, match="no counter TcpNonsense"):
        lab.client.counter("TcpNonsense")
    with pytest.raises(TcpwatchError, match="never still") as raised:
        wait_until(lambda: False, 0, "never still")
    assert raised.value.hint


def test_a_client_that_cannot_connect_says_so(lab: Lab) -> None:
    with embedded_client(lab.client, SERVER, 3306) as client:
        assert (client.connected["connected"], client.connected["error"]) == (False, "ECONNREFUSED")
        with pytest.raises(TcpwatchError, match="the client ended"):
            client.answer()
