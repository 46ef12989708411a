"""The owners of sockets, and the cgroup of each: what events say of processes.

A retransmission happens in softirq, on whatever process was interrupted: the pid on the CPU says nothing. The inode
of the socket leads to the processes that have it among their open files (holders.py), and where none has it any more,
to who had it last. What was found is remembered, and looked up again when an event needs it and it is old.
"""

from __future__ import annotations

import ctypes
import os
import struct
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from tracer.kernel import clocks
from tracer.kernel.holders import Held, LookUp, Process, named, started_ns
from tracer.kernel.wire import Owner, text
from tracer.model.events import Event
from tracer.model.fields import MAX_PATH
from tracer.model.lazy import LazyEvent, Part

FRESH_NS = 1_000_000_000
"""What was found is not looked up again for so long, and a process not checked again."""
CLOSED_NS = 10_000_000
"""The same of a process that closes a socket: it may be ending."""
SHARE_OF_CPU, BURST_S = 0.05, 0.2
"""Most of one core that looking up may take; and what it may take at once after it was not needed for a while."""
UNKNOWN_WAIT_S, OLD_WAIT_S = 0.05, 0.01
"""Longest time that events wait for an owner that is not known or has ended, and for one that may have changed."""
REMEMBERED_SOCKETS = 65536
"""Whose last holders are remembered. So many that were found one by one are, too, until all are found anew."""
MOST_CGROUPS = 64
"""Of the sockets of a process, usually one."""
MOST_PROCESSES = 4096
"""Whose names and start are remembered."""
MOST_CHECKED = 16
"""Holders of one socket that /proc is asked about for an event. A listening process may have a thousand workers."""
# What an event asks for.
_NOTHING, _REFRESH, _STATE, _TROUBLE = range(4)


class Holders:
    """The processes that hold a socket, or that held it last: what an event says of them.

    is_gone: they do not hold it, or have ended. parts: their fields of an event, by the id of the socket's cgroup.
    """

    __slots__ = ("is_gone", "parts", "processes")

    def __init__(self, processes: tuple[Process, ...], is_gone: bool) -> None:
        self.processes = processes
        self.is_gone = is_gone
        self.parts: dict[int, Part] = {}

    def part(self, cgroup: str | None) -> Part:
        """The fields of an event whose socket is in that cgroup."""
        fields: dict[str, Any] = {}
        if self.processes:
            # A process of another PID namespace may have no number in ours.
            pids = [process.pid for process in self.processes if process.pid]
            pid, comm, exe = self.processes[0]
            if pids and not self.is_gone:
                fields["pids"] = pids
            if pid:
                fields["pid"] = pid
            if comm:
                fields["comm"] = comm
            if exe is not None:
                fields["exe"] = exe
        if cgroup is not None:
            fields["cgroup"] = cgroup
        return Part(fields)


@lru_cache(maxsize=4096)
def _holders(processes: tuple[Process, ...], is_gone: bool) -> Holders:
    """The same for the same processes."""
    return Holders(processes, is_gone)


_NOBODY = _holders((), True)


class _Found(NamedTuple):
    """Who holds a socket, or held it when that was last seen. at_ns, seen_ns: of the look-up, and of that one."""

    holders: Holders
    at_ns: int
    seen_ns: int


class _Connector:
    """Who connected or closed, as the kernel side saw it. started_ns: when the process began, as of checked_ns."""

    __slots__ = ("checked_ns", "gone", "holders", "started_ns")

    def __init__(self, process: Process) -> None:
        self.holders, self.gone = _holders((process,), False), _holders((process,), True)
        self.started_ns: int | None = None
        self.checked_ns = float("-inf")


class _Search(threading.Thread):
    """A look-up that is under way.

    found: who holds each socket, None where it failed. ended_ns: when that was so. used_s: processor time of the
    thread. took_s: until it ended. Whatever takes longer with more sockets is done here.
    """

    def __init__(self, look_up: LookUp, inodes: Collection[int] | None, clock_ns: Callable[[], int]) -> None:
        super().__init__(name="owners", daemon=True)
        self._look_up = look_up
        self._clock_ns = clock_ns
        self.inodes = inodes
        self.found: dict[int, _Found] | None = None
        self.ended_ns = 0
        self.used_s = self.took_s = 0.0

    def run(self) -> None:
        """Look up."""
        began = time.monotonic()
        with suppress(OSError, MemoryError):  # no memory: the next one may have more
            held = self._look_up(self.inodes)
            self.ended_ns = self._clock_ns()
            self.found = _found_by_inode(held, self.ended_ns)
        self.used_s = time.thread_time()
        self.took_s = time.monotonic() - began


def _found_by_inode(held: Held, at_ns: int) -> dict[int, _Found]:
    """Sockets that are held by the same processes share what is said of them."""
    found: dict[int, _Found] = {}
    known: dict[tuple[Process, ...], _Found] = {}
    for inode, processes in held.items():
        each = known.get(processes)
        if each is None:
            each = known[processes] = _Found(_holders(processes, False), at_ns, at_ns)
        found[inode] = each
    return found


class Owners:
    """Names the owners of events.

    look_up: how to find holders; it is called in threads of their own, so that no more than UNKNOWN_WAIT_S passes
    before events are handed on. Use everything else in one thread. proc: where to see whether a process still lives.
    """

    def __init__(
        self,
        look_up: LookUp,
        *,
        proc: Path = Path("/proc"),
        clock_ns: Callable[[], int] = clocks.boottime_ns,
        cgroup_path: Callable[[int], str | None] | None = None,
    ) -> None:
        self._look_up = look_up
        self._proc = proc
        self._clock_ns = clock_ns
        self._cgroup_path = cgroup_path or cgroup_path_of
        self._found: dict[int, _Found] = {}  # by inode
        self._most_found = REMEMBERED_SOCKETS
        self._last: OrderedDict[str | None, Holders] = OrderedDict()  # by Event.sock
        self._started: dict[int, tuple[int | None, int]] = {}  # of processes: when each began, and when that was seen
        self._connectors: dict[tuple[int, bytes], _Connector] = {}  # by what the kernel side says
        self._search: _Search | None = None
        self._searched_ns = 0  # when the last one began
        self._took_s = 0.0  # the last one
        self._allowance_s = BURST_S
        self._counted_ns = clock_ns()  # up to then

    def look_up_all(self, wait_s: float | None = None) -> None:
        """Look up all sockets that there are. If it takes longer than that it goes on in the background."""
        self._begin(None)
        self._take_over(wait_s)

    def close(self) -> None:
        """Wait for a look-up that is under way."""
        if self._search is not None:
            self._search.join()

    def complete(self, *events: tuple[Event, Owner], may_wait: bool = True) -> list[Event]:
        """Fill pids, pid, comm, exe and cgroup of events, as far as they can be known.

        may_wait: whether there is time to look up what is not known. Without it the events say what is known, and a
        look-up for those that follow begins.
        """
        now_ns = self._clock_ns()
        self._take_over(wait_s=0)
        self._look_for(events, now_ns, may_wait=may_wait)
        completed = []
        for event, owner in events:
            self._fill(event, self._holders_of(event.sock, owner, now_ns), owner.cgroup)
            completed.append(event)
        return completed

    def fill(self, event: Event, owner: Owner) -> None:
        """The same of one event, without a look-up."""
        self._fill(event, self._holders_of(event.sock, owner, self._clock_ns()), owner.cgroup)

    def processes_of(self, names: Mapping[int, bytes]) -> tuple[Process, ...]:
        """The processes of these names, by pid. Any thread may ask."""
        return tuple(named(pid, names[pid], self._proc) for pid in sorted(names) if pid)

    def name(self, event: Event, owner: Owner, processes: tuple[Process, ...]) -> None:
        """The same of an event whose holders were found together with it."""
        holders = _holders(processes, not processes)
        if processes and owner.inode:
            now_ns = self._clock_ns()
            self._found[owner.inode] = _Found(holders, now_ns, now_ns)
        self._fill(event, holders, owner.cgroup)

    def _fill(self, event: Event, holders: Holders, cgroup: int) -> None:
        part = holders.parts.get(cgroup)
        if part is None:
            part = holders.part(self._cgroup_path(cgroup) if cgroup else None)
            if len(holders.parts) < MOST_CGROUPS:
                holders.parts[cgroup] = part
        if type(event) is LazyEvent and event.connection is not None:
            event.owner = part
        else:
            event.known().update(part.fields)

    def _holders_of(self, sock: str | None, owner: Owner, now_ns: int) -> Holders:
        inode, _, pid, comm, born_ns, is_closing = owner
        fresh_ns = CLOSED_NS if is_closing else FRESH_NS
        found = self._found.get(inode) if inode else None
        if found is not None and found.holders is not _NOBODY:
            holders = found.holders
            # Who has let go of it meanwhile held it still when the event was: its inode was there.
            if now_ns - found.at_ns > fresh_ns or found.seen_ns != found.at_ns:
                holders = self._living(holders, found.seen_ns, now_ns, fresh_ns)
            if sock is not None:
                self._remember(sock, holders)
            return holders
        # Who held it last if that is known, or else who connected or closed it.
        holders = self._last.get(sock, _NOBODY)
        if holders is not _NOBODY:
            return _holders(holders.processes, True)
        if not pid and not comm.strip(b"\0"):
            return _NOBODY
        connector = self._connectors.get((pid, comm))
        if connector is None:
            if len(self._connectors) >= MOST_PROCESSES:
                self._connectors.clear()
            connector = self._connectors[pid, comm] = _Connector(named(pid, comm, self._proc))
        if not inode:
            return connector.gone
        if now_ns - connector.checked_ns > fresh_ns:
            connector.started_ns, connector.checked_ns = started_ns(pid, self._proc), now_ns
        lives = connector.started_ns is not None and connector.started_ns <= (born_ns or now_ns)
        return connector.holders if lives or not pid else connector.gone

    def _living(self, holders: Holders, known_ns: int, now_ns: int, fresh_ns: int) -> Holders:
        """Without those that have ended since they were known. All of them, but gone, if none is left.

        Of more than MOST_CHECKED the first are checked: if all of them live, the others are taken to live as well; if
        one has ended, the others are left out.
        """
        processes = holders.processes
        checked = processes[:MOST_CHECKED]
        left = tuple(process for process in checked if self._lives(process.pid, known_ns, now_ns, fresh_ns))
        if left == checked:
            return holders
        return _holders(left or processes, not left)

    def _lives(self, pid: int, known_ns: int, now_ns: int, fresh_ns: int) -> bool:
        """Whether it is still the process that had this number then: another one would have started later."""
        if pid == 0:
            return True
        started, seen_ns = self._started.get(pid, (None, 0))
        if seen_ns == 0 or now_ns - seen_ns > fresh_ns:
            if len(self._started) >= MOST_PROCESSES:
                self._started.clear()
            started = started_ns(pid, self._proc)
            self._started[pid] = started, now_ns
        return started is not None and started <= known_ns

    def _remember(self, sock: str, holders: Holders) -> None:
        last = self._last
        last[sock] = holders
        last.move_to_end(sock)
        if len(last) > REMEMBERED_SOCKETS:
            last.popitem(last=False)

    def _look_for(self, events: Iterable[tuple[Event, Owner]], now_ns: int, *, may_wait: bool) -> None:
        """Begin a look-up if these events need one, and wait for it if that is soon enough."""
        wanted: set[int] = set()
        most, is_unknown = _NOTHING, False
        for event, owner in events:
            inode = owner.inode
            if inode:
                found = self._found.get(inode)
                if found is not None and now_ns - found.at_ns <= FRESH_NS:
                    continue
                wanted.add(inode)
                if event.event == "state":
                    most = max(most, _REFRESH if owner.pid or found is not None else _STATE)
                else:
                    most = _TROUBLE
                    is_unknown = is_unknown or self._holders_of(event.sock, owner, now_ns).is_gone
        if not self._may_begin(most, now_ns):
            return
        limit_s = UNKNOWN_WAIT_S if is_unknown or most == _STATE else OLD_WAIT_S
        is_worth_it = may_wait and most > _REFRESH and self._took_s <= limit_s
        deadline = time.monotonic() + limit_s
        if self._search is not None:
            if not is_worth_it:
                return
            self._take_over(wait_s=limit_s)
            if self._search is not None:
                return
        self._begin(wanted if len(self._found) < self._most_found else None)
        if is_worth_it:
            self._take_over(wait_s=max(0.0, deadline - time.monotonic()))

    def _may_begin(self, what: int, now_ns: int) -> bool:
        """Whether it may be looked up now. What shows trouble comes first, and half of the burst is kept for it."""
        self._allowance_s = min(BURST_S, self._allowance_s + (now_ns - self._counted_ns) / 1e9 * SHARE_OF_CPU)
        self._counted_ns = now_ns
        if what == _TROUBLE:
            return self._allowance_s > 0
        if what == _REFRESH and now_ns - self._searched_ns < FRESH_NS:
            return False
        return what != _NOTHING and self._allowance_s > BURST_S / 2

    def _begin(self, inodes: Collection[int] | None) -> None:
        search = _Search(self._look_up, None if inodes is None else frozenset(inodes), self._clock_ns)
        try:
            search.start()
        except RuntimeError:  # as many threads as this process may have
            return
        self._search = search
        self._searched_ns = self._clock_ns()

    def _take_over(self, wait_s: float | None) -> None:
        """What a look-up has found, if it ends within that time."""
        search = self._search
        if search is None:
            return
        if wait_s != 0:
            search.join(wait_s)
        if search.is_alive():
            return
        self._search = None
        self._allowance_s -= search.used_s
        self._took_s = search.took_s
        if search.found is None:
            return
        new, at_ns = search.found, search.ended_ns
        if search.inodes is None:
            self._found = new
            self._most_found = 2 * len(new) + REMEMBERED_SOCKETS
        else:
            nobody = _Found(_NOBODY, at_ns, at_ns)
            for inode in search.inodes:
                self._found[inode] = new.get(inode) or self._found.get(inode, nobody)._replace(at_ns=at_ns)


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
                path = text(os.readlink(f"/proc/self/fd/{fd}".encode()))[:MAX_PATH]
            finally:
                os.close(fd)
        finally:
            os.close(mount_fd)
        if path.startswith(mount):
            return path.removeprefix(mount) or "/"
        return path
    return None
