"""A container of a Kubernetes pod, as a node's runtime starts it: the pod's template becomes a configuration of crun.

A part of the template that is not translated here is an error, so that a misspelled one is found.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from debian_root import Mounts

from tracer.lab.namespace import Namespace

Json = dict[str, Any]

# What is masked in containers that are not privileged.
_MASKED = (
    "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
    "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi",
)  # fmt: skip
_READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
_POD = {"hostPID", "initContainers", "containers", "volumes"}
_POD_ELSEWHERE = {"automountServiceAccountToken", "terminationGracePeriodSeconds", "nodeSelector", "tolerations"}
_CONTAINER = {"name", "command", "args", "securityContext", "volumeMounts"}
_CONTAINER_ELSEWHERE = {"image", "resources", "ports", "startupProbe", "readinessProbe", "livenessProbe"}
"""What kubelet, the scheduler and the API server do."""
_SECURITY = {"runAsUser", "allowPrivilegeEscalation", "readOnlyRootFilesystem", "capabilities"}


class Pod:
    """A pod of this template on a node that is the mount namespace. directory: for its volumes and configurations."""

    def __init__(self, spec: Json, mounts: Mounts, network: Namespace, directory: Path) -> None:
        _only(spec, _POD | _POD_ELSEWHERE)
        self._spec, self._mounts, self._network, self._directory = spec, mounts, network, directory
        self._volumes = {each["name"]: self._volume(each) for each in spec["volumes"]}

    def command(self, container: Json, rootfs: str, entrypoint: Sequence[str], name: str) -> list[str]:
        """The command that runs a container of the pod on the node. crun knows the container by this name."""
        bundle = self._directory / name
        bundle.mkdir(parents=True)
        config = self._config(container, rootfs, entrypoint)
        (bundle / "config.json").write_text(json.dumps(config))
        return [*map(str, self._crun()), "run", "--bundle", str(bundle), name]

    def process_id(self, name: str) -> int:
        """The first process of a container that runs."""
        return int(json.loads(self._mounts.run(*self._crun(), "state", name))["pid"])

    def remove(self, name: str) -> None:
        """Remove a container if it is still there. It may run."""
        command = self._mounts.command([*self._crun(), "delete", "--force", name])
        subprocess.run(command, check=False, capture_output=True)

    def end(self, name: str) -> None:
        """Ask a container to end, as kubelet does."""
        self._mounts.run(*self._crun(), "kill", name, "TERM")

    def _crun(self) -> list[str | Path]:
        return ["crun", "--root", self._directory / "crun", "--cgroup-manager=cgroupfs"]

    def _volume(self, volume: Json) -> Path:
        """The directory of a volume on the node."""
        if "emptyDir" in volume:
            _only(volume, {"name", "emptyDir"})
            made = self._directory / "volumes" / str(volume["name"])
            made.mkdir(parents=True)
            made.chmod(0o777)  # kubernetes: pkg/volume/emptydir/empty_dir.go, perm
            return made
        _only(volume, {"name", "hostPath"})
        _only(volume["hostPath"], {"path", "type"})
        path = Path(volume["hostPath"]["path"])
        if volume["hostPath"]["type"] == "DirectoryOrCreate":
            self._mounts.run("mkdir", "--parents", path)
        self._mounts.run("test", "-d", path)
        return path

    def _config(self, container: Json, rootfs: str, entrypoint: Sequence[str]) -> Json:
        _only(container, _CONTAINER | _CONTAINER_ELSEWHERE)
        security = container["securityContext"]
        _only(security, _SECURITY)
        _only(security["capabilities"], {"drop", "add"})
        assert security["capabilities"]["drop"] == ["ALL"]
        kept = [f"CAP_{each}" for each in security["capabilities"].get("add", [])]
        isolated = [{"type": each} for each in ("mount", "uts", "ipc", "cgroup")]
        if not self._spec["hostPID"]:
            isolated.append({"type": "pid"})
        return {
            "ociVersion": "1.0.0",
            "process": {
                "terminal": False, "cwd": "/", "user": {"uid": security["runAsUser"], "gid": 0},
                "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "args": [*container.get("command", entrypoint), *container.get("args", [])],
                "noNewPrivileges": not security["allowPrivilegeEscalation"],
                "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), kept),
            },
            "root": {"path": rootfs, "readonly": security["readOnlyRootFilesystem"]},
            "mounts": [*_SYSTEM, *map(self._mounted, container["volumeMounts"])],
            "linux": {
                "namespaces": [*isolated, {"type": "network", "path": f"/proc/{self._network.pid}/ns/net"}],
                "maskedPaths": _MASKED, "readonlyPaths": _READ_ONLY,
            },
        }  # fmt: skip

    def _mounted(self, mount: Json) -> Json:
        _only(mount, {"name", "mountPath", "readOnly"})
        access = "ro" if mount.get("readOnly") else "rw"
        return {
            "destination": mount["mountPath"], "type": "bind", "source": str(self._volumes[mount["name"]]),
            "options": ["rbind", "rprivate", access],
        }  # fmt: skip


_SYSTEM: list[Json] = [
    {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
    {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
    {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
]


def _only(mapping: Json, known: Iterable[str]) -> None:
    unknown = set(mapping) - set(known)
    assert not unknown, f"not translated, or misspelled: {unknown}"
