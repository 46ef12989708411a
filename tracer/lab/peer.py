"""One end of a connection, as a process in a namespace: `python peer.py server|client …`.

It imports only the standard library, so that it runs by its path alone.

server HOST PORT [--deaf] [--abort]: prints `listening`, then answers each line that it receives with one line:
`SLEEP seconds` after that time, `SEND bytes` after that many bytes, anything else at once. --deaf reads nothing.
--abort ends connections with a RST, so that the server's kernel keeps no socket.
client HOST PORT [options]: connects, prints where, then obeys one command a line on stdin, and prints one
JSON object for each:

query           ask the server and wait for the answer
slow SECONDS    ask a query that takes the server that long
busy SECONDS    ask queries back to back for that long; prints their number and the time of the slowest
send BYTES      send bytes without a newline, which the server does not answer
flood           send without end
download BYTES  have the server send that much, and read nothing but its beginning
fork N          have N children share the socket
shut            shut down the sending side
close           close it
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import errno
import json
import os
import signal
import socket
import struct
import sys
import threading
import time
from typing import Any, BinaryIO

IPPROTO_MPTCP = 262  # include/uapi/linux/in.h (5.6)

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NAME = 1, 4, 15


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent ends (PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def be_called(name: str) -> None:
    """Set the process's name, at most 15 bytes."""
    ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode())


def become(uid: int) -> None:
    """Change to that user, who also owns /proc/PID then, as of a process started by that user."""
    os.setgid(uid)
    os.setuid(uid)
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1)


def say(**words: Any) -> None:
    """Print one JSON object."""
    print(json.dumps(words), flush=True)


def serve(host: str, port: int, *, deaf: bool, abort: bool, mptcp: bool) -> None:
    """Answer each line with one line, on any number of connections, until killed. deaf: accept and read nothing."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM, IPPROTO_MPTCP if mptcp else 0) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(1024)
        print("listening", flush=True)
        unread: list[socket.socket] = []
        while True:
            connection, _ = listener.accept()
            if abort:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if deaf:
                unread.append(connection)
                continue
            threading.Thread(target=_answer, args=(connection,), daemon=True).start()


def _answer(connection: socket.socket) -> None:
    with contextlib.suppress(OSError), connection, connection.makefile("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.startswith(b"SLEEP "):
                time.sleep(float(line.split()[1]))
            elif line.startswith(b"SEND "):
                connection.sendall(bytes(int(line.split()[1])))
            connection.sendall(b"ok %d\n" % number)


def ask(connection: socket.socket, answers: BinaryIO, question: bytes = b"SELECT q FROM jobs WHERE id = 1") -> None:
    """Send a query and wait for the answer. Raises OSError."""
    connection.sendall(question + b"\n")
    if not answers.readline():
        raise ConnectionResetError(errno.ECONNRESET, "the server closed the connection")


def ask_all_the_time(connection: socket.socket, answers: BinaryIO, duration_s: float) -> dict[str, Any]:
    """Ask queries back to back. Returns their count, and the time of the slowest in seconds."""
    count, slowest_s = 0, 0.0
    began = asked = time.monotonic()
    while asked - began < duration_s:
        ask(connection, answers)
        answered = time.monotonic()
        count, slowest_s, asked = count + 1, max(slowest_s, answered - asked), answered
    return {"count": count, "slowest_s": slowest_s}


def connect(options: argparse.Namespace) -> socket.socket:
    """Connect as a database driver does: with SO_KEEPALIVE, and the system's settings unless options change them."""
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    connection = socket.socket(family, socket.SOCK_STREAM, IPPROTO_MPTCP if options.mptcp else 0)
    if options.bind_port:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        connection.bind(("", options.bind_port))
    if not options.no_keepalive:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_KEEPIDLE, options.idle),
        (socket.TCP_KEEPINTVL, options.interval),
        (socket.TCP_KEEPCNT, options.probes),
        (socket.TCP_USER_TIMEOUT, options.user_timeout),
    ):
        if value is not None:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
    connection.connect((options.host, options.port))
    return connection


def obey(connection: socket.socket) -> None:
    """Obey commands on stdin until it ends."""
    answers = connection.makefile("rb")
    for line in sys.stdin:
        word, *rest = line.split() or [""]
        began = time.monotonic()
        error: OSError | None = None
        result: dict[str, Any] = {}
        try:
            if word == "query":
                ask(connection, answers)
            elif word == "slow":
                ask(connection, answers, b"SLEEP " + rest[0].encode())
            elif word == "busy":
                result = ask_all_the_time(connection, answers, float(rest[0]))
            elif word == "send":
                connection.sendall(bytes(int(rest[0])))
            elif word == "download":
                connection.sendall(b"SEND " + rest[0].encode() + b"\n")
                connection.recv(1)
            elif word == "flood":
                while True:
                    connection.sendall(bytes(1 << 16))
            elif word == "fork":
                result["pids"] = [_fork() for _ in range(int(rest[0]))]
            elif word == "shut":
                connection.shutdown(socket.SHUT_WR)
            elif word == "close":
                answers.close()
                connection.close()
        except OSError as caught:
            error = caught
        number = error.errno if error is not None else None
        say(
            command=word,
            ok=error is None,
            seconds=time.monotonic() - began,
            errno=number,
            error=errno.errorcode.get(number) if number is not None else None,
            **result,
        )


def _fork() -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        die_with_parent()
        while os.getppid() == parent:  # else it ended before we could ask to die with it
            signal.pause()
        os._exit(0)
    return pid


def main() -> None:
    """Be a server or a client."""
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["server", "client"])
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--comm", default="")
    parser.add_argument("--uid", type=int)
    parser.add_argument("--bind-port", type=int, default=0)
    parser.add_argument("--deaf", action="store_true")
    parser.add_argument("--abort", action="store_true")
    parser.add_argument("--no-keepalive", action="store_true")
    parser.add_argument("--mptcp", action="store_true")
    parser.add_argument("--idle", type=int)
    parser.add_argument("--interval", type=int)
    parser.add_argument("--probes", type=int)
    parser.add_argument("--user-timeout", type=int, help="milliseconds")
    options = parser.parse_args()
    if options.uid is not None:
        become(options.uid)
    die_with_parent()
    if options.comm:
        be_called(options.comm)
    if options.role == "server":
        serve(options.host, options.port, deaf=options.deaf, abort=options.abort, mptcp=options.mptcp)
        return
    try:
        connection = connect(options)
    except OSError as error:
        number = error.errno or 0
        say(connected=False, errno=number, error=errno.errorcode.get(number))
        return
    local, remote = connection.getsockname(), connection.getpeername()
    say(connected=True, pid=os.getpid(), laddr=local[0], lport=local[1], raddr=remote[0], rport=remote[1])
    obey(connection)


if __name__ == "__main__":
    main()
