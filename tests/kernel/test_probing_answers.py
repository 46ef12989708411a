"""`tcpwatch probe` and a peer that a test scripts: what counts as an answer, and what is said without one."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from socket import SO_REUSEADDR, SOL_SOCKET

import pytest
from scripted import Connection, ScriptedPeer

from tracer.act.probing import Prober
from tracer.kernel import window_probe
from tracer.model.actions import Probed
from tracer.model.sockets import Socket

WAIT_S = 3.0


@pytest.fixture
def peer() -> Iterator[ScriptedPeer]:
    with ScriptedPeer() as made:
        yield made


class Probing:
    """A probe of the application's end in a thread, while the script of its peer goes on."""

    def __init__(self, conn: Connection) -> None:
        host, port = conn.socket.getsockname()
        raddr, rport = conn.socket.getpeername()
        found = Socket(
            time_ns=0, state="ESTABLISHED", laddr=host, lport=port, raddr=raddr, rport=rport,
            inode=os.fstat(conn.socket.fileno()).st_ino, pids=[os.getpid()],
        )  # fmt: skip
        self._results: list[Probed] = []
        self.looks = 0
        prober = Prober(WAIT_S, self._results.append, self._count)
        self._thread = threading.Thread(target=prober.probe, args=([found],))
        self._thread.start()
        self.conn = conn

    def _count(self) -> bool:
        self.looks += 1
        return False

    def result(self) -> str:
        """Answer nothing more. The result and its detail."""
        while self._thread.is_alive():
            self.conn.peer.read(0.05)
        (probed,) = self._results
        return f"{probed.answer.value}: {probed.detail}"


def is_probe(conn: Connection) -> bool:
    """Whether the last segment of the kernel's is a window probe."""
    last = conn.sent()[-1]
    return last.flags == "A" and last.length == 0 and last.seq == (conn.end - 1) & 0xFFFFFFFF


def test_a_connection_that_is_idle_at_last_has_the_whole_wait_for_its_answer(peer: ScriptedPeer) -> None:
    conn = peer.connected()
    conn.write(100)
    conn.expect_data(100)
    probing = Probing(conn)
    peer.silence(WAIT_S * 0.6)
    conn.ack()
    peer.until(lambda: is_probe(conn))
    peer.silence(WAIT_S * 0.7)
    conn.ack()
    assert probing.result().startswith("alive: ")


def test_what_the_peer_acknowledges_after_a_lost_probe_is_an_answer(peer: ScriptedPeer) -> None:
    """It comes with data, as a reply does."""
    conn = peer.connected()
    probing = Probing(conn)
    peer.until(lambda: is_probe(conn))
    conn.write(100)
    conn.expect_data(100)
    conn.send("PA", data=b"reply")
    assert probing.result() == "alive: data was sent and acknowledged meanwhile"


def test_data_of_a_peer_that_does_not_hear_us_is_no_answer(peer: ScriptedPeer) -> None:
    conn = peer.connected()
    probing = Probing(conn)
    peer.until(lambda: is_probe(conn))
    conn.send("PA", data=b"news", seq=conn.next)
    conn.send("PA", data=b"news", seq=conn.next)
    assert probing.result() == "no-answer: 3 probes in 3.0s"


def test_a_fin_of_a_peer_that_does_not_hear_us_is_no_answer(peer: ScriptedPeer) -> None:
    conn = peer.connected()
    probing = Probing(conn)
    peer.until(lambda: is_probe(conn))
    conn.send("FA", seq=conn.next)
    assert probing.result() == "unreachable: the kernel sends no probe in CLOSE_WAIT"


def test_data_behind_a_closed_window_is_not_called_in_flight(peer: ScriptedPeer) -> None:
    conn = peer.connected()
    conn.write(100)
    conn.expect_data(100)
    conn.ack(window=0)
    conn.write(300)
    assert Probing(conn).result() == "busy: 300 B unacknowledged or unsent"


def test_a_connection_that_freezes_is_looked_at_now_and_then(peer: ScriptedPeer) -> None:
    """Data was sent after the first probe, so the second one is overdue all the time."""
    conn = peer.connected()
    probing = Probing(conn)
    peer.until(lambda: is_probe(conn))
    conn.write(100)
    assert probing.result() == "no-answer: 1 probe in 3.0s"
    assert probing.looks < 1000, "the first ones follow each other by half a millisecond, the last by 0.1 s"


def test_two_that_probe_one_connection_leave_its_options(peer: ScriptedPeer) -> None:
    """Each of them reads SO_REUSEADDR now and then while the other one has it off."""
    connection = socket.socket(fileno=os.dup(peer.connected((SOL_SOCKET, SO_REUSEADDR, 1)).socket.fileno()))
    children = []
    for _ in range(2):
        child = os.fork()
        if child == 0:
            for _ in range(5000):
                window_probe.send(connection, reuses=True)
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    with connection:
        assert window_probe.reuses_address(connection)
