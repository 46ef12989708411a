"""The first line of a recording: which version of the format, and where and how it was made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from tracer.model.fields import MAX_NUMBER
from tracer.model.filters import Filter
from tracer.model.times import InvalidTime, parse_time

FORMAT = "tcpwatch"
HEADER_START = b'{"format":"tcpwatch",'
"""What a header begins with. No text in a JSON line can contain it: there each quotation mark is escaped."""
VERSION = 1
"""Goes up by one with each incompatible change of the format, whatever the tool's version does."""
_MOST_HZ = 100_000  # no kernel comes near
_MOST_TEXT = 256  # characters; uname(2) has 64 at most

_OF_CONNECTIONS = frozenset({"ports", "lports", "rports", "hosts", "family", "netns"})
"""The filters that leave out whole connections, and nothing of those that they let through."""


class InvalidHeader(ValueError):
    """The line is not the header of a recording that we can read; the text says why."""


class NewerVersion(InvalidHeader):
    """It is one, and made by a tcpwatch that is newer than this one."""


@dataclass(frozen=True, slots=True)
class Header:
    """Everything that a recording must say so that it can be read elsewhere and later."""

    tool: str  # tcpwatch's version
    kernel: str  # uname -r
    host: str
    started: str  # RFC 3339, UTC
    clock_offset_ns: int  # wall clock minus CLOCK_BOOTTIME at the start
    utc_offset_s: int  # local time of the host, seconds east of UTC: replay shows the same times
    hz: int  # jiffies per second: how fine silent_ms and rto_ms are
    run: str = ""  # random; the same in all files of one run of tcpwatch
    filters: Mapping[str, Any] = field(default_factory=dict)
    sysctls: Mapping[str, int] = field(default_factory=dict)  # of the host's own network namespace
    series: str = ""  # with a rotation: the file name that was given, which the names of all its files derive from
    number: int = 0  # its place in the series, from 1 on: the order of the files, whatever the clock did; 0: unknown

    @property
    def started_ns(self) -> int:
        """When the recording began, CLOCK_BOOTTIME of its host; 0 where the header does not say."""
        try:
            return parse_time(self.started) - self.clock_offset_ns
        except InvalidTime:
            return 0

    @property
    def is_whole(self) -> bool:
        """Whether it has every event of its connections: then its stalls can be found again."""
        return self.filters.keys() <= _OF_CONNECTIONS

    @property
    def keeps_counts(self) -> bool:
        """Whether it has every event of the namespaces that it is about: then the kernel's counts are of the same."""
        return self.filters.keys() <= {"netns"}

    @property
    def min_idle_ms(self) -> int | None:
        """The shortest silence of which it has events, milliseconds (--min-idle); None: not filtered."""
        value = self.filters.get("min_idle_ms")
        return value if type(value) is int and value > 0 else None

    def to_line(self) -> str:
        """One line of JSON, with its newline."""
        record = {"format": FORMAT, "version": VERSION, **asdict(self)}
        if not self.number:
            del record["series"], record["number"]
        return json.dumps(record, separators=(",", ":")) + "\n"


def header_from_line(line: bytes) -> Header:
    """Raises InvalidHeader for anything else than a header of a version that we know."""
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
        raise NewerVersion(f"format version {version:.6g} is newer than this tcpwatch reads ({VERSION})")
    hz = _number(record, "hz")
    number = max(0, min(MAX_NUMBER, _number(record, "number")))
    return Header(
        tool=_text(record, "tool"),
        kernel=_text(record, "kernel"),
        host=_text(record, "host"),
        started=_text(record, "started"),
        clock_offset_ns=_number(record, "clock_offset_ns"),
        utc_offset_s=max(-86399, min(86399, _number(record, "utc_offset_s"))),
        hz=hz if 0 < hz <= _MOST_HZ else 0,
        run=_text(record, "run"),
        filters=_mapping(record, "filters"),
        sysctls=_mapping(record, "sysctls"),
        series=_text(record, "series") if number else "",
        number=number,
    )


def _text(record: Mapping[str, Any], name: str) -> str:
    value = record.get(name, "")
    return value[:_MOST_TEXT] if isinstance(value, str) else ""


def _number(record: Mapping[str, Any], name: str) -> int:
    value = record.get(name, 0)
    return value if type(value) is int else 0


def _mapping(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = record.get(name, {})
    return value if isinstance(value, dict) else {}


def describe_filter(wanted: Filter) -> dict[str, Any]:
    """The filter as the header keeps it: only the options that were given."""
    options: dict[str, Any] = {
        "ports": sorted(wanted.ports),
        "lports": sorted(wanted.lports),
        "rports": sorted(wanted.rports),
        "hosts": [str(network) for network in wanted.hosts],
        "family": wanted.family,
        "netns": sorted(wanted.netns),
        "pids": sorted(wanted.pids),
        "comms": sorted(wanted.comms),
        "events": sorted(wanted.events),
        "min_idle_ms": wanted.min_idle_ms,
    }
    return {name: value for name, value in options.items() if value not in (None, [])}
