"""The tcpwatch command as a process, from start to end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def tcpwatch(*arguments: str | Path, stdin: bytes = b"", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `tcpwatch ARGUMENTS`. environment: variables beside those of this process."""
    return tcpwatch_from("tracer", *arguments, stdin=stdin, **environment)


def tcpwatch_from(
    module: str, *arguments: str | Path, stdin: bytes = b"", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run `python -m MODULE ARGUMENTS` in the root of the tree."""
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        input=stdin.decode("latin-1"),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        timeout=240,
    )
