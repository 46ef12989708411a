"""Many connections in one process: `python many.py HOST PORT COUNT`.

Prints `ready`, and for each line on stdin writes on all of them and prints `sent`.
"""

from __future__ import annotations

import contextlib
import resource
import socket
import sys


def main() -> None:
    """Connect, wait, write, and wait again until stdin ends."""
    host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    resource.setrlimit(resource.RLIMIT_NOFILE, (count + 100, count + 100))
    connections = [socket.create_connection((host, port)) for _ in range(count)]
    print("ready", flush=True)
    for _ in sys.stdin:
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.send(b"SELECT q FROM jobs WHERE id = 1\n")
        print("sent", flush=True)


if __name__ == "__main__":
    main()
