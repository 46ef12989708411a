"""A real container, which crun runs in a cgroup of a chosen name, and other cgroups of that kind."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tracer.lab.namespace import Namespace, wait_until

_MOUNTS = (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup"))
_HOST = ("usr", "bin", "lib", "lib64", "sbin")
# Connects to itself, prints both ports, and goes on until its standard input ends.
_CONNECTS = """
import socket, sys
server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname())
accepted, _ = server.accept()
print(client.getsockname()[1], flush=True)
sys.stdin.read()
"""
SENDS = f"""
import os, threading, time
{_CONNECTS.replace("sys.stdin.read()", "")}
def send():
    while True:
        client.sendall(b"x")
        time.sleep(0.1)
threading.Thread(target=send, daemon=True).start()
sys.stdin.read()
os._exit(0)
"""
"""The same, and sends a byte every 100 ms from the port that it prints."""


def cgroup_mount() -> Path:
    """Where cgroup v2 is mounted."""
    return next(mount for mount in _MOUNTS if (mount / "cgroup.controllers").exists())


@contextmanager
def container(
    directory: Path,
    network: Namespace,
    cgroup: str,
    *,
    name: str,
    hostname: str = "",
    program: str = _CONNECTS,
    uid: int = 0,
) -> Iterator[int]:
    """Run a container in this network namespace and cgroup. Yields the local port of its connection."""
    rootfs = directory / "rootfs"
    for each in (*_HOST, "proc", "dev", "sys"):
        (rootfs / each).mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(_config(network, cgroup, hostname, program, uid)))
    # With cgroup v2 alone, as on a current distribution, whatever this host has.
    command = (
        f"mount -t cgroup2 none /sys/fs/cgroup && exec crun --cgroup-manager=cgroupfs run --bundle {directory} {name}"
    )
    process = _started(["unshare", "--mount", "sh", "-c", command])
    try:
        yield _port(process)
    finally:
        _end(process)
        subprocess.run(["crun", "delete", "--force", name], check=False, capture_output=True)
        _remove(cgroup_mount() / cgroup.strip("/"))


def _config(network: Namespace, cgroup: str, hostname: str, program: str, uid: int) -> dict[str, object]:
    environ = ["PATH=/usr/bin:/bin", *([f"HOSTNAME={hostname}"] if hostname else [])]
    binds = [
        {"destination": f"/{each}", "type": "bind", "source": f"/{each}", "options": ["rbind", "ro"]}
        for each in _HOST
        if Path("/", each).exists()
    ]
    return {
        "ociVersion": "1.0.0",
        "process": {
            "terminal": False, "user": {"uid": uid, "gid": uid}, "cwd": "/", "env": environ,
            "args": ["/usr/bin/python3", "-c", program],
        },
        "root": {"path": "rootfs"},
        "hostname": hostname or "container",
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}, *binds],
        "linux": {
            "cgroupsPath": cgroup,
            "namespaces": [
                {"type": "pid"}, {"type": "mount"}, {"type": "uts"}, {"type": "ipc"},
                {"type": "network", "path": f"/proc/{network.pid}/ns/net"},
            ],
        },
    }  # fmt: skip


@contextmanager
def service(network: Namespace, cgroup: str) -> Iterator[int]:
    """Run a process in a cgroup as systemd makes it for a service. Yields the local port of its connection."""
    directory = cgroup_mount() / cgroup.strip("/")
    directory.mkdir(parents=True)
    enters = f'echo $$ > {directory}/cgroup.procs && exec /usr/bin/python3 -c "$0"'
    process = _started(["nsenter", "-t", str(network.pid), "-n", "sh", "-c", enters, _CONNECTS])
    try:
        yield _port(process)
    finally:
        _end(process)
        _remove(directory)


def _started(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _port(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None and process.stderr is not None
    line = process.stdout.readline()
    assert line, process.stderr.read()
    return int(line)


def _end(process: subprocess.Popen[str]) -> None:
    process.communicate("", timeout=60)


def _remove(cgroup: Path) -> None:
    """Remove a cgroup that is empty now or soon, and those above it that are."""

    def is_removed() -> bool:
        with suppress(OSError):
            cgroup.rmdir()
        return not cgroup.exists()

    wait_until(is_removed, 60, f"the end of the processes in {cgroup}")
    with suppress(OSError):  # another container is there
        while (cgroup := cgroup.parent) != cgroup_mount():
            cgroup.rmdir()
