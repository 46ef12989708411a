"""The kernel's own counts of what we trace, namespace by namespace."""

from __future__ import annotations

import os
from pathlib import Path

from tracer.counts import NOTHING, Counts

# Where /proc/PID/net has them: file, prefix of the two lines (names, numbers), name.
_SEGMENTS = ("snmp", "Tcp:", "RetransSegs")
_KEEPALIVES = ("netstat", "TcpExt:", "TCPKeepAlive")
_TIMEOUTS = ("netstat", "TcpExt:", "TCPTimeouts")


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
        self.from_start = frozenset(self._now)
        """The namespaces that were there at the construction: of these all counts are of the time since."""

    def newly(self) -> dict[int, Counts]:
        """By how much each has grown since this was last asked, by the namespace's inode; only those that have.

        What a namespace counted after it was last asked, and before it ended, stays unknown.
        """
        self._now = _read(self._proc)
        new = {netns: counts.since(self._known.get(netns, NOTHING)) for netns, counts in self._now.items()}
        self._known.update(self._now)
        grown = {netns: counts for netns, counts in new.items() if counts != NOTHING}
        for netns, counts in grown.items():
            self._grown[netns] = self._grown.get(netns, NOTHING).plus(counts)
        return grown

    @property
    def since_start(self) -> dict[int, Counts]:
        """By how much each had grown when `newly` was last asked; only namespaces that were still there then."""
        return {netns: self._grown.get(netns, NOTHING) for netns in self._now}


def _read(proc: Path) -> dict[int, Counts]:
    counts: dict[int, Counts] = {}
    for name in os.listdir(proc):
        if not name.isdecimal():
            continue
        try:
            netns = (proc / name / "ns/net").stat().st_ino
            if netns not in counts:
                files = {
                    file: (proc / name / "net" / file).read_text(encoding="ascii") for file in ("snmp", "netstat")
                }
                counts[netns] = Counts(
                    *(_counter(files[file], *which) for file, *which in (_SEGMENTS, _KEEPALIVES, _TIMEOUTS))
                )
        except OSError:  # ended, or not ours to see
            continue
    return counts


def _counter(text: str, prefix: str, name: str) -> int:
    """One number of two lines with this prefix, the names and the numbers; 0 if it is not there."""
    rows = [line.split() for line in text.splitlines() if line.startswith(prefix)]
    if len(rows) == 2 and name in rows[0]:
        return int(rows[1][rows[0].index(name)])
    return 0
