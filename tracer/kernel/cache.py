"""Compiled programs, kept from one start to the next: compiling takes more than a second, and a hundred MB.

What is here is loaded into the kernel by root. So it is taken only from a directory and a file that nobody but root,
or the user that we are, can write to.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

import tracer
from tracer.kernel.source import Source

MOST_FILES = 16
"""Programs that are kept, of so many kernels: the latest."""
_MOST_BYTES = 4 * 1024 * 1024


def directory() -> Path:
    """systemd's CacheDirectory= says where in CACHE_DIRECTORY."""
    return Path(os.environ.get("CACHE_DIRECTORY") or "/var/cache/tcpwatch")


def kept(source: Source) -> bytes | None:
    """What was kept of this very source; None where nothing is, or nothing to be trusted."""
    path = _path(source)
    try:
        if not _only_ours(path.parent.lstat()):
            return None
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not (stat.S_ISREG(status.st_mode) and _only_ours(status)):
                return None
            digest, _, content = file.read(_MOST_BYTES).partition(b"\n")
    except OSError:
        return None
    return content if digest == _digest(content) else None


def keep(source: Source, content: str) -> None:
    """For the next start. Where that is not possible, the next one compiles again."""
    path = _path(source)
    data = content.encode()
    with suppress(OSError):
        path.parent.mkdir(mode=0o755, exist_ok=True)
        fresh = path.with_name(f".{secrets.token_hex(8)}")
        try:
            with fresh.open("xb") as file:
                os.fchmod(file.fileno(), 0o644)
                file.write(_digest(data) + b"\n" + data)
            fresh.replace(path)
        finally:
            fresh.unlink(missing_ok=True)
        _tidy(path.parent)


def _path(source: Source) -> Path:
    """Its name says all that it depends on but for bcc, whose upgrade may leave it as it is."""
    parts = (tracer.__version__, os.uname().machine, *source.cflags, source.text)
    name = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    return directory() / f"{name[:32]}.bpf"


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()


def _only_ours(status: os.stat_result) -> bool:
    return status.st_uid in (0, os.geteuid()) and not status.st_mode & 0o022


def _tidy(parent: Path) -> None:
    files = sorted(parent.glob("*.bpf"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in files[MOST_FILES:]:
        path.unlink()
