"""BPF programs that tcpwatch has left in the kernel, if any."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from pathlib import Path

from tracer.lab.namespace import wait_until

PROGRAMS = ("on_tcp_", "on_inet_", "on_timer_", "on_kfree_")


def loaded_programs() -> list[str]:
    """Names of tcpwatch's BPF programs in the kernel, except those that a tcpwatch outside this test run holds."""
    shown = subprocess.run(["bpftool", "-j", "prog", "show"], capture_output=True, text=True, check=True).stdout
    ours = {each["id"]: name for each in json.loads(shown) if (name := each.get("name", "")).startswith(PROGRAMS)}
    return [name for number, name in ours.items() if number not in _held_by_others()]


def _held_by_others() -> set[int]:
    """Numbers of the programs that processes outside this test run hold."""
    held = set()
    for fdinfo in Path("/proc").glob("[0-9]*/fdinfo"):
        with contextlib.suppress(OSError):
            for line in (line for each in fdinfo.iterdir() for line in each.read_text().splitlines()):
                if line.startswith("prog_id:") and not _is_ours(int(fdinfo.parent.name)):
                    held.add(int(line.split()[1]))
    return held


def _is_ours(pid: int) -> bool:
    """Whether the process descends from this one."""
    while pid > 1 and pid != os.getpid():
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return pid == os.getpid()


def assert_nothing_left() -> None:
    """Wait until no program is left: the kernel frees one a moment after its last descriptor is closed."""
    wait_until(lambda: not loaded_programs(), 30, f"the kernel frees {loaded_programs()}")
