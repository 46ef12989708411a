"""Types of option values: durations, sizes, ports, addresses and the other words that are typed.

Each `parse_` function raises UsageError for invalid text, with the expected form. Each class wraps one for click.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

import click

from tracer.model.errors import UsageError
from tracer.model.filters import Network
from tracer.model.kinds import EVENTS

T = TypeVar("T")

_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?", re.ASCII)
_DURATION_UNITS_S = (86400, 3600, 60, 1, 0.001)
_DURATION_FORM = "expected 90s, 10m, 1h30m or 2d"
_MAX_DURATION_S = 100 * 365 * 86400
_SIZE = re.compile(r"(\d{1,9})([kMG]?)", re.ASCII)
_SIZE_UNITS = {"": 1, "k": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_MIN_SIZE = 4096  # little more than a header
_MIN_RING_BYTES, _MAX_RING_BYTES = 1 << 16, 1 << 30
_MAX_PORT = 65535
_MAX_PID = 4 * 1024 * 1024  # PID_MAX_LIMIT, include/linux/threads.h
_MAX_SHOWN = 60
"""Characters of an invalid value that an error repeats."""


def parse_duration(text: str) -> float:
    """Seconds of `90s`, `10m`, `1h30m`, `2d`, `800ms`. A number without a unit is invalid."""
    match = _DURATION.fullmatch(text)
    if not text or match is None:
        hint = f"{text}s is in seconds, {text}m in minutes" if _is_number(text) else "10m"
        raise UsageError(f"invalid duration {shortened(text)!r} ({_DURATION_FORM})", hint=shortened(hint))
    parts = zip(match.groups(), _DURATION_UNITS_S, strict=True)
    total_s = sum(float(part) * unit_s for part, unit_s in parts if part is not None)
    if total_s > _MAX_DURATION_S:
        raise UsageError(f"duration {shortened(text)!r} is longer than 100 years ({_DURATION_FORM})", hint="2d")
    return total_s


def parse_size(text: str) -> int:
    """Bytes of `500k`, `100M`, `1G`, at least 4k."""
    match = _SIZE.fullmatch(text)
    size = int(match[1]) * _SIZE_UNITS[match[2]] if match is not None else 0
    if size < _MIN_SIZE:
        raise UsageError(f"invalid size {shortened(text)!r} (expected at least 4k)", hint="500k, 100M or 1G")
    return size


def parse_buffer_size(text: str) -> int:
    """Bytes of the kernel's ring buffer: the size that was typed, rounded up to a power of two."""
    try:
        size = parse_size(text)
    except UsageError:
        size = 0
    if not _MIN_RING_BYTES <= size <= _MAX_RING_BYTES:
        raise UsageError(f"invalid buffer size {shortened(text)!r} (expected 64k to 1G)", hint="--buffer-size 64M")
    return int(1 << (size - 1).bit_length())


def parse_port(text: str) -> int:
    """A number from 1 to 65535, or a name of /etc/services."""
    if _is_number(text):
        if len(text) <= len(str(_MAX_PORT)) and 1 <= int(text) <= _MAX_PORT:
            return int(text)
    else:
        try:
            return socket.getservbyname(text, "tcp")
        except (OSError, ValueError):
            pass
    raise UsageError(
        f"invalid port {shortened(text)!r} (expected 1 to {_MAX_PORT}, or a name of /etc/services)",
        hint="--port 3306,11300",
    )


def parse_host(text: str) -> Network:
    """An address or a CIDR block. A v4-mapped block is IPv4."""
    try:
        # The kernel compares addresses without their interface (fe80::1%eth0).
        network = ipaddress.ip_network(text.replace("%", "no"), strict=False)
    except ValueError:
        is_name = re.fullmatch(r"[A-Za-z][A-Za-z0-9.-]*", text, re.ASCII) is not None
        raise UsageError(
            f"invalid address {shortened(text)!r} (expected an IPv4 or IPv6 address, or a CIDR block)",
            hint=f"getent ahosts {shortened(text)} shows the addresses of a name"
            if is_name
            else "--host 10.1.2.3, --host 10.1.0.0/16 or --host 2001:db8::/32",
        ) from None
    if isinstance(network, ipaddress.IPv6Network) and network.network_address.ipv4_mapped and network.prefixlen >= 96:
        return ipaddress.ip_network((network.network_address.ipv4_mapped, network.prefixlen - 96))
    return network


def parse_event(text: str) -> str:
    """One of EVENTS."""
    if text not in EVENTS:
        similar = difflib.get_close_matches(text, EVENTS, n=1)
        raise UsageError(
            f"invalid event {shortened(text)!r} (expected {', '.join(EVENTS[:-1])} or {EVENTS[-1]})",
            hint=f"--event {similar[0] if similar else 'stall'}",
        )
    return text


def parse_pid(text: str) -> int:
    """A process id."""
    if not (_is_number(text) and len(text) < 10 and 0 < int(text) <= _MAX_PID):
        raise UsageError(
            f"invalid process id {shortened(text)!r} (expected 1 to {_MAX_PID})",
            hint=f"pgrep -d, {shortened(text)} shows the ids of a name; --comm {shortened(text)}"
            if re.fullmatch(r"[A-Za-z][\w.-]*", text, re.ASCII)
            else "--pid 8506",
        )
    return int(text)


def parse_comm(text: str) -> str:
    """A process's name. Bytes that are not UTF-8 are escaped as in events."""
    if not text:
        raise UsageError("invalid process name '' (expected the name of a process or program)", hint="--comm php")
    return os.fsencode(text).decode("utf-8", "backslashreplace")


def shortened(text: str) -> str:
    """The part of an invalid value that an error repeats."""
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 3]}..."


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def option_name(option: click.Parameter | None) -> str:
    """The long name of an option, for errors."""
    return max(option.opts, key=len) if option is not None else "the value"


class Parsed(click.ParamType, Generic[T]):
    """A value that a `parse_` function makes of its text."""

    def __init__(self, name: str, parse: Callable[[str], T]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> T | Any:
        """Parse the text; a value that is parsed already is returned."""
        return self._parse(value) if isinstance(value, str) else value


class Listed(click.ParamType, Generic[T]):
    """Values with commas between them, for an option that may be repeated."""

    def __init__(self, name: str, parse: Callable[[str], T]) -> None:
        self.name = name
        self._parse = parse

    def convert(
        self, value: Any, param: click.Parameter | None, context: click.Context | None
    ) -> tuple[T, ...] | Any:
        """Parse each of the values."""
        return tuple(self._parse(word.strip()) for word in value.split(",")) if isinstance(value, str) else value


class PositiveDuration(click.ParamType):
    """A duration in seconds, greater than zero."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> float | Any:
        """Parse the duration."""
        if not isinstance(value, str):
            return value
        duration_s = parse_duration(value)
        if duration_s <= 0:
            name = option_name(param)
            raise UsageError(f"{name} must be greater than zero", hint=f"{name} 10m")
        return duration_s


class NewRecording(click.ParamType):
    """The path of a file to record to."""

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> Path:
        """Refuse an empty name, and standard output."""
        if value == "":
            name = option_name(param)
            raise UsageError(f"{name} needs the name of a file", hint=f"{name} now.tw")
        if value == "-":
            raise UsageError(
                "cannot record to standard output", hint="tcpwatch --json > FILE, or give a name: now.tw"
            )
        return Path(value)


DURATION = PositiveDuration()
SIZE = Parsed("size", parse_size)
BUFFER_SIZE = Parsed("size", parse_buffer_size)
RECORDING = NewRecording()
PORTS = Listed("port", parse_port)
HOSTS = Listed("address", parse_host)
PIDS = Listed("pid", parse_pid)
COMMS = Listed("name", parse_comm)
EVENT_KINDS = Listed("event", parse_event)
