from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from builders import event

from tracer.model.filters import Filter

ID = "0f3a" * 16
V6: dict[str, Any] = {"family": 6, "laddr": "fd66:1::2", "raddr": "fd66:2::2"}


def hosts(*networks: str) -> tuple[Any, ...]:
    return tuple(ipaddress.ip_network(network) for network in networks)


@pytest.mark.parametrize(
    ("wanted", "fields", "passes"),
    [
        ({}, {}, True),
        ({"ports": {3306}}, {}, True),
        ({"ports": {33356}}, {}, True),
        ({"ports": {3307}}, {}, False),
        ({"ports": {3307, 3306}}, {}, True),
        ({"lports": {3306}}, {}, False),
        ({"lports": {33356}}, {}, True),
        ({"lports": {33356}}, {"lport": None}, False),
        ({"rports": {3306}}, {}, True),
        ({"ports": {3306}, "lports": {1}}, {}, False),
        ({"hosts": hosts("10.66.2.2/32")}, {}, True),
        ({"hosts": hosts("10.66.1.0/24")}, {}, True),
        ({"hosts": hosts("10.67.0.0/16")}, {}, False),
        ({"hosts": hosts("0.0.0.0/0")}, V6, False),
        ({"hosts": hosts("0.0.0.0/0")}, {}, True),
        ({"hosts": hosts("::/0")}, {}, False),
        ({"hosts": hosts("::/0")}, V6, True),
        ({"hosts": hosts("10.66.2.3/32", "10.66.2.0/31", "10.66.2.2/31")}, {}, True),
        ({"hosts": hosts("10.66.2.3/32", "10.66.2.0/31", "fd66::/16")}, {}, False),
        ({"hosts": hosts("fd66::/16")}, V6, True),
        ({"family": 6}, {}, False),
        ({"family": 6}, V6, True),
        ({"netns": {4026532000}}, {}, True),
        ({"netns": {1}}, {}, False),
        ({"pids": {8}}, {"pid": 7, "pids": [7, 8]}, True),
        ({"pids": {8}}, {"pid": 7}, False),
        ({"pids": {7}}, {}, False),
        ({"comms": {"php"}}, {"comm": "php"}, True),
        ({"comms": {"php"}}, {"comm": "php-fpm"}, False),
        ({"pids": {7}}, {"pid": 7}, True),
        ({"comms": {"node"}}, {"comm": "MainThread", "exe": "node"}, True),
        ({"comms": {"MainThread"}}, {"comm": "MainThread", "exe": "node"}, True),
        ({"comms": {"node"}}, {"comm": "MainThread"}, False),
        ({"comms": {"systemd-resolved"}}, {"comm": "systemd-resolve"}, True),
        ({"comms": {"systemd-resolve"}}, {"comm": "systemd-resolv"}, False),
        ({"containers": {"web"}}, {"container": ID, "container_name": "web"}, True),
        ({"containers": {"we?", "x"}}, {"container": ID, "container_name": "web"}, True),
        ({"containers": {"web"}}, {"container": ID, "container_name": "web2"}, False),
        ({"containers": {"web"}}, {"container": ID}, False),
        ({"containers": {"web-1"}}, {"container": "web-1"}, True),
        ({"containers": {ID}}, {"container": ID}, True),
        ({"containers": {ID[:12]}}, {"container": ID}, True),
        ({"containers": {ID[:11]}}, {"container": ID}, False),
        ({"containers": {ID[1:13]}}, {"container": ID}, False),
        ({"containers": {"*"}}, {}, False),
        ({"pods": {"web-7d9f"}}, {"pod": "web-7d9f", "pod_namespace": "prod"}, True),
        ({"pods": {"web-*"}}, {"pod": "web-7d9f", "pod_namespace": "prod"}, True),
        ({"pods": {"prod/web-*"}}, {"pod": "web-7d9f", "pod_namespace": "prod"}, True),
        ({"pods": {"prod/*"}}, {"pod": "web-7d9f", "pod_namespace": "test"}, False),
        ({"pods": {"prod/*"}}, {"pod": "web-7d9f"}, False),
        ({"pods": {"web"}}, {"pod": "web-7d9f"}, False),
        ({"pods": {"WEB-*"}}, {"pod": "web-7d9f"}, False),
        ({"pods": {"*"}}, {"container": ID}, False),
        ({"units": {"nginx.service"}}, {"unit": "nginx.service"}, True),
        ({"units": {"nginx.service"}}, {"unit": "nginx2.service"}, False),
        ({"units": {"worker@*"}}, {"unit": "worker@3.service"}, True),
        ({"units": {"user@1000.service"}}, {"unit": "user@1000.service/nginx.service"}, True),
        ({"units": {"user@1000.service/nginx.service"}}, {"unit": "user@1000.service/nginx.service"}, True),
        ({"units": {"nginx.service"}}, {"unit": "user@1000.service/nginx.service"}, False),
        ({"units": {"*"}}, {}, False),
        ({"pids": {7}, "units": {"a.service"}}, {"pid": 7, "unit": "b.service"}, False),
        ({"events": {"error"}}, {}, False),
        ({"events": {"error", "retransmit"}}, {}, True),
        ({"min_idle_ms": 5000}, {"silent_ms": 5000}, True),
        ({"min_idle_ms": 5000}, {"silent_ms": 4999}, False),
        ({"min_idle_ms": 5000}, {}, False),
    ],
)
def test_filter(wanted: dict[str, Any], fields: dict[str, Any], passes: bool) -> None:
    frozen: dict[str, Any] = {
        name: frozenset(value) if isinstance(value, set) else value for name, value in wanted.items()
    }
    assert Filter(**frozen).wants(event(**fields)) is passes


def test_lost_events_pass_every_filter() -> None:
    lost = event("lost", laddr=None, raddr=None, lport=None, rport=None, count=3)
    assert Filter(ports=frozenset({1}), events=frozenset({"error"}), min_idle_ms=1).wants(lost)
