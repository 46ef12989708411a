"""The commands that act, as processes without a terminal."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from watching import PATIENCE_S, ROOT

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80"}


def act(command: str, *arguments: str | int, before: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """Run `tcpwatch COMMAND ARGUMENTS`. before: a command that runs it."""
    done = subprocess.run(
        [*before, sys.executable, "-m", "tracer", command, *map(str, arguments)],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=ROOT, env=ENVIRONMENT, timeout=PATIENCE_S,
    )  # fmt: skip
    assert "Traceback" not in done.stderr and "bug in tcpwatch" not in done.stderr, done.stderr
    return done
