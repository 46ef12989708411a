"""How a process comes to hold a connection: `holding.py HOST PORT HOW NAME`. It lives as long as stdin is open.

HOW: `alone`, the process connects by itself. `daemon`, it forks after connecting and ends, its child goes on.
`passed`, another process, called `opener`, connects, hands the socket over and ends. `crowded`, it has 5,000 other
sockets. NAME: what the process is called.

Prints a JSON object with both numbers and the local port, then sends each line that it reads to the server.
"""

from __future__ import annotations

import array
import ctypes
import json
import os
import resource
import socket
import sys

_PR_SET_NAME = 15
CROWD = 5000


def be_called(name: str) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode())


def connect(address: tuple[str, int]) -> tuple[socket.socket, int]:
    """The connection, and who opened it."""
    return socket.create_connection(address), os.getpid()


def as_daemon(address: tuple[str, int]) -> tuple[socket.socket, int]:
    opened = connect(address)
    if os.fork() != 0:
        os._exit(0)
    while os.getppid() == opened[1]:
        pass
    return opened


def passed(address: tuple[str, int]) -> tuple[socket.socket, int]:
    here, there = socket.socketpair()
    opener = os.fork()
    if opener == 0:
        be_called("opener")
        connection, _ = connect(address)
        there.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [connection.fileno()]))])
        os._exit(0)
    os.waitpid(opener, 0)
    _, [(_, _, descriptors)], _, _ = here.recvmsg(1, socket.CMSG_SPACE(4))
    return socket.socket(fileno=array.array("i", descriptors)[0]), opener


def crowded(address: tuple[str, int]) -> tuple[socket.socket, int]:
    resource.setrlimit(resource.RLIMIT_NOFILE, (CROWD + 100, CROWD + 100))
    crowd.extend(socket.socket() for _ in range(CROWD))
    return connect(address)


crowd: list[socket.socket] = []
WAYS = {"alone": connect, "daemon": as_daemon, "passed": passed, "crowded": crowded}


def main() -> None:
    host, port, how, name = sys.argv[1:]
    be_called(name)
    connection, opener = WAYS[how]((host, int(port)))
    print(json.dumps({"pid": os.getpid(), "opener": opener, "lport": connection.getsockname()[1]}), flush=True)
    for line in sys.stdin:
        connection.sendall(line.encode())


if __name__ == "__main__":
    main()
