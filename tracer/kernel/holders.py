"""Which processes hold a socket, by the inode of the socket.

An iterator in the kernel goes over the open files of every process and reports the sockets that are asked for
(bpf/holder.h). /proc says the same where the kernel refuses the iterator, and takes ten times as long.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Collection, Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Protocol, TypeAlias

from tracer.kernel.program import syscalls
from tracer.kernel.program.compiler import ProgramError
from tracer.kernel.program.program import Program
from tracer.kernel.wire import text

COMM_BYTES = 15
"""The length of a process's name, at most (TASK_COMM_LEN without its NUL)."""
_HOLDER = struct.Struct("<QI16s36s")  # struct holder in bpf/holder.h
_NS_PER_TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_PF_EXITING = 4  # include/linux/sched.h
_DELETED = b" (deleted)"  # what d_path() adds to the path of a file that was unlinked


class Process(NamedTuple):
    """A process: its number in our PID namespace, its name, and the name of its program's file if that is another."""

    pid: int
    comm: str
    exe: str | None


Held: TypeAlias = dict[int, tuple[Process, ...]]
"""The processes that hold a socket, lowest pid first, by its inode."""


class LookUp(Protocol):
    """A way to find the holders of sockets."""

    def __call__(self, inodes: Collection[int] | None) -> Held:
        """The holders of these sockets, or of every TCP socket; others may be among them. Raises OSError."""


def look_up(program: Program, task_file: int | None) -> LookUp:
    """The best way that this kernel offers.

    program: one that includes bpf/holder.h. task_file: the BTF type of bpf_iter_task_file, None where there is none.
    """
    if task_file is None:
        return InProc()
    try:
        return InKernel(program, task_file)
    except ProgramError:
        return InProc()


class InKernel:
    """Asks the iterator over open files, as long as the program is loaded. Raises ProgramError if that is refused."""

    def __init__(self, program: Program, task_file: int) -> None:
        self._program = program
        self._link = program.link_iterator("report_holder", task_file)

    def __call__(self, inodes: Collection[int] | None) -> Held:
        """As a LookUp."""
        self._program.ask_for_holders(inodes)
        return _held(_HOLDER.iter_unpack(syscalls.read_iterator(self._link)))


def _held(records: Iterator[tuple[int, int, bytes, bytes]]) -> Held:
    """What records of the iterator say. A process may hold a socket by several files."""
    alone: dict[int, tuple[Process, ...]] = {}
    held: Held = {}
    shared: dict[int, set[Process]] = {}
    for inode, pid, comm, exe in records:
        holder = alone.get(pid)
        if holder is None:
            holder = alone[pid] = (Process(pid, *_names(comm, exe)),)
        before = held.setdefault(inode, holder)
        if before is not holder:
            shared.setdefault(inode, {*before}).update(holder)
    for inode, processes in shared.items():
        held[inode] = tuple(sorted(processes))
    return held


class InProc:
    """Reads the links in /proc/PID/fd. Needs CAP_SYS_PTRACE for the processes of others."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc

    def __call__(self, inodes: Collection[int] | None) -> Held:
        """As a LookUp."""
        held: Held = {}
        for pid in sorted(int(name) for name in os.listdir(self._proc) if name.isdecimal()):
            found = {inode for inode in _socket_inodes(f"{self._proc}/{pid}/fd") if inodes is None or inode in inodes}
            process = process_of(pid, self._proc) if found else None
            if process is not None:
                for inode in found:
                    held[inode] = (*held.get(inode, ()), process)
        return held


def process_of(pid: int, proc: Path = Path("/proc")) -> Process | None:
    """A process with its names. None once it has ended."""
    try:
        # The name may end with a newline of its own, before the file's.
        comm = (proc / str(pid) / "comm").read_bytes().removesuffix(b"\n")
    except OSError:
        return None
    return named(pid, comm, proc)


def named(pid: int, comm: bytes, proc: Path = Path("/proc")) -> Process:
    """A process of that name, with its program's file if it is still there to see."""
    try:
        path = os.readlink(os.fsencode(proc / str(pid) / "exe")) if pid else b""
    except OSError:  # ended, a kernel thread, or not ours to see
        path = b""
    return Process(pid, *_names(comm, path.removesuffix(_DELETED).rpartition(b"/")[2]))


@lru_cache(maxsize=4096)
def _names(comm: bytes, exe: bytes) -> tuple[str, str | None]:
    """The two names of a process. The second one only if it is another: not if the first is what fits of it."""
    comm, exe = comm.split(b"\0", 1)[0], exe.split(b"\0", 1)[0]
    is_same = comm == exe or (len(comm) == COMM_BYTES and exe.startswith(comm))
    return text(comm), None if is_same or not exe else text(exe)


def _socket_inodes(directory: str) -> Iterator[int]:
    """Of the sockets among a process's open files. None where it has ended or is not ours to see."""
    try:
        descriptors = os.listdir(directory)
    except OSError:
        return
    for descriptor in descriptors:
        try:
            target = os.readlink(f"{directory}/{descriptor}")
        except OSError:
            continue
        if target.startswith("socket:["):
            yield int(target[8:-1])


def started_ns(pid: int, proc: Path = Path("/proc")) -> int | None:
    """When a process started, CLOCK_BOOTTIME in whole ticks. None if it has ended, or is about to."""
    try:
        stat = (proc / str(pid) / "stat").read_bytes()
    except OSError:
        return None
    # proc(5): the name, which may have any character in it, stands in parentheses; then come the fields from 3 on.
    fields = stat[stat.rindex(b")") + 2 :].split()
    has_ended = fields[0] in (b"Z", b"X") or int(fields[6]) & _PF_EXITING
    return None if has_ended else int(fields[19]) * _NS_PER_TICK
