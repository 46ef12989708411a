"""Traffic, as a process of its own inside a namespace: `python load.py ROLE …`, obeying one command a line.

Only the standard library (and PyMySQL for `queries`), so that it runs by its path alone. Prints one JSON object when
it is ready, and one for each command:

queries SETTINGS    a MySQL client. `for SECONDS`: ask again and again
short PORT          connects to 127/8, sends a byte, closes. `for SECONDS [RATE]`, `times COUNT [RATE]`
empty PORT          the same without the byte
refused PORT        connects to a port of 127/8 that is closed. The same commands
sink PORT           the server of `short` and `empty`: obeys nothing, and never ends
crowd COUNT         holds COUNT connections to itself
connections HOST PORT COUNT  that many. `write [PAUSE]`: a line on each, PAUSE seconds apart
unanswered HOST PORT COUNT  SYNs without an answer, started evenly over a second. `for SECONDS`: keep them that long
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

_PR_SET_PDEATHSIG = 1
_SLICE_S = 0.002


def say(**words: Any) -> None:
    """One JSON object on stdout."""
    print(json.dumps(words), flush=True)


def repeat(once: Callable[[], None], seconds: float, rate: float | None) -> dict[str, Any]:
    """Do it for so long, as often as it goes or `rate` times a second."""
    began = now = time.monotonic()
    count = 0
    while now < began + seconds:
        due = 50 if rate is None else int((now - began) * rate) + 1 - count
        for _ in range(due):
            once()
        count += due
        if rate is not None:
            time.sleep(_SLICE_S)
        now = time.monotonic()
    return {"count": count, "seconds": now - began}


def times(once: Callable[[], None], count: int, rate: float | None) -> dict[str, Any]:
    """Repeat it."""
    began = time.monotonic()
    done = 0
    while done < count:
        due = count if rate is None else min(count, int((time.monotonic() - began) * rate) + 1)
        for _ in range(due - done):
            once()
        done = max(done, due)
        if rate is not None:
            time.sleep(_SLICE_S)
    return {"count": done, "seconds": time.monotonic() - began}


def obey(once: Callable[[], None]) -> None:
    """Do what stdin says, until it ends."""
    for line in sys.stdin:
        word, amount, *rest = line.split()
        rate = float(rest[0]) if rest else None
        say(**(repeat(once, float(amount), rate) if word == "for" else times(once, int(amount), rate)))


def queries(settings: str) -> None:
    """A client that asks one query."""
    import pymysql

    cursor = pymysql.connect(**json.loads(settings)).cursor()

    def ask() -> None:
        cursor.execute("SELECT q FROM jobs WHERE id = 1")
        cursor.fetchall()

    ask()
    say(ready=True)
    obey(ask)


def _addresses(port: int) -> Callable[[], tuple[str, int]]:
    """The next of many addresses of this host: each has ephemeral ports of its own, which TIME_WAIT uses up."""
    number = 0

    def address() -> tuple[str, int]:
        nonlocal number
        number = (number + 1) % 65000
        return f"127.0.{number >> 8}.{number & 255 or 1}", port

    return address


def short(port: str) -> None:
    """Short connections."""
    address = _addresses(int(port))

    def once() -> None:
        connection = socket.socket()
        connection.connect(address())
        connection.send(b"x")
        connection.close()

    say(ready=True)
    obey(once)


def empty(port: str) -> None:
    """Short connections that carry nothing: as many of them as it can."""
    address = _addresses(int(port))

    def once() -> None:
        connection = socket.socket()
        connection.connect(address())
        connection.close()

    say(ready=True)
    obey(once)


def refused(port: str) -> None:
    """Attempts to connect that are refused."""
    address = _addresses(int(port))

    def once() -> None:
        connection = socket.socket()
        connection.connect_ex(address())
        connection.close()

    say(ready=True)
    obey(once)


def sink(port: str) -> None:
    """Accept, read to the end, close."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("", int(port)))
        listener.listen(4096)
        say(ready=True)
        while True:
            connection, _ = listener.accept()
            while connection.recv(16):
                pass
            connection.close()


def crowd(count: str) -> None:
    """Pairs of connected sockets: `count` connections are twice as many sockets.

    In as many processes as it takes: how many files one may have open cannot be raised everywhere.
    """
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    _many_files(min(2 * int(count), files - 1000))
    each = (files - 1000) // 2
    left = int(count)
    while left > each:
        read_end, write_end = os.pipe()
        if os.fork() == 0:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            os.close(read_end)
            with _connected(each):
                os.close(write_end)
                signal.pause()
        os.close(write_end)
        os.read(read_end, 1)  # until it is closed there
        os.close(read_end)
        left -= each
    with _connected(left):
        say(ready=True)
        sys.stdin.read()


@contextlib.contextmanager
def _connected(count: int) -> Iterator[None]:
    """Connections to ourselves."""
    kept: list[socket.socket] = []
    with socket.create_server(("", 0), backlog=1024) as listener:
        address = _addresses(listener.getsockname()[1])
        for _ in range(count):
            kept += [socket.create_connection(address()), listener.accept()[0]]
        yield


def connections(host: str, port: str, count: str) -> None:
    """Connections that are written to on command."""
    _many_files(int(count))
    kept = [socket.create_connection((host, int(port))) for _ in range(int(count))]
    say(ready=True)
    for line in sys.stdin:
        _, *rest = line.split()
        for connection in kept:
            with contextlib.suppress(OSError):
                connection.send(b"SELECT q FROM jobs WHERE id = 1\n")
            if rest:
                time.sleep(float(rest[0]))
        say(count=len(kept))


def unanswered(host: str, port: str, count: str) -> None:
    """Handshakes that the kernel tries again and again."""
    _many_files(2 * int(count))
    say(ready=True)
    for line in sys.stdin:
        _, seconds = line.split()
        end = time.monotonic() + float(seconds)
        kept: list[socket.socket] = []
        while time.monotonic() < end:
            # Anew each minute, as the kernel tries for two.
            before, kept = kept, []
            for _ in range(int(count)):
                connection = socket.socket()
                connection.setblocking(False)
                connection.connect_ex((host, int(port)))
                kept.append(connection)
                time.sleep(1 / int(count))
            for connection in before:
                connection.close()
            time.sleep(max(0.0, min(60.0, end - time.monotonic())))
        for connection in kept:
            connection.close()
        say(count=len(kept))


def _many_files(count: int) -> None:
    most = max(count + 1000, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def main() -> None:
    """Play the role."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    role, *arguments = sys.argv[1:]
    {each.__name__: each for each in (queries, short, empty, refused, sink, crowd, connections, unanswered)}[role](
        *arguments
    )


if __name__ == "__main__":
    main()
