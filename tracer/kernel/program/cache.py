"""The cache of compiled programs: compiling takes some seconds and a hundred megabytes.

Root loads these programs into the kernel. So they are read only from a directory and a file that no other user than
root and ourselves can write to.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

import tracer
from tracer.kernel.program.source import Source
from tracer.model.errors import TcpwatchError

MAX_FILES = 16
"""The number of programs in the cache. Each kernel and each version of tcpwatch has its own."""
_MAX_BYTES = 4 * 1024 * 1024


class NotCached(TcpwatchError):
    """A program could not be cached, so the next start compiles it again."""


def directory() -> Path:
    """$CACHE_DIRECTORY, which systemd's CacheDirectory= sets (colon-separated), or /var/cache/tcpwatch."""
    return Path(os.environ.get("CACHE_DIRECTORY", "").partition(":")[0] or "/var/cache/tcpwatch")


def load(source: Source) -> bytes | None:
    """The cached program of this source. None if there is none, or if it cannot be trusted."""
    path = _path(source)
    try:
        if _distrust(path.parent, path.parent.lstat()):
            return None
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not (stat.S_ISREG(status.st_mode) and _only_ours(status)):
                return None
            digest, _, content = file.read(_MAX_BYTES).partition(b"\n")
    except OSError:
        return None
    return content if digest == _digest(content) else None


def store(source: Source, content: str) -> None:
    """Cache a program for the next start. Raises NotCached."""
    path = _path(source)
    data = content.encode()
    try:
        with suppress(FileExistsError):
            path.parent.mkdir(mode=0o755)
        if distrust := _distrust(path.parent, path.parent.lstat()):
            raise distrust
        fresh = path.with_name(f".{secrets.token_hex(8)}")
        try:
            with fresh.open("xb") as file:
                os.fchmod(file.fileno(), 0o644)
                file.write(_digest(data) + b"\n" + data)
            fresh.replace(path)
        finally:
            fresh.unlink(missing_ok=True)
        _tidy(path.parent)
    except OSError as error:
        raise NotCached(f"cannot write to {path.parent}: {error.strerror}", hint=_hint(error, path.parent)) from error


def remove(source: Source) -> None:
    """Remove the cached program of this source."""
    with suppress(OSError):
        _path(source).unlink()


def _path(source: Source) -> Path:
    """The file of a program. Its name is a hash of everything that the program depends on, except bcc's version."""
    parts = (tracer.__version__, os.uname().machine, *source.cflags, source.text)
    name = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    return directory() / f"{name[:32]}.bpf"


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()


def _distrust(path: Path, status: os.stat_result) -> NotCached | None:
    """Why a directory cannot be trusted; None if it can."""
    if not stat.S_ISDIR(status.st_mode):
        return NotCached(f"{path} is not a directory", hint=f"sudo rm {path}")
    if not _is_of_ours(status):
        return NotCached(f"{path} belongs to another user (uid {status.st_uid})", hint=f"sudo chown root: {path}")
    if not _only_ours(status):
        mode = stat.S_IMODE(status.st_mode)
        return NotCached(f"other users can write to {path} (mode {mode:04o})", hint=f"sudo chmod go-w {path}")
    return None


def _is_of_ours(status: os.stat_result) -> bool:
    return status.st_uid in (0, os.geteuid())


def _only_ours(status: os.stat_result) -> bool:
    return _is_of_ours(status) and not status.st_mode & 0o022


def _hint(error: OSError, path: Path) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"df -h {path}"
    if error.errno == errno.EFBIG:
        return "ulimit -f unlimited"
    return "set CACHE_DIRECTORY to a directory that can be written"


def _tidy(parent: Path) -> None:
    files = sorted(parent.glob("*.bpf"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in files[MAX_FILES:]:
        path.unlink()
