"""The tcpwatch command on a host that shell commands have changed, for this command only."""

from __future__ import annotations

import os
import subprocess
import sys

from watching import ROOT


def tcpwatch(*arguments: str, before: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `tcpwatch ARGUMENTS` in a mount namespace of its own, after the shell commands `before`."""
    script = f'set -e; {before}\n exec "$@"'
    command = ["unshare", "--mount", "--propagation", "private", "bash", "-c", script, "bash"]
    return subprocess.run(
        [*command, sys.executable, "-m", "tracer", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        timeout=120,
    )
