"""Connections that come and go on the same few ports, each with a socket of its own."""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
from collections import deque

ABORT = struct.pack("ii", 1, 0)
LIVES_S = 0.02


class Churn:
    """A thread for each port connects from it to a listener over loopback, lives some milliseconds, and again.

    current: the inode of the socket on each port. aborted: those that got ECONNABORTED. kept_alive: those that had
    keepalive at their end, which none sets itself. errors: what else went wrong.
    A context manager.
    """

    def __init__(self, ports: range) -> None:
        self.current: dict[int, int] = {}
        self.aborted: set[int] = set()
        self.kept_alive: set[int] = set()
        self.errors: list[OSError] = []
        self._over = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.rport = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads += [threading.Thread(target=self._live, args=(port,)) for port in ports]

    def _accept(self) -> None:
        self._listener.settimeout(0.1)
        kept: deque[socket.socket] = deque(maxlen=64)
        while not self._over.is_set():
            try:
                kept.append(self._listener.accept()[0])
            except TimeoutError:
                continue

    def _live(self, port: int) -> None:
        while not self._over.is_set():
            with socket.socket() as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
                try:
                    client.bind(("127.0.0.1", port))
                    client.connect(("127.0.0.1", self.rport))
                    self.current[port] = os.fstat(client.fileno()).st_ino
                    self._over.wait(LIVES_S)
                    client.send(b"x")
                    if client.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE):
                        self.kept_alive.add(os.fstat(client.fileno()).st_ino)
                except OSError as error:
                    if error.errno == errno.ECONNABORTED:
                        self.aborted.add(os.fstat(client.fileno()).st_ino)
                    else:
                        self.errors.append(error)

    def __enter__(self) -> Churn:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        self._listener.close()
