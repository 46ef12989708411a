"""Names of containers and pods in files of the node, which kubelet, Docker and Podman keep.

No file is opened at a name that a container chose: a path is made of a fixed directory that root owns, and of an id
or UID of a cgroup's path that has a strict form (tracer/model/cgroup_names.py). Files below that directory are opened
without following links, and have a maximum size. What cannot be read, or has another form, names nothing.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

MAX_ENTRIES = 20_000
"""Entries of a directory that are read. A node has a few hundred containers."""
MAX_DOCKER_BYTES = 1 << 20
"""Size of a container's config.v2.json: a few kilobytes, and its environment."""
MAX_PODMAN_BYTES = 16 << 20
"""Size of containers.json: about a kilobyte for each container."""
MAX_NAME = 253
"""Characters of a name: a DNS subdomain (RFC 1123), as pods have it."""

# /var/log/containers/POD_NAMESPACE_CONTAINER-ID.log and /var/log/pods/NAMESPACE_POD_UID (kubernetes:
# pkg/kubelet/kuberuntime/legacy.go, legacyLogSymlink(); helpers.go, BuildPodLogsDirectory()).
_LOG = re.compile(
    r"(?P<pod>[a-z0-9][a-z0-9.-]*)_(?P<namespace>[a-z0-9-]+)_(?P<container>[a-z0-9-]+)-(?P<id>[0-9a-f]{64})\.log"
)
_POD_LOGS = re.compile(r"(?P<namespace>[a-z0-9-]+)_(?P<pod>[a-z0-9][a-z0-9.-]*)_(?P<uid>[0-9a-f-]{32,36})")
_ID = re.compile("[0-9a-f]{64}")
# moby: daemon/names/names.go, RestrictedNameChars; podman: libpod/define/config.go, NameRegex.
_CONTAINER_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*", re.ASCII)


class NodeNames(NamedTuple):
    """What files of the node call a container."""

    pod: str | None = None
    pod_namespace: str | None = None
    container_name: str | None = None


UNNAMED = NodeNames()


class NodeFiles:
    """Reads the files when asked; it keeps nothing.

    root: where the node's file system is. owner: the user id that has to own the directories and files.
    """

    def __init__(self, root: Path = Path("/"), owner: int = 0) -> None:
        self._root = root
        self._owner = owner

    def of_pod(self, pod_uid: str, container: str | None) -> NodeNames:
        """The names of a container of this pod, or of the pod alone."""
        for log in self._matches("var/log/containers", _LOG):
            if log["id"] == container:
                return NodeNames(log["pod"], log["namespace"], log["container"])
        for logs in self._matches("var/log/pods", _POD_LOGS):
            if logs["uid"] == pod_uid:
                return NodeNames(logs["pod"], logs["namespace"])
        return UNNAMED

    def of_container(self, container: str) -> NodeNames:
        """The name of a container of Docker or Podman, by its id."""
        if not _ID.fullmatch(container):
            return UNNAMED
        return NodeNames(container_name=self._docker(container) or self._podman(container))

    def _docker(self, container: str) -> str | None:
        """The Name of /var/lib/docker/containers/ID/config.v2.json: `/web` (moby: container/container.go)."""
        with suppress(OSError, ValueError, RecursionError), self._directory("var/lib/docker/containers") as docker:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            with _closing(os.open(container, flags, dir_fd=docker)) as directory:
                config = self._json(directory, "config.v2.json", MAX_DOCKER_BYTES)
            if isinstance(config, dict):
                return _name(config.get("Name"))
        return None

    def _podman(self, container: str) -> str | None:
        """The first of its names in containers.json, or for `--rm` in volatile-containers.json.

        containers/storage: containers.go.
        """
        for place in ("var/lib/containers/storage", "run/containers/storage"):
            for driver in ("overlay", "vfs", "btrfs"):
                for file in ("containers.json", "volatile-containers.json"):
                    found = self._in_storage(f"{place}/{driver}-containers", file, container)
                    if found is not None:
                        return found
        return None

    def _in_storage(self, place: str, file: str, container: str) -> str | None:
        with suppress(OSError, ValueError, RecursionError), self._directory(place) as directory:
            records = self._json(directory, file, MAX_PODMAN_BYTES)
            for record in records if isinstance(records, list) else ():
                if isinstance(record, dict) and record.get("id") == container:
                    names = record.get("names")
                    return _name(names[0]) if isinstance(names, list) and names else None
        return None

    def _matches(self, place: str, pattern: re.Pattern[str]) -> Iterator[re.Match[str]]:
        """The entries of a directory that have this form. None of them is opened."""
        names: list[str] = []
        with suppress(OSError), self._directory(place) as directory, os.scandir(directory) as entries:
            names += (entry.name for entry, _ in zip(entries, range(MAX_ENTRIES)))
        return (match for name in names if (match := pattern.fullmatch(name)) is not None)

    @contextmanager
    def _directory(self, place: str) -> Iterator[int]:
        """A directory of the node, which an administrator may have replaced by a link. Raises OSError."""
        with _closing(os.open(self._root / place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as directory:
            self._require(directory, stat.S_ISDIR)
            yield directory

    def _json(self, directory: int, file: str, max_bytes: int) -> Any:
        """A file in a directory as JSON. Raises OSError, ValueError or RecursionError."""
        # Without O_NONBLOCK the open would wait for the writer of a pipe.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with _closing(os.open(file, flags, dir_fd=directory)) as descriptor:
            self._require(descriptor, stat.S_ISREG)
            with os.fdopen(descriptor, "rb", closefd=False) as stream:
                text = stream.read(max_bytes + 1)
        if len(text) > max_bytes:
            raise ValueError(f"{file} is longer than {max_bytes} bytes")
        return json.loads(text)

    def _require(self, descriptor: int, is_kind: Callable[[int], bool]) -> None:
        """Raise OSError unless it is of that kind, and only its owner can write to it."""
        status = os.fstat(descriptor)
        if not is_kind(status.st_mode) or status.st_uid != self._owner or status.st_mode & stat.S_IWOTH:
            raise PermissionError("not a file that only the node's owner writes")


@contextmanager
def _closing(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _name(value: object) -> str | None:
    """A container's name without the `/` before it that Docker writes; None in another form."""
    name = value.removeprefix("/") if isinstance(value, str) else ""
    return name if len(name) <= MAX_NAME and _CONTAINER_NAME.fullmatch(name) else None
