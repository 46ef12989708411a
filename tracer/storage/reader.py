"""A recording → events."""

from __future__ import annotations

import io
import json
import shlex
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from tracer.errors import TcpwatchError
from tracer.events import EVENTS, Batch, Event, InvalidEvent, from_json
from tracer.storage.compression import DAMAGED, unpacked
from tracer.storage.header import FORMAT, HEADER_START, Header, InvalidHeader, NewerVersion, header_from_line
from tracer.storage.lines import line_event

LONGEST_LINE = 1 << 20
"""Bytes. No event comes near; without a limit a file of ten gigabytes without a newline would fill the memory."""
BATCH = 128
BATCH_BYTES = 1 << 20
"""A batch has no more lines than that, and is over after so many bytes of them."""
KINDS = 8
"""Unknown kinds of event that are named."""
_MAGIC = {b"\xfd7": "xzcat", b"BZ": "bzcat"}
_MADE_BY = "a recording is made by: sudo tcpwatch record -o FILE"
_UPGRADE = "upgrade tcpwatch to read it; tcpwatch --version"


class RecordingReader:
    """The events of a file, plain or packed, in batches. `-` is standard input.

    A file may have several recordings, one after the other, as `cat` makes it. The constructor reads the first one's
    header; iterating gives the batches of the recording that header is of, and begin_next goes on to the one after
    it. is_cut: of the recording that was read last the end is missing.

    A last line that was cut off in the middle is normal after a crash, and events of a kind that we do not know come
    from a newer tcpwatch: warn is told, and the other events stand. Anything else that is not an event raises
    TcpwatchError with the number of its line.
    """

    def __init__(self, path: Path, warn: Callable[[str], None]) -> None:
        self.name = "standard input" if str(path) == "-" else str(path)
        self._path = path
        self._warn = warn
        self.is_cut = self._is_cut_packed = False
        self._number = 1  # of the line that was read last
        self._next: Header | None = None
        self._unknown: Counter[str] = Counter()  # events, by kind
        self._file = self._open()
        self._stream, self._unpacker = self._unpacked()
        self.header = self._read_header()

    def __enter__(self) -> RecordingReader:
        return self

    def __exit__(self, *_: object) -> None:
        if self._unknown:
            count, kinds = self._unknown.total(), ", ".join(self._unknown)
            self._warn(
                f"{self.name}: {count:,} event{'' if count == 1 else 's'} of a kind that this tcpwatch does not know "
                f"({kinds}): left out; a newer tcpwatch shows them"
            )
        self._stream.close()
        self._file.close()

    def begin_next(self) -> bool:
        """Whether another recording follows the one whose events were read; header is its, then."""
        if self._next is None:
            return False
        self.header, self._next, self.is_cut = self._next, None, False
        return True

    def __iter__(self) -> Iterator[Batch]:
        batch: list[Event] = []
        size = 0
        try:
            while self._next is None and (line := self._read_line()):
                self._number += 1
                size += len(line)
                event = line_event(line)
                if event is None:
                    self._take(line, batch)
                else:
                    batch.append(event)
                if len(batch) >= BATCH or size >= BATCH_BYTES:
                    yield _batch(batch)
                    batch, size = [], 0
        except TcpwatchError:
            yield _batch(batch)
            raise
        yield _batch(batch)
        if self._is_cut_packed:
            self._warn(f"{self.name}: its packed data is cut off at the end; what stands before that is shown")

    def _take(self, line: bytes, batch: list[Event]) -> None:
        """One line: an event, or the header of the next recording; and what a crash left of the one before it."""
        try:
            record = json.loads(line)
            if isinstance(record, dict):
                if record.get("format") == FORMAT:
                    self._next = header_from_line(line)
                    return
                kind = record.get("event")
                if isinstance(kind, str) and kind not in EVENTS:
                    self._unknown[kind[:40] if len(self._unknown) < KINDS else "…"] += 1
                    return
            batch.append(from_json(record))
        except NewerVersion as error:
            raise TcpwatchError(
                f"{self.name}: line {self._number} begins a recording that cannot be read: {error}", hint=_UPGRADE
            ) from None
        except (ValueError, RecursionError) as error:
            start = line.rfind(HEADER_START)
            if start > 0:
                # A recording that was cut off, and another one appended to it.
                self._take(line[:start].rpartition(HEADER_START)[2], batch)
                self._take(line[start:], batch)
            elif line.endswith(b"\n") or len(line) >= LONGEST_LINE:
                raise self._damage(error) from None
            else:
                self.is_cut = True
                self._warn(f"{self.name}: line {self._number} was cut off, as by a crash, and is left out")

    def _open(self) -> io.BufferedReader:
        try:
            if str(self._path) == "-":
                return io.BufferedReader(io.FileIO(0, closefd=False))
            return self._path.open("rb")
        except OSError as error:
            raise self._unreadable(error) from error

    def _unpacked(self) -> tuple[BinaryIO, str]:
        try:
            return unpacked(self.name, self._file)
        except OSError as error:
            raise self._unreadable(error) from error

    def _read_line(self) -> bytes:
        try:
            return self._stream.readline(LONGEST_LINE)
        except EOFError:
            self.is_cut = self._is_cut_packed = True
            return b""
        except DAMAGED as error:
            raise TcpwatchError(
                f"{self.name}: its packed data is damaged: {error}", hint="what stood before the damage was read"
            ) from error
        except OSError as error:
            raise self._unreadable(error) from error

    def _read_header(self) -> Header:
        line = self._read_line()
        if not line:
            how = "is cut off before its header" if self.is_cut else "is empty"
            raise TcpwatchError(f"{self.name} {how}", hint=_MADE_BY)
        for magic, tool in _MAGIC.items():
            if line.startswith(magic):
                raise TcpwatchError(
                    f"{self.name} is compressed", hint=f"{tool} {self._argument()} | tcpwatch replay -"
                )
        try:
            return header_from_line(line)
        except NewerVersion as error:
            raise TcpwatchError(f"{self.name} cannot be read: {error}", hint=_UPGRADE) from None
        except InvalidHeader as error:
            raise TcpwatchError(f"{self.name} is no recording: {error}", hint=_MADE_BY) from None

    def _damage(self, error: Exception) -> TcpwatchError:
        what = f": {error}" if isinstance(error, InvalidEvent | InvalidHeader) else ""
        around = f"sed {self._number}d {self._argument()}"
        if self._unpacker:
            around = f"{self._unpacker} {self._argument()} | sed {self._number}d"
        return TcpwatchError(
            f"{self.name}: line {self._number} is damaged{what}",
            hint=f"read around it: {around} | tcpwatch replay -",
        )

    def _unreadable(self, error: OSError) -> TcpwatchError:
        return TcpwatchError(f"cannot read {self.name}: {error.strerror}", hint=f"ls -l {self._argument()}")

    def _argument(self) -> str:
        """The file as a shell takes it, whatever its name."""
        return shlex.quote(str(self._path))


def _batch(events: list[Event]) -> Batch:
    """As far as the file goes it is complete: what comes later in it is later."""
    return Batch(events, events[-1].ktime_ns if events else 0)
