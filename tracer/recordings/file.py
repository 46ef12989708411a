"""One file of a recording.

Bytes that the kernel does not accept stay in memory, and are written by the next call. A full disk leaves neither
half a line nor a damaged compressed stream, and no event twice. `cut` discards these bytes and keeps what was
flushed.
"""

from __future__ import annotations

import os
import stat
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tracer.model.events import Event
from tracer.recordings.compression import Compressor, compressor_for, is_compressed
from tracer.recordings.encoding import to_line
from tracer.recordings.failures import FULL
from tracer.recordings.header import Header
from tracer.recordings.missing import Missing

COMPRESSED_FLUSH_S = 1.0
"""Seconds between two flushes of a compressed recording: each flush makes it larger."""
MAX_LINES = 1024
"""Lines that wait to be compressed and written together."""
MAX_CHUNK = 1 << 15
"""Bytes of lines between two points at which a file can be cut: the most that a full disk costs."""


class _Mark(NamedTuple):
    """A point at which a file can end: its length in bytes, its events, and the bytes that complete it."""

    length: int
    events: int
    end: bytes


class RecordingFile:
    """Takes events, and compresses them as the suffix of path asks for.

    All methods but `cut` and `release` raise OSError. fd: open for writing; this object closes it. before_write is
    called with the number of bytes that the file is about to grow by. make_room is called when the disk is full, and
    returns whether to try again.
    """

    def __init__(
        self,
        path: Path,
        fd: int,
        header: Header,
        *,
        before_write: Callable[[int], None] = lambda size: None,
        make_room: Callable[[], bool] = lambda: False,
    ) -> None:
        self.path = path
        self.number = header.number
        self.last: Event | None = None  # the last one that was added
        self._fd = fd
        status = os.fstat(fd)
        self.identity = status.st_dev, status.st_ino
        self._before_write = before_write
        self._make_room = make_room
        self._flush_s = COMPRESSED_FLUSH_S if is_compressed(path) else 0.0
        self._is_open = True
        self._begin_at(0, header)

    def _begin_at(self, size: int, header: Header) -> None:
        """Start a recording behind this many bytes of the file."""
        self._compressor: Compressor = compressor_for(self.path)
        self._flushed = time.monotonic()
        self.added = 0  # events
        self._lines: list[str] = []  # not compressed yet
        self._written = size  # bytes
        self._compressed = 0  # events
        self._marks: deque[_Mark] = deque()  # that are not written yet
        self._whole = _Mark(size, 0, b"")
        self._out = self._compressor.compress(header.to_line().encode())  # not written yet

    @property
    def kept(self) -> int:
        """Events that `cut` leaves in the file, those that it counts as missing included."""
        return self._whole.events

    @property
    def size(self) -> int:
        """Bytes on disk."""
        if not self._is_open:
            return self._size
        try:
            return os.fstat(self._fd).st_size
        except OSError:  # ESTALE: a server of NFS does not know the file any more
            return self._written

    @property
    def is_deleted(self) -> bool:
        """Whether another program removed the file, so that nothing of it is left once it is closed."""
        try:
            return os.fstat(self._fd).st_nlink == 0 and not self.is_in_place
        except OSError:
            return False

    @property
    def is_truncated(self) -> bool:
        """Whether another program truncated the file, as `logrotate` does with copytruncate."""
        return self.size < self._written

    @property
    def is_in_place(self) -> bool:
        """Whether path still names this file."""
        try:
            status = self.path.lstat()
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self.identity

    @classmethod
    def begin(
        cls,
        path: Path,
        fd: int,
        header: Header,
        *,
        missing: Missing | None = None,
        before_write: Callable[[int], None] = lambda size: None,
        make_room: Callable[[], bool] = lambda: False,
    ) -> RecordingFile:
        """Start the recording in a file that this process has just created. Removes the file if that fails.

        missing: counted at its beginning. Raises OSError, or TcpwatchError if the compressor's library is missing.
        """
        try:
            file = cls(path, fd, header, before_write=before_write, make_room=make_room)
            if missing is not None and missing.count:
                file.add_missing(missing)
            file._sync()
        except BaseException:
            _remove(path, fd)
            os.close(fd)
            raise
        return file

    def start_again(self, header: Header) -> int:
        """Start a recording behind what another program left of the file. Returns the number of unwritten events."""
        unwritten = self.added - self.kept
        self._begin_at(self.size, header)
        return unwritten

    def forget(self) -> int:
        """Count no event as kept, because another program removed the file. Returns the number of lost events."""
        lost, self.added = self.added, 0
        self._lines, self._out, self._whole = [], b"", _Mark(0, 0, b"")
        self._marks.clear()
        return lost

    def add(self, events: Sequence[Event]) -> None:
        """Add events. They may wait until the next `flush`."""
        if not events:
            return
        self._lines += map(to_line, events)
        self.added += len(events)
        self.last = events[-1]
        if len(self._lines) >= MAX_LINES:
            self._compress()
            self._drain()

    def add_missing(self, missing: Missing) -> None:
        """Add a `lost` event for all missing events."""
        self.last = missing.event()
        self._compress()
        self._out += self._compressor.compress(to_line(self.last).encode())
        self.added += missing.count
        self._compressed += missing.count

    def flush(self) -> None:
        """Hand everything to the kernel, where a reader sees it and the death of this process does not lose it."""
        now = time.monotonic()
        if now - self._flushed >= self._flush_s:
            self._sync()
            self._flushed = now
        else:
            self._compress()
            self._drain()

    def close(self) -> None:
        """Flush, complete and close the file."""
        self._sync()
        self._out = self._whole.end
        self._drain()
        self.release()

    def cut(self) -> int:
        """Truncate the file to its last mark, and complete it. Returns the number of events that are discarded."""
        discarded = self.added - self.kept
        self.added, self._lines, self._out = self.kept, [], b""
        length, end = self._whole.length, self._whole.end
        try:
            os.ftruncate(self._fd, length)
            if end and _write(self._fd, end) < len(end):
                os.ftruncate(self._fd, length)
        except OSError:  # the reader reports the missing end
            with suppress(OSError):
                os.ftruncate(self._fd, length)
        return discarded

    def release(self) -> None:
        """Close the descriptor, which releases the lock."""
        if self._is_open:
            self._size = self.size
            self._is_open = False
            os.close(self._fd)

    def _compress(self) -> None:
        lines, self._lines = self._lines, []
        for chunk in _chunks(lines):
            self._out += self._compressor.compress("".join(chunk).encode())
            self._compressed += len(chunk)
            if len(chunk) < len(lines):
                self._mark()

    def _mark(self) -> None:
        self._out += self._compressor.flush()
        self._marks.append(_Mark(self._written + len(self._out), self._compressed, self._compressor.end()))

    def _sync(self) -> None:
        self._compress()
        self._mark()
        self._drain()

    def _drain(self) -> None:
        self._pass_marks()
        if self._out:
            self._before_write(len(self._out))
        while self._out:
            try:
                written = _write(self._fd, self._out)
            except OSError as error:
                if error.errno in FULL and self._make_room():
                    continue
                raise
            self._written += written
            self._out = self._out[written:]
            self._pass_marks()

    def _pass_marks(self) -> None:
        while self._marks and self._marks[0].length <= self._written:
            self._whole = self._marks.popleft()


def create(path: Path) -> int:
    """Create a file of mode 0600. Returns a descriptor for writing. Raises OSError, FileExistsError included."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)


def _chunks(lines: list[str]) -> Iterator[list[str]]:
    begin = size = 0
    for number, line in enumerate(lines):
        size += len(line)
        if size >= MAX_CHUNK:
            yield lines[begin : number + 1]
            begin, size = number + 1, 0
    if begin < len(lines):
        yield lines[begin:]


def _remove(path: Path, fd: int) -> None:
    with suppress(OSError):
        status = os.fstat(fd)
        if stat.S_ISREG(status.st_mode) and os.path.samestat(path.lstat(), status):
            path.unlink()


_write = os.write
