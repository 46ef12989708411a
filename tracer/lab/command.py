"""A command of tcpwatch that runs beside the demo, as if it were typed in a second terminal."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
"""The directory of the package `tracer`, from which `python -m tracer` finds it."""


def run_beside(arguments: Sequence[str], wait_until: Callable[[Callable[[], bool]], None]) -> tuple[int, list[str]]:
    """Run `tcpwatch ARGUMENTS` with this Python. Returns its exit status, and the lines of both its streams.

    wait_until: returns when the condition holds that it gets. If it raises, the command is killed.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "tracer", *arguments],
            cwd=_ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            wait_until(lambda: process.poll() is not None)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
        output.seek(0)
        return process.returncode, output.read().splitlines()
