"""Connections that are accepted long after their client has closed: `late.py`, until its stdin ends.

All on one processor. The end of a client is acknowledged late, by a timer (40 ms: TCP_DELACK_MIN), so that a tick of
the clock brings changes of state, and sometimes while a process makes others.
"""

from __future__ import annotations

import os
import select
import socket
import sys
from collections import deque

BATCH, WAITING = 100, 8


def main() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with socket.create_server(("127.0.0.1", 0), backlog=BATCH * (WAITING + 1)) as listener:
        print("ready", flush=True)
        sys.stdin.readline()
        batches: deque[int] = deque()
        number = 0
        while not select.select([sys.stdin], [], [], 0)[0]:
            for _ in range(BATCH):
                number += 1
                with socket.socket() as client:
                    client.bind((f"127.0.{number // 20000 % 250 + 1}.1", 0))
                    client.connect(listener.getsockname())
            batches.append(BATCH)
            if len(batches) > WAITING:
                accept(listener, batches.popleft())
        accept(listener, sum(batches))
    print(number, flush=True)


def accept(listener: socket.socket, count: int) -> None:
    for _ in range(count):
        connection, _ = listener.accept()
        connection.close()


if __name__ == "__main__":
    main()
