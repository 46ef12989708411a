"""The order of the files of a series, and the beginning of a recording's file: without a lock, on any system."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path

from tracer.model.errors import TcpwatchError
from tracer.recordings.compression import decompressed
from tracer.recordings.header import Header, header_from_line

STAMPED = r"-\d{8}T\d{6}\.\d{3}Z"
"""What the name of a file of a series has before its suffix: the time of its start."""
_STAMPED_NAME = re.compile(STAMPED + r"\.")
_BEGINNING = 1 << 16
"""Bytes at the beginning of a file that hold a header and an event."""
_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def in_order(files: Sequence[Path]) -> list[Path]:
    """Sort the files of each series by number. Each series keeps its places among the files.

    Names sort them by the clock, which may have been set back. A file that cannot be read keeps its place.
    """
    places: dict[tuple[Path, str, str], list[int]] = {}
    numbers: dict[int, int] = {}
    for place, file in enumerate(files):
        header = header_of(file) if _STAMPED_NAME.search(file.name) else None
        if header is not None and header.number:
            places.setdefault((file.parent, header.host, header.series), []).append(place)
            numbers[place] = header.number
    ordered = list(files)
    for of_series in places.values():
        for place, taken_from in zip(of_series, sorted(of_series, key=numbers.__getitem__)):
            ordered[place] = files[taken_from]
    return ordered


def header_of(file: Path) -> Header | None:
    """The header of a recording; None for anything else than a regular file with one."""
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            return None
        fd = os.open(file, _READ)
    except (OSError, ValueError):
        return None
    try:
        found = beginning_of(str(file), fd)
    finally:
        os.close(fd)
    return found[0] if found is not None else None


def beginning_of(name: str, fd: int) -> tuple[Header, bool] | None:
    """The header of a recording, and whether a complete line follows; None if it cannot be read."""
    try:
        data = os.read(fd, _BEGINNING)
        plain, is_all = decompressed(data, name)
        line, _, rest = plain.partition(b"\n")
        header = header_from_line(line)
    except (OSError, ValueError, TcpwatchError):
        return None
    # If in doubt, the file holds events and is kept.
    return header, b"\n" in rest or not is_all or len(data) == _BEGINNING
