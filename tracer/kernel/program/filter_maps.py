"""A filter as the maps and flags of bpf/filter.h: the part of it that the kernel decides."""

from __future__ import annotations

import ipaddress
import struct
from typing import NamedTuple

from tracer.model.filters import Filter

# enum filter_flags in bpf/filter.h
_PORT, _LPORT, _RPORT, _HOST, _NETNS, _IPV4, _IPV6 = 1, 2, 4, 8, 16, 32, 64

_PORT_KEY, _HOST_KEY, _NETNS_KEY = struct.Struct("<H"), struct.Struct("<I16s"), struct.Struct("<I")


class FilterMaps(NamedTuple):
    """flags: enum filter_flags. maps: the elements of each map, by its name."""

    flags: int
    maps: dict[str, dict[bytes, bytes]]


def filter_maps(wanted: Filter) -> FilterMaps:
    """The flags and map elements for a filter."""
    flags = 0
    ports: dict[bytes, int] = {}
    for bit, option in ((_PORT, wanted.ports), (_LPORT, wanted.lports), (_RPORT, wanted.rports)):
        flags |= bit if option else 0
        for port in option:
            key = _PORT_KEY.pack(port)
            ports[key] = ports.get(key, 0) | bit
    hosts = {_HOST_KEY.pack(*_prefix_and_address(host)): 1 for host in wanted.hosts}
    namespaces = {_NETNS_KEY.pack(netns): 1 for netns in wanted.netns}
    flags |= (_HOST if hosts else 0) | (_NETNS if namespaces else 0)
    if wanted.family is not None:
        flags |= {4: _IPV4, 6: _IPV6}[wanted.family]
    numbers = {"filter_ports": ports, "filter_hosts": hosts, "filter_netns": namespaces}
    return FilterMaps(
        flags, {name: {key: bytes([value]) for key, value in elements.items()} for name, elements in numbers.items()}
    )


def mapped_address(address: str) -> bytes:
    """16 bytes, IPv4 as ::ffff:a.b.c.d. Raises ValueError for an invalid address."""
    parsed = ipaddress.ip_address(address)
    return b"\0" * 10 + b"\xff\xff" + parsed.packed if parsed.version == 4 else parsed.packed


def _prefix_and_address(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> tuple[int, bytes]:
    prefix = network.prefixlen + (96 if network.version == 4 else 0)
    return prefix, mapped_address(str(network.network_address))
