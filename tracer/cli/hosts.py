"""The addresses that --host names: an address, a CIDR block, or the name of a host."""

from __future__ import annotations

import ipaddress
import re
import socket

from tracer.cli.expressions import is_address
from tracer.cli.quantities import shortened
from tracer.model.errors import UsageError
from tracer.model.filters import Network
from tracer.output.messages import say

_FORM = "expected an IPv4 or IPv6 address, a CIDR block, or the name of a host"
_HINT = "--host 10.1.2.3, --host 10.1.0.0/16 or --host 2001:db8::/32"
_NAME = re.compile(r"(?=.*[^\W\d_])[\w-][\w.-]*")
_WITH_PORT = re.compile(r"\[?([\w.:%-]+?)\]?:(\d+)")
_URL = re.compile(r"[A-Za-z][\w+.-]*://(?:[^/@]*@)?([^/?#]*).*", re.ASCII | re.DOTALL)
_OCTETS = re.compile(r"(\d{1,3}(?:\.\d{1,3}){0,2})\.?(?:\.[*x])*", re.ASCII)


def parse_hosts(text: str) -> tuple[Network, ...]:
    """An address or a CIDR block, or every address of a name. A v4-mapped block is IPv4."""
    try:
        # The kernel compares addresses without their interface (fe80::1%eth0).
        return (unmapped(ipaddress.ip_network(text.replace("%", "no"), strict=False)),)
    except ValueError:
        pass
    if not _is_name(text):
        raise UsageError(f"invalid address {shortened(text)!r} ({_FORM})", hint=_hint_for(text))
    return _addresses_of(text)


def _addresses_of(name: str) -> tuple[Network, ...]:
    """Resolve a name once, and print its addresses on stderr. Raises UsageError if it has none."""
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or "invalid name"
        raise UsageError(
            f"cannot resolve the host name {shortened(name)!r}: {why}",
            hint=f"--host 10.1.2.3, or see: getent ahosts {shortened(name)}",
        ) from None
    addresses = dict.fromkeys(str(end[0]).partition("%")[0] for *_, end in found)
    say(f"host {name}: {', '.join(addresses)}")
    return tuple(dict.fromkeys(unmapped(ipaddress.ip_network(address)) for address in addresses))


def unmapped(network: Network) -> Network:
    """The IPv4 block of a v4-mapped one; any other block unchanged."""
    if isinstance(network, ipaddress.IPv6Network) and network.network_address.ipv4_mapped and network.prefixlen >= 96:
        return ipaddress.ip_network((network.network_address.ipv4_mapped, network.prefixlen - 96))
    return network


def _is_name(text: str) -> bool:
    """Whether the text can be a host name. `10.1.2` and `0x7f.1` are not: getaddrinfo() takes them as addresses."""
    if _NAME.fullmatch(text) is None:
        return False
    try:
        socket.inet_aton(text)
    except (OSError, UnicodeError):
        return True
    return False


def _hint_for(text: str) -> str:
    """What may have been meant: the host of a URL, of `HOST:PORT`, of `[IPV6%ZONE]`; the block of `10.1.2.*`."""
    end = _URL.sub(r"\1", text)
    match = _WITH_PORT.fullmatch(end)
    host, port = match.groups() if match is not None else (end, "")
    host = host.strip("[]").partition("%")[0]
    octets = _OCTETS.fullmatch(host)
    if octets is not None and "." in host:
        known = octets[1].split(".")
        host = f"{'.'.join([*known, *['0'] * (4 - len(known))])}/{8 * len(known)}"
    if host == text or not (is_address(host) or _is_name(host)):
        return _HINT
    return f"--host {shortened(host)} --port {port}" if port else f"--host {shortened(host)}"
