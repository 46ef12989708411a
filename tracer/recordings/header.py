"""The header of a recording, its first line: version of the format, host, clocks and filters."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, field
from typing import Any

from tracer.model.dataclass import dataclass
from tracer.model.fields import MAX_NUMBER
from tracer.model.filters import Filter, collapsed
from tracer.model.kinds import COMPACT, Kind
from tracer.model.times import InvalidTime, parse_time

FORMAT = "tcpwatch"
HEADER_START = b'{"format":"tcpwatch",'
"""The beginning of each header. No text in a JSON line contains it, because quotation marks are escaped there."""
VERSION = 1
"""Increases with each incompatible change of the format, independent of the tool's version."""
_MAX_HZ = 100_000  # far more than any kernel has
_MAX_TEXT = 256  # characters; uname(2) has 64 at most

_OF_CONNECTIONS = frozenset({"ports", "lports", "rports", "hosts", "family", "netns"})
"""Filters of connections. All events of the remaining connections are recorded."""


class InvalidHeader(ValueError):
    """The line is not a valid header; the text gives the reason."""


class NewerVersion(InvalidHeader):
    """The header was written by a newer tcpwatch."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a reader on another host needs to know about a recording."""

    tool: str  # tcpwatch's version
    kernel: str  # uname -r
    host: str
    started: str  # RFC 3339, UTC
    clock_offset_ns: int  # wall clock minus CLOCK_BOOTTIME at the start
    utc_offset_s: int  # local time of the host, seconds east of UTC: replay shows the same times
    hz: int  # jiffies per second: the resolution of silent_ms and rto_ms
    run: str = ""  # a random id that all files of one run of tcpwatch share
    filters: Mapping[str, Any] = field(default_factory=dict)
    sysctls: Mapping[str, int] = field(default_factory=dict)  # of the host's own network namespace
    series: str = ""  # with a rotation: the file name of -o
    number: int = 0  # position in the series, from 1; 0: unknown
    netns: int = 0  # inode of the host's own network namespace; 0: unknown
    compact: bool = False  # of the events only stalls, and what else a report needs, are recorded

    @property
    def started_ns(self) -> int:
        """When the recording began, CLOCK_BOOTTIME of its host; 0 if unknown."""
        try:
            return parse_time(self.started) - self.clock_offset_ns
        except InvalidTime:
            return 0

    @property
    def is_whole(self) -> bool:
        """Whether every event of its connections is recorded, so that its stalls can be found again."""
        return self.filters.keys() <= _OF_CONNECTIONS and not self.compact

    @property
    def has_all_stalls(self) -> bool:
        """Whether every `stall` event of its connections is recorded."""
        if not self.filters.keys() <= _OF_CONNECTIONS | {"events"}:
            return False
        kinds = self.filters.get("events", (Kind.STALL,))
        return isinstance(kinds, (list, tuple)) and Kind.STALL in kinds

    @property
    def keeps_counts(self) -> bool:
        """Whether every event of its namespaces is recorded or counted, to compare with the kernel's counts."""
        return self.filters.keys() <= {"netns", *(["events"] if self.compact else [])}

    @property
    def min_idle_ms(self) -> int | None:
        """The --min-idle of the recording, milliseconds; None: not filtered."""
        value = self.filters.get("min_idle_ms")
        return value if type(value) is int and value > 0 else None

    def to_line(self) -> str:
        """One line of JSON, with its newline."""
        record = {"format": FORMAT, "version": VERSION, **asdict(self)}
        if not self.number:
            del record["series"], record["number"]
        if not self.compact:
            del record["compact"]
        return json.dumps(record, separators=(",", ":")) + "\n"


def header_from_line(line: bytes) -> Header:
    """Raises InvalidHeader for anything but a header of a known version."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        raise InvalidHeader("its first line is not a tcpwatch header") from None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise InvalidHeader("its first line is not a tcpwatch header")
    version = record.get("version")
    if type(version) is not int or version < 1:
        raise InvalidHeader("its header has no version")
    if version > VERSION:
        shown = f"{min(version, MAX_NUMBER):.6g}"
        raise NewerVersion(f"format version {shown} is newer than this tcpwatch reads ({VERSION})")
    hz = _number(record, "hz")
    number = max(0, min(MAX_NUMBER, _number(record, "number")))
    return Header(
        tool=_text(record, "tool"),
        kernel=_text(record, "kernel"),
        host=_text(record, "host"),
        started=_text(record, "started"),
        clock_offset_ns=_number(record, "clock_offset_ns"),
        utc_offset_s=max(-86399, min(86399, _number(record, "utc_offset_s"))),
        hz=hz if 0 < hz <= _MAX_HZ else 0,
        run=_text(record, "run"),
        filters=_mapping(record, "filters"),
        sysctls=_mapping(record, "sysctls"),
        series=_text(record, "series") if number else "",
        number=number,
        netns=max(0, min(MAX_NUMBER, _number(record, "netns"))),
        compact=record.get("compact") is True,
    )


def _text(record: Mapping[str, Any], name: str) -> str:
    value = record.get(name, "")
    return value[:_MAX_TEXT] if isinstance(value, str) else ""


def _number(record: Mapping[str, Any], name: str) -> int:
    value = record.get(name, 0)
    return value if type(value) is int else 0


def _mapping(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = record.get(name, {})
    return value if isinstance(value, dict) else {}


def describe_filter(wanted: Filter, *, is_compact: bool = False) -> dict[str, Any]:
    """The filter as in a header: the options that were given, and the kinds of event in a compact recording."""
    options: dict[str, Any] = {
        "ports": collapsed(wanted.ports),
        "lports": collapsed(wanted.lports),
        "rports": collapsed(wanted.rports),
        "hosts": [str(network) for network in wanted.hosts],
        "family": wanted.family,
        "netns": sorted(wanted.netns),
        "pids": sorted(wanted.pids),
        "comms": sorted(wanted.comms),
        "containers": sorted(wanted.containers),
        "pods": sorted(wanted.pods),
        "units": sorted(wanted.units),
        "events": sorted(map(str, COMPACT)) if is_compact else sorted(wanted.events),
        "min_idle_ms": wanted.min_idle_ms,
    }
    return {name: value for name, value in options.items() if value not in (None, [])}
