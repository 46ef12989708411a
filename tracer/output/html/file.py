"""The file of a page: replaced as a whole, so that nobody ever sees half a page."""

from __future__ import annotations

import errno
import os
import shlex
import stat
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from tracer.model.errors import TcpwatchError, UsageError

OPENING = b"<!DOCTYPE html>"
"""The first bytes of a page. A file that begins otherwise is not replaced."""
STANDARD_OUTPUT = Path("-")


def require_writable(path: Path, inputs: Iterable[Path]) -> None:
    """Raise TcpwatchError if the page cannot be written to path, or would replace something else than a page.

    inputs: the recordings that it is made of.
    """
    if path == STANDARD_OUTPUT:
        return
    if any(_is_same(path, each) for each in inputs):
        raise UsageError(f"{path} is a recording that the page is made of", hint="--html page.html")
    if path.is_dir():
        raise TcpwatchError(
            f"cannot write {path}: it is a directory", hint=f"--html {shlex.quote(str(path / 'page.html'))}"
        )
    if path.exists() and not path.is_file():
        return  # a FIFO or a device
    if path.exists() and not _is_page(path):
        raise TcpwatchError(
            f"{path} exists and is not an HTML page, so it is not overwritten",
            hint="choose another name, or remove the file first",
        )
    directory = _target(path).parent
    if not directory.is_dir():
        raise TcpwatchError(
            f"cannot write {path}: there is no directory {directory}", hint=f"mkdir -p {shlex.quote(str(directory))}"
        )
    if not os.access(directory, os.W_OK | os.X_OK):
        raise _cannot_write(path, OSError(errno.EACCES, os.strerror(errno.EACCES)))


def write_page(path: Path, page: str) -> None:
    """Write the page, and replace the file if there is one. `-` is standard output. Raises TcpwatchError."""
    data = page.encode("utf-8")
    if path == STANDARD_OUTPUT:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(data)
        else:
            _replace(_target(path), data)
    except OSError as error:
        raise _cannot_write(path, error) from error


def _replace(target: Path, data: bytes) -> None:
    fd, name = tempfile.mkstemp(prefix=f".{target.name[:100]}.", dir=target.parent)
    fresh = Path(name)
    try:
        with os.fdopen(fd, "wb") as stream:
            stream.write(data)
            os.fchmod(stream.fileno(), _mode_for(target))
        fresh.replace(target)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


def _mode_for(target: Path) -> int:
    """The mode of the file that is replaced; else that of any new file."""
    try:
        return stat.S_IMODE(target.stat().st_mode)
    except OSError:
        mask = os.umask(0o077)
        os.umask(mask)
        return 0o666 & ~mask


def _target(path: Path) -> Path:
    """The file itself, where path is a symbolic link."""
    return Path(os.path.realpath(path))


def _is_same(path: Path, other: Path) -> bool:
    try:
        return str(other) != "-" and path.samefile(other)
    except OSError:
        return False


def _is_page(path: Path) -> bool:
    """Whether it is an empty file or an HTML page."""
    try:
        with path.open("rb") as stream:
            start = stream.read(len(OPENING))
    except OSError as error:
        raise _cannot_write(path, error) from error
    return start.upper() in (b"", OPENING.upper())


def _cannot_write(path: Path, error: OSError) -> TcpwatchError:
    directory = shlex.quote(str(path.parent))
    looks = dict.fromkeys((errno.ENOSPC, errno.EDQUOT), f"df -h {directory}") | {errno.EFBIG: "ulimit -f unlimited"}
    hint = looks.get(error.errno or 0, f"ls -ld {directory}")
    return TcpwatchError(f"cannot write {path}: {error.strerror}", hint=hint)
