"""The net_cls and net_prio classes of processes (cgroup v1), which a duplicated socket takes over.

pidfd_getfd() gives the socket the class and the priority of the process that calls it, as SCM_RIGHTS does
(__receive_sock(), net/core/sock.c). Where these hierarchies are not mounted, all processes have the same.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from tracer.kernel.processes import PROC

_VALUES = {"net_cls": "net_cls.classid", "net_prio": "net_prio.ifpriomap"}


class TrafficClasses:
    """Compares processes with this one. Reads once which hierarchies there are."""

    def __init__(self) -> None:
        self._own = _groups("self")
        self._mounts = _mounts() if self._own else {}

    def other(self, pid: int) -> str | None:
        """The controller by which this process has another class than this one; None if there is none."""
        if not self._own:
            return None
        groups = _groups(str(pid))
        for controller, own in self._own.items():
            group = groups.get(controller, own)
            if group != own and (self._value(controller, group) or own) != self._value(controller, own):
                return controller
        return None

    def _value(self, controller: str, group: str) -> str | None:
        """What the controller has set for a group. None if that cannot be read."""
        mount = self._mounts.get(controller)
        with suppress(OSError):
            return (Path(f"{mount}{group}") / _VALUES[controller]).read_text(encoding="ascii") if mount else None
        return None


def _groups(process: str) -> dict[str, str]:
    """The group of a process for each of these controllers that has a hierarchy: /proc/PID/cgroup."""
    try:
        lines = os.fsdecode((PROC / process / "cgroup").read_bytes()).splitlines()
    except OSError:
        return {}
    fields = (line.split(":", 2) for line in lines)
    return {each: path for _, names, path in fields for each in names.split(",") if each in _VALUES}


def _mounts() -> dict[str, str]:
    """Where the root of each hierarchy is mounted: /proc/self/mountinfo."""
    found: dict[str, str] = {}
    for line in os.fsdecode((PROC / "self/mountinfo").read_bytes()).splitlines():
        of_mount, _, of_filesystem = line.partition(" - ")
        _, _, _, root, point, *_ = of_mount.split(" ")
        kind, _, options = of_filesystem.split(" ", 2)
        if kind == "cgroup" and root == "/":
            found.update((each, point) for each in options.split(",") if each in _VALUES)
    return found
