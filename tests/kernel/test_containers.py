"""The names of owners, of real containers and of a service, on the running kernel."""

from __future__ import annotations

import json
import secrets
from pathlib import Path

from containers import container, service
from running import tcpwatch
from watching import Start

from tracer.lab.namespace import Namespace

UID = "12345678-9abc-def0-1234-56789abcdef0"


def sockets(namespace: Namespace, *filters: str) -> list[dict[str, object]]:
    result = tcpwatch("sockets", "--netns", str(namespace.netns), *filters, "--json")
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_container(watch: Start, namespace: Namespace, tmp_path: Path) -> None:
    number = secrets.token_hex(32)
    watched = watch("--netns", str(namespace.netns), "--container", number[:12])
    with container(tmp_path, namespace, f"/docker/{number}", name=f"tcpwatch-{number[:8]}") as port:
        seen = watched.wait_for(new_state="ESTABLISHED", lport=port)[-1]
        assert (seen["container"], seen["cgroup"]) == (number, f"/docker/{number}")
        assert "unit" not in seen and "pod" not in seen
        found = sockets(namespace, "--container", number[:12])
        assert {each["lport"] for each in found} >= {port}
        assert {each["container"] for each in found} == {number}
        assert sockets(namespace, "--container", secrets.token_hex(6)) == []
    watched.stop()


def test_a_pod_without_log_files_by_its_own_word(watch: Start, namespace: Namespace, tmp_path: Path) -> None:
    number = secrets.token_hex(32)
    watched = watch("--netns", str(namespace.netns), "--pod", "web-*")
    cgroup = f"/kubepods/besteffort/pod{UID}/{number}"
    with container(tmp_path, namespace, cgroup, name=f"tcpwatch-{number[:8]}", hostname="web-7d9f") as port:
        seen = watched.wait_for(new_state="ESTABLISHED", lport=port)[-1]
        assert (seen["container"], seen["pod"]) == (number, "web-7d9f")
        assert "pod_namespace" not in seen
        assert [each["pod"] for each in sockets(namespace, "--pod", "web-7d9f", "--lport", str(port))] == ["web-7d9f"]
        assert sockets(namespace, "--pod", "db-*") == []
    watched.stop()


def test_a_service(watch: Start, namespace: Namespace) -> None:
    unit = f"tcpwatch-{secrets.token_hex(4)}.service"
    watched = watch("--netns", str(namespace.netns), "--unit", unit.removesuffix(".service"))
    with service(namespace, f"/tcpwatch.slice/{unit}") as port:
        seen = watched.wait_for(new_state="ESTABLISHED", lport=port)[-1]
        assert (seen["unit"], seen["cgroup"]) == (unit, f"/tcpwatch.slice/{unit}")
        assert "container" not in seen
        found = sockets(namespace, "--unit", unit, "--lport", str(port))
        assert [each["unit"] for each in found] == [unit]
        assert sockets(namespace, "--unit", "nginx") == []
    watched.stop()
