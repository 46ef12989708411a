"""The network namespaces that processes live in.

An iterator in the kernel goes over all processes and reports the namespace of each (bpf/namespace.h). Where the kernel
refuses it, each link /proc/PID/ns/net is asked, which takes twenty times as long.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, Protocol

from tracer.kernel.program import syscalls
from tracer.kernel.program.compiler import ProgramError
from tracer.kernel.program.program import Program

_MEMBER = struct.Struct("<QII")  # struct process_netns in bpf/namespace.h


class Members(NamedTuple):
    """The processes in a network namespace.

    cookie: the kernel's number of the namespace, which no other namespace gets (SO_NETNS_COOKIE); 0 where it is not
    known. Before Linux 5.12 a namespace has none until a program asks for it.
    """

    pids: list[int]
    cookie: int = 0


class FindMembers(Protocol):
    """A way to find the processes in each network namespace."""

    def __call__(self) -> dict[int, Members]:
        """Those of all namespaces that have any, by the inode of the namespace. Raises OSError."""


def find_members(program: Program, task: int | None) -> FindMembers:
    """The best way that this kernel offers.

    program: one that includes bpf/namespace.h. task: the BTF type of bpf_iter_task, None where there is none.
    """
    if task is None:
        return InProc()
    try:
        return InKernel(program, task)
    except ProgramError:
        return InProc()


class InKernel:
    """Asks the iterator over tasks, as long as the program is loaded. Raises ProgramError if that is refused."""

    def __init__(self, program: Program, task: int) -> None:
        self._link = program.link_iterator("report_netns", task)

    def __call__(self) -> dict[int, Members]:
        """As FindMembers."""
        return _by_namespace(_MEMBER.iter_unpack(syscalls.read_iterator(self._link)))


def _by_namespace(records: Iterable[tuple[int, int, int]]) -> dict[int, Members]:
    found: dict[int, Members] = {}
    for cookie, netns, pid in records:
        members = found.get(netns)
        if members is None:
            members = found[netns] = Members([], cookie)
        members.pids.append(pid)
    return found


class InProc:
    """Asks /proc/PID/ns/net. Needs CAP_SYS_PTRACE for the processes of others."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc

    def __call__(self) -> dict[int, Members]:
        """As FindMembers."""
        found: dict[int, Members] = {}
        for name in os.listdir(self._proc):
            if name.isdecimal():
                try:
                    netns = (self._proc / name / "ns/net").stat().st_ino
                except OSError:  # ended, or not ours to see
                    continue
                found.setdefault(netns, Members([])).pids.append(int(name))
        return found
