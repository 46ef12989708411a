"""FILTERS, durations and sizes as they are typed: an invalid one is an error that shows the expected form."""

from __future__ import annotations

import difflib
import errno
import fcntl
import ipaddress
import os
import re
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from tracer.model.errors import UsageError
from tracer.model.filters import Filter, Network
from tracer.model.kinds import EVENTS

Command = TypeVar("Command", bound=Callable[..., Any])

_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?", re.ASCII)
_DURATION_FORM = "expected 90s, 10m, 1h30m or 2d"
_MAX_DURATION_S = 100 * 365 * 86400
_MAX_PID = 4 * 1024 * 1024  # PID_MAX_LIMIT, include/linux/threads.h
_NAMED_NETNS = Path("/run/netns")
_NS_GET_NSTYPE = 0xB703  # include/uapi/linux/nsfs.h, Linux 4.11
_CLONE_NEWNET = 0x40000000  # include/uapi/linux/sched.h
_NETNS_FORM = "expected an inode, a name of `ip netns`, or a path such as /proc/PID/ns/net"
_NETNS_HINT = "lsns -t net; ip netns"


def parse_duration(text: str) -> float:
    """Seconds of `90s`, `10m`, `1h30m`, `2d`, `800ms`. UsageError for anything else, a bare number too."""
    match = _DURATION.fullmatch(text)
    if not text or match is None:
        hint = f"{text}s is in seconds, {text}m in minutes" if text.isascii() and text.isdecimal() else "10m"
        raise UsageError(f"invalid duration {text!r} ({_DURATION_FORM})", hint=hint)
    days, hours, minutes, seconds, ms = (float(part or 0) for part in match.groups())
    total_s = ((days * 24 + hours) * 60 + minutes) * 60 + seconds + ms / 1000
    if total_s > _MAX_DURATION_S:
        raise UsageError(f"duration {_shortened(text)!r} is longer than 100 years ({_DURATION_FORM})", hint="2d")
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
        f"invalid port {_shortened(text)!r} (expected 1 to 65535, or a name of /etc/services)",
        hint="--port 3306,11300",
    )


def parse_host(text: str) -> Network:
    """An address or a CIDR block."""
    try:
        # An interface (fe80::1%eth0) is not part of what the kernel compares.
        network = ipaddress.ip_network(text.replace("%", "no"), strict=False)
    except ValueError:
        is_name = re.fullmatch(r"[A-Za-z][A-Za-z0-9.-]*", text, re.ASCII) is not None
        raise UsageError(
            f"invalid address {_shortened(text)!r} (expected an IPv4 or IPv6 address, or a CIDR block)",
            hint=f"getent ahosts {_shortened(text)} shows the addresses of a name"
            if is_name
            else "--host 10.1.2.3, --host 10.1.0.0/16 or --host 2001:db8::/32",
        ) from None
    if isinstance(network, ipaddress.IPv6Network) and network.network_address.ipv4_mapped and network.prefixlen >= 96:
        return ipaddress.ip_network((network.network_address.ipv4_mapped, network.prefixlen - 96))
    return network


def parse_size(text: str) -> int:
    """Bytes: 500k, 100M, 1G; at least 4k, which is little more than a header."""
    found = re.fullmatch(r"(\d{1,9})([kMG]?)", text, re.ASCII)
    size = int(found[1]) * {"": 1, "k": 1 << 10, "M": 1 << 20, "G": 1 << 30}[found[2]] if found else 0
    if size < 4096:
        raise UsageError(f"invalid size {_shortened(text)!r} (expected at least 4k)", hint="500k, 100M or 1G")
    return size


def parse_buffer_size(text: str) -> int:
    """Bytes for the kernel's ring: a power of two, so the next one from what was asked for."""
    try:
        size = parse_size(text)
    except UsageError:
        size = 0
    if not 1 << 16 <= size <= 1 << 30:
        raise UsageError(f"invalid buffer size {_shortened(text)!r} (expected 64k to 1G)", hint="--buffer-size 64M")
    return int(1 << (size - 1).bit_length())


def parse_event(text: str) -> str:
    """One of EVENTS."""
    if text not in EVENTS:
        raise UsageError(
            f"invalid event {_shortened(text)!r} (expected {', '.join(EVENTS[:-1])} or {EVENTS[-1]})",
            hint=f"--event {_similar(text)}",
        )
    return text


def parse_pid(text: str) -> int:
    """A process id."""
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and 0 < int(text) <= _MAX_PID):
        raise UsageError(
            f"invalid process id {_shortened(text)!r} (expected 1 to {_MAX_PID})",
            hint=f"pgrep -d, {_shortened(text)} shows the ids of a name; --comm {_shortened(text)}"
            if re.fullmatch(r"[A-Za-z][\w.-]*", text, re.ASCII)
            else "--pid 8506",
        )
    return int(text)


def parse_comm(text: str) -> str:
    """A process's name, with bytes that are not UTF-8 as events have them."""
    if not text:
        raise UsageError("invalid process name '' (expected the name of a process or program)", hint="--comm php")
    return os.fsencode(text).decode("utf-8", "backslashreplace")


def parse_netns(text: str) -> int:
    """An inode as in `lsns -t net`, a name as in `ip netns`, or the path of a namespace file."""
    if text.isascii() and text.isdecimal():
        if 0 < int(text[:11]) < 1 << 32:
            return int(text)
        raise UsageError(f"invalid network namespace {_shortened(text)!r} ({_NETNS_FORM})", hint=_NETNS_HINT)
    path = Path(text) if "/" in text else _NAMED_NETNS / text
    try:
        status = path.stat()
        kind = _namespace_kind(path) if stat.S_ISREG(status.st_mode) else None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "invalid name"
        if isinstance(error, FileNotFoundError):
            raise UsageError(
                f"there is no network namespace {_shortened(text)!r} ({_NETNS_FORM})", hint=_NETNS_HINT
            ) from None
        raise UsageError(f"cannot open the network namespace {_shortened(text)!r}: {why}", hint=_NETNS_HINT) from None
    if kind != _CLONE_NEWNET:
        what = "is not a namespace" if kind is None else "is a namespace of another kind"
        raise UsageError(f"invalid network namespace: {_shortened(text)!r} {what} ({_NETNS_FORM})", hint=_NETNS_HINT)
    return status.st_ino


def _namespace_kind(path: Path) -> int | None:
    """The CLONE_NEW flag of a namespace file; None for any other file. Raises OSError. ioctl_ns(2)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return fcntl.ioctl(descriptor, _NS_GET_NSTYPE)
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.EINVAL):
            return None
        raise
    finally:
        os.close(descriptor)


def _similar(text: str) -> str:
    """The event that was probably meant."""
    close = difflib.get_close_matches(text, EVENTS, n=1)
    return close[0] if close else "stall"


def _shortened(text: str) -> str:
    """As much of what was typed as an error repeats."""
    return text if len(text) <= 60 else f"{text[:57]}..."


def _listed(parse: Callable[[str], Any]) -> Callable[..., tuple[Any, ...]]:
    """The callback of an option that may be repeated, and takes several values with commas."""

    def callback(_context: click.Context, _option: click.Parameter, values: tuple[str, ...]) -> tuple[Any, ...]:
        return tuple(parse(word.strip()) for value in values for word in value.split(","))

    return callback


def positive_duration(_context: click.Context, option: click.Parameter, value: str | None) -> float | None:
    """The callback of an option that takes a duration, in seconds."""
    if value is None:
        return None
    duration_s = parse_duration(value)
    if duration_s <= 0:
        name = max(option.opts, key=len)
        raise UsageError(f"{name} must be greater than zero", hint=f"{name} 10m")
    return duration_s


def recording_path(_context: click.Context, option: click.Parameter, value: str | None) -> Path | None:
    """The callback of an option that takes a file to record to."""
    name = max(option.opts, key=len)
    if value == "":
        raise UsageError(f"{name} needs the name of a file", hint=f"{name} now.tw")
    if value == "-":
        raise UsageError("cannot record to standard output", hint="tcpwatch --json > FILE, or give a name: now.tw")
    return None if value is None else Path(value)


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
    click.option("--min-idle", metavar="DURATION", callback=positive_duration,
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
    """Takes the FILTERS out of a command's options. Raises UsageError where nothing can match them together."""
    given = {name: options.pop(name) for name in FILTER_NAMES}
    if given["ipv4"] and given["ipv6"]:
        raise UsageError("-4 and -6 are mutually exclusive", hint="leave both out to see both")
    family = 4 if given["ipv4"] else 6 if given["ipv6"] else None
    min_idle = given["min_idle"]
    wanted = Filter(
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
    _require_possible(wanted)
    return wanted


def _require_possible(wanted: Filter) -> None:
    """Raise UsageError for filters that no connection can pass."""
    if wanted.hosts and wanted.family is not None and all(host.version != wanted.family for host in wanted.hosts):
        host = str(wanted.hosts[0]).removesuffix("/32" if wanted.family == 6 else "/128")
        raise UsageError(
            f"-{wanted.family} and --host {host} are mutually exclusive",
            hint=f"leave -{wanted.family} out",
        )
    # Either end has a port of --port: where both ends are given, one of those has to be among them.
    ends = wanted.lports | wanted.rports
    if wanted.ports and wanted.lports and wanted.rports and wanted.ports.isdisjoint(ends):
        raise UsageError(
            "--port matches neither --lport nor --rport, so no connection can match", hint="leave --port out"
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
