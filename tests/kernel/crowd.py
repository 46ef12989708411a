"""A process with COUNT connections to itself over loopback, as long as stdin is open: `crowd.py COUNT [PATH]`.

With PATH, a network namespace's file, it enters that one when the connections are made: they stay where they are.
"""

from __future__ import annotations

import ctypes
import os
import resource
import socket
import sys

CLONE_NEWNET = 0x40000000


def main() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    kept = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for _ in range(int(sys.argv[1])):
            kept += [socket.create_connection(listener.getsockname()), listener.accept()[0]]
    for path in sys.argv[2:]:
        if ctypes.CDLL(None).setns(os.open(path, os.O_RDONLY), CLONE_NEWNET) != 0:
            sys.exit("setns failed")
    print("ready", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
