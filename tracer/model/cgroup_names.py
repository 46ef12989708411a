"""What the path of a cgroup names: a container, a Kubernetes pod, a systemd unit. No I/O.

The path is read from the root to the first container. Who runs in a container chooses the names below its cgroup, so
nothing below is read: the unit is the host's, and a container in a container is the outer one. Names below a user's
manager (user@1000.service) are that user's choice. Paths of another shape name nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

MAX_PARTS = 64
"""Components of a path that are read. A pod's container in a user's slice has ten."""

_HEX64 = "[0-9a-f]{64}"
_UUID = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"

# An OCI runtime makes PREFIX-ID.scope of `slice:prefix:id` (runc: libcontainer/cgroups/systemd/common.go; crun:
# src/libcrun/cgroup-systemd.c). Prefixes: docker (moby: daemon/oci_linux.go), cri-containerd (containerd:
# getCgroupsPath() of CRI), crio (cri-o: internal/config/cgmgr), libpod (podman: libpod/container_internal_linux.go,
# getOCICgroupPath()), nerdctl. Without systemd the last component is the ID alone (docker, containerd, ECS), crio-ID,
# libpod-ID; with podman's --cgroups=split libpod-payload-ID.
_OCI = re.compile(rf"(?:(?P<prefix>[A-Za-z][\w.-]*)-)?(?P<id>{_HEX64})(?:\.scope)?", re.ASCII)
_MONITORS = frozenset({"libpod-conmon", "crio-conmon"})
"""Prefixes of conmon's own cgroup, outside the container that it watches."""
_PODMAN_PARENT = "libpod_parent"
"""Without systemd a pod of podman is /libpod_parent/ID, with /libpod-ID below it for a container."""
# containerd that does not use systemd, below a kubelet that does: `SLICE:cri-containerd:ID` is one component.
_UNSPLIT = re.compile(rf"(?P<slice>[^:]+\.slice):(?P<prefix>[\w.-]+):(?P<id>{_HEX64})", re.ASCII)

# lxc: src/lxc/cgroups/cgfsng.c (CGROUP_CREATE "lxc.payload."); lxc.payload/NAME in LXC 3.2; lxc/NAME before that, and
# with Proxmox VE.
_LXC = "lxc.payload."
_LXC_PARENTS = frozenset({"lxc", "lxc.payload"})
_MACHINE_NAME = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)
_PAYLOAD = "payload"
"""systemd-nspawn's cgroup for the container (systemd: src/nspawn/nspawn-cgroup.c, create_subcgroup())."""
_MACHINE = re.compile(r"machine-(?P<name>.+)\.scope")  # machined: src/machine/machine.c, machine_start_scope()
_NSPAWN = re.compile(r"systemd-nspawn@(?P<name>.+)\.service")

_FARGATE = re.compile(r"[0-9a-f]{32}-\d{1,10}", re.ASCII)  # /ecs/TASK/TASK-NUMBER
_BUILDKIT = re.compile(
    r"[0-9a-z]{25}"
)  # /docker/buildkit/ID (moby: builder/builder-next; buildkit: identity/randomid.go)
_GARDEN = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){4}(?:[0-9a-f]{8})?")  # Cloud Foundry: /garden/HANDLE
_NOMAD = re.compile(
    rf"(?P<id>{_UUID}\.[\w.-]+?)(?:\.scope)?", re.ASCII
)  # /nomad.slice/share.slice/ALLOCATION.TASK.scope; without share.slice before Nomad 1.7
_NOMAD_PARENTS = frozenset({"nomad", "nomad.slice", "share.slice", "reserve.slice"})

# kubernetes: pkg/kubelet/cm/cgroup_manager_linux.go, ToCgroupfs() and ToSystemd(), which makes `_` of a UID's `-`;
# pkg/kubelet/cm/types.go, podCgroupNamePrefix. The UID of a static pod is the MD5 of its file.
_POD_UID = r"(?P<uid>[0-9a-f]{32}|[0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12})"
_POD_SLICE = re.compile(rf"(?:[\w-]+-)?kubepods(?:-burstable|-besteffort)?-pod{_POD_UID}\.slice", re.ASCII)
_POD = re.compile(rf"pod{_POD_UID}")
_KUBEPODS = "kubepods"

# systemd: src/basic/unit-name.c, VALID_CHARS_WITH_AT and UNIT_NAME_MAX; units that have a cgroup.
_UNIT = re.compile(r"[A-Za-z0-9:_.\\@-]{1,247}\.(?:service|scope|socket|mount|swap)", re.ASCII)
_SLICE = re.compile(r"[A-Za-z0-9:_.\\-]{1,249}\.slice", re.ASCII)
_USER_MANAGER = re.compile(r"user@\d+\.service", re.ASCII)
_USER_SLICE = "user.slice"
_ESCAPED = re.compile(r"\\x([0-9a-f]{2})")
_DELETED = " (deleted)"  # proc_cgroup_show(), kernel/cgroup/cgroup.c


class CgroupNames(NamedTuple):
    """What a path names.

    container: its id, or the name of an LXC or systemd-nspawn container. pod_uid: the UID of the pod. unit: the
    host's systemd unit; `user@1000.service/UNIT` for a unit of a user's manager. is_of_node: whether root's runtime
    chose the container and the pod, not a user, so that files of the node may name them.
    """

    container: str | None = None
    pod_uid: str | None = None
    unit: str | None = None
    is_of_node: bool = False


NOTHING = CgroupNames()


@lru_cache(maxsize=4096)
def names_in(path: str) -> CgroupNames:
    """What the path of a cgroup names. Leading `..` are those of a cgroup namespace's view."""
    components = path.removesuffix(_DELETED).split("/")[:MAX_PARTS]
    parts = [part for each in components if each not in ("", "..") for part in _split(each)]
    container = pod_uid = None
    end = len(parts)
    for place in range(len(parts)):
        container = _container(parts, place)
        if container is not None:
            end = place
            break
        pod_uid = _pod_uid(parts, place) or pod_uid
    unit = _unit(parts, end)
    is_of_node = bool(container or pod_uid) and _USER_SLICE not in parts[:end] and not _is_users(unit)
    return CgroupNames(container, pod_uid, unit, is_of_node)


def names_of_process(lines: str) -> CgroupNames:
    """What /proc/PID/cgroup names: the best of its hierarchies. cgroup v1 has many."""
    return max((names_in(path) for path in _paths(lines)), key=_weight, default=NOTHING)


def _paths(lines: str) -> Iterator[str]:
    """The paths of lines `4:memory:/docker/ID`, `1:name=systemd:/system.slice/nginx.service`, `0::/`."""
    for line in lines.split("\n")[:MAX_PARTS]:
        fields = line.split(":", 2)
        if len(fields) == 3:
            yield fields[2]


def _weight(names: CgroupNames) -> tuple[bool, bool, bool]:
    return names.container is not None, names.pod_uid is not None, names.unit is not None


def _split(part: str) -> Iterator[str]:
    """The component, or the two that systemd would have made of it: `SLICE` and `PREFIX-ID.scope`."""
    unsplit = _UNSPLIT.fullmatch(part)
    if unsplit is None:
        yield part
    else:
        yield unsplit["slice"]
        yield f"{unsplit['prefix']}-{unsplit['id']}.scope"


def _container(parts: list[str], place: int) -> str | None:
    """The container that has this component as its cgroup."""
    part, parent = parts[place], parts[place - 1] if place else ""
    following = parts[place + 1] if place + 1 < len(parts) else ""
    oci = _OCI.fullmatch(part)
    if oci is not None:
        is_pod = parent == _PODMAN_PARENT and oci["prefix"] is None
        return None if is_pod or oci["prefix"] in _MONITORS else oci["id"]
    if part.startswith(_LXC) or (parent in _LXC_PARENTS and place == 1):
        return _machine_name(part.removeprefix(_LXC))
    machine = _MACHINE.fullmatch(part) or _NSPAWN.fullmatch(part)
    if machine is not None:
        return _machine_name(unescaped(machine["name"])) if following == _PAYLOAD else None
    if parent in _NOMAD_PARENTS and (nomad := _NOMAD.fullmatch(part)):
        return nomad["id"]
    if parent == "buildkit" and _BUILDKIT.fullmatch(part):
        return part
    if "garden" in parts[:place] and _GARDEN.fullmatch(part):
        return part
    return part if "ecs" in parts[:place] and _FARGATE.fullmatch(part) else None


def _machine_name(name: str) -> str | None:
    return name if _MACHINE_NAME.fullmatch(name) else None


def _pod_uid(parts: list[str], place: int) -> str | None:
    """The UID of the pod that has this component as its cgroup."""
    found = _POD_SLICE.fullmatch(parts[place])
    if found is None and _KUBEPODS in parts[:place]:
        found = _POD.fullmatch(parts[place])
    return None if found is None else found["uid"].replace("_", "-")


def _unit(parts: list[str], end: int) -> str | None:
    """The unit above the component at `end`, as systemd's cg_path_get_unit() and cg_path_get_user_unit() find it.

    That component itself is a unit where it is a service: systemd-nspawn@NAME.service.
    """
    above = parts[: end + 1] if end < len(parts) and _NSPAWN.fullmatch(parts[end]) else parts[:end]
    units = _units(above)
    unit = next(units, None)
    if unit is None or not _USER_MANAGER.fullmatch(unit):
        return unit
    of_user = next(units, None)
    return f"{unit}/{of_user}" if of_user is not None and of_user != "init.scope" else unit


def _units(parts: list[str]) -> Iterator[str]:
    """The units of nested managers: each is the first component that is not a slice. Any other name ends them."""
    for part in parts:
        name = part.removeprefix("_")  # cg_escape(), src/basic/cgroup-util.c
        if _UNIT.fullmatch(name):
            yield name
        elif not _SLICE.fullmatch(name):
            return


def _is_users(unit: str | None) -> bool:
    return unit is not None and _USER_MANAGER.match(unit) is not None


def unescaped(name: str) -> str:
    r"""A name as before systemd escaped it for a unit: `web-1` for `web\x2d1` (unit_name_escape())."""
    return _ESCAPED.sub(lambda code: chr(int(code[1], 16)), name)
