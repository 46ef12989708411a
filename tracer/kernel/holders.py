"""Find the processes that hold a socket, by the inode of the socket.

A BPF iterator walks over the open files of every process and reports the requested sockets (bpf/holder.h). Where the
kernel refuses it, the links in /proc/PID/fd give the same answer in ten times the time.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Protocol

from tracer.kernel.processes import PROC, Process, pids, process_names, process_of
from tracer.kernel.program import syscalls
from tracer.kernel.program.compiler import ProgramError
from tracer.kernel.program.program import Program

_HOLDER = struct.Struct("<QI16s36s")  # struct holder in bpf/holder.h

Held = dict[int, tuple[Process, ...]]
"""The processes that hold each socket, lowest pid first, by its inode."""


class HolderFinder(Protocol):
    """A way to find the holders of sockets."""

    def __call__(self, inodes: Collection[int] | None) -> Held:
        """The holders of these sockets, or of every TCP socket; others may be among them. Raises OSError."""


def holder_finder(program: Program, task_file: int | None) -> HolderFinder:
    """The fastest way that this kernel offers.

    program: one that includes bpf/holder.h. task_file: the BTF id of bpf_iter_task_file, None without one.
    """
    if task_file is None:
        return ProcHolderFinder()
    try:
        return BpfHolderFinder(program, task_file)
    except ProgramError:
        return ProcHolderFinder()


class BpfHolderFinder:
    """Reads the iterator over open files, as long as the program is loaded. Raises ProgramError if it is refused."""

    def __init__(self, program: Program, task_file: int) -> None:
        self._program = program
        self._link = program.link_iterator("report_holder", task_file)

    def __call__(self, inodes: Collection[int] | None) -> Held:
        """As HolderFinder."""
        self._program.request_holders(inodes)
        return _held(_HOLDER.iter_unpack(syscalls.read_iterator(self._link)))


def _held(records: Iterator[tuple[int, int, bytes, bytes]]) -> Held:
    """The holders in the iterator's records. A process may hold a socket by several files."""
    alone: dict[int, tuple[Process, ...]] = {}
    held: Held = {}
    shared: dict[int, set[Process]] = {}
    for inode, pid, comm, exe in records:
        holder = alone.get(pid)
        if holder is None:
            holder = alone[pid] = (Process(pid, *process_names(comm, exe)),)
        before = held.setdefault(inode, holder)
        if before is not holder:
            shared.setdefault(inode, {*before}).update(holder)
    for inode, processes in shared.items():
        held[inode] = tuple(sorted(processes))
    return held


class ProcHolderFinder:
    """Reads the links in /proc/PID/fd. Needs CAP_SYS_PTRACE for other users' processes."""

    def __init__(self, proc: Path = PROC) -> None:
        self._proc = proc

    def __call__(self, inodes: Collection[int] | None) -> Held:
        """As HolderFinder."""
        held: Held = {}
        for pid in sorted(pids(self._proc)):
            found = {inode for inode in _socket_inodes(f"{self._proc}/{pid}/fd") if inodes is None or inode in inodes}
            process = process_of(pid, self._proc) if found else None
            if process is not None:
                for inode in found:
                    held[inode] = (*held.get(inode, ()), process)
        return held


def _socket_inodes(directory: str) -> Iterator[int]:
    """The sockets among the open files of a process. None if it has ended, or access is not permitted."""
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
