"""The cgroups of a process, and the host name in its environment."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from tracer.kernel.processes import PROC
from tracer.kernel.wire import text
from tracer.model.cgroup_names import NOTHING, CgroupNames, names_of_process

MAX_CGROUP_BYTES = 64 << 10
"""/proc/PID/cgroup: a path of at most 4096 bytes for each of a dozen hierarchies."""
MAX_ENVIRON_BYTES = 256 << 10
_HOSTNAME = b"HOSTNAME="
_POD_NAME = re.compile(rb"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?")
_READ = os.O_RDONLY | os.O_CLOEXEC


def has_cgroup_v1(proc: Path = PROC) -> bool:
    """Whether this host uses cgroup v1, with or without v2 beside it."""
    with suppress(OSError):
        return any(line and not line.startswith(b"0:") for line in (proc / "self/cgroup").read_bytes().splitlines())
    return False


def names_of_pid(pid: int, proc: Path = PROC) -> CgroupNames:
    """What the cgroups of a process name; nothing once it has ended."""
    with suppress(OSError):
        directory = os.open(proc / str(pid), _READ | os.O_DIRECTORY)
        try:
            return _names_in(directory)
        finally:
            os.close(directory)
    return NOTHING


def hostname_in_pod(pid: int, pod_uid: str, proc: Path = PROC) -> str | None:
    """The HOSTNAME that a process of this pod was started with: by default the name of its pod.

    It is the container's own word: a pod may set another host name, and a process may overwrite its environment. A
    pod in the host's network has the node's name, which is not returned. None too if the process is of another pod.
    """
    with suppress(OSError):
        directory = os.open(proc / str(pid), _READ | os.O_DIRECTORY)
        try:
            if _names_in(directory).pod_uid != pod_uid:
                return None
            return _hostname(_read(directory, "environ", MAX_ENVIRON_BYTES))
        finally:
            os.close(directory)
    return None


def _hostname(environ: bytes) -> str | None:
    for variable in environ.split(b"\0"):
        if variable.startswith(_HOSTNAME):
            name = variable[len(_HOSTNAME) :]
            nodes = os.uname().nodename.lower().encode()
            is_node = name in (nodes, nodes.partition(b".")[0])
            return name.decode() if _POD_NAME.fullmatch(name) and not is_node else None
    return None


def _names_in(directory: int) -> CgroupNames:
    return names_of_process(text(_read(directory, "cgroup", MAX_CGROUP_BYTES)))


def _read(directory: int, file: str, max_bytes: int) -> bytes:
    """A file of a process, by a descriptor of its directory: no other process with its pid is meant."""
    descriptor = os.open(file, _READ | os.O_NOFOLLOW, dir_fd=directory)
    with os.fdopen(descriptor, "rb") as stream:
        return stream.read(max_bytes)
