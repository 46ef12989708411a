"""`tcpwatch sockets --stuck` with real connections that hang for each reason, and with healthy ones beside them."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import socket as sockets
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from ss_comparison import ours, ss, tcpwatch_sockets
from traffic import crowd
from watching import PATIENCE_S, ROOT, Json

from tracer.analysis import stuck as rules
from tracer.analysis.stuck import Stuck, mark, stuck
from tracer.kernel import host
from tracer.kernel.sockets import read_sockets
from tracer.lab.namespace import Namespace, wait_until
from tracer.lab.network import SERVER, SERVER6, Lab
from tracer.lab.peers import Server, embedded_client
from tracer.model.filters import Filter
from tracer.model.sockets import Socket

NO_WAIT_MS = 200


def in_lab(lab: Lab) -> list[Socket]:
    return read_sockets(Filter(netns=frozenset([lab.client.netns])))


def hanging(lab: Lab) -> list[Socket]:
    return mark(in_lab(lab), host.hz())


def wait_for(lab: Lab, seen: Callable[[Json], bool], what: str) -> None:
    wait_until(lambda: any(seen(each) for each in ss(lab.client).values()), PATIENCE_S, what)


def test_data_that_nothing_acknowledges_and_healthy_connections_beside_it(lab: Lab) -> None:
    lab.client.set_sysctl("net.ipv4.tcp_retries2", 15)
    with (
        Server(lab.server, SERVER, 3306),
        Server(lab.server, SERVER6, 3306),
        embedded_client(lab.client, SERVER6, 3306) as idle,
        embedded_client(lab.client, SERVER, 3306) as client,
    ):
        for _ in range(20):
            assert client.ask("query")["ok"] and idle.ask("query")["ok"]
            assert [stuck(each, NO_WAIT_MS) for each in in_lab(lab)] == [None, None]
        lab.drop_everything()
        client.send("query")
        wait_for(lab, lambda told: (told["attempt"] or 0) >= 4, "four RTOs")
        (found,) = hanging(lab)
        (row,) = ours("--netns", str(lab.client.netns), "--stuck")
        text = tcpwatch_sockets("--netns", str(lab.client.netns), "--stuck").splitlines()
    assert (found.stuck, found.pid) == ("retransmitting", client.pid)
    assert (row["stuck"], row["pid"]) == ("retransmitting", client.pid)
    assert row["since"] is not None and 900_000 < row["gives_up_in_ms"] < 1_000_000
    assert text[0] == "Retransmitting: the peer acknowledges nothing."
    assert text[1] == f"  worker[{client.pid}] → {SERVER}:3306"
    assert text[-1] == f"      sudo tcpwatch end --stuck --host {SERVER} --rport 3306"


def test_the_give_up_time_from_one_look_is_the_kernel_s(lab: Lab) -> None:
    lab.client.set_sysctl("net.ipv4.tcp_retries2", 5)
    with Server(lab.server, SERVER, 3306), embedded_client(lab.client, SERVER, 3306) as client:
        assert client.ask("query")["ok"]
        lab.drop_everything()
        client.send("query")
        wait_for(lab, lambda told: (told["attempt"] or 0) >= 3, "three RTOs")
        (found,) = hanging(lab)
        looked = time.monotonic()
        assert client.answer()["error"] == "ETIMEDOUT"
        took_ms = (time.monotonic() - looked) * 1000
    assert found.gives_up_in_ms is not None
    assert -1000 <= took_ms - found.gives_up_in_ms <= 1000 + (found.gives_up_window_ms or 0)


def test_keepalive_probes_in_vain(lab: Lab) -> None:
    every_second = ("--idle", "1", "--interval", "1", "--probes", "9")
    with Server(lab.server, SERVER, 3306), embedded_client(lab.client, SERVER, 3306, *every_second) as client:
        assert client.ask("query")["ok"]
        wait_until(lambda: lab.client.counter("TcpExtTCPKeepAlive") >= 2, PATIENCE_S, "probes are answered")
        assert hanging(lab) == []
        lab.drop_everything()
        wait_for(lab, lambda told: (told["attempt"] or 0) >= 3, "three probes")
        (found,) = hanging(lab)
    assert (found.stuck, found.timer) == ("probing-in-vain", "keepalive")
    assert found.gives_up_in_ms is not None and found.since is not None


def test_a_closed_window(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.client.set_sysctl("net.ipv4.tcp_wmem", "4096 4096 4096")
    with Server(lab.server, SERVER, 3306, "--deaf"), embedded_client(lab.client, SERVER, 3306) as client:
        client.send("flood")
        wait_for(lab, lambda told: told["timer"] == "persist", "it is closed")
        assert hanging(lab) == [], "a slow reader closes it for as long"
        monkeypatch.setattr(rules, "WINDOW_MS", 1000)
        wait_until(lambda: bool(hanging(lab)), PATIENCE_S, "a second has passed")
        (found,) = hanging(lab)
    assert (found.stuck, found.gives_up_in_ms) == ("closed-window", None)


def test_window_probes_in_vain(lab: Lab) -> None:
    lab.client.set_sysctl("net.ipv4.tcp_wmem", "4096 4096 4096")
    with Server(lab.server, SERVER, 3306, "--deaf"), embedded_client(lab.client, SERVER, 3306) as client:
        client.send("flood")
        wait_for(lab, lambda told: told["timer"] == "persist", "it is closed")
        lab.drop_everything()
        wait_for(lab, lambda told: told["timer"] == "persist" and (told["attempt"] or 0) >= 3, "three probes")
        (found,) = hanging(lab)
    assert (found.stuck, found.timer) == ("probing-in-vain", "persist")


def test_syns_without_an_answer(lab: Lab) -> None:
    lab.drop_everything()
    with embedded_client(lab.client, SERVER, 3306, wait=False):
        wait_for(lab, lambda told: (told["attempt"] or 0) >= 2, "a third SYN")
        (found,) = hanging(lab)
        text = tcpwatch_sockets("--netns", str(lab.client.netns), "--stuck")
    assert (found.stuck, found.state) == ("syn-unanswered", "SYN_SENT")
    assert "SYNs" in text and f"sudo tcpwatch end --stuck --host {SERVER} --rport 3306" in text


def test_a_reply_that_does_not_come(lab: Lab) -> None:
    with Server(lab.server, SERVER, 3306, "--deaf"), embedded_client(lab.client, SERVER, 3306) as client:
        client.send("query")
        wait_until(lambda: any(told["unread"] for told in ss(lab.server).values()), PATIENCE_S, "the query arrives")
        wait_until(lambda: [stuck(each, NO_WAIT_MS) for each in in_lab(lab)] == [Stuck.REPLY], PATIENCE_S, "it waits")
        assert hanging(lab) == [], "not for a minute yet"


def test_who_reads_nothing_waits_for_no_reply() -> None:
    """A log shipper sends and never reads; one that polls does wait."""
    with ExitStack() as open_ones, sockets.create_server(("127.0.0.1", 0)) as listener:
        poller = select.epoll()
        open_ones.callback(poller.close)
        reading: dict[int, bool] = {}
        for polls in (False, True):
            client = open_ones.enter_context(sockets.create_connection(listener.getsockname()))
            server = open_ones.enter_context(listener.accept()[0])
            client.sendall(b"a line of a log\n")
            assert server.recv(100)
            if polls:
                poller.register(client, select.EPOLLIN)
            reading[client.getsockname()[1]] = polls
        wanted = Filter(rports=frozenset([listener.getsockname()[1]]))
        wait_until(lambda: all(each.waiting for each in read_sockets(wanted)), PATIENCE_S, "all is acknowledged")
        wait_until(
            lambda: all((each.silent_ms or 0) >= NO_WAIT_MS for each in read_sockets(wanted)), PATIENCE_S, "silence"
        )
        found = read_sockets(wanted)
    assert {each.lport: each.has_reader for each in found} == reading
    assert {each.lport: stuck(each, NO_WAIT_MS) is Stuck.REPLY for each in found} == reading


def test_nothing_hangs(lab: Lab) -> None:
    with Server(lab.server, SERVER, 3306), embedded_client(lab.client, SERVER, 3306) as client:
        assert client.ask("query")["ok"]
        done = subprocess.run(
            [sys.executable, "-m", "tracer", "sockets", "--stuck", "--netns", str(lab.client.netns)],
            capture_output=True, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=PATIENCE_S,
        )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "tcpwatch: nothing hangs: 1 connection in 1 network namespace\n"


def on_a_terminal(*arguments: str, columns: int = 80, lines: int = 24) -> list[str]:
    """What a terminal shows of stdout and stderr."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    with subprocess.Popen(
        [sys.executable, "-m", "tracer", "sockets", *arguments],
        stdin=follower, stdout=follower, stderr=follower, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"},
    ) as process:  # fmt: skip
        os.close(follower)
        shown = b"".join(_until_it_ends(leader))
        os.close(leader)
        assert process.wait(PATIENCE_S) == 0
    return shown.decode().splitlines()


def _until_it_ends(terminal: int) -> Iterator[bytes]:
    while True:
        try:
            taken = os.read(terminal, 65536)
        except OSError:  # EIO: nobody has it open any more
            return
        if not taken:
            return
        yield taken


def test_five_hundred_connections_are_a_screenful() -> None:
    namespace = Namespace()
    try:
        with crowd(namespace, 250):
            grouped = on_a_terminal("--netns", str(namespace.netns))
            each = on_a_terminal("--netns", str(namespace.netns), "-a")
    finally:
        namespace.close()
    assert len(grouped) < 24 and all(len(line) <= 80 for line in [*grouped, *each])
    assert grouped[-1] == "tcpwatch: 500 connections in 1 network namespace"
    assert sum("× 250" in line for line in grouped) == 2
    assert sum("127.0.0.1:" in line for line in each) == 500
