"""Scripts for the scripted peer: what may happen to a TCP connection, each kind in a few lines.

`SCRIPTS` has them by name. None of them checks what tcpwatch says; test_packet_scripts.py does that for all.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from scripted import FAMILIES, PORT, Connection, ScriptedPeer

TCP = socket.IPPROTO_TCP
SYNCNT, DEFER_ACCEPT, USER_TIMEOUT = socket.TCP_SYNCNT, socket.TCP_DEFER_ACCEPT, socket.TCP_USER_TIMEOUT
THIN_LINEAR_TIMEOUTS, FASTOPEN, FASTOPEN_NO_COOKIE = 16, 23, 34

RETRANS, TIMEOUTS, RSTS = "TcpRetransSegs", "TcpExtTCPTimeouts", "TcpOutRsts"
KEEPALIVES, PROBES, WINDOW_PROBES, SYNS = (
    "TcpExtTCPKeepAlive", "TcpExtTCPLossProbes", "TcpExtTCPWinProbe", "TcpExtTCPSynRetrans",
)  # fmt: skip


@dataclass(frozen=True)
class Script:
    """One kind of what may happen.

    shows: how much the kernel's counters grow by at least, else the script did not do what it is for. differs: names
    of the differences between the kernel's counters, the wire and the events that it brings about, as
    test_packet_scripts.py lists them.
    """

    name: str
    run: Callable[[ScriptedPeer], None]
    sysctls: dict[str, int | str]
    shows: dict[str, int]
    differs: Sequence[str]
    families: Sequence[int | str]


SCRIPTS: dict[str, Script] = {}


def script(
    *differs: str, shows: dict[str, int], families: Sequence[int | str] = FAMILIES, **sysctls: int | str
) -> Callable[[Callable[[ScriptedPeer], None]], Callable[[ScriptedPeer], None]]:
    """Add the function to SCRIPTS."""

    def add(run: Callable[[ScriptedPeer], None]) -> Callable[[ScriptedPeer], None]:
        SCRIPTS[run.__name__] = Script(run.__name__, run, sysctls, shows, differs, families)
        return run

    return add


def keepalive(conn: Connection, *, idle: int = 1, interval: int = 1, probes: int = 2) -> None:
    """Turn it on, with times in seconds."""
    for name, value in (
        (socket.TCP_KEEPIDLE, idle),
        (socket.TCP_KEEPINTVL, interval),
        (socket.TCP_KEEPCNT, probes),
    ):
        conn.socket.setsockopt(TCP, name, value)
    conn.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def expect_probe(conn: Connection) -> None:
    """Wait for a segment without data that begins before what the peer has acknowledged."""
    expected = (conn.end - 1) & 0xFFFFFFFF
    while (each := conn.expect("A")).seq != expected or each.length:
        pass


def is_gone(conn: Connection, number: int) -> None:
    """The application gets that error, and nothing is left."""
    assert conn.error() == number


# The handshake.


@script(shows={RETRANS: 2, SYNS: 2, TIMEOUTS: 2})
def syn_lost_twice(peer: ScriptedPeer) -> None:
    conn = peer.connecting()
    conn.expect("S")
    conn.expect("S")
    conn.send("SA", options=conn.syn_options())
    conn.expect("A")


@script(shows={RETRANS: 1, SYNS: 1, TIMEOUTS: 2})
def syn_never_answered(peer: ScriptedPeer) -> None:
    linear = Path("/proc/sys/net/ipv4/tcp_syn_linear_timeouts")
    if linear.exists():
        linear.write_text("0", encoding="ascii")
    is_gone(peer.connecting((TCP, SYNCNT, 1)), errno.ETIMEDOUT)


@script(shows={})
def syn_refused(peer: ScriptedPeer) -> None:
    conn = peer.connecting()
    conn.reset()
    is_gone(conn, errno.ECONNREFUSED)


@script(shows={RETRANS: 1, SYNS: 1})
def syn_lost_and_refused(peer: ScriptedPeer) -> None:
    conn = peer.connecting()
    conn.expect("S")
    conn.reset()
    is_gone(conn, errno.ECONNREFUSED)


@script(shows={})
def syn_answered_by_icmp(peer: ScriptedPeer) -> None:
    conn = peer.connecting()
    conn.icmp_unreachable()
    is_gone(conn, errno.EHOSTUNREACH)


@script(shows={RSTS: 1})
def syn_answered_by_a_wrong_syn_ack(peer: ScriptedPeer) -> None:
    conn = peer.connecting()
    conn.send("SA", ack=conn.end + 7, options=conn.syn_options())
    conn.expect("R")
    conn.next = conn.start
    conn.reset()
    is_gone(conn, errno.ECONNREFUSED)


@script(shows={RETRANS: 1, SYNS: 1})
def syn_answered_by_a_wrong_reset(peer: ScriptedPeer) -> None:
    conn = peer.connecting()
    conn.send("RA", seq=0, ack=conn.end + 7)
    conn.expect("S")
    conn.send("SA", options=conn.syn_options())
    conn.expect("A")


@script(shows={})
def both_connect_at_once(peer: ScriptedPeer) -> None:
    conn = peer.connecting()
    conn.send("S", options=conn.syn_options())
    conn.expect("SA")
    conn.ack()
    conn.write(10)
    conn.expect("PA", length=10)
    conn.ack()


@script(shows={RETRANS: 1, SYNS: 1, TIMEOUTS: 1})
def both_connect_at_once_and_an_answer_is_lost(peer: ScriptedPeer) -> None:
    conn = peer.connecting()
    conn.send("S", options=conn.syn_options())
    conn.expect("SA")
    conn.expect("SA")
    conn.ack()
    conn.write(10)
    conn.expect("PA", length=10)
    conn.ack()


@script(shows={RETRANS: 1, SYNS: 1, TIMEOUTS: 1})
def syn_ack_lost(peer: ScriptedPeer) -> None:
    conn = peer.syn(peer.listening())
    conn.expect("SA")
    conn.expect("SA")
    conn.send("A")
    conn.accept()


@script("a request that is given up", shows={RETRANS: 1, SYNS: 1, TIMEOUTS: 2}, tcp_synack_retries=1)
def syn_ack_never_answered(peer: ScriptedPeer) -> None:
    peer.syn(peer.listening()).expect("SA")
    peer.until(peer.is_over)


@script(shows={RETRANS: 1, SYNS: 1})
def syn_sent_again(peer: ScriptedPeer) -> None:
    conn = peer.syn(peer.listening())
    conn.expect("SA")
    conn.next = conn.start
    conn.send("S", options=conn.syn_options())
    conn.expect("SA")
    conn.send("A")
    conn.accept()


@script(shows={})
def syn_ack_reset(peer: ScriptedPeer) -> None:
    conn = peer.syn(peer.listening())
    conn.expect("SA")
    conn.reset(flags="R")
    peer.until(peer.is_over)


@script("a request whose ACK is deferred", shows={RETRANS: 1, SYNS: 1, TIMEOUTS: 2})
def accept_deferred(peer: ScriptedPeer) -> None:
    conn = peer.syn(peer.listening((TCP, DEFER_ACCEPT, 3)))
    conn.expect("SA")
    conn.ack()
    conn.expect("SA")
    conn.ack()
    conn.accept()


@script(shows={RETRANS: 1, SYNS: 1, TIMEOUTS: 1}, tcp_fastopen=0x203)
def fast_open_syn_ack_lost(peer: ScriptedPeer) -> None:
    conn = peer.syn(peer.listening((TCP, FASTOPEN, 5)), data=b"query")
    conn.expect("SA")
    conn.accept()
    conn.expect("SA")
    conn.ack()
    conn.write(100)
    conn.expect("PA", length=100)
    conn.ack()
    conn.socket.close()
    conn.expect()
    conn.reset()
    peer.until(peer.is_over)


@script(shows={RETRANS: 1, SYNS: 1, TIMEOUTS: 2}, tcp_fastopen=0x203)
def fast_open_syn_ack_never_answered(peer: ScriptedPeer) -> None:
    conn = peer.syn(peer.listening((TCP, FASTOPEN, 5), (TCP, SYNCNT, 1)), data=b"query")
    conn.expect("SA")
    conn.accept()
    is_gone(conn, errno.ETIMEDOUT)


@script(shows={RETRANS: 1}, tcp_fastopen=0x5)
def fast_open_data_refused(peer: ScriptedPeer) -> None:
    made = peer.socket()
    made.sendto(b"query", socket.MSG_FASTOPEN, (peer.address(of_kernel=False), PORT))
    conn = Connection(peer, lport=made.getsockname()[1], rport=PORT, window=20000)
    conn.socket = made
    syn = conn.expect("S")
    conn.send("SA", ack=syn.seq + 1, options=conn.syn_options())
    while conn.expect().length != 5:
        pass
    conn.ack()


# Data.


def lose_once(conn: Connection, count: int = 100) -> None:
    """The application writes, and the tail loss probe is what is acknowledged."""
    conn.write(count)
    conn.expect("PA", length=count)
    conn.expect("PA", length=count)
    conn.ack()


@script(shows={RETRANS: 1, PROBES: 1})
def tail_loss_probe(peer: ScriptedPeer) -> None:
    lose_once(peer.accepted())


@script(shows={RETRANS: 1, PROBES: 1})
def tail_loss_probe_of_a_client(peer: ScriptedPeer) -> None:
    lose_once(peer.connected())


@script("a loss probe that sends new data", shows={PROBES: 1})
def tail_loss_probe_of_new_data(peer: ScriptedPeer) -> None:
    """More is waiting than the congestion window lets through."""
    conn = peer.accepted()
    conn.write(12000)
    conn.expect_data(11000)
    conn.ack()
    conn.expect_data(1000)
    conn.ack()


@script(shows={RETRANS: 2, PROBES: 1, TIMEOUTS: 1})
def retransmission_timeout(peer: ScriptedPeer) -> None:
    conn = peer.accepted()
    conn.write(100)
    for _ in range(3):
        conn.expect("PA", length=100)
    conn.ack()


@script(shows={RETRANS: 2, TIMEOUTS: 2}, tcp_retries2=2)
def retransmissions_to_the_end(peer: ScriptedPeer) -> None:
    conn = peer.accepted()
    conn.write(100)
    is_gone(conn, errno.ETIMEDOUT)


@script(shows={RETRANS: 2, TIMEOUTS: 2}, tcp_retries2=2)
def retransmissions_of_a_client_to_the_end(peer: ScriptedPeer) -> None:
    conn = peer.connected()
    conn.write(100)
    is_gone(conn, errno.ETIMEDOUT)


@script(shows={RETRANS: 1})
def fast_retransmit_by_sack(peer: ScriptedPeer) -> None:
    conn = peer.accepted()
    first = conn.end
    conn.write(8000)
    conn.expect_data(8000)
    for number in range(2, 9):
        conn.ack(ack=first, sack=[(first + 1000, first + 1000 * number)])
    while conn.expect().seq != first:
        pass
    conn.ack()


@script(shows={RETRANS: 1})
def fast_retransmit_by_duplicates(peer: ScriptedPeer) -> None:
    conn = peer.accepted(sack=False)
    first = conn.end
    conn.write(8000)
    conn.expect_data(8000)
    for _ in range(7):
        conn.ack(ack=first)
    while conn.expect().seq != first:
        pass
    conn.ack()


@script(shows={RETRANS: 2})
def two_holes(peer: ScriptedPeer) -> None:
    conn = peer.accepted()
    first = conn.end
    conn.write(10000)
    conn.expect_data(10000)
    behind = (first + 5000, first + 10000)
    for _ in range(4):
        conn.ack(ack=first, sack=[behind, (first + 1000, first + 4000)])
    while conn.expect().seq != first:
        pass
    conn.ack(ack=first + 4000, sack=[behind])
    while conn.expect().seq != (first + 4000) & 0xFFFFFFFF:
        pass
    conn.ack()


@script(shows={RETRANS: 8, TIMEOUTS: 1})
def burst_lost(peer: ScriptedPeer) -> None:
    """Each retransmission is acknowledged as it comes."""
    conn = peer.accepted()
    first = conn.end
    conn.write(8000)
    conn.expect_data(8000)
    acked = first
    while acked != conn.end:
        each = conn.expect()
        if each.seq == acked:
            acked = each.end
            conn.ack(ack=acked)


@script(shows={RETRANS: 2, TIMEOUTS: 1})
def partly_acknowledged(peer: ScriptedPeer) -> None:
    conn = peer.accepted()
    first = conn.end
    conn.write(5000)
    conn.expect_data(5000)
    conn.ack(ack=first + 2000)
    for _ in range(2):
        conn.expect()
    conn.expect()
    conn.ack()


@script(shows={RETRANS: 3, TIMEOUTS: 3})
def thin_stream(peer: ScriptedPeer) -> None:
    conn = peer.accepted()
    conn.socket.setsockopt(TCP, THIN_LINEAR_TIMEOUTS, 1)
    conn.write(100)
    for _ in range(5):
        conn.expect("PA", length=100)
    conn.ack()


@script(shows={RETRANS: 2, TIMEOUTS: 2})
def user_timeout(peer: ScriptedPeer) -> None:
    conn = peer.accepted()
    conn.socket.setsockopt(TCP, USER_TIMEOUT, 900)
    conn.write(100)
    is_gone(conn, errno.ETIMEDOUT)


@script(shows={RETRANS: 2, TIMEOUTS: 2})
def user_timeout_set_meanwhile(peer: ScriptedPeer) -> None:
    conn = peer.accepted()
    conn.write(100)
    for _ in range(3):
        conn.expect("PA", length=100)
    conn.socket.setsockopt(TCP, USER_TIMEOUT, 900)
    is_gone(conn, errno.ETIMEDOUT)


@script(shows={RETRANS: 3, TIMEOUTS: 2})
def retries_lowered_meanwhile(peer: ScriptedPeer) -> None:
    conn = peer.accepted()
    conn.write(100)
    for _ in range(4):
        conn.expect("PA", length=100)
    peer.set_sysctl("tcp_retries2", 1)
    is_gone(conn, errno.ETIMEDOUT)


@script(shows={RETRANS: 2}, tcp_retries2=2)
def data_answered_by_icmp(peer: ScriptedPeer) -> None:
    """Each one makes the kernel try again early (tcp_ld_RTO_revert)."""
    conn = peer.accepted()
    conn.write(100)
    conn.expect("PA", length=100)
    while conn.state() != 7:
        peer.silence(0.15)
        conn.icmp_unreachable()
    assert conn.error() == errno.EHOSTUNREACH


@script(shows={RETRANS: 1})
def path_mtu_shrinks(peer: ScriptedPeer) -> None:
    conn = peer.accepted(mss=1400)
    conn.write(1400)
    conn.expect(length=1400)
    conn.icmp_unreachable(4, mtu=1300)
    conn.expect()
    peer.silence(0.1)
    conn.expect_data(0)
    conn.ack()


@script(shows={RETRANS: 3, TIMEOUTS: 1})
def path_mtu_shrinks_after_a_timeout(peer: ScriptedPeer) -> None:
    """What is sent again for the MTU comes between two timeouts."""
    conn = peer.accepted(mss=1400)
    conn.write(1400)
    for _ in range(3):
        conn.expect(length=1400)
    conn.icmp_unreachable(4, mtu=1300)
    conn.expect()
    peer.silence(0.05)
    conn.expect_data(0)
    conn.ack()


# Keepalive.


@script(shows={KEEPALIVES: 2})
def keepalive_answered(peer: ScriptedPeer) -> None:
    conn = peer.accepted()
    keepalive(conn)
    for _ in range(2):
        expect_probe(conn)
        conn.ack()


@script(shows={KEEPALIVES: 2, RSTS: 1})
def keepalive_to_the_end(peer: ScriptedPeer) -> None:
    conn = peer.connected()
    keepalive(conn)
    is_gone(conn, errno.ETIMEDOUT)


@script(shows={KEEPALIVES: 1, RSTS: 1})
def keepalive_with_user_timeout(peer: ScriptedPeer) -> None:
    conn = peer.connected()
    keepalive(conn, probes=9)
    conn.socket.setsockopt(TCP, USER_TIMEOUT, 1500)
    is_gone(conn, errno.ETIMEDOUT)


@script(shows={KEEPALIVES: 2, RSTS: 1})
def keepalive_changed_meanwhile(peer: ScriptedPeer) -> None:
    conn = peer.accepted()
    keepalive(conn, probes=9)
    expect_probe(conn)
    expect_probe(conn)
    conn.socket.setsockopt(TCP, socket.TCP_KEEPCNT, 2)
    is_gone(conn, errno.ETIMEDOUT)


@script(shows={KEEPALIVES: 1})
def keepalive_answered_by_a_reset(peer: ScriptedPeer) -> None:
    conn = peer.connected()
    keepalive(conn)
    expect_probe(conn)
    conn.reset()
    is_gone(conn, errno.ECONNRESET)


@script(shows={KEEPALIVES: 1, RETRANS: 1})
def keepalive_and_then_data(peer: ScriptedPeer) -> None:
    conn = peer.connected()
    keepalive(conn, probes=9)
    expect_probe(conn)
    lose_once(conn)


# The window.


def close_window(peer: ScriptedPeer, *, orphan: bool = False) -> Connection:
    """Some data is acknowledged with a closed window, and some is left."""
    conn = peer.accepted(window=2000)
    conn.write(5000)
    conn.expect_data(2000)
    conn.ack(window=0)
    if orphan:
        conn.socket.close()
    return conn


@script(shows={WINDOW_PROBES: 2})
def window_closed_and_opened(peer: ScriptedPeer) -> None:
    conn = close_window(peer)
    expect_probe(conn)
    expect_probe(conn)
    conn.ack(window=20000)
    conn.expect_data(3000)
    conn.ack()


@script(shows={WINDOW_PROBES: 3})
def window_stays_closed(peer: ScriptedPeer) -> None:
    conn = close_window(peer)
    for _ in range(3):
        expect_probe(conn)
        conn.ack(window=0)
    conn.ack(window=20000)
    conn.expect_data(3000)
    conn.ack()


@script(shows={WINDOW_PROBES: 2}, tcp_retries2=2)
def window_closed_and_the_peer_gone(peer: ScriptedPeer) -> None:
    is_gone(close_window(peer), errno.ETIMEDOUT)


@script(shows={WINDOW_PROBES: 2})
def window_closed_with_user_timeout(peer: ScriptedPeer) -> None:
    conn = close_window(peer)
    conn.socket.setsockopt(TCP, USER_TIMEOUT, 1000)
    is_gone(conn, errno.ETIMEDOUT)


@script(shows={WINDOW_PROBES: 1}, tcp_orphan_retries=1)
def window_closed_for_an_orphan(peer: ScriptedPeer) -> None:
    close_window(peer, orphan=True)
    peer.until(peer.is_over)


@script(shows={WINDOW_PROBES: 2})
def window_probe_answered_by_a_reset(peer: ScriptedPeer) -> None:
    conn = close_window(peer)
    expect_probe(conn)
    expect_probe(conn)
    conn.reset()
    is_gone(conn, errno.ECONNRESET)


@script(shows={RETRANS: 2})
def window_shrunk_with_data_in_flight(peer: ScriptedPeer) -> None:
    conn = peer.accepted()
    first = conn.end
    conn.write(3000)
    conn.expect_data(3000)
    conn.ack(ack=first, window=0)
    for _ in range(3):
        conn.expect()
    conn.ack(window=20000)


@script(shows={})
def window_too_small(peer: ScriptedPeer) -> None:
    """The timer sends what fits: data, and no probe (tcp_write_wakeup)."""
    conn = peer.accepted(window=2000)
    conn.write(5000)
    conn.expect_data(2000)
    conn.ack(window=300)
    conn.expect(length=300)
    conn.ack(window=20000)
    conn.expect_data(2700)
    conn.ack()


# Closing.


@script(shows={RETRANS: 1})
def fin_lost(peer: ScriptedPeer) -> None:
    conn = peer.connected()
    conn.socket.close()
    conn.expect("FA")
    conn.expect("FA")
    conn.send("FA")
    conn.expect("A")
    peer.until(peer.is_over)


@script(shows={RETRANS: 2, TIMEOUTS: 1})
def fin_lost_twice(peer: ScriptedPeer) -> None:
    conn = peer.accepted()
    conn.socket.close()
    for _ in range(3):
        conn.expect("FA")
    conn.send("FA")
    conn.expect("A")
    peer.until(peer.is_over)


@script(shows={})
def fin_answered_by_a_reset(peer: ScriptedPeer) -> None:
    conn = peer.accepted()
    conn.socket.close()
    conn.expect("FA")
    conn.reset()
    peer.until(peer.is_over)


@script(shows={RSTS: 1})
def data_after_close(peer: ScriptedPeer) -> None:
    conn = peer.accepted()
    conn.socket.close()
    conn.expect("FA")
    conn.send("PA", ack=conn.end - 1, data=b"x" * 100)
    conn.expect("R")
    conn.send("A", ack=conn.end - 1)
    conn.expect("R")
    peer.until(peer.is_over)


@script("a reset that no full socket sends", shows={RSTS: 1})
def data_in_fin_wait2(peer: ScriptedPeer) -> None:
    conn = peer.accepted()
    conn.socket.close()
    conn.expect("FA")
    conn.ack()
    conn.send("PA", data=b"x" * 100)
    while "R" not in conn.expect().flags:
        pass
    peer.until(peer.is_over)


@script(shows={RSTS: 1})
def linger_of_no_time(peer: ScriptedPeer) -> None:
    conn = peer.accepted()
    conn.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    conn.socket.close()
    conn.expect("RA")
    peer.until(peer.is_over)


@script(shows={RSTS: 1})
def linger_of_no_time_with_data_in_flight(peer: ScriptedPeer) -> None:
    conn = peer.connected()
    conn.write(100)
    conn.expect("PA", length=100)
    conn.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    conn.socket.close()
    conn.expect("RA")
    peer.until(peer.is_over)


@script(shows={RSTS: 1}, families=(4, 6))
def disconnected(peer: ScriptedPeer) -> None:
    """connect() with AF_UNSPEC."""
    conn = peer.connected()
    conn.write(100)
    conn.expect("PA", length=100)
    disconnect(conn.socket)
    conn.expect("RA")


def disconnect(connected: socket.socket) -> None:
    """What Python's connect() cannot: with AF_UNSPEC."""
    address = struct.pack("H26x", socket.AF_UNSPEC)
    assert ctypes.CDLL(None).connect(connected.fileno(), address, len(address)) == 0


@script(shows={RSTS: 1})
def closed_with_unread_data(peer: ScriptedPeer) -> None:
    conn = peer.accepted()
    conn.send("PA", data=b"x" * 100)
    conn.expect("A")
    conn.socket.close()
    conn.expect("RA")
    peer.until(peer.is_over)


@script("an orphan that is given up", shows={RETRANS: 1, TIMEOUTS: 1}, tcp_orphan_retries=1)
def orphan_given_up(peer: ScriptedPeer) -> None:
    conn = peer.accepted()
    conn.socket.close()
    conn.expect("FA")
    peer.until(peer.is_over)


@script("an orphan that is given up", shows={RETRANS: 1, TIMEOUTS: 1}, tcp_orphan_retries=1)
def orphan_with_data_given_up(peer: ScriptedPeer) -> None:
    conn = peer.connected()
    conn.write(100)
    conn.expect("PA", length=100)
    conn.socket.close()
    peer.until(peer.is_over)


@script(shows={RETRANS: 2, TIMEOUTS: 2}, tcp_retries2=1)
def fin_of_a_socket_that_is_held_to_the_end(peer: ScriptedPeer) -> None:
    conn = peer.accepted()
    conn.socket.shutdown(socket.SHUT_WR)
    is_gone(conn, errno.ETIMEDOUT)


@script(shows={}, tcp_fin_timeout=1)
def fin_never_answered_by_one(peer: ScriptedPeer) -> None:
    """FIN_WAIT2, until its time is over."""
    conn = peer.accepted()
    conn.socket.close()
    conn.expect("FA")
    conn.ack()
    peer.until(lambda: not peer.sockets())


@script("an orphan that is given up", shows={RETRANS: 1, TIMEOUTS: 1}, tcp_orphan_retries=1)
def last_ack_lost(peer: ScriptedPeer) -> None:
    conn = peer.accepted()
    conn.send("FA")
    conn.expect("A")
    conn.socket.close()
    conn.expect("FA")
    peer.until(peer.is_over)


@script(shows={RETRANS: 1})
def both_close_at_once_and_a_fin_is_lost(peer: ScriptedPeer) -> None:
    conn = peer.accepted()
    conn.socket.close()
    fin = conn.expect("FA")
    conn.send("FA", ack=fin.seq)
    while "F" not in conn.expect().flags:
        pass
    conn.ack()
    peer.until(peer.is_over)


@script(shows={RETRANS: 1})
def half_closed_with_data_lost(peer: ScriptedPeer) -> None:
    """The peer has closed its end; the application goes on writing."""
    conn = peer.accepted()
    conn.send("FA")
    conn.expect("A")
    lose_once(conn)
    conn.socket.close()
    conn.expect("FA")
    conn.ack()
    peer.until(peer.is_over)


@script(shows={RETRANS: 1})
def data_and_fin_lost(peer: ScriptedPeer) -> None:
    conn = peer.accepted()
    conn.write(100)
    conn.expect("PA", length=100)
    conn.socket.close()
    conn.expect("FA")
    conn.expect()
    conn.ack()
    conn.send("FA")
    peer.until(peer.is_over)


@script(shows={RSTS: 1})
def peer_closed_and_resets_what_is_written(peer: ScriptedPeer) -> None:
    conn = peer.accepted()
    conn.send("FA")
    conn.expect("A")
    conn.write(100)
    conn.expect("PA", length=100)
    conn.reset(flags="R")
    assert conn.error() in (errno.EPIPE, errno.ECONNRESET)
    conn.send("A")
    conn.expect("R")


# Resets.


@script(shows={})
def reset_exact(peer: ScriptedPeer) -> None:
    conn = peer.accepted()
    conn.reset()
    is_gone(conn, errno.ECONNRESET)


@script(shows={RETRANS: 1})
def reset_after_a_loss(peer: ScriptedPeer) -> None:
    conn = peer.accepted()
    lose_once(conn)
    conn.reset()
    is_gone(conn, errno.ECONNRESET)


@script(shows={})
def reset_refused(peer: ScriptedPeer) -> None:
    conn = peer.accepted()
    conn.reset(off_by=500, flags="R")
    conn.expect("A")
    conn.write(100)
    conn.expect("PA", length=100)
    conn.ack()


@script(shows={RETRANS: 1})
def reset_refused_with_data_in_flight(peer: ScriptedPeer) -> None:
    conn = peer.accepted()
    conn.write(100)
    conn.expect("PA", length=100)
    conn.reset(off_by=500, flags="R")
    while conn.expect().length != 100:
        pass
    conn.ack()


@script("a reset that no full socket sends", shows={RSTS: 1})
def nobody_listens(peer: ScriptedPeer) -> None:
    peer.syn(port=PORT + 1).expect("RA")


def in_time_wait(peer: ScriptedPeer) -> Connection:
    """A connection that both ends have closed."""
    conn = peer.accepted()
    conn.socket.close()
    conn.expect("FA")
    conn.send("FA")
    conn.expect("A")
    assert peer.sockets() == [6]
    return conn


@script(shows={})
def reset_of_a_time_wait(peer: ScriptedPeer) -> None:
    conn = in_time_wait(peer)
    conn.reset(flags="R")
    peer.until(lambda: not peer.sockets())


@script(shows={})
def fin_sent_again_to_a_time_wait(peer: ScriptedPeer) -> None:
    conn = in_time_wait(peer)
    conn.send("FA", seq=conn.next - 1)
    conn.expect("A")


@script(shows={})
def syn_to_a_time_wait(peer: ScriptedPeer) -> None:
    """The same ports again, with a later sequence number."""
    conn = in_time_wait(peer)
    conn.next += 100_000
    conn.send("S", options=conn.syn_options())
    conn.expect("SA")
    conn.ack()
    conn.accept()


@script(shows={RSTS: 1})
def listener_without_a_handshake(peer: ScriptedPeer) -> None:
    """A segment of a connection that a listener knows nothing of."""
    conn = Connection(peer, lport=PORT, rport=50000, window=20000, listener=peer.listening())
    conn.send("A", ack=77)
    conn.expect("R")


# Dropped on this host itself.


def drop_by_rules(peer: ScriptedPeer) -> None:
    """A firewall of this host's own, in its OUTPUT."""
    peer.run(
        "nft",
        "add table inet f; add chain inet f o { type filter hook output priority 0; }; "
        "add rule inet f o tcp sport != 1 drop",
    )


def drop_by_queue(peer: ScriptedPeer) -> None:
    """A queue that is always full."""
    peer.run("tc", "qdisc", "replace", "dev", "tun0", "root", "pfifo", "limit", "0")


def drop_route(peer: ScriptedPeer) -> None:
    """No way to the peer any more."""
    peer.run("ip", "-4" if peer.is_ipv4 else "-6", "route", "flush", "dev", "tun0")


@script("dropped on this host", shows={}, tcp_retries2=2)
def dropped_by_rules_before_it_is_sent(peer: ScriptedPeer) -> None:
    conn = peer.accepted()
    drop_by_rules(peer)
    conn.write(100)
    is_gone(conn, errno.ETIMEDOUT)


@script("dropped on this host", shows={RETRANS: 1, TIMEOUTS: 2}, tcp_retries2=2)
def dropped_by_rules_in_flight(peer: ScriptedPeer) -> None:
    conn = peer.accepted()
    conn.write(100)
    conn.expect("PA", length=100)
    drop_by_rules(peer)
    is_gone(conn, errno.ETIMEDOUT)


@script("dropped on this host", shows={}, tcp_retries2=2)
def dropped_by_the_queue_before_it_is_sent(peer: ScriptedPeer) -> None:
    conn = peer.accepted()
    drop_by_queue(peer)
    conn.write(100)
    is_gone(conn, errno.ETIMEDOUT)


@script("dropped on this host", shows={RETRANS: 1, TIMEOUTS: 2}, tcp_retries2=2)
def dropped_by_the_queue_in_flight(peer: ScriptedPeer) -> None:
    conn = peer.accepted()
    conn.write(100)
    conn.expect("PA", length=100)
    drop_by_queue(peer)
    is_gone(conn, errno.ETIMEDOUT)


@script("no route", shows={TIMEOUTS: 2}, tcp_retries2=2)
def route_lost_in_flight(peer: ScriptedPeer) -> None:
    conn = peer.accepted()
    conn.write(100)
    conn.expect("PA", length=100)
    drop_route(peer)
    conn.error()
