"""What is told of connections whose peer is scripted segment by segment, beside what the kernel then does."""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from scripted import FAMILIES, Connection, ScriptedPeer
from stalling import Stalls, ended

from tracer.kernel.live import LiveSource
from tracer.model.events import Event
from tracer.model.filters import Filter
from tracer.output.stall_sentences import how_it_ended, what_happened, what_it_means, when_it_ends

TOLERANCE_MS = 250
"""Predictions are right to 50 ms. The rest is for machines whose timers are late."""
TCP_THIN_LINEAR_TIMEOUTS = 16
RETRIES = 2
AT_ONCE = 6
"""Scripts: they wait for timers most of the time."""

Script = Callable[[Path], None]
SCRIPTS: dict[str, Script] = {}


def script(**parameters: Sequence[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add a script with each combination of these values."""

    def add(function: Callable[..., None]) -> Callable[..., None]:
        for values in product(*parameters.values()):
            given = dict(zip(parameters, values))
            of_each = ", ".join(getattr(value, "__name__", str(value)) for value in values)
            SCRIPTS[f"{function.__name__} {of_each}".strip()] = partial(function, **given)
        return function

    return add


@pytest.fixture(scope="module")
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[None]]]:
    """The scripts that are asked for, each run from the start on."""
    asked = [
        item.callspec.params["name"]
        for item in request.session.items
        if item.path == request.path and hasattr(item, "callspec")
    ]
    with ScriptedPeer() as peer:
        LiveSource(Filter(netns=frozenset({peer.netns})), lambda: True).close()  # compiled once, not by each of them
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {name: pool.submit(SCRIPTS[name], tmp_path_factory.mktemp("script")) for name in asked}


@contextmanager
def scripted(directory: Path, family: int | str = 4, **sysctls: int | str) -> Iterator[tuple[ScriptedPeer, Stalls]]:
    """A peer, and what tcpwatch says of the connections with it."""
    with (
        ScriptedPeer(family, **{"tcp_retries2": RETRIES, **sysctls}) as peer,
        Stalls({peer.netns}, directory) as seen,
    ):
        yield peer, seen


def drop_output(peer: ScriptedPeer) -> None:
    """This host's own firewall drops what it sends."""
    peer.run(
        "nft", "add table inet own; add chain inet own output { type filter hook output priority 0; };"
        "add rule inet own output meta l4proto tcp drop",
    )  # fmt: skip


def drop_in_queue(peer: ScriptedPeer) -> None:
    """The queue of this host's interface has no room."""
    peer.run("tc", "qdisc", "replace", "dev", "tun0", "root", "pfifo", "limit", "0")


def text(stall: Event) -> str:
    """The sentences below the line of a stall."""
    return " ".join((what_happened(stall, 0), *what_it_means(stall), when_it_ends(stall, 0)))


def was_right(foretold: Event, error: Event) -> None:
    """The time of giving up that a stall told is the one of the error."""
    assert foretold.gives_up_in_ms is not None
    late_ms = (error.ktime_ns - foretold.ktime_ns) / 1e6 - foretold.gives_up_in_ms
    assert -TOLERANCE_MS <= late_ms <= (foretold.gives_up_window_ms or 0) + TOLERANCE_MS, f"{late_ms} ms late"


@script(family=FAMILIES, drops=[drop_output, drop_in_queue])
def what_this_host_drops_before_it_is_in_flight(tmp_path: Path, family: int | str, drops: object) -> None:
    assert callable(drops)
    with scripted(tmp_path, family) as (peer, seen):
        conn = peer.accepted()
        drops(peer)
        conn.write(100)
        begin = seen.wait_for(phase="begin")
        assert conn.error() == errno.ETIMEDOUT
        error = seen.wait_for("error")
    stalls = seen.stop()
    assert ended(stalls) == ["local-drop timed-out"] and begin.verdict == "local-drop"
    assert begin.unsent_bytes == 100 and begin.unacked_bytes == 0
    assert "Cannot send: " in text(begin) and "Gives up at" in text(begin)
    was_right(begin, error)
    assert not begin.gives_up_window_ms, "exactly"
    assert not any(each.length for each in peer.segments if each.is_ours), "nothing was on the wire"
    assert any(line.endswith("nft list ruleset") for line in begin.advice or ())
    ends = [each for each in stalls if each.phase == "end"]
    assert ends[0].retransmits == RETRIES, "as often as the kernel tried"


@script()
def what_this_host_lets_out_again_was_probably_sent(tmp_path: Path) -> None:
    with scripted(tmp_path, tcp_retries2=8) as (peer, seen):
        conn = peer.accepted()
        drop_output(peer)
        conn.write(100)
        seen.wait_for(phase="begin")
        peer.run("nft", "delete table inet own")
        conn.expect(length=100)
        conn.ack()
        end = seen.wait_for(phase="end")
    assert end.verdict == "local-drop" and end.outcome in ("presumed", "recovered")
    assert how_it_ended(end).endswith("the data was probably sent.") or end.outcome == "recovered"


@script(drops=[drop_output, drop_in_queue])
def what_this_host_drops_while_it_is_in_flight(tmp_path: Path, drops: object) -> None:
    assert callable(drops)
    with scripted(tmp_path) as (peer, seen):
        conn = peer.accepted()
        conn.write(100)
        conn.expect(length=100)
        drops(peer)
        assert conn.error() == errno.ETIMEDOUT
        error = seen.wait_for("error")
    stalls = seen.stop()
    retransmissions = seen.of("retransmit")
    if any(each.send_error for each in retransmissions):  # Linux 6.17
        assert ended(stalls) == ["local-drop timed-out"]
        expected = "EPERM" if drops is drop_output else "NET_XMIT_DROP"
        assert {each.send_error for each in retransmissions} == {expected}
        assert "Cannot send: " in text(stalls[0])
        was_right(stalls[0], error)
    else:
        # What is dropped is no event: the end tells.
        assert [each.outcome for each in stalls if each.phase == "end"][-1] == "timed-out"


@script(family=FAMILIES)
def data_for_an_end_that_has_closed_is_no_reset_of_the_peers(tmp_path: Path, family: int | str) -> None:
    with scripted(tmp_path, family) as (peer, seen):
        conn = peer.accepted()
        conn.socket.close()
        conn.expect("FA")
        conn.ack(ack=conn.end - 1)
        conn.send("PA", ack=conn.end - 1, data=b"x" * 100)
        peer.until(lambda: any("R" in each.flags for each in peer.segments))
        seen.wait_for("reset", direction="sent")
        seen.wait_for("state", new_state="CLOSE")
    seen.stop()
    assert [each.direction for each in seen.of("reset")] == ["sent"]


@script()
def a_reset_of_the_peers_after_our_close_is_one(tmp_path: Path) -> None:
    with scripted(tmp_path) as (peer, seen):
        conn = peer.accepted()
        conn.socket.close()
        conn.expect("FA")
        conn.reset()
        seen.wait_for("reset", direction="received")
        seen.wait_for("state", new_state="CLOSE")
    assert [each.direction for each in seen.of("reset")] == ["received"]


@script(family=FAMILIES, how=["SO_LINGER", "AF_UNSPEC"])
def breaking_off_oneself_is_no_error(tmp_path: Path, family: int | str, how: str) -> None:
    with scripted(tmp_path, family) as (peer, seen):
        conn = peer.accepted()
        if how == "SO_LINGER":
            conn.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            conn.socket.close()
        else:
            disconnect(conn.socket)
        seen.wait_for("reset", direction="sent")
        seen.wait_for("state", new_state="CLOSE")
        other = peer.accepted(conn.listener)
        other.reset()
        seen.wait_for("error", rport=other.rport)
    assert [each.rport for each in seen.of("error")] == [other.rport], "and the peer's reset is one"


def disconnect(connected: socket.socket) -> None:
    """connect() to AF_UNSPEC, which Python has no address for."""
    address = struct.pack("H14x", socket.AF_UNSPEC)
    assert ctypes.CDLL(None, use_errno=True).connect(connected.fileno(), address, len(address)) == 0


def close_window(conn: Connection, *, unsent: int = 3000, **of_ack: int) -> None:
    """The peer takes 2,000 bytes, and closes its window on the rest."""
    conn.write(2000 + unsent)
    conn.expect_data(2000)
    conn.ack(window=0, **of_ack)


@script(family=FAMILIES)
def a_closed_window_whose_peer_is_gone(tmp_path: Path, family: int | str) -> None:
    with scripted(tmp_path, family, tcp_retries2=4) as (peer, seen):
        conn = peer.accepted(window=2000)
        close_window(conn)
        assert conn.error() == errno.ETIMEDOUT
        error = seen.wait_for("error")
        counted = peer.counted()
    stalls = seen.stop()
    assert len(seen.of("window-probe")) == counted["TcpExtTCPWinProbe"] == 4, "not one more than went out"
    assert ended(stalls)[-1] == "path-loss timed-out"
    stalls = [each for each in stalls if each.probes_out is not None]  # before that a slow peer may lose something
    begin = stalls[0]
    assert (begin.verdict, begin.probes_out) == ("zero-window", 2)
    assert "3 probes, the last 2 unanswered, 3000 B waiting" in text(begin)
    assert "The peer answers" not in " ".join(map(text, stalls))
    for stall in stalls[:-1]:
        was_right(stall, error)
        assert not stall.gives_up_window_ms


@script()
def a_closed_window_whose_peer_answers_has_no_end(tmp_path: Path) -> None:
    with scripted(tmp_path, tcp_retries2=4) as (peer, seen):
        conn = peer.accepted(window=2000)
        close_window(conn)
        for _ in range(4):
            conn.expect("A", length=0)
            conn.ack(window=0)
        begin = seen.wait_for(phase="begin", verdict="zero-window")
        conn.expect("A", length=0)
        conn.ack(window=20000)
        conn.expect_data(1000)
        seen.wait_for(phase="end")
    assert (begin.verdict, begin.probes_out, begin.gives_up_in_ms) == ("zero-window", 0, None)
    assert "The peer answers, but its application does not read" in text(begin)
    assert "3 probes" in text(begin) and "unanswered" not in text(begin)
    assert "zero-window recovered" in ended(seen.stop())


@script()
def a_closed_window_ends_with_the_user_timeout_though_the_peer_answers(tmp_path: Path) -> None:
    with scripted(tmp_path, tcp_retries2=15) as (peer, seen):
        conn = peer.accepted(window=2000)
        conn.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 3000)
        close_window(conn)
        while conn.state() != 7:
            for each in peer.read(0.02):
                if each.length == 0 and "R" not in each.flags:
                    conn.ack(window=0)
        error = seen.wait_for("error")
        counted = peer.counted()
    stalls = seen.stop()
    assert len(seen.of("window-probe")) == counted["TcpExtTCPWinProbe"]
    assert error.error == "ETIMEDOUT" and ended(stalls) == ["zero-window timed-out"]
    was_right(stalls[0], error)


@script()
def a_closed_window_of_a_socket_that_nobody_holds(tmp_path: Path) -> None:
    with scripted(tmp_path, tcp_retries2=15, tcp_orphan_retries=4) as (peer, seen):
        conn = peer.accepted(window=2000)
        close_window(conn)
        conn.socket.close()
        closed = seen.wait_for("state", new_state="CLOSE")
        counted = peer.counted()
    stalls = seen.stop()
    assert len(seen.of("window-probe")) == counted["TcpExtTCPWinProbe"]
    assert ended(stalls) == ["path-loss timed-out"] and stalls[0].orphan
    was_right(stalls[0], closed)


@script()
def a_window_that_is_closed_on_data_in_flight(tmp_path: Path) -> None:
    with scripted(tmp_path, tcp_retries2=15) as (peer, seen):
        conn = peer.accepted(window=20000)
        conn.write(3000)
        conn.expect_data(3000)
        conn.ack(ack=conn.end - 1000, window=0)
        for _ in range(2):
            conn.expect(length=1000)
            conn.ack(ack=conn.end - 1000, window=0)
        begin = seen.wait_for(phase="begin")
        assert begin.gives_up_in_ms is None and "The peer answers" in text(begin)
        seen.wait_for("retransmit", 5, kind="rto")
        update = seen.wait_for(phase="update")
    assert update.verdict == "path-loss" and update.gives_up_in_ms is not None
    assert 100_000 < update.gives_up_in_ms <= 120_000 and update.gives_up_window_ms is not None
    assert "unanswered" in text(update) and "1 probe," not in text(update)


@script()
def the_user_timeout_set_meanwhile(tmp_path: Path) -> None:
    with scripted(tmp_path, tcp_retries2=15) as (peer, seen):
        conn = peer.accepted()
        conn.write(100)
        seen.wait_for("retransmit", kind="rto", attempt=1)
        conn.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 3000)
        assert conn.error() == errno.ETIMEDOUT
        error = seen.wait_for("error")
    moved = [each for each in seen.stop() if each.phase != "end"][-1]
    was_right(moved, error)


@script()
def the_limit_lowered_meanwhile(tmp_path: Path) -> None:
    with scripted(tmp_path, tcp_retries2=15) as (peer, seen):
        conn = peer.accepted()
        conn.write(100)
        seen.wait_for("retransmit", kind="rto", attempt=2)
        peer.set_sysctl("tcp_retries2", 4)
        assert conn.error() == errno.ETIMEDOUT
        error = seen.wait_for("error")
    moved = [each for each in seen.stop() if each.phase != "end"][-1]
    was_right(moved, error)


@script()
def a_thin_stream(tmp_path: Path) -> None:
    """Its first six RTOs are not doubled, so that it makes as much time with more retransmissions."""
    with scripted(tmp_path, tcp_retries2=4) as (peer, seen):
        conn = peer.accepted()
        conn.socket.setsockopt(socket.IPPROTO_TCP, TCP_THIN_LINEAR_TIMEOUTS, 1)
        conn.write(100)
        assert conn.error() == errno.ETIMEDOUT
        error = seen.wait_for("error")
    stalls = [each for each in seen.stop() if each.phase != "end"]
    rtos = seen.of("retransmit", kind="rto")
    assert len(rtos) > 7 and rtos[0].thin
    assert stalls[0].gives_up_window_ms, "whether the stream is thin is decided with the first RTO"
    for stall in stalls:
        was_right(stall, error)
    assert not stalls[-1].gives_up_window_ms


@script()
def a_connection_that_was_just_heard_is_reset(tmp_path: Path) -> None:
    with scripted(tmp_path) as (peer, seen):
        conn = peer.accepted()
        conn.write(100)
        conn.expect(length=100)
        conn.expect(length=100)
        conn.ack()
        seen.wait_for("resume")
        conn.reset()
        seen.wait_for("error")
    assert ended(seen.stop()) == ["packet-loss recovered"]


@script()
def a_fin_that_is_answered_by_a_reset(tmp_path: Path) -> None:
    with scripted(tmp_path) as (peer, seen):
        conn = peer.accepted()
        conn.socket.shutdown(socket.SHUT_WR)
        conn.expect("FA")
        conn.expect("FA")
        conn.reset()
        seen.wait_for("reset", direction="received")
        seen.wait_for("state", new_state="CLOSE")
    assert ended(seen.stop()) == ["packet-loss reset"]


@script()
def a_close_after_a_shutdown_is_no_answer(tmp_path: Path) -> None:
    with scripted(tmp_path) as (peer, seen):
        conn = peer.accepted()
        conn.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in ((socket.TCP_KEEPIDLE, 1), (socket.TCP_KEEPINTVL, 1), (socket.TCP_KEEPCNT, 9)):
            conn.socket.setsockopt(socket.IPPROTO_TCP, option, value)
        conn.socket.shutdown(socket.SHUT_WR)
        conn.expect("FA")
        conn.ack()
        seen.wait_for(phase="begin", verdict="keepalive-failed")
        conn.socket.close()
        seen.wait_for("state", old_state="FIN_WAIT2")
    assert "recovered" not in " ".join(ended(seen.stop()))


@pytest.mark.parametrize("name", SCRIPTS)
def test_script(name: str, running: dict[str, Future[None]], tmp_path: Path) -> None:
    first = running.pop(name, None)
    if first is not None:
        first.result()
    else:  # it is tried again
        SCRIPTS[name](tmp_path)
