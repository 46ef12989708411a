"""A process in a user namespace and a network namespace of its own, as of a container without root."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_BOTH_ENDS = """
import socket
listener = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(listener.getsockname())
accepted, _ = listener.accept()
print(client.getsockname()[1], flush=True)
input()
"""


@contextmanager
def container() -> Iterator[tuple[int, int]]:
    """Its process, and the local port of a connection that this process has to itself."""
    shell = f"ip link set lo up && exec {sys.executable} -c '{_BOTH_ENDS}'"
    with subprocess.Popen(
        ["unshare", "--user", "--map-root-user", "--net", "sh", "-c", shell],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        try:
            yield process.pid, int(process.stdout.readline())
        finally:
            process.kill()
