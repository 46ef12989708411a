"""Exact socket → processes and cgroup.

A retransmission happens in softirq, on whatever process was interrupted: the pid on the CPU
says nothing. What says it is the socket's inode, found again among the open files of all
processes; and where no process holds it any more, who held it last.
"""

from __future__ import annotations

import ctypes
import os
import struct
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from tracer.events import MOST_TEXT, Event
from tracer.kernel.wire import Owner, text
from tracer.parts import Part, PartedEvent

SHARE_OF_CPU = 0.05
"""Most of one core that walking through /proc may take."""
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 1.0
"""Between two walks, however quick they are; and where no socket is unknown."""
REMEMBERED_SOCKETS = 65536
MOST_CGROUPS = 64
"""Of the sockets of a process, usually one."""


class Holders:
    """The processes that hold a socket, lowest pid first, and the name of that first one.

    parts: what that says in an event, by the id of the socket's cgroup.
    """

    __slots__ = ("comm", "parts", "pids")

    def __init__(self, pids: tuple[int, ...], comm: str | None) -> None:
        self.pids = pids
        self.comm = comm
        self.parts: dict[int, Part] = {}

    def part(self, cgroup: str | None) -> Part:
        """The fields of an event whose socket is in that cgroup."""
        fields: dict[str, Any] = {"pids": list(self.pids), "pid": self.pids[0]} if self.pids else {}
        if self.comm is not None:
            fields["comm"] = self.comm
        if cgroup is not None:
            fields["cgroup"] = cgroup
        return Part(fields)


_NOBODY = Holders((), None)


class Owners:
    """Names the owners of events. One walk through /proc answers for every socket at once.

    A walk is made when an unknown socket turns up, or when what is known is older than LONGEST_PAUSE_S,
    and never so often that it takes more than SHARE_OF_CPU. Until the next one an event gets what
    the kernel side saw at connect or close.
    """

    def __init__(
        self,
        proc: Path = Path("/proc"),
        clock: Callable[[], float] = time.monotonic,
        cgroup_path: Callable[[int], str | None] | None = None,
    ) -> None:
        self._proc = proc
        self._clock = clock
        self._cgroup_path = cgroup_path or cgroup_path_of
        self._holders: dict[int, Holders] = {}
        self._walked_at = float("-inf")
        self._walk_took = 0.0
        self._last: OrderedDict[str | None, Holders] = OrderedDict()  # by Event.sock

    def complete(self, *events: tuple[Event, Owner]) -> list[Event]:
        """Fill pid, comm, pids and cgroup of events, as far as they can be known."""
        age = self._clock() - self._walked_at
        may_walk = age >= max(SHORTEST_PAUSE_S, self._walk_took / SHARE_OF_CPU)
        if may_walk and age >= LONGEST_PAUSE_S:
            self._walk()
            may_walk = False
        completed = []
        for event, (inode, cgroup, pid, comm) in events:
            sock = event.sock
            holders = self._holders.get(inode) if inode else None
            if holders is None and inode and may_walk:
                self._walk()
                may_walk = False
                holders = self._holders.get(inode)
            if holders is None:
                # Who held it last, or else who connected or closed it.
                holders = self._last.get(sock) or (_seen(pid, comm) if pid else _NOBODY)
            elif sock is not None:
                self._remember(sock, holders)
            self._fill(event, holders, cgroup)
            completed.append(event)
        return completed

    def name(self, event: Event, cgroup: int, names: Mapping[int, bytes]) -> None:
        """Fill the same fields of an event whose holders are known already: their names, by pid."""
        pids = tuple(sorted(pid for pid in names if pid))
        holders = _holders(pids, text(names[pids[0]]) or None) if pids else _NOBODY
        self._fill(event, holders, cgroup)

    def _fill(self, event: Event, holders: Holders, cgroup: int) -> None:
        part = holders.parts.get(cgroup)
        if part is None:
            part = holders.part(self._cgroup_path(cgroup) if cgroup else None)
            if len(holders.parts) < MOST_CGROUPS:
                holders.parts[cgroup] = part
        if type(event) is PartedEvent:
            event.parts[-1] = part
        else:
            event.known().update(part.fields)

    def _remember(self, sock: str, holders: Holders) -> None:
        last = self._last
        last[sock] = holders
        last.move_to_end(sock)
        if len(last) > REMEMBERED_SOCKETS:
            last.popitem(last=False)

    def _walk(self) -> None:
        began = self._clock()
        holders = socket_holders(self._proc)
        comms = {pid: _comm(self._proc, pid) for pid in {pids[0] for pids in holders.values()}}
        self._holders = {inode: _holders(tuple(pids), comms[pids[0]]) for inode, pids in holders.items()}
        self._walked_at = self._clock()
        self._walk_took = self._walked_at - began


@lru_cache(maxsize=4096)
def _holders(pids: tuple[int, ...], comm: str | None) -> Holders:
    """The same for the same processes, from one walk to the next."""
    return Holders(pids, comm)


@lru_cache(maxsize=4096)
def _seen(pid: int, comm: bytes) -> Holders:
    return Holders((pid,), text(comm) or None)


def socket_holders(proc: Path = Path("/proc")) -> dict[int, list[int]]:
    """Every open socket's inode with the pids that hold it, ascending. Processes that end meanwhile are left out."""
    holders: dict[int, list[int]] = {}
    for pid in sorted(int(name) for name in os.listdir(proc) if name.isdecimal()):
        for inode in _socket_inodes(f"{proc}/{pid}/fd"):
            pids = holders.setdefault(inode, [])
            if not pids or pids[-1] != pid:
                pids.append(pid)
    return holders


def _socket_inodes(directory: str) -> Sequence[int]:
    inodes = []
    try:
        descriptors = os.listdir(directory)
    except OSError:  # ended, or not ours to see
        return ()
    for descriptor in descriptors:
        try:
            target = os.readlink(f"{directory}/{descriptor}")
        except OSError:
            continue
        if target.startswith("socket:["):
            inodes.append(int(target[8:-1]))
    return inodes


def _comm(proc: Path, pid: int) -> str | None:
    try:
        # It may end with a newline of its own, before the file's.
        return text((proc / str(pid) / "comm").read_bytes().removesuffix(b"\n"))
    except OSError:
        return None


# include/linux/exportfs.h: a file handle that is a kernfs id, which is the cgroup id.
_FILEID_KERNFS = 0xFE
_CGROUP_MOUNTS = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")


class _FileHandle(ctypes.Structure):
    _fields_ = (
        ("handle_bytes", ctypes.c_uint),
        ("handle_type", ctypes.c_int),
        ("f_handle", ctypes.c_ubyte * 8),
    )


@lru_cache(maxsize=4096)
def cgroup_path_of(cgroup_id: int) -> str | None:
    """The path of a cgroup below its mount, `/` for the root; None for one that is gone or out of sight.

    open_by_handle_at(2) takes the id as a handle (kernfs_fh_to_dentry, fs/kernfs/mount.c, 5.5), so no
    tree has to be walked. It needs CAP_DAC_READ_SEARCH.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    handle = _FileHandle(8, _FILEID_KERNFS, (ctypes.c_ubyte * 8)(*struct.pack("=Q", cgroup_id)))
    for mount in _CGROUP_MOUNTS:
        try:
            mount_fd = os.open(mount, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            continue
        try:
            fd = libc.open_by_handle_at(mount_fd, ctypes.byref(handle), os.O_RDONLY | os.O_CLOEXEC | 0o10000000)
            if fd < 0:
                continue
            try:
                path = text(os.readlink(f"/proc/self/fd/{fd}".encode()))[:MOST_TEXT]
            finally:
                os.close(fd)
        finally:
            os.close(mount_fd)
        if path.startswith(mount):
            return path.removeprefix(mount) or "/"
        return path
    return None
