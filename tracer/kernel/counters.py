"""The kernel's own counters of traced events, for each network namespace."""

from __future__ import annotations

import threading
from collections import deque
from pathlib import Path
from typing import NamedTuple

from tracer.kernel.namespaces import Members, NamespaceFinder, ProcNamespaceFinder
from tracer.kernel.processes import PROC
from tracer.model.counts import NOTHING, Counts
from tracer.model.threads import can_start


class _Namespace(NamedTuple):
    """One network namespace. cookie, rtnetlink: unique, unlike the inode; 0 if unknown."""

    counts: Counts
    cookie: int = 0
    rtnetlink: int = 0  # inode of the kernel's own rtnetlink socket in it
    established: int = 0  # connections that are open now

    def since(self, before: _Namespace | None) -> Counts:
        """The increase since an earlier reading. A namespace that is newer than that began with 0."""
        if before is None or self.replaces(before):
            return self.counts
        return self.counts.since(before.counts)

    def replaces(self, before: _Namespace) -> bool:
        """Whether this is another namespace with the same inode. Counters never decrease."""
        for ours, theirs in ((self.cookie, before.cookie), (self.rtnetlink, before.rtnetlink)):
            if ours and theirs:
                return ours != theirs
        return any(now < then for now, then in zip(self.counts, before.counts))


class KernelCounters:
    """The kernel's counters in every network namespace with a process, from the construction on.

    A later namespace counts from 0. A namespace without a process (`ip netns`) cannot be read until a process enters
    it, and then has its earlier counts too. find: finds the namespaces.

    `begin` and `take` do not block. While `is_counting`, call nothing else.
    """

    def __init__(self, find: NamespaceFinder | None = None, proc: Path = PROC) -> None:
        self._find = ProcNamespaceFinder(proc) if find is None else find
        self._proc = proc
        self._thread: threading.Thread | None = None
        self._new: deque[tuple[int, Counts]] = deque()
        self._now: dict[int, _Namespace] = {}
        self._now = self._read()
        # The latest reading of each: a namespace without a process for a while cannot be read.
        self._known = dict(self._now)
        self._grown: dict[int, Counts] = {}
        self._from_start = set(self._now)
        self.established = {netns: each.established for netns, each in self._now.items()}
        """Connections that were open at the construction, ESTABLISHED or CLOSE_WAIT, by namespace."""

    @property
    def from_start(self) -> frozenset[int]:
        """The inodes of the namespaces that existed at the construction, except those that were reused since.

        Only for these do counts and events cover the same time.
        """
        return frozenset(self._from_start)

    def is_from_start(self, netns: int) -> bool:
        """Whether the inode is in `from_start`."""
        return netns in self._from_start

    def begin(self) -> None:
        """Read all namespaces in a background thread. Do not call it while `is_counting`."""
        thread = threading.Thread(target=self._count, name="counters", daemon=True)
        if can_start(thread):
            self._thread = thread
        else:
            self._count()

    @property
    def is_counting(self) -> bool:
        """Whether the background thread is running."""
        return self._thread is not None and self._thread.is_alive()

    def take(self, limit: int) -> list[tuple[int, Counts]]:
        """Take the results of the thread, at most `limit` namespaces."""
        return [self._new.popleft() for _ in range(min(limit, len(self._new)))]

    def close(self) -> None:
        """Wait for the background thread."""
        if self._thread is not None:
            self._thread.join()

    def _count(self) -> None:
        self._new.extend(self.newly().items())

    def newly(self) -> dict[int, Counts]:
        """The increase of each namespace's counters since the previous call, by inode; only where there is any.

        What a namespace counted between its last reading and its end is unknown.
        """
        self._now = self._read()
        grown: dict[int, Counts] = {}
        for netns, namespace in self._now.items():
            before = self._known.get(netns)
            if before is not None and namespace.replaces(before):
                self._from_start.discard(netns)
            new = namespace.since(before)
            if new != NOTHING:
                grown[netns] = new
                self._grown[netns] = self._grown.get(netns, NOTHING).plus(new)
        self._known.update(self._now)
        return grown

    @property
    def since_start(self) -> dict[int, Counts]:
        """The increase from the construction to the latest `newly`, for the namespaces with a process then."""
        return {netns: self._grown.get(netns, NOTHING) for netns in self._now}

    def _read(self) -> dict[int, _Namespace]:
        try:
            members = self._find()
        except OSError:  # out of memory: keep the previous reading
            return self._now
        found: dict[int, _Namespace] = {}
        for netns, each in members.items():
            namespace = self._of_one_of(each, netns)
            if namespace is not None:
                found[netns] = namespace
        return found

    def _of_one_of(self, members: Members, netns: int) -> _Namespace | None:
        """The namespace of these processes. None if all of them have left it, or access is not permitted."""
        for pid in members.pids:
            process = self._proc / str(pid)
            try:
                snmp, netstat = (process / "net/snmp").read_bytes(), (process / "net/netstat").read_bytes()
                # Reading that file walks the netlink sockets of all namespaces (net/netlink/af_netlink.c).
                rtnetlink = 0 if members.cookie else _rtnetlink(process / "net/netlink")
                # The pid may belong to another process by now.
                if (process / "ns/net").stat().st_ino != netns:
                    continue
            except OSError:
                continue
            established = _counters(snmp, b"Tcp:").get(b"CurrEstab", 0)
            return _Namespace(_counts(snmp, netstat), members.cookie, rtnetlink, established)
        return None


def _rtnetlink(netlink: Path) -> int:
    """The inode of the kernel's rtnetlink socket in a namespace, which lives as long as the namespace; 0: unknown.

    Socket inodes increase and are not reused (get_next_ino(), fs/inode.c), unlike those of namespaces.
    SO_NETNS_COOKIE is as good, but can only be read inside the namespace.
    """
    try:
        rows = [line.split() for line in netlink.read_bytes().splitlines()[1:]]
    except OSError:
        return 0
    return next((int(row[-1]) for row in rows if row[1:3] == [b"0", b"0"]), 0)


def _counts(snmp: bytes, netstat: bytes) -> Counts:
    """The counters in /proc/PID/net/snmp and /proc/PID/net/netstat."""
    tcp, extended = _counters(snmp, b"Tcp:"), _counters(netstat, b"TcpExt:")
    return Counts(tcp.get(b"RetransSegs", 0), extended.get(b"TCPKeepAlive", 0), extended.get(b"TCPTimeouts", 0))


def _counters(text: bytes, prefix: bytes) -> dict[bytes, int]:
    """The counters in the two lines with this prefix (names, numbers), by name. Empty without these lines."""
    rows = [line.split() for line in text.splitlines() if line.startswith(prefix)]
    return dict(zip(rows[0][1:], map(int, rows[1][1:]))) if len(rows) == 2 else {}
