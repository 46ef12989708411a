"""`tcpwatch probe` on the running kernel: nobody notices."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from probe_command import found_in, result, rows
from ss_comparison import ss
from watching import PATIENCE_S, ROOT

from tracer.act.probing import Prober
from tracer.lab.namespace import wait_until
from tracer.lab.network import SERVER, Lab
from tracer.lab.peers import Server, embedded_client
from tracer.model.actions import Probed

F_SETPIPE_SZ = 1031  # include/uapi/linux/fcntl.h; in Python from 3.10 on


@pytest.fixture
def lab() -> Iterator[Lab]:
    """The firewall forgets nothing by itself."""
    with Lab(ttl_s=600, retries2=15) as made:
        yield made


def test_data_in_flight_is_never_disturbed(lab: Lab) -> None:
    with Server(lab.server, SERVER, 3306), embedded_client(lab.client, SERVER, 3306) as client:
        assert client.ask("query")["ok"]
        lab.drop_everything()
        client.send("query")
        wait_until(lambda: next(iter(ss(lab.client).values()))["to be acknowledged"], PATIENCE_S, "it is in flight")
        before = lab.client.counter("TcpExtTCPWinProbe")
        assert result(lab, "--wait", "1s") == "busy: 32 B unacknowledged or unsent"
        assert lab.client.counter("TcpExtTCPWinProbe") == before
        lab.restore()
        assert client.answer()["ok"]


def test_a_busy_connection_keeps_its_throughput(lab: Lab) -> None:
    with Server(lab.server, SERVER, 3306), embedded_client(lab.client, SERVER, 3306) as client:
        client.send("busy 4")
        ((row,), _) = rows("--netns", lab.client.netns)
        answer = client.answer()
    assert row["result"] in ("alive", "busy")
    assert answer["ok"] and answer["slowest_s"] < 1


def test_a_connection_in_repair_mode_is_left_alone(lab: Lab) -> None:
    program = (
        f"import socket; s = socket.create_connection(('{SERVER}', 3306)); s.setsockopt(6, 19, 1)\n"
        "print(flush=True); input(); print(s.getsockopt(6, 19), s.getsockopt(1, 2))"
    )
    argv = [sys.executable, "-c", program]
    with (
        Server(lab.server, SERVER, 3306),
        lab.client.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process,
    ):
        assert process.stdout is not None and process.stdout.readline() == "\n"
        assert result(lab).startswith("unreachable: in repair mode")
        assert process.communicate("\n", timeout=PATIENCE_S)[0] == "1 2\n"


_RESTARTING = """
import socket
def listen():
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("0.0.0.0", 3306))
    listener.listen()
    return listener
listener = listen()
print("listening", flush=True)
accepted, _ = listener.accept()
input()
listener.close()
try:
    listen()
    print("restarted", accepted.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR), flush=True)
except OSError as error:
    print(error, flush=True)
"""


def test_a_server_can_restart_beside_a_probed_connection(lab: Lab) -> None:
    argv = [sys.executable, "-c", _RESTARTING]
    with lab.server.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None and server.stdout.readline() == "listening\n"
        with embedded_client(lab.client, SERVER, 3306):
            ((row,), status) = rows("--netns", lab.server.netns, "--connect")
            assert (row["result"], row["accepted"], status) == ("alive", True, 0)
            assert server.communicate("\n", timeout=PATIENCE_S)[0] == "restarted 1\n"


def test_a_process_that_closes_meanwhile_does_not_wait_for_the_probes(lab: Lab) -> None:
    with Server(lab.server, SERVER, 3306), embedded_client(lab.client, SERVER, 3306) as client:
        found = found_in(lab)
        lab.drop_everything()
        results: list[Probed] = []
        polls = iter(range(1_000_000))

        def close_after_some_looks() -> bool:
            if next(polls) == 20:
                assert client.ask("close")["ok"]
            return False

        Prober(PATIENCE_S, results.append, close_after_some_looks).probe(found)
        states = {row["state"] for row in ss(lab.client).values()}
    assert [each.detail for each in results] == [f"process {client.pid} closed it meanwhile"]
    assert states == {"FIN_WAIT1"}


def test_a_process_that_closes_what_another_one_shares(lab: Lab) -> None:
    with Server(lab.server, SERVER, 3306), embedded_client(lab.client, SERVER, 3306) as client:
        client.ask("fork 1")
        found = found_in(lab)
        lab.drop_everything()
        results: list[Probed] = []
        polls = iter(range(1_000_000))

        def close_after_some_looks() -> bool:
            if next(polls) == 20:
                assert client.ask("close")["ok"]
            return False

        Prober(1.0, results.append, close_after_some_looks).probe(found)
        states = {row["state"] for row in ss(lab.client).values()}
    assert [(each.answer.value, each.detail) for each in results] == [("no-answer", "3 probes in 1.0s")]
    assert states == {"ESTABLISHED"}


def test_the_process_notices_nothing(lab: Lab, tmp_path: Path) -> None:
    """No system call of it returns, and none begins."""
    trace = tmp_path / "trace"
    program = f"import socket; s = socket.create_connection(('{SERVER}', 3306)); print(flush=True); s.recv(1)"
    argv: list[str | Path] = ["strace", "-f", "-o", trace, sys.executable, "-c", program]
    with Server(lab.server, SERVER, 3306) as server, lab.client.popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == "\n"
        wait_until(lambda: trace.read_text().splitlines()[-1].endswith("recvfrom(3, "), PATIENCE_S, "it is in recv()")
        before = trace.read_text()
        assert result(lab) == "alive: "
        assert trace.read_text() == before
        server.kill()
        process.wait(PATIENCE_S)
    assert "EINTR" not in trace.read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_at_once(lab: Lab, number: signal.Signals) -> None:
    with Server(lab.server, SERVER, 3306), embedded_client(lab.client, SERVER, 3306) as client:
        lab.drop_everything()
        filters = ("--netns", str(lab.client.netns))
        argv = [sys.executable, "-m", "tracer", "probe", *filters, "--wait", "1h", "--connect"]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as command:
            before = lab.client.counter("TcpExtTCPWinProbe")
            wait_until(lambda: lab.client.counter("TcpExtTCPWinProbe") > before, PATIENCE_S, "the first probe")
            command.send_signal(number)
            out, err = command.communicate(timeout=10)
        assert (command.returncode, out) == (128 + number, "")
        assert err.endswith("tcpwatch: interrupted: 0 of 1 result known\n")
        lab.restore()
        assert client.ask("query")["ok"]


def test_a_signal_ends_it_while_nobody_reads_what_it_prints(lab: Lab) -> None:
    argv = [sys.executable, "-m", "tracer", "probe", "--netns", str(lab.client.netns), "--json"]
    page = 4096
    with ExitStack() as stack:
        stack.enter_context(Server(lab.server, SERVER, 3306))
        for _ in range(12):  # with more than half a kilobyte each
            stack.enter_context(embedded_client(lab.client, SERVER, 3306))
        here, there = os.pipe()
        fcntl.fcntl(there, F_SETPIPE_SZ, page)
        command = stack.enter_context(subprocess.Popen(argv, stdout=there, stderr=subprocess.DEVNULL, cwd=ROOT))
        os.close(there)
        stack.callback(os.close, here)
        stack.callback(command.kill)

        def unread_bytes() -> int:
            return int(struct.unpack("i", fcntl.ioctl(here, termios.FIONREAD, bytes(4)))[0])

        wait_until(lambda: unread_bytes() > page - 1500, PATIENCE_S, "the pipe is full")
        command.send_signal(signal.SIGTERM)
        assert command.wait(PATIENCE_S) == 128 + signal.SIGTERM
