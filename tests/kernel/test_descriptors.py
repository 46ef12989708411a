"""Sockets of other processes: exactly the one that was meant, and no trace of it afterwards."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from watching import PATIENCE_S

from tracer.kernel.descriptors import Descriptors, Duplicate, Unreachable
from tracer.kernel.sock_diag import Ends, Named

# `again`: close the connection, and open another one, which gets the same descriptor.
_HOLDER = """
import os, socket, sys
address = (sys.argv[1], int(sys.argv[2]))
def connect():
    connection = socket.create_connection(address)
    connection.setblocking(False)
    print(os.fstat(connection.fileno()).st_ino, connection.getsockname()[1], connection.fileno(), flush=True)
    return connection
connection = connect()
for line in sys.stdin:
    if line == "again\\n":
        connection.close()
        connection = connect()
    elif line == "file\\n":
        number = connection.fileno()
        os.dup2(os.open("/dev/null", os.O_RDONLY), number)
        print("done", flush=True)
    elif line == "blocking\\n":
        print(os.get_blocking(connection.fileno()), flush=True)
"""


class Holder:
    """Another process with one connection, and this one at its other end."""

    def __init__(self, host: str) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.host = host
        self.listener = socket.create_server((host, 0), family=family)
        self.rport = self.listener.getsockname()[1]
        self.process = subprocess.Popen(
            [sys.executable, "-c", _HOLDER, host, str(self.rport)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.accepted: list[socket.socket] = []
        self.named = self.accept()

    def accept(self) -> Named:
        assert self.process.stdout is not None
        inode, port, self.number = map(int, self.process.stdout.readline().split())
        self.accepted.append(self.listener.accept()[0])
        return Named(Ends(self.host, port, self.host, self.rport), inode)

    def type(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        for each in (self.listener, *self.accepted):
            each.close()


@pytest.fixture(params=["127.0.0.1", "::1"])
def holder(request: pytest.FixtureRequest) -> Iterator[Holder]:
    made = Holder(request.param)
    yield made
    made.close()


def open_files() -> set[str]:
    return {each.name for each in Path("/proc/self/fd").iterdir()}


def test_it_is_the_socket_that_was_meant(holder: Holder) -> None:
    before = open_files()
    descriptors = Descriptors()
    with descriptors.duplicate([holder.process.pid], holder.named) as duplicate:
        assert (duplicate.pid, duplicate.number, duplicate.is_held()) == (holder.process.pid, holder.number, True)
        assert duplicate.socket.getpeername()[1] == holder.rport
        assert not os.get_inheritable(duplicate.socket.fileno())
        descriptors.duplicate([holder.process.pid], holder.named, duplicate.cookie).close()
        with pytest.raises(Unreachable, match="closed it meanwhile"):
            descriptors.duplicate([holder.process.pid], holder.named, duplicate.cookie + 1)
    assert open_files() == before


def test_it_stays_as_it_is(holder: Holder) -> None:
    descriptors = Descriptors()
    descriptors.duplicate([holder.process.pid], holder.named).close()
    holder.type("blocking")
    assert holder.answer() == "False"


@pytest.mark.parametrize(
    "other",
    [
        lambda ends: ends._replace(lport=1),
        lambda ends: ends._replace(laddr="10.0.0.1"),
    ],
)
def test_another_local_end_is_another_connection(holder: Holder, other: Callable[[Ends], Ends]) -> None:
    named = holder.named._replace(ends=other(holder.named.ends))
    descriptors = Descriptors()
    with pytest.raises(Unreachable):
        descriptors.duplicate([holder.process.pid], named)


def test_a_descriptor_that_is_closed_and_taken_again(holder: Holder) -> None:
    descriptors = Descriptors()
    with descriptors.duplicate([holder.process.pid], holder.named) as first:
        number = holder.number
        holder.type("again")
        after = holder.accept()
        assert holder.number == number
        assert not first.is_held()
    with pytest.raises(Unreachable, match=f"process {holder.process.pid} closed it meanwhile"):
        descriptors.duplicate([holder.process.pid], holder.named)
    descriptors.duplicate([holder.process.pid], after).close()


def test_only_of_a_process_with_threads_another_one_may_have_it(holder: Holder) -> None:
    """/proc/PID/fd and pidfd_getfd() reach the files of its main thread."""
    missing = holder.named._replace(inode=1)
    with pytest.raises(Unreachable, match=r"closed it meanwhile$"):
        Descriptors().duplicate([holder.process.pid], missing)
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    try:
        with pytest.raises(Unreachable, match="or only other threads than its main one have it"):
            Descriptors().duplicate([os.getpid()], missing)
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("typed", ["again", "file"])
def test_one_that_is_taken_again_between_the_look_and_the_copy(
    holder: Holder, typed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number was right a moment ago."""
    holder.type(typed)
    if typed == "again":
        holder.accept()
    else:
        assert holder.answer() == "done"
    before = open_files()
    monkeypatch.setattr(Descriptors, "_number", lambda *_: holder.number)
    descriptors = Descriptors()
    with pytest.raises(Unreachable, match="closed"):
        descriptors.duplicate([holder.process.pid], holder.named)
    assert open_files() == before


def test_another_holder_is_asked_if_the_first_one_has_ended(holder: Holder) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait(PATIENCE_S)
    descriptors = Descriptors()
    descriptors.duplicate([ended.pid, holder.process.pid], holder.named).close()
    with pytest.raises(Unreachable, match=f"process {ended.pid} has ended"):
        descriptors.duplicate([ended.pid], holder.named)
    with pytest.raises(Unreachable, match="no process that tcpwatch sees has it open"):
        descriptors.duplicate([], holder.named)


def test_out_of_descriptors_is_an_error_of_this_process(holder: Holder) -> None:
    program = (
        "import os, resource, sys\n"
        "from tracer.kernel.descriptors import Descriptors\n"
        "from tracer.kernel.sock_diag import Ends, Named\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))\n"
        f"named = {holder.named!r}\n"
        "held = []\n"
        "descriptors = Descriptors()\n"
        "try:\n"
        f"    while True: held.append(descriptors.duplicate([{holder.process.pid}], named))\n"
        "except OSError as error: print(error.errno, len(held) > 20)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "24 True\n"


def test_the_processes_may_be_more_than_the_descriptors() -> None:
    """As those of a database server with a thousand backends."""
    program = (
        "import os, resource, signal, socket\n"
        "from tracer.kernel.descriptors import Descriptors\n"
        "from tracer.kernel.sock_diag import Ends, Named\n"
        "listener = socket.create_server(('127.0.0.1', 0))\n"
        "client = socket.create_connection(listener.getsockname())\n"
        "named = Named(Ends(*client.getsockname(), *client.getpeername()), os.fstat(client.fileno()).st_ino)\n"
        "pids = [os.fork() or signal.pause() for _ in range(40)]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))\n"
        "descriptors = Descriptors()\n"
        "try:\n"
        "    for pid in pids: descriptors.duplicate([pid], named).close()\n"
        "finally:\n"
        "    for pid in pids: os.kill(pid, signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=PATIENCE_S)


def test_closing_twice_is_harmless(holder: Holder) -> None:
    descriptors = Descriptors()
    duplicate = descriptors.duplicate([holder.process.pid], holder.named)
    assert isinstance(duplicate, Duplicate)
    duplicate.close()
    duplicate.close()
