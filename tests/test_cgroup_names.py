"""Paths of cgroups, as container runtimes, Kubernetes and systemd make them, and what they name."""

from __future__ import annotations

import pytest

from tracer.model.cgroup_names import MAX_PARTS, NOTHING, CgroupNames, names_in, names_of_process, unescaped

A, B = "0f3a" * 16, "9bc1" * 16
UID, UID_ = "12345678-9abc-def0-1234-56789abcdef0", "12345678_9abc_def0_1234_56789abcdef0"
STATIC = "d41d8cd98f00b204e9800998ecf8427e"
ALLOCATION = "6f3a1c52-0b7d-4e9a-8c11-2f5d9be01234"
USER = "/user.slice/user-1000.slice/user@1000.service"

CONTAINERS = {
    f"/docker/{A}": A,
    f"/system.slice/docker-{A}.scope": A,
    f"/my-parent/{A}": A,
    f"/mine.slice/docker-{A}.scope/init": A,
    f"/default/{A}": A,  # containerd without systemd
    f"/system.slice/nerdctl-{A}.scope": A,
    f"/libpod_parent/libpod-{A}": A,
    f"/machine.slice/libpod-{A}.scope/container": A,
    f"/machine.slice/machine-libpod_pod_{B}.slice/libpod-{A}.scope": A,
    f"/libpod_parent/{B}/libpod-{A}/container": A,  # the outer one is podman's pod
    f"/docker/{A} (deleted)": A,
    f"/../../system.slice/docker-{A}.scope": A,
    "/docker/buildkit/n4eu0udvbz9vfzjy71jkvgkwh": "n4eu0udvbz9vfzjy71jkvgkwh",
    f"/ecs/{STATIC}/{A}": A,
    f"/ecstasks.slice/ecstasks-{STATIC}.slice/docker-{A}.scope": A,
    f"/ecs/{STATIC}/{STATIC}-1234567890": f"{STATIC}-1234567890",
    "/garden/6f265890-5165-7fab-6b52-18d1": "6f265890-5165-7fab-6b52-18d1",
    "/garden/good/6f265890-5165-7fab-6b52-18d1aabbccdd": "6f265890-5165-7fab-6b52-18d1aabbccdd",
    f"/nomad.slice/share.slice/{ALLOCATION}.web.scope": f"{ALLOCATION}.web",
    f"/nomad/{ALLOCATION}.web": f"{ALLOCATION}.web",
    f"/nomad.slice/{ALLOCATION}.web.scope": f"{ALLOCATION}.web",  # Nomad 1.3 to 1.6
    f"/nomad.slice/reserve.slice/{ALLOCATION}.web.1.scope": f"{ALLOCATION}.web.1",
    f"/nomad.slice/docker-{A}.scope": A,
    # Docker in Docker, kind, and systemd in a container: all below the first container is its own choice.
    f"/docker/{A}/docker/{B}": A,
    f"/docker/{A}/system.slice/nginx.service": A,
    f"/docker/{A}/kubelet/kubepods/burstable/pod{UID}/{B}": A,
    f"/system.slice/docker-{A}.scope/kubelet.slice/kubelet-kubepods.slice/cri-containerd-{B}.scope": A,
}

PODS = {
    f"/kubepods/pod{UID}/{A}": (A, UID),
    f"/kubepods/burstable/pod{UID}/{A}": (A, UID),
    f"/kubepods/besteffort/pod{UID}/{A}": (A, UID),
    f"/kubepods/burstable/pod{UID}/crio-{A}": (A, UID),
    f"/kubepods/burstable/pod{STATIC}/{A}": (A, STATIC),
    f"/kubepods.slice/kubepods-pod{UID_}.slice/cri-containerd-{A}.scope": (A, UID),
    f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID_}.slice/cri-containerd-{A}.scope": (A, UID),
    f"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{UID_}.slice/docker-{A}.scope": (A, UID),
    f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID_}.slice/crio-{A}.scope/container": (A, UID),
    f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{STATIC}.slice/crio-{A}.scope": (A, STATIC),
    f"/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{UID_}.slice/cri-containerd-{A}.scope": (A, UID),
    f"/../../kubepods-besteffort.slice/kubepods-besteffort-pod{UID_}.slice/cri-containerd-{A}.scope": (A, UID),
    f"/kubepods-besteffort-pod{UID_}.slice:cri-containerd:{A}": (A, UID),
    f"/kubepods-burstable-pod{UID_}.slice:crio:{A}": (A, UID),
    f"/kubepods/besteffort/pod{UID}": (None, UID),
    f"/kubepods.slice/kubepods-pod{UID_}.slice": (None, UID),
}

MACHINES = {
    "/lxc.payload.web-1": "web-1",
    "/lxc.payload.web-1/system.slice/nginx.service": "web-1",
    "/lxc.payload/web-1/init.scope": "web-1",
    "/lxc/101/ns/system.slice/ssh.service": "101",
    r"/machine.slice/machine-web\x2d1.scope/payload/system.slice/nginx.service": "web-1",
}

UNITS = {
    "/system.slice/nginx.service": "nginx.service",
    "/init.scope": "init.scope",
    "/system.slice/system-getty.slice/getty@tty1.service": "getty@tty1.service",
    r"/system.slice/system-postgresql.slice/postgresql@15\x2dmain.service": r"postgresql@15\x2dmain.service",
    "/system.slice/php8.2-fpm.service/workers": "php8.2-fpm.service",
    "/system.slice/docker.socket": "docker.socket",
    "/system.slice/_cpu.service": "cpu.service",
    "/nginx.service": "nginx.service",
    "/shop.slice/shop-web.slice/worker@3.service": "worker@3.service",
    "/user.slice/user-1000.slice/session-3.scope": "session-3.scope",
    f"{USER}/init.scope": "user@1000.service",
    f"{USER}/app.slice/app-worker.service": "user@1000.service/app-worker.service",
    f"{USER}/app.slice/app-gnome-firefox-1234.scope": "user@1000.service/app-gnome-firefox-1234.scope",
    r"/machine.slice/machine-qemu\x2d1\x2ddb.scope/libvirt/emulator": r"machine-qemu\x2d1\x2ddb.scope",
    r"/machine.slice/machine-web\x1b.scope/payload": r"machine-web\x1b.scope",  # no name of a machine
    "/../../../system.slice/nginx.service": "nginx.service",
}

SILENT = (
    "",
    "/",
    "/..",
    "/system.slice",
    "/user.slice/user-1000.slice",
    "/machine.slice",
    "/docker",
    "/lxc.monitor.web-1",
    "/lxc.pivot",
    "/docker/0f3a",
    f"/docker/{A[:63]}",
    f"/docker/{A.upper()}",
    "/a/nginx.service",
    "/kubepods/burstable",
    "/kubepods/burstable/podweb",
    f"/pod{UID}",
    "/nginx.service\n",
    "/lxc/\x1b[2J",
    f"/libpod_parent/{A}",
    f"/libpod_parent/{A}/libpod-conmon-{B}",
    f"/{UID}:cri-containerd:{A}",
    f"/system.slice:docker:{A[:63]}",
    "/lxc.payload.",
    "/system.slice/" + "n" * 248 + ".service",
    f"/nomad.slice/share.slice/{ALLOCATION}.\x1b.scope",
)


@pytest.mark.parametrize(("path", "container"), CONTAINERS.items())
def test_a_container(path: str, container: str) -> None:
    assert names_in(path) == CgroupNames(container=container, is_of_node=True)


@pytest.mark.parametrize(("path", "container_and_pod"), PODS.items())
def test_a_pod(path: str, container_and_pod: tuple[str | None, str]) -> None:
    container, pod_uid = container_and_pod
    assert names_in(path) == CgroupNames(container, pod_uid, is_of_node=True)


@pytest.mark.parametrize(("path", "container"), MACHINES.items())
def test_a_machine(path: str, container: str) -> None:
    assert names_in(path) == CgroupNames(container=container, is_of_node=True)


@pytest.mark.parametrize(("path", "unit"), UNITS.items())
def test_a_unit(path: str, unit: str) -> None:
    assert names_in(path) == CgroupNames(unit=unit)


@pytest.mark.parametrize("path", SILENT)
def test_another_shape_names_nothing(path: str) -> None:
    assert names_in(path) == NOTHING


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (f"/system.slice/shop.service/libpod-payload-{A}", CgroupNames(A, unit="shop.service", is_of_node=True)),
        (f"/system.slice/shop.service/runtime/{A}", CgroupNames(A, unit="shop.service", is_of_node=True)),
        (
            "/machine.slice/systemd-nspawn@web.service/payload/system.slice/nginx.service",
            CgroupNames("web", unit="systemd-nspawn@web.service", is_of_node=True),
        ),
        (
            f"{USER}/app.slice/shop.service/libpod-payload-{A}",
            CgroupNames(A, unit="user@1000.service/shop.service"),
        ),
        (
            f"/system.slice/containerd.service/kubepods-burstable-pod{UID_}.slice:cri-containerd:{A}",
            CgroupNames(A, UID, "containerd.service", is_of_node=True),
        ),
    ],
)
def test_a_container_that_a_unit_runs(path: str, expected: CgroupNames) -> None:
    assert names_in(path) == expected


@pytest.mark.parametrize(
    "path",
    [
        f"{USER}/user.slice/libpod-{A}.scope/container",
        f"{USER}/user.slice/docker-{A}.scope",
        f"/user.slice/user-1000.slice/session-3.scope/{A}",
        f"{USER}/kubepods/burstable/pod{UID}/{A}",
    ],
)
def test_files_of_the_node_do_not_name_what_a_user_chose(path: str) -> None:
    names = names_in(path)
    assert names.container == A and not names.is_of_node


def test_a_monitor_is_outside_its_container() -> None:
    assert names_in(f"/machine.slice/libpod-conmon-{A}.scope").container is None
    pod = names_in(f"/kubepods.slice/kubepods-pod{UID_}.slice/crio-conmon-{A}.scope")
    assert pod == CgroupNames(None, UID, f"crio-conmon-{A}.scope", True)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("0::/system.slice/nginx.service\n", CgroupNames(unit="nginx.service")),
        # cgroup v1: each controller has a path of its own, and some are not used.
        (
            f"12:cpu,cpuacct:/docker/{A}\n2:freezer:/\n1:name=systemd:/docker/{A}\n0::/system.slice/containerd.service\n",
            CgroupNames(A, is_of_node=True),
        ),
        (
            "9:memory:/system.slice\n1:name=systemd:/system.slice/nginx.service\n0::/\n",
            CgroupNames(unit="nginx.service"),
        ),
        (
            f"4:pids:/kubepods/burstable/pod{UID}/{A}\n1:name=systemd:/kubepods/burstable/pod{UID}/{A}\n",
            CgroupNames(A, UID, is_of_node=True),
        ),
        ("", NOTHING),
        ("garbage\n3:\n::\n\0", NOTHING),
        ("1:name=systemd:/a:b/nginx.service\n", NOTHING),
    ],
)
def test_the_hierarchies_of_a_process(lines: str, expected: CgroupNames) -> None:
    assert names_of_process(lines) == expected


def test_a_path_of_any_length() -> None:
    assert names_in("/a" * 100_000) == NOTHING
    assert names_in("/system.slice" * MAX_PARTS + "/nginx.service") == NOTHING
    assert names_in("/" + "machine-" * 50_000 + ".scope") == NOTHING


def test_names_before_systemd_escaped_them() -> None:
    assert unescaped(r"web\x2d1\x2eprod") == "web-1.prod"
    assert unescaped("web") == "web"
