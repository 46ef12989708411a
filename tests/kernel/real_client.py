"""Connections of real client libraries in one process: `real_client.py NAME HOST COUNT LIBRARY...`.

It runs in the environment of the client libraries (scripts/lib.sh), and imports nothing else. NAME: the name of the
process. LIBRARY: PyMySQL, psycopg or redis; each opens COUNT connections. Prints the connections as a JSON list, with
`library`, both ports and `session`: the number that the server gave this connection.

Each line of stdin is a JSON list of positions in that list. A query is sent on each of these connections, in a thread
of its own, so one that hangs delays no other. As each one ends, a JSON object is printed: `session` as the server now
sees it, `error` of the library, `at_s` and `took_s` of time.monotonic(), and after an error `again`: the session of a
new connection, which takes the place of the old one.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15
USER, PASSWORD = "app", "lab-only"


class Connection(Protocol):
    """A connection of a library."""

    def session(self) -> int:
        """Ask the server which session this is. Raises the library's errors."""

    def descriptor(self) -> int:
        """The descriptor of its socket."""


class PyMySQL:
    def __init__(self, host: str) -> None:
        import pymysql

        self._connection: Any = pymysql.connect(host=host, user=USER, password=PASSWORD)

    def session(self) -> int:
        with self._connection.cursor() as cursor:
            cursor.execute("SELECT CONNECTION_ID()")
            return int(cursor.fetchone()[0])

    def descriptor(self) -> int:
        return int(self._connection._sock.fileno())


class Psycopg:
    def __init__(self, host: str) -> None:
        import psycopg  # type: ignore[import-not-found]

        self._connection: Any = psycopg.connect(f"host={host} user={USER} dbname=postgres", autocommit=True)

    def session(self) -> int:
        return int(self._connection.execute("SELECT pg_backend_pid()").fetchone()[0])

    def descriptor(self) -> int:
        return int(self._connection.fileno())


class Redis:
    """It reports errors, instead of connecting again by itself."""

    def __init__(self, host: str) -> None:
        import redis  # type: ignore[import-not-found]
        from redis.backoff import NoBackoff  # type: ignore[import-not-found]
        from redis.retry import Retry  # type: ignore[import-not-found]

        self._client: Any = redis.Redis(
            host=host, single_connection_client=True, socket_timeout=None, retry=Retry(NoBackoff(), 0)
        )

    def session(self) -> int:
        return int(self._client.client_id())

    def descriptor(self) -> int:
        return int(self._client.connection._sock.fileno())


LIBRARIES: dict[str, Callable[[str], Connection]] = {"PyMySQL": PyMySQL, "psycopg": Psycopg, "redis": Redis}
_output = threading.Lock()


def say(what: object) -> None:
    with _output:
        print(json.dumps(what), flush=True)


def about(library: str, connection: Connection) -> dict[str, Any]:
    """What the list of connections has about this one."""
    with socket.socket(fileno=os.dup(connection.descriptor())) as own:
        lport, rport = own.getsockname()[1], own.getpeername()[1]
    return {"library": library, "lport": lport, "rport": rport, "session": connection.session()}


def use(connections: list[tuple[str, Connection]], position: int, host: str) -> None:
    library, connection = connections[position]
    began_s = time.monotonic()
    result: dict[str, Any] = {"position": position, "error": None}
    try:
        result["session"] = connection.session()
    except Exception as error:
        result["error"] = f"{type(error).__module__}.{type(error).__name__}: {error}"
    at_s = time.monotonic()
    if result["error"]:
        connections[position] = library, LIBRARIES[library](host)
        result["again"] = connections[position][1].session()
    say({**result, "at_s": at_s, "took_s": at_s - began_s})


def main() -> None:
    name, host, count, *libraries = sys.argv[1:]
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode())
    connections: list[tuple[str, Connection]] = [
        (library, LIBRARIES[library](host)) for library in libraries for _ in range(int(count))
    ]
    say([about(*each) for each in connections])
    for line in sys.stdin:
        for position in json.loads(line):
            threading.Thread(target=use, args=(connections, position, host), daemon=True).start()


if __name__ == "__main__":
    main()
