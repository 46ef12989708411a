"""The file of metrics for node_exporter's textfile collector, replaced as a whole, by one run only.

The file at the path is locked (flock(2)) by the run that wrote it. A new file is locked before it replaces the old
one, so that the path never leads to an unlocked file while the run goes on. node_exporter reads without a lock.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shlex
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from tracer.model.errors import TcpwatchError, UsageError

SUFFIX = ".prom"
OPENING = b"# HELP tcpwatch_"
"""The first bytes of a file that tcpwatch wrote. A file that begins otherwise is not replaced."""
MODE = 0o644
"""node_exporter runs as a user of its own."""


class Textfile:
    """Writes metrics to a file. The constructor raises TcpwatchError where that cannot work."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.suffix != SUFFIX:
            raise UsageError(
                f"--metrics {path} does not end in {SUFFIX}, and node_exporter reads no other file",
                hint=f"--metrics {shlex.quote(str(path.with_suffix(SUFFIX) if path.name else path / 'x.prom'))}",
            )
        if not path.parent.is_dir():
            raise TcpwatchError(
                f"cannot write {path}: there is no directory {path.parent}",
                hint=f"sudo mkdir -p {shlex.quote(str(path.parent))}",
            )
        if path.is_symlink() or (path.exists() and not _is_ours(path)):
            raise TcpwatchError(
                f"{path} exists and does not have the metrics of tcpwatch, so it is not overwritten",
                hint="choose another name, or remove the file first",
            )
        self._fresh = path.with_name(f".{path.name}.tmp")
        self._locked: BinaryIO | None = None  # the file at the path
        try:
            self._lock()
        except BlockingIOError:
            other = path.with_name(f"{path.stem}-2{SUFFIX}")
            raise TcpwatchError(
                f"another tcpwatch that is running writes its metrics to {path}",
                hint=f"--metrics {shlex.quote(str(other))}",
            ) from None
        except OSError as error:
            raise cannot_write(path, error) from error

    def write(self, metrics: bytes) -> None:
        """Replace the file. Raises OSError, and then the old file is still there.

        BlockingIOError: another run has replaced the file, and goes on.
        """
        if not self._is_locked():
            self._lock()
        # In a directory where others may write, a link of that name must not be followed.
        self._fresh.unlink(missing_ok=True)
        fd = os.open(self._fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        stream = os.fdopen(fd, "wb")
        try:
            stream.write(metrics)
            stream.flush()
            os.fchmod(fd, MODE)
            _lock(stream)
            self._fresh.replace(self.path)
        except BaseException:
            with suppress(OSError):
                stream.close()
            with suppress(OSError):
                self._fresh.unlink(missing_ok=True)
            raise
        self.close()
        self._locked = stream

    def close(self) -> None:
        """Unlock the file."""
        if self._locked is not None:
            self._locked.close()
            self._locked = None

    def _is_locked(self) -> bool:
        """Whether the path leads to the file that this object has locked."""
        if self._locked is None:
            return False
        try:
            return os.path.samestat(os.lstat(self.path), os.fstat(self._locked.fileno()))
        except FileNotFoundError:
            return False

    def _lock(self) -> None:
        """Lock the file at the path, if there is one. Raises BlockingIOError if another run has it, or OSError."""
        self.close()
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        stream = os.fdopen(fd, "rb")
        try:
            _lock(stream)
        except BaseException:
            stream.close()
            raise
        self._locked = stream


def cannot_write(path: Path, error: OSError) -> TcpwatchError:
    """The error where the file cannot be replaced."""
    directory = shlex.quote(str(path.parent))
    look = f"df -h {directory}" if error.errno in (errno.ENOSPC, errno.EDQUOT) else f"ls -ld {directory}"
    return TcpwatchError(f"cannot write {path}: {error.strerror}", hint=look)


def _lock(stream: BinaryIO) -> None:
    """Raises BlockingIOError if another one has the file. Without effect where the file system has no locks."""
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BlockingIOError(errno.EWOULDBLOCK, "another tcpwatch writes it, too") from None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
            raise


def _is_ours(path: Path) -> bool:
    """Whether it is a regular file that is empty or has metrics of tcpwatch."""
    if not path.is_file():
        return False
    try:
        with path.open("rb") as stream:
            start = stream.read(len(OPENING))
    except OSError as error:
        raise cannot_write(path, error) from error
    return start in (b"", OPENING)
