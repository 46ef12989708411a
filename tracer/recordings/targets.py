"""FIFOs, terminals and devices that a recording may be written to.

In a directory where other users can create files, another user may have put a FIFO or a link there, to read the
recording or to block the recorder. So the owner is checked.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from tracer.model.errors import TcpwatchError, as_argument

STANDARD_OUTPUT = Path("/dev/stdout")
"""What `-` names."""
_SHARED = stat.S_IWOTH | stat.S_IWGRP


def is_stream(path: Path) -> bool:
    """Whether path names a FIFO, terminal or device. False: a file is to be created.

    Raises TcpwatchError if a recording cannot or should not be written to it.
    """
    if path == STANDARD_OUTPUT:
        return True
    try:
        status = path.stat()
    except OSError:
        return False  # creating the file raises the error
    mode = status.st_mode
    if stat.S_ISREG(mode):
        return False
    for name, matches in _UNFIT.items():
        if matches(mode):
            new = as_argument(path / "x.tw") if stat.S_ISDIR(mode) else "x.tw"
            raise TcpwatchError(f"cannot write to {path}: it is a {name}", hint=f"name a new file: {new}")
    _require_trust(path, status)
    return True


def open_stream(path: Path) -> int | None:
    """Open without blocking. Returns None while the FIFO has no reader. Raises TcpwatchError."""
    if path == STANDARD_OUTPUT:
        return _open_standard_output()
    in_shared = _is_shared(path.parent)
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | (os.O_NOFOLLOW if in_shared else 0)
    try:
        fd = os.open(path, flags)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        raise TcpwatchError(f"cannot open {path}: {error.strerror}", hint=f"ls -l {as_argument(path)}") from error
    try:
        status = os.fstat(fd)
        if stat.S_ISREG(status.st_mode):
            raise TcpwatchError(f"{path} was replaced by a file", hint=f"ls -l {as_argument(path)}")
        _require_trust(path, status)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _open_standard_output() -> int:
    """A descriptor of standard output: a pipe is opened anew, so that only our end of it is non-blocking.

    A file stays blocking. A socket does, too: see `stream.writer_of`.
    """
    if stat.S_ISFIFO(os.fstat(1).st_mode):
        try:
            return os.open(STANDARD_OUTPUT, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:  # there is no /dev/stdout, or the pipe belongs to another user
            os.set_blocking(1, False)
    return os.dup(1)


def _require_trust(path: Path, status: os.stat_result) -> None:
    quoted = as_argument(path)
    if path.is_symlink() and _is_shared(path.parent):
        raise TcpwatchError(
            f"cannot create {path}: it is a symbolic link in a directory that others can write to",
            hint=f"name what it points to: readlink -f {quoted}",
        )
    if status.st_uid not in _trusted() and any(_is_shared(directory) for directory in _directories(path)):
        raise TcpwatchError(
            f"cannot write to {path}: it belongs to user {status.st_uid}, in a directory that others can write to",
            hint=f"a path of your own; or, if you know that user: chown {os.geteuid()} {quoted}",
        )


def _trusted() -> set[int]:
    """Users that may own the FIFO: root, our user, and the user of sudo."""
    users = {0, os.geteuid()}
    if os.geteuid() == 0 and (user := os.environ.get("SUDO_UID", "")).isdecimal():
        users.add(int(user))
    return users


def _directories(path: Path) -> Iterator[Path]:
    """The directories above it; none for a descriptor that we were given, such as /dev/stdout."""
    resolved = Path(os.path.realpath(path))
    if resolved.exists():
        yield from resolved.parents


def _is_shared(directory: Path) -> bool:
    try:
        return bool(directory.stat().st_mode & _SHARED)
    except OSError:
        return False


_UNFIT = {"directory": stat.S_ISDIR, "socket": stat.S_ISSOCK, "block device": stat.S_ISBLK}
