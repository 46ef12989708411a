"""Errors of writing a recording, with hints."""

from __future__ import annotations

import errno
from pathlib import Path

from tracer.model.errors import TcpwatchError, as_argument

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
"""Errors of a write that succeeds once there is space."""


def cannot_create(path: Path, error: OSError) -> TcpwatchError:
    """The error for a file that cannot be created."""
    if isinstance(error, FileExistsError):
        return TcpwatchError(
            f"{path} already exists and is not overwritten", hint="choose another name, or remove the file first"
        )
    if error.errno == errno.ENAMETOOLONG:
        return TcpwatchError(f"cannot create {path}: {error.strerror}", hint="choose a shorter name")
    look = "df -h" if error.errno in FULL else "mkdir -p" if error.errno == errno.ENOENT else "ls -ld"
    return TcpwatchError(f"cannot create {path}: {error.strerror}", hint=f"{look} {as_argument(path.parent)}")


def cannot_write(path: Path, error: OSError) -> TcpwatchError:
    """The error for a recording that cannot be continued."""
    look = "ulimit -f unlimited" if error.errno == errno.EFBIG else f"df -h {as_argument(path.parent)}"
    return TcpwatchError(
        f"cannot write {path}: {error.strerror}",
        hint=f"the file is intact up to this point: tcpwatch replay {as_argument(path)}; {look}",
    )
