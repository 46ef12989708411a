"""The owners of sockets: the processes and the cgroup of an event.

A retransmission runs in softirq context, on top of any process, so the pid on the CPU means nothing. The inode of the
socket leads to the processes that have it open (holders.py). If none has it open any more, the owner is the process
that held it last. Results are cached, and renewed when an event needs one that is old.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from tracer.kernel import clocks, searches
from tracer.kernel.cgroups import cgroup_path
from tracer.kernel.holders import Held, HolderFinder
from tracer.kernel.node_files import NodeFiles
from tracer.kernel.owner_names import NameFinder, OwnerNames
from tracer.kernel.processes import PROC, Process, process_named, started_ns
from tracer.kernel.searches import Searches
from tracer.kernel.wire import Owner
from tracer.model.events import Event
from tracer.model.kinds import Kind
from tracer.model.lazy import LazyEvent, Part

_STATE = Kind.STATE.value
FRESH_NS = searches.RENEW_NS
"""The age up to which a result is used without another search, or another look at the process."""
CLOSED_NS = 10_000_000
"""The same for a process that closes a socket, because it may be exiting."""
UNKNOWN_WAIT_S, OLD_WAIT_S = 0.05, 0.01
"""How long events wait for an owner that is unknown or has ended, and for one that may have changed."""
NAMES_WAIT_S = 0.02
"""How long events wait for the names of a container or unit that none had before."""
SLOW_NS = 10_000_000_000
"""How long they do not wait again, once that was too short."""
MAX_SOCKETS = 65536
"""Sockets with remembered holders; twice that, until a search for all."""
MAX_CGROUPS = 64
"""Cgroups of the sockets of one process: usually one."""
MAX_PROCESSES = 4096
"""Processes with remembered names and start times."""
MAX_CHECKED = 16
"""Holders of one socket that are looked up in /proc for an event. A listening process may have a thousand workers."""


class Holders:
    """The processes that hold a socket, or held it last, as fields of an event.

    is_gone: they do not hold it any more. parts: the fields, by the id of the socket's cgroup, with the names among
    them.
    """

    __slots__ = ("is_gone", "parts", "processes")

    def __init__(self, processes: tuple[Process, ...], is_gone: bool) -> None:
        self.processes = processes
        self.is_gone = is_gone
        self.parts: dict[int, tuple[Part, OwnerNames]] = {}

    @property
    def pid(self) -> int:
        """The pid of the first of them; 0 without one."""
        return self.processes[0].pid if self.processes else 0

    def part(self, names: OwnerNames) -> Part:
        """The fields for a socket of a cgroup with these names."""
        fields: dict[str, Any] = {}
        if self.processes:
            # A process of another PID namespace may have no pid in ours: 0.
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
        return Part({**fields, **names.fields})


@lru_cache(maxsize=4096)
def _holders(processes: tuple[Process, ...], is_gone: bool) -> Holders:
    """One object for the same processes."""
    return Holders(processes, is_gone)


_NO_HOLDERS = _holders((), True)


class _Found(NamedTuple):
    """The holders of a socket, and when it was last searched for. seen_ns: when these holders were last found."""

    holders: Holders
    searched_ns: int
    seen_ns: int


class _Opener:
    """The process that connected or closed, as a BPF program saw it. started_ns: its start time, as of checked_ns."""

    __slots__ = ("checked_ns", "gone", "holders", "started_ns")

    def __init__(self, process: Process) -> None:
        self.holders, self.gone = _holders((process,), False), _holders((process,), True)
        self.started_ns: int | None = None
        self.checked_ns = float("-inf")


def _found_by_inode(held: Held, at_ns: int) -> dict[int, _Found]:
    """Sockets that the same processes hold share one record."""
    found: dict[int, _Found] = {}
    known: dict[tuple[Process, ...], _Found] = {}
    for inode, processes in held.items():
        each = known.get(processes)
        if each is None:
            each = known[processes] = _Found(_holders(processes, False), at_ns, at_ns)
        found[inode] = each
    return found


class Owners:
    """Fills the owners of events.

    find: finds holders; it is called in threads of their own, so that events wait no longer than UNKNOWN_WAIT_S. Use
    everything else in one thread. proc: where to see whether a process still runs. files: those that name containers.
    lacks_thread: called where no thread can be started for a search.
    """

    def __init__(
        self,
        find: HolderFinder,
        *,
        proc: Path = PROC,
        clock_ns: Callable[[], int] = clocks.boottime_ns,
        cgroup_path: Callable[[int], str | None] = cgroup_path,
        files: NodeFiles | None = None,
        lacks_thread: Callable[[], None] = lambda: None,
    ) -> None:
        self._proc = proc
        self._clock_ns = clock_ns
        self._names = NameFinder(cgroup_path, files=files, proc=proc, clock_ns=clock_ns, lacks_thread=lacks_thread)
        self._names_slow_until_ns = 0
        self._found: dict[int, _Found] = {}  # by inode
        self._max_found = MAX_SOCKETS
        self._last: OrderedDict[str | None, Holders] = OrderedDict()  # by Event.sock
        self._started: dict[int, tuple[int | None, int]] = {}  # by pid: start time, and when that was read
        self._openers: dict[tuple[int, bytes], _Opener] = {}  # by pid and name
        self._searches = Searches(find, _found_by_inode, clock_ns, lacks_thread)

    def search_all(self, wait_s: float | None = None) -> None:
        """Search for the holders of all sockets. After wait_s it goes on in the background."""
        self._searches.begin(None)
        self._take_over(wait_s)

    def close(self) -> None:
        """Wait for a search that is running."""
        self._searches.close()

    def settle_names(self, wait_s: float) -> bool:
        """Wait up to that long for names that are being looked for. Whether none is any more."""
        return self._names.settle(wait_s)

    def complete(self, *events: tuple[Event, Owner], may_wait: bool = True) -> list[Event]:
        """Fill the owners of events, as far as they are known.

        may_wait: whether the events may wait for a search. Otherwise the search serves later events.
        """
        now_ns = self._clock_ns()
        self._take_over(wait_s=0)
        self._search_for(events, now_ns, may_wait=may_wait)
        completed, unnamed = [], []
        for event, owner in events:
            holders = self._holders_of(event.sock, owner, now_ns)
            if not self._fill(event, holders, owner.cgroup, now_ns):
                unnamed.append((event, holders, owner.cgroup))
            completed.append(event)
        if unnamed and may_wait:
            self._wait_for_names(unnamed, now_ns)
        return completed

    def fill(self, event: Event, owner: Owner) -> None:
        """Fill one event, without a search."""
        now_ns = self._clock_ns()
        self._fill(event, self._holders_of(event.sock, owner, now_ns), owner.cgroup, now_ns)

    def processes_of(self, names: Mapping[int, bytes], cgroup: int) -> tuple[Process, ...]:
        """The processes with these names, by pid, which hold a socket of this cgroup. Any thread may call it."""
        processes = tuple(process_named(pid, names[pid], self._proc) for pid in sorted(names) if pid)
        self._names.of(cgroup, processes[0].pid if processes else 0, self._clock_ns())
        return processes

    def fill_from_walk(self, event: Event, owner: Owner, processes: tuple[Process, ...]) -> None:
        """Fill an event from a walk, which has found the holders too, without a search."""
        holders, now_ns = _holders(processes, not processes), self._clock_ns()
        if processes and owner.inode:
            self._found[owner.inode] = _Found(holders, now_ns, now_ns)
        if not self._fill(event, holders, owner.cgroup, now_ns):
            self._wait_for_names([(event, holders, owner.cgroup)], now_ns)

    def _fill(self, event: Event, holders: Holders, cgroup: int, now_ns: int) -> bool:
        """Fill an event. Whether the names are complete, as far as this host has them."""
        known = holders.parts.get(cgroup)
        if known is None or now_ns >= known[1].until_ns:
            names = self._names.of(cgroup, holders.pid, now_ns, is_gone=holders.is_gone)
            if known is None or names is not known[1]:
                known = holders.part(names), names
                if len(holders.parts) < MAX_CGROUPS or cgroup in holders.parts:
                    holders.parts[cgroup] = known
        part, names = known
        if type(event) is LazyEvent:
            event.owner = part
        else:
            event.known().update(part.fields)
        return names.until_ns != 0

    def _wait_for_names(self, unnamed: Iterable[tuple[Event, Holders, int]], now_ns: int) -> None:
        """Wait a moment for the names of these events, unless the files are slow."""
        if now_ns < self._names_slow_until_ns:
            return
        if not self._names.settle(NAMES_WAIT_S):
            self._names_slow_until_ns = now_ns + SLOW_NS
        for event, holders, cgroup in unnamed:
            self._fill(event, holders, cgroup, now_ns)

    def _holders_of(self, sock: str | None, owner: Owner, now_ns: int) -> Holders:
        inode, _, pid, comm, born_ns, is_closing = owner
        fresh_ns = CLOSED_NS if is_closing else FRESH_NS
        found = self._found.get(inode) if inode else None
        if found is not None and found.holders is not _NO_HOLDERS:
            holders = found.holders
            # A process that has closed it meanwhile held it at the time of the event, which has an inode.
            if now_ns - found.searched_ns > fresh_ns or found.seen_ns != found.searched_ns:
                holders = self._still_running(holders, found.seen_ns, now_ns, fresh_ns)
            if sock is not None:
                self._remember(sock, holders)
            return holders
        # The last known holders, or else the process that connected or closed.
        holders = self._last.get(sock, _NO_HOLDERS)
        if holders is not _NO_HOLDERS:
            return _holders(holders.processes, True)
        if not pid and not comm.strip(b"\0"):
            return _NO_HOLDERS
        opener = self._openers.get((pid, comm))
        if opener is None:
            if len(self._openers) >= MAX_PROCESSES:
                self._openers.clear()
            opener = self._openers[pid, comm] = _Opener(process_named(pid, comm, self._proc))
        if not inode:
            return opener.gone
        if now_ns - opener.checked_ns > fresh_ns:
            opener.started_ns, opener.checked_ns = started_ns(pid, self._proc), now_ns
        # 0: the opening was not seen.
        latest_start_ns = now_ns if born_ns == 0 else born_ns
        runs = opener.started_ns is not None and opener.started_ns <= latest_start_ns
        return opener.holders if runs or not pid else opener.gone

    def _still_running(self, holders: Holders, known_ns: int, now_ns: int, fresh_ns: int) -> Holders:
        """Without the processes that have ended since. All of them, as gone, if none is left.

        Only the first MAX_CHECKED are checked. If all of those run, the others are taken to run too. If one
        has ended, the others are left out.
        """
        processes = holders.processes
        checked = processes[:MAX_CHECKED]
        left = tuple(process for process in checked if self._is_running(process.pid, known_ns, now_ns, fresh_ns))
        if left == checked:
            return holders
        return _holders(left or processes, not left)

    def _is_running(self, pid: int, known_ns: int, now_ns: int, fresh_ns: int) -> bool:
        """Whether the pid still is the same process as at known_ns: another one would have started later."""
        if pid == 0:
            return True
        started, seen_ns = self._started.get(pid, (None, 0))
        if seen_ns == 0 or now_ns - seen_ns > fresh_ns:
            if len(self._started) >= MAX_PROCESSES:
                self._started.clear()
            started = started_ns(pid, self._proc)
            self._started[pid] = started, now_ns
        return started is not None and started <= known_ns

    def _remember(self, sock: str, holders: Holders) -> None:
        last = self._last
        last[sock] = holders
        last.move_to_end(sock)
        if len(last) > MAX_SOCKETS:
            last.popitem(last=False)

    def _search_for(self, events: Iterable[tuple[Event, Owner]], now_ns: int, *, may_wait: bool) -> None:
        """Begin a search if these events need one, and wait for it if it is quick enough."""
        wanted: set[int] = set()
        priority, is_unknown = searches.NOTHING, False
        for event, owner in events:
            inode = owner.inode
            if inode:
                found = self._found.get(inode)
                if found is not None and now_ns - found.searched_ns <= FRESH_NS:
                    continue
                wanted.add(inode)
                if event.event == _STATE:
                    is_known = owner.pid != 0 or found is not None
                    priority = max(priority, searches.RENEWAL if is_known else searches.STATE_CHANGE)
                else:
                    priority = searches.TROUBLE
                    is_unknown = is_unknown or self._holders_of(event.sock, owner, now_ns).is_gone
        if not self._searches.may_begin(priority, now_ns):
            return
        limit_s = UNKNOWN_WAIT_S if is_unknown or priority == searches.STATE_CHANGE else OLD_WAIT_S
        is_worth_it = may_wait and priority > searches.RENEWAL and self._searches.took_s <= limit_s
        deadline = time.monotonic() + limit_s
        if self._searches.running is not None:
            if not is_worth_it:
                return
            self._take_over(wait_s=limit_s)
            if self._searches.running is not None:
                return
        self._searches.begin(wanted if len(self._found) < self._max_found else None)
        if is_worth_it:
            self._take_over(wait_s=max(0.0, deadline - time.monotonic()))

    def _take_over(self, wait_s: float | None) -> None:
        """Take over the result of a search that ends within wait_s."""
        search = self._searches.ended(wait_s)
        if search is None or search.found is None:
            return
        if search.inodes is None:
            self._found = search.found
            self._max_found = 2 * len(search.found) + MAX_SOCKETS
            return
        none = _Found(_NO_HOLDERS, search.ended_ns, search.ended_ns)
        for inode in search.inodes:
            found = search.found.get(inode)
            if found is None:
                found = self._found.get(inode, none)._replace(searched_ns=search.ended_ns)
            self._found[inode] = found
