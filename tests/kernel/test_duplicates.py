"""What duplicating a socket must not do, to its process or to tcpwatch."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cgroups import group, rename_peers
from protect_command import lport, protect, protected
from watching import PATIENCE_S

from tracer.kernel import window_probe
from tracer.kernel.descriptors import Descriptors
from tracer.kernel.sock_diag import Ends, Named
from tracer.lab.namespace import wait_until

LINGER_S = 20
LO = "127.0.0.1"
# It holds one connection, and does what a line on stdin says.
_HOLDER = """
import os, socket, sys
connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
print(os.fstat(connection.fileno()).st_ino, connection.getsockname()[1], flush=True)
for line in sys.stdin:
    exec(line)
    print(flush=True)
"""


class Holder:
    """A process with one connection to this one."""

    def __init__(self) -> None:
        with socket.create_server((LO, 0)) as listener:
            rport = lport(listener)
            self.process = subprocess.Popen(
                [sys.executable, "-c", _HOLDER, str(rport)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            inode, port = map(int, self._line().split())
            self.accepted, _ = listener.accept()
        self.named = Named(Ends(LO, port, LO, rport), inode)

    def do(self, statement: str) -> None:
        """Have it execute a statement of Python, and wait for its end."""
        assert self.process.stdin is not None
        self.process.stdin.write(statement + "\n")
        self.process.stdin.flush()
        assert self._line() == "\n"

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def close(self) -> None:
        self.accepted.close()
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def holder() -> Iterator[Holder]:
    made = Holder()
    yield made
    made.close()


def test_closing_never_waits_for_the_peer(holder: Holder) -> None:
    """The process asked its own close() to wait. It closed first, so the last descriptor is the duplicate."""
    holder.do(f"import struct; connection.setsockopt(1, 13, struct.pack('ii', 1, {LINGER_S}))")
    holder.do("connection.setblocking(False)")
    holder.do("while connection.send(bytes(1 << 20)) == 1 << 20: pass")
    descriptors = Descriptors()
    duplicate = descriptors.duplicate([holder.process.pid], holder.named)
    assert window_probe.queued_bytes(duplicate.socket), "nobody reads it"
    holder.do("connection.close()")
    began_s = time.monotonic()
    duplicate.close()
    assert time.monotonic() - began_s < LINGER_S / 2
    received = 0
    holder.accepted.settimeout(PATIENCE_S)
    while data := holder.accepted.recv(1 << 20):
        received += len(data)
    assert received, "all data, then FIN: it was closed, and not reset"


def test_a_close_that_resets_still_resets(holder: Holder) -> None:
    holder.do("import struct; connection.setsockopt(1, 13, struct.pack('ii', 1, 0))")
    with Descriptors().duplicate([holder.process.pid], holder.named):
        holder.do("connection.close()")
    with pytest.raises(ConnectionResetError):
        holder.accepted.settimeout(PATIENCE_S)
        holder.accepted.recv(1)


def test_an_epoll_set_reports_a_closed_socket_only_until_the_duplicate_is_closed(holder: Holder) -> None:
    """As docs/acting.md says: the last close removes it from the set."""
    holder.do("import select; epoll = select.epoll(); epoll.register(connection, select.EPOLLIN)")
    with Descriptors().duplicate([holder.process.pid], holder.named):
        holder.do("connection.close()")
        holder.accepted.send(b"x")
        holder.do(f"assert epoll.poll({PATIENCE_S})")
    holder.do("assert not epoll.poll(0)")


def test_a_peer_that_a_program_renames(tmp_path: Path) -> None:
    """getpeername() then returns the address of a service, as with Cilium, and not the one on the wire."""
    with group(tmp_path / "cgroup", "-t", "cgroup2") as made:
        rename_peers(made)
        # A socket belongs to the group that its process is in when it makes the socket.
        (made / "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")
        holder = Holder()
        try:
            with Descriptors().duplicate([holder.process.pid], holder.named) as duplicate:
                assert duplicate.socket.getpeername()[1] == 1
            (row,) = protected("--pid", holder.process.pid, "--lport", holder.named.ends.lport, "--idle", "60s")
            assert (row["result"], row["rport"]) == ("changed", holder.named.ends.rport)
        finally:
            holder.close()


def test_a_socket_of_another_traffic_class_is_left_alone(tmp_path: Path) -> None:
    """pidfd_getfd() gives the socket the net_cls class of the process that calls it."""
    with group(tmp_path / "cgroup", "-t", "cgroup", "-o", "net_cls") as made:
        (made / "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")
        holder = Holder()
        (made.parent / "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")
        arguments = ("--pid", holder.process.pid, "--lport", holder.named.ends.lport, "--idle", "60s")
        try:
            protected(*arguments, "--dry-run")  # the classes are equal
            (made / "net_cls.classid").write_text("0x10001", encoding="ascii")
            wait_until(lambda: class_of(holder) == "0x10001", PATIENCE_S, "the class")
            done = protect(*arguments)
            assert done.returncode == 1 and "net_cls" in done.stdout
            assert class_of(holder) == "0x10001"
        finally:
            holder.close()


def class_of(holder: Holder) -> str:
    """What the kernel classifies its packets by."""
    shown = subprocess.run(
        ["ss", "-tnOH", "--tos", f"sport = :{holder.named.ends.lport}"], capture_output=True, text=True, check=True
    ).stdout
    return shown.partition("class_id:")[2].split()[0]
