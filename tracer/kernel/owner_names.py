"""The container, pod and unit of a socket's owner, from cgroup paths and files of the node.

Files are read in a thread, so that a slow disk holds no event up. Until they are read, an owner has what its path
names. Results are cached, and renewed where a later look may find more: kubelet links the log of a container after
the container's start.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tracer.kernel import clocks
from tracer.kernel.cgroups import cgroup_path
from tracer.kernel.node_files import UNNAMED, NodeFiles, NodeNames
from tracer.kernel.process_cgroups import has_cgroup_v1, hostname_in_pod, names_of_pid
from tracer.kernel.processes import PROC, started_ns
from tracer.kernel.searches import RENEW_NS
from tracer.model.cgroup_names import NOTHING, CgroupNames, names_in
from tracer.model.threads import can_start

MAX_KNOWN = 8192
"""Owners with remembered names."""
MAX_ASKED = 8192
"""Owners that wait for a look at the files. Further ones ask again with their next event."""
MAX_LOOKS = 6
RETRY_NS = 500_000_000
"""The time until the second look for names that are missing. It doubles with each look, up to MAX_LOOKS."""
NEVER = 2**63
"""Names that no later look changes."""
PATIENCE_S = 1.0
"""How long `now` waits for the files of one owner. After it has waited so long once, it waits no more."""
_ID = re.compile("[0-9a-f]{64}")


class OwnerNames(NamedTuple):
    """The fields of an owner's cgroup and names.

    until_ns: up to when they need no other look (CLOCK_BOOTTIME); 0 while the files are being read. started_ns: start
    of the process that they are from; None where they are the cgroup's, whatever the process.
    """

    fields: dict[str, str]
    until_ns: int = 0
    started_ns: int | None = None
    looks: int = 0


class _Question(NamedTuple):
    """An owner without names. path: of its socket's cgroup. pid: 0 if unknown. looks: the number made before."""

    path: str | None
    pid: int
    looks: int


_Key = tuple[int, int]
"""The id of a cgroup, and a pid: 0 where the cgroup alone names its owner."""


class NameFinder:
    """Finds the names of owners. Any thread may call it.

    path_of: the path of a cgroup by its id. files: of this node. proc: where processes are.
    """

    def __init__(
        self,
        path_of: Callable[[int], str | None] = cgroup_path,
        *,
        files: NodeFiles | None = None,
        proc: Path = PROC,
        clock_ns: Callable[[], int] = clocks.boottime_ns,
        lacks_thread: Callable[[], None] = lambda: None,
    ) -> None:
        self._lacks_thread = lacks_thread
        self._path_of = path_of
        self._files = NodeFiles() if files is None else files
        self._proc = proc
        self._clock_ns = clock_ns
        self._has_v1 = has_cgroup_v1(proc)
        self._lock = threading.Lock()
        self._known: OrderedDict[_Key, OwnerNames] = OrderedDict()
        self._asked: dict[_Key, _Question] = {}
        self._thread: threading.Thread | None = None
        self._is_slow = False

    def of(self, cgroup: int, pid: int, now_ns: int, *, is_gone: bool = False) -> OwnerNames:
        """What is known now about a socket made in this cgroup (0: unknown) that this process holds (0: unknown).

        Begins to look for more where that is due. is_gone: the process may have ended, and another one have its pid.
        """
        path = self._path_of(cgroup) if cgroup else None
        needs_process = self._needs_process(path)
        key = (cgroup, pid if needs_process else 0)
        with self._lock:
            known = self._known.get(key)
            if known is None:
                found = _found_in(path)
                has_more = found.is_of_node or key[1] != 0
                known = self._remember(key, OwnerNames(_fields(path, found), 0 if has_more else NEVER))
            if now_ns < known.until_ns or key in self._asked or (is_gone and needs_process):
                return known
            if known.started_ns is not None:
                if started_ns(pid, self._proc) == known.started_ns:
                    return self._remember(key, known._replace(until_ns=now_ns + RENEW_NS))
                known = self._remember(key, OwnerNames(_fields(path, _found_in(path))))
            self._ask(key, _Question(path, 0 if is_gone else pid, known.looks))
            return known

    def settle(self, wait_s: float) -> bool:
        """Wait up to that long for the looks that have begun. Whether they have ended."""
        thread = self._thread
        if thread is not None:
            thread.join(wait_s)
        return thread is None or not thread.is_alive()

    def now(self, cgroup: int, pid: int) -> OwnerNames:
        """The names once the files have been read, for a command that lists sockets and ends."""
        known = self.of(cgroup, pid, self._clock_ns())
        if known.until_ns or self._is_slow:
            return known
        self._is_slow = not self.settle(PATIENCE_S)
        return self.of(cgroup, pid, self._clock_ns())

    def _needs_process(self, path: str | None) -> bool:
        """Whether the cgroup of the process may say more than that of its socket.

        A socket is made by systemd, in its own cgroup or that of a .socket unit, for a service that it starts. With
        cgroup v1, the one v2 cgroup may be that of the container's runtime.
        """
        found = _found_in(path)
        if found.container is not None or found.pod_uid is not None:
            return False
        return self._has_v1 or _is_weak(found.unit)

    def _remember(self, key: _Key, names: OwnerNames) -> OwnerNames:
        self._known[key] = names
        self._known.move_to_end(key)
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)
        return names

    def _ask(self, key: _Key, question: _Question) -> None:
        if len(self._asked) >= MAX_ASKED:
            return
        self._asked[key] = question
        if self._thread is None:
            thread = threading.Thread(target=self._look, name="names", daemon=True)
            if can_start(thread):
                self._thread = thread
            else:  # the next question tries again
                self._lacks_thread()

    def _look(self) -> None:
        """Answer the questions, until there is none."""
        while True:
            with self._lock:
                if not self._asked:
                    self._thread = None
                    return
                key, question = next(iter(self._asked.items()))
            try:
                answer = self._answer(question)
            except (OSError, ValueError, MemoryError):  # a later look may succeed
                again_ns = self._clock_ns() + (RETRY_NS << MAX_LOOKS)
                answer = OwnerNames(_fields(question.path, _found_in(question.path)), again_ns)
            with self._lock:
                self._remember(key, answer)
                del self._asked[key]

    def _answer(self, question: _Question) -> OwnerNames:
        path, pid, looks = question.path, question.pid, question.looks + 1
        found, since_ns = _found_in(path), None
        if pid and self._needs_process(path):
            since_ns = started_ns(pid, self._proc)
            found = _better(found, names_of_pid(pid, self._proc))
        named = self._in_files(found)
        if found.pod_uid is not None and named.pod is None and pid:
            named = named._replace(pod=hostname_in_pod(pid, found.pod_uid, self._proc))
        now_ns = self._clock_ns()
        until_ns = NEVER if since_ns is None else now_ns + RENEW_NS
        if _is_incomplete(found, named) and looks < MAX_LOOKS:
            until_ns = now_ns + (RETRY_NS << looks - 1)
        return OwnerNames(_fields(path, found, named), until_ns, since_ns, looks)

    def _in_files(self, found: CgroupNames) -> NodeNames:
        if not found.is_of_node:
            return UNNAMED
        if found.pod_uid is not None:
            return self._files.of_pod(found.pod_uid, found.container)
        return self._files.of_container(found.container or "")


def _found_in(path: str | None) -> CgroupNames:
    return names_in(path) if path else NOTHING


def _is_weak(unit: str | None) -> bool:
    return unit is None or unit == "init.scope" or unit.endswith(".socket")


def _better(of_socket: CgroupNames, of_process: CgroupNames) -> CgroupNames:
    """The names of the process, where it is in a container or its socket's cgroup names no service."""
    if of_process.container is not None or of_process.pod_uid is not None:
        return of_process
    return of_process if _is_weak(of_socket.unit) and of_process.unit is not None else of_socket


def _is_incomplete(found: CgroupNames, named: NodeNames) -> bool:
    if not found.is_of_node:
        return False
    if found.pod_uid is not None:
        return named.container_name is None
    return named.container_name is None and _ID.fullmatch(found.container or "") is not None


def _fields(path: str | None, found: CgroupNames, named: NodeNames = UNNAMED) -> dict[str, str]:
    """The fields of an event, in their order."""
    values = {
        "cgroup": path,
        "container": found.container,
        "container_name": named.container_name,
        "pod": named.pod,
        "pod_namespace": named.pod_namespace,
        "unit": found.unit,
    }
    return {name: value for name, value in values.items() if value is not None}
