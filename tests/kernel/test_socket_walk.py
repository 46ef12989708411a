"""`tcpwatch sockets` against `ss` on the same sockets, and what ss does not tell."""

from __future__ import annotations

import json
import os
import socket as sockets
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ss_comparison import MAPPED, compared, ours, ss, tcpwatch_sockets
from traffic import crowd
from watching import AS_NOBODY, PATIENCE_S, ROOT, both_ends

from tracer.analysis.risk import gives_up_s
from tracer.kernel import host
from tracer.kernel import sockets as walk
from tracer.kernel.program import syscalls
from tracer.kernel.sockets import namespaces, read_sockets
from tracer.lab.namespace import Namespace, wait_until
from tracer.lab.network import CLIENT, CLIENT6, SERVER, SERVER6, Lab
from tracer.lab.peers import Server, embedded_client
from tracer.model.filters import Filter
from tracer.model.sockets import Socket

HERE = Path(__file__).parent


def _is_over(due: float) -> bool:
    return time.monotonic() >= due


@pytest.mark.parametrize(
    ("host", "family", "laddr", "raddr"),
    [(SERVER, 4, CLIENT, SERVER), (SERVER6, 6, CLIENT6, SERVER6), (MAPPED, 4, CLIENT, SERVER)],
)
def test_an_idle_connection_of_each_family(lab: Lab, host: str, family: int, laddr: str, raddr: str) -> None:
    listening = SERVER6 if family == 6 else SERVER
    with Server(lab.server, listening, 3306), embedded_client(lab.client, host, 3306) as client:
        assert client.ask("query")["ok"]
        wait_until(lambda: all(told["timer"] != "on" for told in ss(lab.client).values()), 60, "all is acknowledged")
        (row,) = compared(lab.client).values()
        (far,) = compared(lab.server).values()
    assert (row["family"], row["laddr"], row["raddr"], row["rport"]) == (family, laddr, raddr, 3306)
    assert (far["laddr"], far["raddr"], far["rport"]) == (raddr, laddr, row["lport"])
    assert (row["pid"], row["comm"], row["accepted"]) == (client.pid, "worker", False)
    assert (far["comm"], far["accepted"], far["keepalive"]) == ("server", True, False)
    assert (row["keepalive"], row["timer"], row["waiting"], far["waiting"]) == (True, "keepalive", False, False)
    times = (row["keepalive_idle_s"], row["keepalive_interval_s"], row["keepalive_probes"])
    assert (times, row["keepalive_idle_own"]) == ((7200, 75, 9), False)


def test_the_keepalive_times_in_force_and_whose_they_are(lab: Lab) -> None:
    lab.client.set_sysctl("net.ipv4.tcp_keepalive_time", 1234)
    own = ("--idle", "5000", "--interval", "7", "--probes", "5")
    with (
        Server(lab.server, SERVER, 3306),
        embedded_client(lab.client, SERVER, 3306, *own) as first,
        embedded_client(lab.client, SERVER, 3306) as second,
        embedded_client(lab.client, SERVER, 3306, "--no-keepalive") as third,
    ):
        rows = {row["pid"]: row for row in compared(lab.client).values()}
    settings = [
        (row["keepalive"], row["keepalive_idle_s"], row["keepalive_idle_own"], row["keepalive_interval_s"],
         row["keepalive_probes"], row.get("timer"))
        for row in (rows[client.pid] for client in (first, second, third))
    ]  # fmt: skip
    assert settings == [
        (True, 5000, True, 7, 5, "keepalive"),
        (True, 1234, False, 75, 9, "keepalive"),
        (False, 1234, False, 75, 9, None),
    ]


def test_a_connection_in_retransmission(lab: Lab) -> None:
    with Server(lab.server, SERVER, 3306), embedded_client(lab.client, SERVER, 3306) as client:
        assert client.ask("query")["ok"]
        lab.drop_everything()
        client.send("query")
        wait_until(lambda: any((told["attempt"] or 0) >= 3 for told in ss(lab.client).values()), 60, "three RTOs")
        (row,) = compared(lab.client).values()
    assert (row["timer"], row["waiting"], row["ca_state"]) == ("on", False, "Loss")
    assert row["attempt"] >= 3 and row["backoff"] >= 3
    assert 0 <= row["timer_ms"] <= row["rto_ms"]
    assert row["silent_ms"] > row["since_sent_ms"], "what was sent again does not end the silence"


def test_a_client_waits_and_its_server_does_not_read(lab: Lab) -> None:
    with Server(lab.server, SERVER, 3306, "--deaf"), embedded_client(lab.client, SERVER, 3306) as client:
        client.send("query")
        wait_until(lambda: any(told["unread"] for told in ss(lab.server).values()), 60, "the query arrives")
        wait_until(lambda: all(told["timer"] != "on" for told in ss(lab.client).values()), 60, "it is acknowledged")
        (row,) = compared(lab.client).values()
        (far,) = compared(lab.server).values()
    assert (row["waiting"], row["waiting_ms"], row["unacked_bytes"]) == (True, row["since_sent_ms"], 0)
    assert (far["waiting"], far["unread_bytes"]) == (False, len("SELECT q FROM jobs WHERE id = 1\n"))
    assert "waiting_ms" not in far


def test_a_peer_whose_window_is_closed(lab: Lab) -> None:
    lab.client.set_sysctl("net.ipv4.tcp_wmem", "4096 4096 4096")
    with Server(lab.server, SERVER, 3306, "--deaf"), embedded_client(lab.client, SERVER, 3306) as client:
        client.send("flood")
        wait_until(lambda: any(told["timer"] == "persist" for told in ss(lab.client).values()), 60, "it is closed")
        (row,) = compared(lab.client).values()
    assert (row["timer"], row["snd_wnd"], row["waiting"]) == ("persist", 0, False)


def test_a_connect_that_nobody_answers(lab: Lab) -> None:
    lab.drop_everything()
    with embedded_client(lab.client, SERVER, 3306, wait=False):
        wait_until(lambda: any((told["attempt"] or 0) >= 1 for told in ss(lab.client).values()), 60, "a second SYN")
        (row,) = ours("--netns", both_ends(lab))
    assert (row["state"], row["timer"], row["unacked_bytes"], row["rport"]) == ("SYN_SENT", "on", 0, 3306)
    assert "silent_ms" not in row and "since_received_ms" not in row


def test_half_closed(lab: Lab) -> None:
    with Server(lab.server, SERVER, 3306, "--deaf"), embedded_client(lab.client, SERVER, 3306) as client:
        client.kill()
        wait_until(lambda: lab.server.counter("TcpInSegs") > 0 and ss(lab.server), 60, "the server has its FIN")
        wait_until(lambda: {told["state"] for told in ss(lab.server).values()} == {"CLOSE_WAIT"}, 60, "CLOSE_WAIT")
        (row,) = ours("--netns", str(lab.server.netns))
    assert (row["state"], row["unread_bytes"], row["waiting"]) == ("CLOSE_WAIT", 0, False), "a FIN is nobody's data"


POPULATION = ROOT / "scripts/benchmarks/population.py"
NAMESPACES = 250
"""As many as there are containers on a large host."""


@contextmanager
def populated(namespaces: int) -> Iterator[None]:
    """A process with both ends of two connections in each of so many namespaces."""
    command = ["unshare", "--pid", "--fork", "--kill-child", sys.executable, str(POPULATION)]
    argv = [*command, str(namespaces), "5", str(namespaces)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and json.loads(process.stdout.readline())["processes"] == namespaces
            yield
        finally:
            process.kill()


def ends(found: Sequence[Socket]) -> set[tuple[Any, ...]]:
    return {(each.netns, each.laddr, each.lport, each.raddr, each.rport, each.state) for each in found}


def test_hundreds_of_namespaces_take_one_walk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each walk passes the sockets of all of them."""
    walks: list[int] = []
    real = syscalls.read_iterator

    def read_iterator(link: int) -> bytes:
        walks.append(link)
        return real(link)

    before = set(namespaces())
    with populated(NAMESPACES):
        ours = frozenset(namespaces().keys() - before)
        assert len(ours) >= NAMESPACES
        monkeypatch.setattr(syscalls, "read_iterator", read_iterator)
        together = read_sockets(Filter(netns=ours))
        assert len(walks) < NAMESPACES / 10, "one for the sockets, one for their owners, and of what else begins here"
        monkeypatch.setattr(walk, "MAX_NAMESPACES", 10**9)
        one_by_one = read_sockets(Filter(netns=ours))
    assert len(walks) > NAMESPACES
    assert ends(together) == ends(one_by_one) and len(together) >= 4 * NAMESPACES
    assert all(each.pid and each.accepted is not None for each in together)


def test_what_no_process_holds_is_found_beside_what_one_does(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "MAX_NAMESPACES", 0)
    both = Filter(netns=frozenset([lab.client.netns, lab.server.netns]))
    with Server(lab.server, SERVER, 3306), embedded_client(lab.client, SERVER, 3306) as staying:
        with embedded_client(lab.client, SERVER, 3306) as ending:
            assert staying.ask("query")["ok"] and ending.ask("query")["ok"]
            assert {each.state for each in read_sockets(both)} == {"ESTABLISHED"}
            lab.drop_everything()
        wait_until(
            lambda: "FIN_WAIT1" in {told["state"] for told in ss(lab.client).values()}, PATIENCE_S, "an orphan"
        )
        found = read_sockets(both)
    of_client = {each.lport: (each.state, each.pid) for each in found if each.netns == lab.client.netns}
    assert of_client == {
        staying.connected["lport"]: ("ESTABLISHED", staying.pid),
        ending.connected["lport"]: ("FIN_WAIT1", None),
    }
    assert len(found) == 4


EXCHANGES = {
    "": False,
    "question": True,
    "question answer": False,
    "question answer question": True,
    "greeting": False,
    "greeting question": True,
    "greeting question answer": False,
    "question answer question answer question": True,
}


@pytest.mark.parametrize("pause_s", [0, 0.02], ids=["within a jiffy", "jiffies apart"])
def test_who_waits_for_whom(pause_s: float) -> None:
    """The kernel's stamps are jiffies, and over loopback a question and its answer are within one."""
    with ExitStack() as open_ones, sockets.create_server(("127.0.0.1", 0)) as listener:
        expected = {}
        for words, waits in EXCHANGES.items():
            client = open_ones.enter_context(sockets.create_connection(listener.getsockname()))
            server = open_ones.enter_context(listener.accept()[0])
            expected[client.getsockname()[1]] = waits
            for word in words.split():
                sender, receiver = (client, server) if word == "question" else (server, client)
                due = time.monotonic() + pause_s
                wait_until(partial(_is_over, due), 1, "the pause is over")
                sender.sendall(word.encode())
                receiver.recv(100)
        port = listener.getsockname()[1]
        wanted = Filter(ports=frozenset([port]))
        found: list[Socket] = []

        def all_is_acknowledged() -> bool:
            found[:] = read_sockets(wanted)
            return not any(each.unacked_bytes for each in found)

        wait_until(all_is_acknowledged, PATIENCE_S, "delayed ACKs are sent")
    assert {each.lport: each.waiting for each in found if not each.accepted} == expected
    accepted = [each for each in found if each.accepted]
    assert {each.lport for each in accepted} == {port} and len(accepted) == len(EXCHANGES)
    assert not any(each.waiting for each in accepted)


def test_an_answered_probe_is_no_question(lab: Lab) -> None:
    every_second = ("--idle", "1", "--interval", "1", "--probes", "3")
    with Server(lab.server, SERVER, 3306), embedded_client(lab.client, SERVER, 3306, *every_second) as client:
        assert client.ask("query")["ok"]
        wait_until(lambda: lab.client.counter("TcpExtTCPKeepAlive") >= 3, 60, "three probes are sent")
        (row,) = ours("--netns", str(lab.client.netns))
    assert row["waiting"] is False
    assert row["silent_ms"] < row["since_received_ms"]


def test_every_namespace_and_the_filters_of_the_others(lab: Lab) -> None:
    with (
        Server(lab.server, SERVER, 3306),
        Server(lab.server, SERVER6, 3306),
        embedded_client(lab.client, SERVER, 3306) as four,
        embedded_client(lab.client, SERVER6, 3306) as six,
    ):
        everywhere = [row for row in ours() if row["netns"] in (lab.client.netns, lab.server.netns)]
        assert sorted((row["netns"], row["family"]) for row in everywhere) == sorted(
            (netns, family) for netns in (lab.client.netns, lab.server.netns) for family in (4, 6)
        )
        both = ("--netns", both_ends(lab))
        assert {row["pid"] for row in ours(*both, "--rport", "3306")} == {four.pid, six.pid}
        assert {row["pid"] for row in ours(*both, "--pid", str(six.pid))} == {six.pid}
        assert {row["comm"] for row in ours(*both, "--comm", "server", "-4")} == {"server"}
        assert {row["raddr"] for row in ours(*both, "--host", "fd66:2::/64", "--rport", "3306")} == {SERVER6}
        assert ours(*both, "--min-idle", "1h") == []
        silent = max(row["silent_ms"] for row in everywhere)
        assert len(ours(*both, "--min-idle", f"{silent / 1000}s")) >= 1
        text = tcpwatch_sockets(*both, "--lport", "3306", "-4").splitlines()
        each = tcpwatch_sockets(*both, "--lport", "3306", "-4", "-a").splitlines()
    assert len(text) == len(each) == 2
    assert text[1].startswith("server[") and f"port 3306, from {CLIENT}  " in text[1]
    assert each[0].split() == ["LOCAL", "REMOTE", "SILENT", "WAITING", "KEEPALIVE", "OWNER"]
    assert each[1].split()[:2] == [f"{SERVER}:3306", f"{CLIENT}:{four.connected['lport']}"]


def test_a_shared_socket_names_all_its_processes(lab: Lab) -> None:
    with Server(lab.server, SERVER, 3306), embedded_client(lab.client, SERVER, 3306) as client:
        children = client.ask("fork 2")["pids"]
        (row,) = ours("--netns", str(lab.client.netns))
    assert row["pids"] == sorted([client.pid, *children])


def test_thousands_of_sockets_are_all_there() -> None:
    namespace = Namespace()
    try:
        with crowd(namespace, 3000):
            counted = len(namespace.run("ss", "-tnH", "state", "established").splitlines())
            rows = read_sockets(Filter(netns=frozenset([namespace.netns])))
    finally:
        namespace.close()
    assert len(rows) == counted == 6000
    assert len({(row.lport, row.rport) for row in rows}) == 6000
    assert len({row.pid for row in rows}) == 1 and rows[0].pid is not None


def test_a_namespace_that_only_a_mount_holds(tmp_path: Path) -> None:
    held = tmp_path / "a name"
    held.touch()
    namespace = Namespace()
    try:
        subprocess.run(["mount", "--bind", f"/proc/{namespace.pid}/ns/net", held], check=True)
        try:
            # The process that has the sockets is in our namespace by the time that it is ready.
            with crowd(namespace, 2, f"/proc/{os.getpid()}/ns/net"):
                namespace.close()
                assert namespaces()[namespace.netns] == [str(held)]
                assert len(read_sockets(Filter(netns=frozenset([namespace.netns])))) == 4
        finally:
            subprocess.run(["umount", held], check=True)
    finally:
        namespace.close()


def test_nothing_is_left_behind_and_we_are_where_we_were() -> None:
    def here() -> list[str]:
        links = []
        for path in [*Path("/proc/self/fd").iterdir(), Path("/proc/self/ns/net")]:
            with suppress(FileNotFoundError):  # what the directory was read by
                links.append(str(path.readlink()))
        return sorted(link for link in links if "bpf" in link or "net:" in link)

    def in_the_kernel() -> set[tuple[str, int]]:
        shown = [
            (kind, each)
            for kind in ("prog", "link")
            for each in json.loads(subprocess.run(["bpftool", "-j", kind, "show"], capture_output=True).stdout)
        ]
        return {(kind, each["id"]) for kind, each in shown if each["type"] in ("tracing", "iter")}

    before, there = here(), in_the_kernel()
    read_sockets(Filter())
    assert here() == before
    # Another tcpwatch on this host has its own, for a moment.
    wait_until(lambda: in_the_kernel() <= there, PATIENCE_S, "program and link are gone")


def test_who_would_be_stranded(lab: Lab) -> None:
    with (
        Server(lab.server, SERVER, 3306),
        Server(lab.server, SERVER6, 3306, "--deaf"),
        embedded_client(lab.client, SERVER, 3306) as before,
        embedded_client(lab.client, SERVER, 3306, "--no-keepalive") as off,
        embedded_client(lab.client, SERVER6, 3306, "--no-keepalive") as waiting,
    ):
        waiting.send("query")
        wait_until(lambda: any(told["unread"] for told in ss(lab.server).values()), 60, "the query arrives")
        wait_until(lambda: all(told["timer"] != "on" for told in ss(lab.client).values()), 60, "it is acknowledged")
        # The fix, as people make it: new connections heed it at once, those that are open when their timer is over.
        lab.client.set_sysctl("net.ipv4.tcp_keepalive_time", 300)
        with embedded_client(lab.client, SERVER, 3306) as after:
            inside = ("--netns", str(lab.client.netns))
            rows = ours(*inside, "--at-risk", "1h")
            assert [(row["pid"], row["at_risk"]) for row in rows] == [
                (waiting.pid, ["waiting", "keepalive-off"]),
                (off.pid, ["keepalive-off"]),
                (before.pid, ["keepalive-late"]),
            ]
            assert rows[2]["keepalive_idle_s"] == 300
            assert after.pid not in {row["pid"] for row in rows}
            short = {row["pid"]: row["at_risk"] for row in ours(*inside, "--at-risk", "0.001s")}
            assert short[waiting.pid] == ["stranded", "waiting", "keepalive-off"]
            assert short[after.pid][-1] == "keepalive-late"
            assert ours(*inside, "--at-risk", "1h", "--pid", str(after.pid)) == []
            text = tcpwatch_sockets(*inside, "--at-risk", "1h")
    assert text.startswith("1 connection waits for a reply. After 1h of silence such a firewall drops the")
    assert f"worker[{waiting.pid}] → [{SERVER6}]:3306" in text.splitlines()[3]


def test_who_is_answered_between_two_looks_does_not_wait(lab: Lab) -> None:
    with (
        Server(lab.server, SERVER, 3306) as server,
        Server(lab.server, SERVER6, 3306, "--deaf"),
        embedded_client(lab.client, SERVER, 3306, "--no-keepalive") as slow,
        embedded_client(lab.client, SERVER6, 3306, "--no-keepalive") as dead,
    ):
        server.stop()
        for client in (slow, dead):
            client.send("query")
        wait_until(lambda: all(told["timer"] != "on" for told in ss(lab.client).values()), 60, "both acknowledged")
        looking = subprocess.Popen(
            [
                sys.executable, "-m", "tracer", "sockets", "--json", "--at-risk", "1h",
                "--netns", str(lab.client.netns),
            ],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        with looking:
            assert looking.stderr is not None and looking.stdout is not None
            assert "2 connections may be waiting for a reply: looking again in 3s" in looking.stderr.readline()
            server.go_on()
            assert slow.answer()["ok"]
            rows = [json.loads(line) for line in looking.stdout]
    assert [(row["pid"], row["at_risk"]) for row in rows] == [
        (dead.pid, ["waiting", "keepalive-off"]),
        (slow.pid, ["keepalive-off"]),
    ]


def test_a_waiting_client_is_released_when_keepalive_gives_up(lab: Lab) -> None:
    """The worst case of the incident: nothing is in flight, so that no retransmission ends the wait."""
    own = ("--idle", "3", "--interval", "1", "--probes", "3")
    with Server(lab.server, SERVER, 3306, "--deaf"), embedded_client(lab.client, SERVER, 3306, *own) as client:
        client.send("query")
        wait_until(lambda: any(told["unread"] for told in ss(lab.server).values()), 60, "the query arrives")
        wait_until(lambda: all(told["timer"] != "on" for told in ss(lab.client).values()), 60, "it is acknowledged")
        lab.drop_everything()
        (row,) = read_sockets(Filter(netns=frozenset([lab.client.netns])))
        released = client.answer()
    expected_s = gives_up_s(row, host.hz())
    assert row.waiting and expected_s is not None
    assert (released["error"], row.unacked_bytes) == ("ETIMEDOUT", 0)
    assert 6 <= released["seconds"] <= expected_s + 3
    assert 6 <= expected_s <= 7


def test_loopback_is_at_no_risk() -> None:
    namespace = Namespace()
    try:
        with crowd(namespace, 1):
            assert len(ours("--netns", str(namespace.netns))) == 2
            assert ours("--netns", str(namespace.netns), "--at-risk", "1h") == []
    finally:
        namespace.close()


@pytest.mark.parametrize("arguments", [[], ["--at-risk", "1h"]])
def test_not_root(arguments: list[str]) -> None:
    done = subprocess.run(
        [*AS_NOBODY, "sockets", *arguments],
        capture_output=True, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=PATIENCE_S,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    said = "tcpwatch: tracing the kernel needs root, or CAP_BPF and CAP_PERFMON\nHint: run it again with sudo\n"
    assert done.stderr == said
