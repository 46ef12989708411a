"""A connection that is never idle: `bulk.py sink HOST PORT`, then `bulk.py source HOST PORT BYTES_PER_SECOND`.

The sink reads all that it gets. For each line of its stdin it prints, as JSON, `bytes`: how much that was, and `at_s`
of time.monotonic(). The source sends as fast as it may, and never waits for anything else.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from typing import Any

_SO_MAX_PACING_RATE = 47  # include/uapi/asm-generic/socket.h
_AT_ONCE = 1 << 20
received = 0


def say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


def answer() -> None:
    for _ in sys.stdin:
        say(bytes=received, at_s=time.monotonic())


def sink(host: str, port: int) -> None:
    global received
    with socket.create_server((host, port)) as listener:
        say(listening=True)
        connection, _ = listener.accept()
    threading.Thread(target=answer, daemon=True).start()
    buffer = bytearray(_AT_ONCE)
    while count := connection.recv_into(buffer):
        received += count


def source(host: str, port: int, bytes_per_s: int) -> None:
    with socket.create_connection((host, port)) as connection:
        connection.setsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, bytes_per_s)
        say(lport=connection.getsockname()[1])
        while True:
            connection.sendall(bytes(_AT_ONCE))


def main() -> None:
    if sys.argv[1] == "sink":
        sink(sys.argv[2], int(sys.argv[3]))
    else:
        source(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))


if __name__ == "__main__":
    main()
