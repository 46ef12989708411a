"""The kernel's own counts of what we trace, namespace by namespace."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from tracer.counts import NOTHING, Counts

# Where /proc/PID/net has them: file, prefix of the two lines (names, numbers), name.
_SEGMENTS = ("snmp", "Tcp:", "RetransSegs")
_KEEPALIVES = ("netstat", "TcpExt:", "TCPKeepAlive")
_TIMEOUTS = ("netstat", "TcpExt:", "TCPTimeouts")


class _Namespace(NamedTuple):
    identity: int | None  # never the same for two, unlike the inode
    counts: Counts

    def since(self, before: _Namespace | None) -> Counts:
        """What it has counted since then. A namespace that was made since then began with nothing."""
        if before is None or self.replaces(before):
            return self.counts
        return self.counts.since(before.counts)

    def replaces(self, before: _Namespace) -> bool:
        """Whether it is another one than before, which has got the same inode. Counters never fall."""
        if self.identity is not None and before.identity is not None:
            return self.identity != before.identity
        return any(now < then for now, then in zip(self.counts, before.counts, strict=True))


class KernelCounters:
    """What the kernel counts in every network namespace that a process lives in, from the construction on.

    A namespace that comes later counts from 0. One that only a name holds (`ip netns`) cannot be looked into until a
    process enters it, and then comes with what it had counted before.
    """

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._now = _read(proc)
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

    def newly(self) -> dict[int, Counts]:
        """How far each has grown since this was last asked, by the namespace's inode; only those that have.

        What a namespace counted after it was last asked, and before it ended, stays unknown.
        """
        self._now = _read(self._proc)
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


def _read(proc: Path) -> dict[int, _Namespace]:
    found: dict[int, _Namespace] = {}
    for name in os.listdir(proc):
        if not name.isdecimal():
            continue
        try:
            netns = (proc / name / "ns/net").stat().st_ino
            if netns not in found:
                files = {
                    file: (proc / name / "net" / file).read_text(encoding="ascii") for file in ("snmp", "netstat")
                }
                counts = Counts(
                    *(_counter(files[file], *which) for file, *which in (_SEGMENTS, _KEEPALIVES, _TIMEOUTS))
                )
                found[netns] = _Namespace(_identity(proc / name / "net/netlink"), counts)
        except OSError:  # ended, or not ours to see
            continue
    return found


def _identity(netlink: Path) -> int | None:
    """The inode of the kernel's own rtnetlink socket in a namespace, which it makes with the namespace.

    The inodes of sockets are counted up (get_next_ino(), fs/inode.c); those of namespaces are used again.
    SO_NETNS_COOKIE would do as well, but has to be asked inside.
    """
    try:
        rows = [line.split() for line in netlink.read_text(encoding="ascii").splitlines()[1:]]
    except OSError:
        return None
    return next((int(row[-1]) for row in rows if row[1:3] == ["0", "0"]), None)


def _counter(text: str, prefix: str, name: str) -> int:
    """One number of two lines with this prefix, the names and the numbers; 0 if it is not there."""
    rows = [line.split() for line in text.splitlines() if line.startswith(prefix)]
    if len(rows) == 2 and name in rows[0]:
        return int(rows[1][rows[0].index(name)])
    return 0
