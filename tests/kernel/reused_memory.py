"""Connections of one process in the memory of those of others: reused_memory.py OTHER_PORT PORT.

A child connects to OTHER_PORT and aborts. Then this process connects to PORT, and accepts; and all that again. Prints
its process id and those of the children.
"""

from __future__ import annotations

import os
import socket
import struct
import sys

COUNT, ROUNDS = 50, 10


def connected(port: int) -> list[socket.socket]:
    """Both ends of COUNT connections."""
    made = []
    with socket.create_server(("127.0.0.1", port), backlog=COUNT) as server:
        for _ in range(COUNT):
            client = socket.socket()
            client.connect(("127.0.0.1", port))
            made += [client, server.accept()[0]]
    return made


def main(other_port: int, port: int) -> None:
    """Free the memory of a child's connections, and take it."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # each CPU has free memory of its own
    children, kept = [], []
    for _ in range(ROUNDS):
        child = os.fork()
        if child == 0:
            for each in connected(other_port):
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # no TIME_WAIT
                each.close()
            os._exit(0)
        os.waitpid(child, 0)
        children.append(child)
        kept += connected(port)
    print(os.getpid(), *children)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
