"""A PyMySQL client as a process in a namespace. It obeys the command `query`, as peer.py does."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pymysql

# It is run by its path: peer.py is found here, without the package tracer.
sys.path.insert(0, str(Path(__file__).parent))


def main() -> None:
    """Connect with the settings of argv[1] (JSON), and obey stdin."""
    from peer import be_called, die_with_parent, say

    die_with_parent()
    be_called("worker")
    connection = pymysql.connect(**json.loads(sys.argv[1]))
    local, remote = connection._sock.getsockname(), connection._sock.getpeername()
    say(connected=True, pid=os.getpid(), laddr=local[0], lport=local[1], raddr=remote[0], rport=remote[1])
    for line in sys.stdin:
        began = time.monotonic()
        result: dict[str, Any] = {"ok": True, "errno": None, "error": None}
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT q FROM jobs WHERE id = %s", (1,))
                cursor.fetchall()
        except pymysql.err.MySQLError as error:
            result = {"ok": False, "errno": _errno(error), "error": str(error)}
        say(command=line.strip(), seconds=time.monotonic() - began, **result)


def _errno(error: BaseException) -> int | None:
    """The kernel's errno behind PyMySQL's error, from the exception it was raised from."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno is not None:
            return cause.errno
        cause = cause.__cause__ or cause.__context__
    return None


if __name__ == "__main__":
    main()
