"""FILTERS and durations as they are typed: each bad word an error that says what would be good."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from tracer.errors import UsageError
from tracer.events import EVENTS
from tracer.filters import Filter, Network

Command = TypeVar("Command", bound=Callable[..., Any])

_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?", re.ASCII)
_LONGEST_S = 100 * 365 * 86400
_NAMED_NETNS = Path("/run/netns")


def parse_duration(text: str) -> float:
    """Seconds of `90s`, `10m`, `1h30m`, `2d`. UsageError for anything else, a bare number too."""
    match = _DURATION.fullmatch(text)
    if not text or match is None:
        raise UsageError(f"{text!r} is no duration", hint="write it as 90s, 10m, 1h30m or 2d")
    days, hours, minutes, seconds = (float(part or 0) for part in match.groups())
    total_s = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    if total_s > _LONGEST_S:
        raise UsageError(f"{text!r} is longer than a century", hint="write it as 90s, 10m, 1h30m or 2d")
    return total_s


def parse_port(text: str) -> int:
    """A number from 1 to 65535, or a name of /etc/services."""
    if text.isascii() and text.isdecimal():
        if 1 <= int(text[:6]) <= 65535 and len(text) <= 5:
            return int(text)
    else:
        try:
            return socket.getservbyname(text, "tcp")
        except (OSError, ValueError):
            pass
    raise UsageError(
        f"{text!r} is no port",
        hint="a port is a number from 1 to 65535 or a name of /etc/services: --port 3306,11300",
    )


def parse_host(text: str) -> Network:
    """An address or a CIDR block."""
    try:
        # An interface (fe80::1%eth0) is no part of what the kernel compares.
        network = ipaddress.ip_network(text.replace("%", "no"), strict=False)
    except ValueError:
        raise UsageError(
            f"{text!r} is no address",
            hint="an address or a block, without a name: --host 10.1.2.3 or --host 10.1.0.0/16",
        ) from None
    if isinstance(network, ipaddress.IPv6Network) and network.network_address.ipv4_mapped and network.prefixlen >= 96:
        return ipaddress.ip_network((network.network_address.ipv4_mapped, network.prefixlen - 96))
    return network


def parse_size(text: str) -> int:
    """Bytes: 500k, 100M, 1G; at least 4k, which is little more than a header."""
    found = re.fullmatch(r"(\d{1,9})([kMG]?)", text, re.ASCII)
    size = int(found[1]) * {"": 1, "k": 1 << 10, "M": 1 << 20, "G": 1 << 30}[found[2]] if found else 0
    if size < 4096:
        raise UsageError(f"{text!r} is no size", hint="500k, 100M or 1G")
    return size


def parse_buffer_size(text: str) -> int:
    """Bytes for the kernel's ring: a power of two, so the next one from what was asked for."""
    size = parse_size(text)
    if not 1 << 16 <= size <= 1 << 30:
        raise UsageError(f"{text!r} is no size for a buffer", hint="from 64k to 1G: --buffer-size 64M")
    return int(1 << (size - 1).bit_length())


def parse_event(text: str) -> str:
    """One of EVENTS."""
    if text not in EVENTS:
        raise UsageError(f"{text!r} is no event", hint=f"events are {', '.join(EVENTS)}")
    return text


def parse_pid(text: str) -> int:
    """A process id."""
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) > 0):
        raise UsageError(f"{text!r} is no process id", hint="a number, as in --pid 8506")
    return int(text)


def parse_comm(text: str) -> str:
    """A process's name, with bytes that are no UTF-8 as events have them."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")


def parse_netns(text: str) -> int:
    """An inode as in `lsns -t net`, a name as in `ip netns`, or the path of a namespace file."""
    if text.isascii() and text.isdecimal() and len(text) <= 10:
        return int(text)
    path = Path(text) if "/" in text else _NAMED_NETNS / text
    try:
        return path.stat().st_ino
    except (OSError, ValueError):
        raise UsageError(
            f"there is no network namespace {text!r}",
            hint="its inode (lsns -t net), its name (ip netns), or a path such as /proc/PID/ns/net",
        ) from None


def _listed(parse: Callable[[str], Any]) -> Callable[..., tuple[Any, ...]]:
    """The callback of an option that may be repeated, and takes several values with commas."""

    def callback(_context: click.Context, _option: click.Parameter, values: tuple[str, ...]) -> tuple[Any, ...]:
        return tuple(parse(word.strip()) for value in values for word in value.split(","))

    return callback


def _duration(_context: click.Context, _option: click.Parameter, value: str | None) -> float | None:
    return None if value is None else parse_duration(value)


_FILTERS = (
    click.option("-p", "--port", "ports", multiple=True, metavar="PORT[,…]", callback=_listed(parse_port),
                 help="Either end's port."),
    click.option("--lport", "lports", multiple=True, metavar="PORT[,…]", callback=_listed(parse_port),
                 help="The local end's port."),
    click.option("--rport", "rports", multiple=True, metavar="PORT[,…]", callback=_listed(parse_port),
                 help="The remote end's port."),
    click.option("--host", "hosts", multiple=True, metavar="ADDR|CIDR[,…]", callback=_listed(parse_host),
                 help="Either end's address or block."),
    click.option("-4", "ipv4", is_flag=True, help="IPv4 only; v4-mapped addresses are IPv4."),
    click.option("-6", "ipv6", is_flag=True, help="IPv6 only."),
    click.option("--pid", "pids", multiple=True, metavar="PID[,…]", callback=_listed(parse_pid),
                 help="Sockets that this process holds."),
    click.option("--comm", "comms", multiple=True, metavar="NAME[,…]", callback=_listed(parse_comm),
                 help="Sockets of processes, or of programs, of this name."),
    click.option("--netns", multiple=True, metavar="NETNS[,…]", callback=_listed(parse_netns),
                 help="Network namespace: inode, name or path."),
    click.option("-e", "--event", "events", multiple=True, metavar="EVENT[,…]", callback=_listed(parse_event),
                 help=f"Only these: {', '.join(EVENTS)}."),
    click.option("--min-idle", metavar="DURATION", callback=_duration,
                 help="Only events of sockets silent for this long: 90s, 10m, 1h30m."),
)  # fmt: skip

FILTER_NAMES = (
    "ports", "lports", "rports", "hosts", "ipv4", "ipv6", "pids", "comms", "netns", "events", "min_idle",
)  # fmt: skip


def filter_options(command: Command) -> Command:
    """The FILTERS, the same words for every command; pass what they give to `make_filter`."""
    for option in reversed(_FILTERS):
        command = option(command)
    return command


def make_filter(options: dict[str, Any]) -> Filter:
    """Takes the FILTERS out of a command's options."""
    given = {name: options.pop(name) for name in FILTER_NAMES}
    if given["ipv4"] and given["ipv6"]:
        raise UsageError("-4 and -6 together leave nothing", hint="leave both out to see both")
    family = 4 if given["ipv4"] else 6 if given["ipv6"] else None
    min_idle = given["min_idle"]
    return Filter(
        ports=frozenset(given["ports"]),
        lports=frozenset(given["lports"]),
        rports=frozenset(given["rports"]),
        hosts=given["hosts"],
        family=family,
        netns=frozenset(given["netns"]),
        pids=frozenset(given["pids"]),
        comms=frozenset(given["comms"]),
        events=frozenset(given["events"]),
        min_idle_ms=None if min_idle is None else round(min_idle * 1000),
    )


def cli_filter(arguments: list[str]) -> Filter:
    """The filter of FILTERS as they are typed, without a command around them."""
    command = filter_options(click.command()(lambda **options: make_filter(options)))
    wanted = command.main(arguments, standalone_mode=False)
    assert isinstance(wanted, Filter)
    return wanted


def wants_colour(stream: Any) -> bool:
    """Colour on a terminal only, and never with NO_COLOR set (https://no-color.org)."""
    return bool(stream.isatty()) and not os.environ.get("NO_COLOR")
