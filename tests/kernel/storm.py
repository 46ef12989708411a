"""Short connections over loopback, as fast as they go: `storm.py SECONDS [PER_SECOND]`.

Each is made, accepted and closed by both ends in one process, which the kernel does at once. PER_SECOND: no more than
so many. A line on stdin begins it, after `ready` was printed; at the end it prints how many there were.
"""

from __future__ import annotations

import itertools
import socket
import sys
import time

BURST = 50


def main() -> None:
    seconds = float(sys.argv[1])
    per_second = float(sys.argv[2]) if len(sys.argv) > 2 else float("inf")
    with socket.create_server(("0.0.0.0", 0), backlog=BURST) as listener:
        port = listener.getsockname()[1]
        # Each address has local ports of its own, most of which are in TIME_WAIT after a while.
        addresses = itertools.cycle([f"127.0.{third}.1" for third in range(250)])
        print("ready", flush=True)
        sys.stdin.readline()
        began = time.monotonic()
        count = 0
        while (elapsed := time.monotonic() - began) < seconds:
            if count > elapsed * per_second:
                time.sleep(0.001)
                continue
            address = next(addresses)
            for _ in range(BURST):
                client = socket.socket()
                client.connect((address, port))
                server, _ = listener.accept()
                client.close()
                server.close()
            count += BURST
    print(count, flush=True)


if __name__ == "__main__":
    main()
