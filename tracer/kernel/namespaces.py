"""Find the processes in each network namespace.

A BPF iterator walks over all processes and reports the namespace of each (bpf/namespace.h). Where the kernel refuses
it, the links /proc/PID/ns/net give the same answer in twenty times the time.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, Protocol

from tracer.kernel.processes import PROC, pids
from tracer.kernel.program import syscalls
from tracer.kernel.program.compiler import ProgramError
from tracer.kernel.program.program import Program

_PROCESS_NETNS = struct.Struct("<QII")  # struct process_netns in bpf/namespace.h


class Members(NamedTuple):
    """The processes in a network namespace.

    cookie: the kernel's unique id of the namespace (SO_NETNS_COOKIE); 0 if unknown. Before Linux 5.12 a namespace has
    none until a program asks for it.
    """

    pids: list[int]
    cookie: int = 0


class NamespaceFinder(Protocol):
    """A way to find the processes in each network namespace."""

    def __call__(self) -> dict[int, Members]:
        """The processes of each namespace that has any, by the inode of the namespace. Raises OSError."""


def namespace_finder(program: Program, task: int | None) -> NamespaceFinder:
    """The fastest way that this kernel offers.

    program: one that includes bpf/namespace.h. task: the BTF id of bpf_iter_task, None without one.
    """
    if task is None:
        return ProcNamespaceFinder()
    try:
        return BpfNamespaceFinder(program, task)
    except ProgramError:
        return ProcNamespaceFinder()


class BpfNamespaceFinder:
    """Reads the iterator over tasks, as long as the program is loaded. Raises ProgramError if it is refused."""

    def __init__(self, program: Program, task: int) -> None:
        self._link = program.link_iterator("report_netns", task)

    def __call__(self) -> dict[int, Members]:
        """As NamespaceFinder."""
        return _by_namespace(_PROCESS_NETNS.iter_unpack(syscalls.read_iterator(self._link)))


def _by_namespace(records: Iterable[tuple[int, int, int]]) -> dict[int, Members]:
    found: dict[int, Members] = {}
    for cookie, netns, pid in records:
        members = found.get(netns)
        if members is None:
            members = found[netns] = Members([], cookie)
        members.pids.append(pid)
    return found


class ProcNamespaceFinder:
    """Reads the links /proc/PID/ns/net. Needs CAP_SYS_PTRACE for other users' processes."""

    def __init__(self, proc: Path = PROC) -> None:
        self._proc = proc

    def __call__(self) -> dict[int, Members]:
        """As NamespaceFinder."""
        found: dict[int, Members] = {}
        for pid in pids(self._proc):
            try:
                netns = (self._proc / str(pid) / "ns/net").stat().st_ino
            except OSError:  # ended, or not permitted
                continue
            found.setdefault(netns, Members([])).pids.append(pid)
        return found
