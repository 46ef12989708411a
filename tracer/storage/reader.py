"""A recording → events."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from tracer.errors import TcpwatchError
from tracer.events import Batch, Event, InvalidEvent, from_json
from tracer.storage.compression import DAMAGED, unpacked
from tracer.storage.header import Header, InvalidHeader, header_from_line

LONGEST_LINE = 1 << 20
"""Bytes. No event comes near; without a limit a file of ten gigabytes without a newline would fill the memory."""
BATCH = 1024
_MAGIC = {b"\xfd7": "xzcat", b"BZ": "bzcat"}


class RecordingReader:
    """The events of one recording, plain or packed, in batches. `-` is standard input.

    header is read by the constructor. A last line that was cut off in the middle is normal after a
    crash: warn is told, and the events before it stand. Anything else that is not an event raises
    TcpwatchError with the number of its line.
    """

    def __init__(self, path: Path, warn: Callable[[str], None]) -> None:
        self.name = "standard input" if str(path) == "-" else str(path)
        self._warn = warn
        self._is_cut = False
        self._file = self._open(path)
        self._stream = self._unpacked()
        self.header = self._read_header()

    def __enter__(self) -> RecordingReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self._file.close()

    def __iter__(self) -> Iterator[Batch]:
        batch: list[Event] = []
        number = 1
        while line := self._read_line():
            number += 1
            try:
                batch.append(from_json(json.loads(line)))
            except (ValueError, RecursionError) as error:
                if not line.endswith(b"\n") and len(line) < LONGEST_LINE:
                    self._warn(f"{self.name}: the last line is incomplete and was left out")
                    break
                yield _batch(batch)
                raise self._damage(number, error) from None
            if len(batch) >= BATCH:
                yield _batch(batch)
                batch = []
        yield _batch(batch)
        if self._is_cut:
            self._warn(f"{self.name}: its packed data is cut off at the end; what stands before that is shown")

    def _open(self, path: Path) -> io.BufferedReader:
        if str(path) == "-":
            return io.BufferedReader(io.FileIO(sys.stdin.fileno(), closefd=False))
        try:
            return path.open("rb")
        except OSError as error:
            raise TcpwatchError(f"cannot read {path}: {error.strerror}", hint=f"ls -l {path}") from error

    def _unpacked(self) -> BinaryIO:
        try:
            return unpacked(self.name, self._file)
        except OSError as error:
            raise TcpwatchError(f"cannot read {self.name}: {error.strerror}", hint=f"ls -l {self.name}") from error

    def _read_line(self) -> bytes:
        try:
            return self._stream.readline(LONGEST_LINE)
        except EOFError:
            self._is_cut = True
            return b""
        except DAMAGED as error:
            raise TcpwatchError(
                f"{self.name}: its packed data is damaged", hint="what stood before the damage was read"
            ) from error
        except OSError as error:
            raise TcpwatchError(f"cannot read {self.name}: {error.strerror}", hint=f"ls -l {self.name}") from error

    def _read_header(self) -> Header:
        line = self._read_line()
        if not line:
            how = "is cut off before its header" if self._is_cut else "is empty"
            raise TcpwatchError(f"{self.name} {how}", hint="a recording is made by: sudo tcpwatch record -o FILE")
        for magic, tool in _MAGIC.items():
            if line.startswith(magic):
                raise TcpwatchError(f"{self.name} is compressed", hint=f"{tool} {self.name} | tcpwatch replay -")
        try:
            return header_from_line(line)
        except InvalidHeader as error:
            hint = "a recording is made by: sudo tcpwatch record -o FILE"
            if "version" in str(error):
                hint = "upgrade tcpwatch to read it; tcpwatch --version"
            raise TcpwatchError(f"{self.name} is no recording: {error}", hint=hint) from None

    def _damage(self, number: int, error: Exception) -> TcpwatchError:
        what = f": {error}" if isinstance(error, InvalidEvent) else ""
        return TcpwatchError(
            f"{self.name}: line {number} is damaged{what}",
            hint=f"read around it: sed {number}d {self.name} | tcpwatch replay -",
        )


def _batch(events: list[Event]) -> Batch:
    """As far as the file goes it is complete: what comes later in it is later."""
    return Batch(events, events[-1].ktime_ns if events else 0)
