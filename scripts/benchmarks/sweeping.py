"""Undo changes to the host whatever ends us, kill -9 included."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def _afterwards(script: str, *arguments: str) -> Iterator[None]:
    """Has a shell run the script when the block ends: at the latest when we do, for it reads a pipe of ours."""
    sweeper = subprocess.Popen(
        ["sh", "-c", f"cat; {script}", "sweeper", *arguments], stdin=subprocess.PIPE, start_new_session=True
    )
    try:
        yield
    finally:
        assert sweeper.stdin is not None
        sweeper.stdin.close()
        sweeper.wait()


@contextmanager
def temporary_directory(where: Path | None = None) -> Iterator[Path]:
    """A directory that is removed with its contents."""
    made = tempfile.mkdtemp(prefix="tcpwatch-bench-", dir=where)
    with _afterwards('rm -rf "$1"', made):
        yield Path(made)


@contextmanager
def sysctl(name: str, value: str) -> Iterator[None]:
    """A setting of the host's, for as long as the block takes."""
    path = Path("/proc/sys", name.replace(".", "/"))
    before = path.read_text(encoding="ascii").strip()
    with _afterwards('printf %s "$1" >"$2"', before, str(path)):
        path.write_text(value, encoding="ascii")
        yield
