"""The file of metrics for node_exporter's textfile collector, replaced as a whole."""

from __future__ import annotations

import errno
import os
import shlex
from contextlib import suppress
from pathlib import Path

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
        self._fresh = path.with_name(f".{path.name}.tmp")
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

    def write(self, metrics: bytes) -> None:
        """Replace the file. Raises OSError, and then the old file is still there."""
        # In a directory where others may write, a link of that name must not be followed.
        self._fresh.unlink(missing_ok=True)
        fd = os.open(self._fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(fd, "wb") as stream:
                stream.write(metrics)
                os.fchmod(stream.fileno(), MODE)
            self._fresh.replace(self.path)
        except BaseException:
            with suppress(OSError):
                self._fresh.unlink(missing_ok=True)
            raise


def cannot_write(path: Path, error: OSError) -> TcpwatchError:
    """The error where the file cannot be replaced."""
    directory = shlex.quote(str(path.parent))
    look = f"df -h {directory}" if error.errno in (errno.ENOSPC, errno.EDQUOT) else f"ls -ld {directory}"
    return TcpwatchError(f"cannot write {path}: {error.strerror}", hint=look)


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
