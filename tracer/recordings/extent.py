"""When recordings begin and end, and in which time zones: what `--since 14:02` and `--since -10m` refer to."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterable
from pathlib import Path

from tracer.model.dataclass import dataclass
from tracer.model.errors import TcpwatchError
from tracer.model.times import InvalidTime, parse_time
from tracer.recordings.header import HEADER_START, Header, InvalidHeader, header_from_line
from tracer.recordings.input import Damaged, EndlessLine
from tracer.recordings.source_file import STDIN, SourceFile

_TIME = re.compile(rb'\{"time":"([^"]*)"')


@dataclass(frozen=True, slots=True)
class Extent:
    """The time that recordings cover, nanoseconds since 1970. utc_offsets_s: of their hosts, seconds east of UTC."""

    started_ns: int
    ended_ns: int
    utc_offsets_s: frozenset[int]


def can_be_read_twice(file: Path) -> bool:
    """Whether the extent of this file can be found before it is read. A missing file counts as one that can."""
    if file == STDIN:
        return False
    try:
        mode = file.stat().st_mode
    except (OSError, ValueError):
        return True
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode)


def extent_of(files: Iterable[Path], *, command: str) -> Extent | None:
    """The extent of all files that can be read, each as far as it can be read; None without any."""
    headers: list[Header] = []
    times_ns: list[int] = []
    for file in files:
        if can_be_read_twice(file):
            found, time_ns = _of_file(file, command)
            headers += found
            times_ns += [] if time_ns is None else [time_ns]
    started_ns = [time_ns for header in headers if (time_ns := _started_ns(header)) is not None]
    if not headers or not (started_ns or times_ns):
        return None
    return Extent(
        min([*started_ns, *times_ns]),
        max([*started_ns, *times_ns]),
        frozenset(header.utc_offset_s for header in headers),
    )


def _of_file(file: Path, command: str) -> tuple[list[Header], int | None]:
    """A header for each time zone, the earliest recording's first, and the time of the last event."""
    headers: dict[int, Header] = {}
    last = b""
    try:
        source = SourceFile(file, lambda _: None, command)
    except TcpwatchError:
        return [], None
    try:
        for line in source.lines():
            if line.startswith(HEADER_START):
                header = header_from_line(line)
                headers.setdefault(header.utc_offset_s, header)
            elif line.endswith(b"\n") and _TIME.match(line):
                last = line
    except (EOFError, Damaged, EndlessLine, OSError, InvalidHeader, TcpwatchError):
        pass  # whoever reads the file reports that
    finally:
        source.close()
    match = _TIME.match(last)
    try:
        return list(headers.values()), parse_time(match[1].decode("ascii", "replace")) if match else None
    except InvalidTime:
        return list(headers.values()), None


def _started_ns(header: Header) -> int | None:
    try:
        return parse_time(header.started)
    except InvalidTime:
        return None
