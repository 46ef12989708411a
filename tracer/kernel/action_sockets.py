"""Messages from the commands that act to each tcpwatch that traces on this host.

A tracer binds a Unix datagram socket in DIRECTORY. An acting command sends one JSON object for each connection to
every socket there. The directory belongs to root and nobody else may enter it. The kernel adds the credentials of the
sender to each message (SO_PASSCRED, unix(7)), and only root and the tracer's own user are believed.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import socket
import stat
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

DIRECTORY = Path("/run/tcpwatch")
MAX_BYTES = 65536
"""Of a message: far above what a connection needs. The kernel keeps ten messages for each socket, or 512."""
_LOCK_S = 1.0
"""How long a start waits for another one that removes what dead tracers left."""
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid


class Unusable(Exception):
    """The directory cannot be used; the text says why."""


class Message(NamedTuple):
    """A message, and the process that sent it; 0 if it has no number in this PID namespace."""

    data: bytes
    pid: int


class Inbox:
    """The socket of one tracer, for one thread that receives. Raises Unusable or OSError. End it, then close it."""

    def __init__(self, directory: Path = DIRECTORY) -> None:
        with suppress(FileExistsError):
            directory.mkdir(mode=0o700)
        lock = _opened(directory)
        try:
            _lock(lock, directory)
            _remove_dead(directory)
            self._path = directory / f"{os.getpid()}-{secrets.token_hex(4)}"
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            try:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
                self._socket.bind(str(self._path))
            except BaseException:
                self._socket.close()
                raise
        finally:
            os.close(lock)

    def end(self) -> None:
        """Remove the file, and have `receive` return None at once. What has been sent before is lost."""
        with suppress(OSError):
            self._path.unlink()
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        """Close the socket, when no thread waits in `receive`."""
        self._socket.close()

    def receive(self) -> Message | None:
        """Wait for the next message. None for one from another user, or longer than MAX_BYTES. Raises OSError."""
        data, ancillary, flags, _ = self._socket.recvmsg(MAX_BYTES, socket.CMSG_SPACE(_CREDENTIALS.size))
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            return None
        for level, kind, content in ancillary:
            if (level, kind, len(content)) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS, _CREDENTIALS.size):
                pid, uid, _ = _CREDENTIALS.unpack(content)
                return Message(data, pid) if uid in (0, os.geteuid()) else None
        return None


def _opened(directory: Path) -> int:
    """A descriptor of the directory, which nobody else can enter. Raises Unusable, OSError."""
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    status = os.fstat(opened)
    if status.st_uid == os.geteuid() and not stat.S_IMODE(status.st_mode) & 0o077:
        return opened
    os.close(opened)
    raise Unusable("others than its user may enter it")


def _lock(opened: int, directory: Path) -> None:
    """Without it, a start could remove the socket of another one between its file and its address."""
    until_s = time.monotonic() + _LOCK_S
    while True:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until_s:
                raise Unusable("another process has locked it") from None
            time.sleep(0.01)
        else:
            return


def _remove_dead(directory: Path) -> None:
    """Remove the sockets that no process has bound any more, as after SIGKILL. Other files stay."""
    for path in _sockets(directory):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                with suppress(OSError):
                    path.unlink()
            except OSError:
                continue


def _sockets(directory: Path) -> Iterator[Path]:
    with suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            with suppress(OSError):
                if stat.S_ISSOCK(entry.stat(follow_symlinks=False).st_mode):
                    yield Path(entry.path)


class Outbox:
    """Sends to every tracer. Never waits: a message that a tracer cannot take now is for the caller to send again."""

    def __init__(self, directory: Path = DIRECTORY) -> None:
        self._directory = directory
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)

    def close(self) -> None:
        """Close its socket."""
        self._socket.close()

    def tracers(self) -> list[Path]:
        """The sockets of the tracers. Empty if the directory is missing, or others than its user may enter it."""
        try:
            os.close(_opened(self._directory))
        except (OSError, Unusable):
            return []
        return list(_sockets(self._directory))

    def send(self, data: bytes, tracer: Path) -> bool:
        """Whether it was sent, or never can be: a dead tracer, or a message that is too long."""
        if len(data) > MAX_BYTES:
            return True
        try:
            self._socket.sendto(data, socket.MSG_DONTWAIT, str(tracer))
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True
