"""A pool of connections in one process: `python pool.py HOST PORT COUNT`.

Prints their local ports. For each line on stdin, a JSON list of local ports, it asks a query on these, each in a
thread that blocks until it has a reply. At the end of stdin it prints the result of each query: `ok` or an error.
"""

from __future__ import annotations

import errno
import json
import socket
import sys
import threading

results: dict[int, str] = {}


def ask(port: int, connection: socket.socket) -> None:
    try:
        connection.sendall(b"SELECT q FROM jobs WHERE id = 1\n")
        results[port] = "ok" if connection.recv(100) else "closed"
    except OSError as error:
        results[port] = errno.errorcode[error.errno or 0]


def main() -> None:
    host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    connections = {}
    for _ in range(count):
        connection = socket.create_connection((host, port))
        connections[connection.getsockname()[1]] = connection
    print(json.dumps(list(connections)), flush=True)
    threads = []
    for line in sys.stdin:
        for each in json.loads(line):
            threads.append(threading.Thread(target=ask, args=(each, connections[each])))
            threads[-1].start()
    for thread in threads:
        thread.join()
    print(json.dumps(results), flush=True)


if __name__ == "__main__":
    main()
