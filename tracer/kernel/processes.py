"""Processes in /proc: their numbers, names and start times."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from tracer.kernel.wire import text
from tracer.model.secrets import without_secrets

PROC = Path("/proc")
COMM_BYTES = 15
"""The maximum length of a process name (TASK_COMM_LEN without its NUL)."""
_NS_PER_TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_PF_EXITING = 4  # include/linux/sched.h
_DELETED = b" (deleted)"  # d_path() appends it to the path of an unlinked file


class Process(NamedTuple):
    """A process: its pid in our PID namespace, its name, and the name of its executable if that differs."""

    pid: int
    comm: str
    exe: str | None


def pids(proc: Path = PROC) -> Iterator[int]:
    """The pid of every process, in no order. Raises OSError."""
    return (int(name) for name in os.listdir(proc) if name.isdecimal())


def process_of(pid: int, proc: Path = PROC) -> Process | None:
    """The process with this pid. None once it has ended."""
    try:
        # The name may end with a newline of its own, before that of the file.
        comm = (proc / str(pid) / "comm").read_bytes().removesuffix(b"\n")
    except OSError:
        return None
    return process_named(pid, comm, proc)


def process_named(pid: int, comm: bytes, proc: Path = PROC) -> Process:
    """The process with this pid and name. Its executable is read from /proc, as long as it runs."""
    try:
        path = os.readlink(os.fsencode(proc / str(pid) / "exe")) if pid else b""
    except OSError:  # ended, a kernel thread, or not permitted
        path = b""
    return Process(pid, *process_names(comm, path.removesuffix(_DELETED).rpartition(b"/")[2]))


def command_line(pid: int, proc: Path = PROC) -> str:
    """The arguments of a process that runs now, with blanks between them; empty once it has ended.

    Those of tcpwatch itself are without secrets.
    """
    try:
        arguments = (proc / str(pid) / "cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    except OSError:
        return ""
    return " ".join(without_secrets(map(text, arguments)))


@lru_cache(maxsize=4096)
def process_names(comm: bytes, exe: bytes) -> tuple[str, str | None]:
    """Decode the name of a process and that of its executable: None where comm is that name, or its beginning."""
    comm, exe = comm.split(b"\0", 1)[0], exe.split(b"\0", 1)[0]
    is_same = comm == exe or (len(comm) == COMM_BYTES and exe.startswith(comm))
    return text(comm), None if is_same or not exe else text(exe)


def started_ns(pid: int, proc: Path = PROC) -> int | None:
    """The start time of a process, CLOCK_BOOTTIME in whole ticks. None if it has ended or is exiting."""
    fields = _stat(pid, proc)
    if fields is None:
        return None
    has_ended = fields[0] in (b"Z", b"X") or int(fields[6]) & _PF_EXITING
    return None if has_ended else int(fields[19]) * _NS_PER_TICK


def ancestors(pid: int, proc: Path = PROC) -> frozenset[int]:
    """The parent of a process, its parent and so on, without process 1."""
    found: set[int] = set()
    while (fields := _stat(pid, proc)) is not None and (pid := int(fields[1])) > 1 and pid not in found:
        found.add(pid)
    return frozenset(found)


def _stat(pid: int, proc: Path) -> list[bytes] | None:
    """The fields of proc_pid_stat(5) from the third on; None if the process has ended."""
    try:
        stat = (proc / str(pid) / "stat").read_bytes()
    except OSError:
        return None
    # The name is in parentheses and may contain any character.
    return stat[stat.rindex(b")") + 2 :].split()
