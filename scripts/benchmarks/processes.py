"""What processes use: processor time and memory."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracer.errors import TcpwatchError

ROOT = Path(__file__).resolve().parent.parent.parent
MIB = 1024 * 1024
_QUIET_S = 0.25

TCPWATCH = (sys.executable, "-m", "tracer.cli")
"""tcpwatch from this tree; wants `environment()`."""


def environment(**more: str) -> dict[str, str]:
    """Ours, and what tcpwatch needs to be found."""
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


def dies_with_us(argv: Sequence[str | Path]) -> list[str]:
    """The command as one that the kernel kills when we end."""
    return ["setpriv", "--pdeathsig", "KILL", *map(str, argv)]


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory in bytes. private: what would come free if the process ended."""

    private: int
    total: int


def memory_of(pid: int) -> Memory:
    """As /proc/PID/smaps_rollup has it now."""
    kib: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]:
        name, value, _ = line.split()
        kib[name.rstrip(":")] = int(value)
    return Memory(1024 * (kib["Private_Clean"] + kib["Private_Dirty"]), 1024 * kib["Rss"])


def cpu_s(pid: int) -> float:
    """Processor time of a process that runs, of all its threads that do, user and system, in seconds."""
    # Nanoseconds; /proc/PID/stat has hundredths of a second.
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text(encoding="ascii").split()[0]) for task in tasks) / 1e9


def wait_until_idle(pid: int) -> float:
    """Until it uses less than a tenth of a processor: it has done what there was to do. Returns when that was so."""
    while True:
        before_s, began = cpu_s(pid), time.monotonic()
        time.sleep(_QUIET_S)
        if cpu_s(pid) - before_s < _QUIET_S / 10:
            return began


@dataclass(frozen=True, slots=True)
class Usage:
    """What a command took from its start to its end; peak_bytes: the most memory that was resident."""

    wall_s: float
    cpu_s: float
    peak_bytes: int


def measured(argv: Sequence[str | Path], **options: Any) -> Usage:
    """Run a command to its end, its output thrown away. Raises TcpwatchError where it fails."""
    began = time.monotonic()
    with subprocess.Popen(
        dies_with_us(argv), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment(), **options
    ) as process:
        assert process.stderr is not None
        said = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise TcpwatchError(f"{' '.join(map(str, argv))} failed: {said.decode('utf-8', 'replace').strip()[-500:]}")
    return Usage(time.monotonic() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)
