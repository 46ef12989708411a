"""The kernel's own counts of what we trace, namespace by namespace."""

from __future__ import annotations

import threading
from collections import deque
from pathlib import Path
from typing import NamedTuple

from tracer.kernel.namespaces import Members, NamespaceFinder, ProcNamespaceFinder
from tracer.kernel.processes import PROC
from tracer.model.counts import NOTHING, Counts


class _Namespace(NamedTuple):
    """One network namespace. cookie, rtnetlink: never the same for two, unlike the inode; 0 where it is not known."""

    counts: Counts
    cookie: int = 0
    rtnetlink: int = 0  # inode of the kernel's own rtnetlink socket in it

    def since(self, before: _Namespace | None) -> Counts:
        """What it has counted since then. A namespace that was made since then began with nothing."""
        if before is None or self.replaces(before):
            return self.counts
        return self.counts.since(before.counts)

    def replaces(self, before: _Namespace) -> bool:
        """Whether it is another one than before, which has got the same inode. Counters never fall."""
        for ours, theirs in ((self.cookie, before.cookie), (self.rtnetlink, before.rtnetlink)):
            if ours and theirs:
                return ours != theirs
        return any(now < then for now, then in zip(self.counts, before.counts, strict=True))


class KernelCounters:
    """What the kernel counts in every network namespace that a process lives in, from the construction on.

    A namespace that comes later counts from 0. One that only a name holds (`ip netns`) cannot be looked into until a
    process enters it, and then comes with what it had counted before. find: finds the namespaces.

    `begin` and `take` are for whoever must not wait. While `is_counting` nothing else may be asked.
    """

    def __init__(self, find: NamespaceFinder | None = None, proc: Path = PROC) -> None:
        self._find = ProcNamespaceFinder(proc) if find is None else find
        self._proc = proc
        self._thread: threading.Thread | None = None
        self._new: deque[tuple[int, Counts]] = deque()
        self._now: dict[int, _Namespace] = {}
        self._now = self._read()
        # What each had counted when it was last seen: it may be out of sight for a while, between two processes.
        self._known = dict(self._now)
        self._grown: dict[int, Counts] = {}
        self._from_start = set(self._now)

    @property
    def from_start(self) -> frozenset[int]:
        """The inodes of namespaces that were there at the construction, and that no other namespace has got since.

        All counts and events of these are of the time since.
        """
        return frozenset(self._from_start)

    def is_from_start(self, netns: int) -> bool:
        """Whether that one is among `from_start`."""
        return netns in self._from_start

    def begin(self) -> None:
        """Ask all namespaces again, in a thread of its own. Only where none is at work (`is_counting`)."""
        thread = threading.Thread(target=self._count, name="counters", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # as many threads as this process may have
            self._count()
        else:
            self._thread = thread

    @property
    def is_counting(self) -> bool:
        """Whether what was begun has not ended."""
        return self._thread is not None and self._thread.is_alive()

    def take(self, most: int) -> list[tuple[int, Counts]]:
        """What `newly` returned to the thread, at most so many namespaces; each is returned once."""
        return [self._new.popleft() for _ in range(min(most, len(self._new)))]

    def close(self) -> None:
        """Wait for what was begun."""
        if self._thread is not None:
            self._thread.join()

    def _count(self) -> None:
        self._new.extend(self.newly().items())

    def newly(self) -> dict[int, Counts]:
        """How far each has grown since this was last asked, by the namespace's inode; only those that have.

        What a namespace counted after it was last asked, and before it ended, stays unknown.
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
        """How far each had grown when `newly` was last asked; only namespaces that a process lived in then."""
        return {netns: self._grown.get(netns, NOTHING) for netns in self._now}

    def _read(self) -> dict[int, _Namespace]:
        try:
            members = self._find()
        except OSError:  # no memory: the namespaces that are known are as they were
            return self._now
        found: dict[int, _Namespace] = {}
        for netns, each in members.items():
            namespace = self._of_one_of(each, netns)
            if namespace is not None:
                found[netns] = namespace
        return found

    def _of_one_of(self, members: Members, netns: int) -> _Namespace | None:
        """The namespace of these processes. None where all of them have left it, or are not ours to see."""
        for pid in members.pids:
            process = self._proc / str(pid)
            try:
                snmp, netstat = (process / "net/snmp").read_bytes(), (process / "net/netstat").read_bytes()
                # To read that file is to go through the netlink sockets of all namespaces (net/netlink/af_netlink.c).
                rtnetlink = 0 if members.cookie else _rtnetlink(process / "net/netlink")
                # The number may be that of another process by now.
                if (process / "ns/net").stat().st_ino != netns:
                    continue
            except OSError:
                continue
            return _Namespace(_counts(snmp, netstat), members.cookie, rtnetlink)
        return None


def _rtnetlink(netlink: Path) -> int:
    """The inode of the kernel's own rtnetlink socket in a namespace, which it makes with the namespace; 0: not known.

    The inodes of sockets are counted up (get_next_ino(), fs/inode.c); those of namespaces are used again.
    SO_NETNS_COOKIE would do as well, but has to be asked inside.
    """
    try:
        rows = [line.split() for line in netlink.read_bytes().splitlines()[1:]]
    except OSError:
        return 0
    return next((int(row[-1]) for row in rows if row[1:3] == [b"0", b"0"]), 0)


def _counts(snmp: bytes, netstat: bytes) -> Counts:
    """Of the two files in /proc/PID/net."""
    tcp, extended = _counters(snmp, b"Tcp:"), _counters(netstat, b"TcpExt:")
    return Counts(tcp.get(b"RetransSegs", 0), extended.get(b"TCPKeepAlive", 0), extended.get(b"TCPTimeouts", 0))


def _counters(text: bytes, prefix: bytes) -> dict[bytes, int]:
    """The numbers by name, of the two lines with this prefix: names and numbers. Empty if they are not there."""
    rows = [line.split() for line in text.splitlines() if line.startswith(prefix)]
    return dict(zip(rows[0][1:], map(int, rows[1][1:]), strict=True)) if len(rows) == 2 else {}
