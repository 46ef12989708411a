"""Events → a recording in one file.

What the kernel does not take stays in memory, and goes out with the next call: a full disk leaves neither half a line
nor a damaged compressed stream, and no event twice. `cut` gives up on that, and leaves what was flushed.
"""

from __future__ import annotations

import errno
import os
import shlex
import stat
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from tracer.model.errors import TcpwatchError
from tracer.model.events import RECORDING, Event
from tracer.recordings.compression import Compressor, compressor_for, is_packed
from tracer.recordings.encoding import to_line
from tracer.recordings.header import Header
from tracer.recordings.targets import is_stream

PACKED_FLUSH_S = 1.0
"""A compressed recording can be read up to this long ago: each flush makes it larger."""
MOST_LINES = 1024
"""Lines that wait to be written at once, which is quicker than one by one."""
CHUNK = 1 << 15
"""Bytes of lines after which a file can be cut, at most: less than that is lost where the disk is full."""
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
"""What a write fails with that succeeds once there is space."""


class Missing:
    """How many events are missing, and the last one of them."""

    def __init__(self) -> None:
        self.count = 0
        self._last: Event | None = None

    def add(self, last: Event | None, count: int) -> None:
        """Count some more. last: None where there are none."""
        if count and last is not None:
            self.count += count
            self._last = last

    def event(self) -> Event:
        """The `lost` event that says so."""
        assert self._last is not None
        time_ns, ktime_ns = self._last.time_ns, self._last.ktime_ns
        return Event(time_ns=time_ns, ktime_ns=ktime_ns, event="lost", count=self.count, hook=RECORDING)


class _Mark(NamedTuple):
    """A point up to which a file is whole: its length in bytes, the events in it, and what completes it."""

    length: int
    events: int
    end: bytes


class RecordingFile:
    """Takes events, compressed as the suffix of path asks for. Every method but `cut` and `release` raises OSError.

    fd: open for writing, and this object's from now on. before_write is called with the number of bytes that the file
    is about to grow by. make_room is called when the disk is full, and returns whether to try again.
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
        self.last: Event | None = None  # the last one that was taken
        self._fd = fd
        self._compressor: Compressor = compressor_for(path)
        status = os.fstat(fd)
        self.identity = status.st_dev, status.st_ino
        self._before_write = before_write
        self._make_room = make_room
        self._flush_s = PACKED_FLUSH_S if is_packed(path) else 0.0
        self._flushed = time.monotonic()
        self.taken = 0  # events so far
        self._lines: list[str] = []  # not compressed yet
        self._out = b""  # not written yet
        self._written = 0  # bytes
        self._packed = 0  # events that were compressed
        self._marks: deque[_Mark] = deque()  # in what is not written yet
        self._whole = _Mark(0, 0, b"")
        self._is_open = True
        self._out += self._compressor.compress(header.to_line().encode())

    @property
    def kept(self) -> int:
        """Events that the file has whatever happens, those that it counts as missing included."""
        return self._whole.events

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return os.fstat(self._fd).st_size if self._is_open else self._size

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
        """The recording in a file that this process has just created; if it cannot be begun the file is removed.

        missing: what it begins with. Raises OSError, or TcpwatchError if the compressor's library is missing.
        """
        try:
            file = cls(path, fd, header, before_write=before_write, make_room=make_room)
            if missing is not None:
                file.add_missing(missing)
            file._sync()
        except BaseException:
            _remove(path, fd)
            os.close(fd)
            raise
        return file

    def add(self, events: Sequence[Event]) -> None:
        """Take events. They may wait until the next `flush`."""
        if not events:
            return
        self._lines += map(to_line, events)
        self.taken += len(events)
        self.last = events[-1]
        if len(self._lines) >= MOST_LINES:
            self._compress()
            self._drain()

    def add_missing(self, missing: Missing) -> None:
        """Take the event that counts what is missing: it stands for all of them."""
        self.last = missing.event()
        self._compress()
        self._out += self._compressor.compress(to_line(self.last).encode())
        self.taken += missing.count
        self._packed += missing.count

    def flush(self) -> None:
        """Hand everything to the kernel, so that a reader gets it and the end of this process does not lose it."""
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
        """Truncate the file to what is whole, and complete that. Returns how many events are given up."""
        given_up = self.taken - self.kept
        self.taken, self._lines, self._out = self.kept, [], b""
        length, end = self._whole.length, self._whole.end
        try:
            os.ftruncate(self._fd, length)
            if end and _write(self._fd, end) < len(end):
                os.ftruncate(self._fd, length)
        except OSError:  # then a reader finds the end missing, and says so
            with suppress(OSError):
                os.ftruncate(self._fd, length)
        return given_up

    def release(self) -> None:
        """Close the descriptor, and with it give up the lock."""
        if self._is_open:
            self._size = self.size
            self._is_open = False
            os.close(self._fd)

    def _compress(self) -> None:
        lines, self._lines = self._lines, []
        for chunk in _chunks(lines):
            self._out += self._compressor.compress("".join(chunk).encode())
            self._packed += len(chunk)
            if len(chunk) < len(lines):
                self._mark()

    def _mark(self) -> None:
        self._out += self._compressor.flush()
        self._marks.append(_Mark(self._written + len(self._out), self._packed, self._compressor.end()))

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


class RecordingWriter:
    """A sink that writes a recording of mode 0600, compressed where its name ends in .gz or .zst.

    An existing file is not overwritten. Raises TcpwatchError where the file cannot be created or written; what was
    flushed until then can be read.
    """

    def __init__(self, path: Path, header: Header) -> None:
        self.path = path
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC) if is_stream(path) else create(path)
        except OSError as error:
            raise cannot_create(path, error) from error
        try:
            self._file = RecordingFile.begin(path, fd, header)
        except OSError as error:
            raise cannot_write(path, error) from error
        self._is_closed = False

    def __enter__(self) -> RecordingWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def opened(self, header: Header) -> None:
        """Each file has a header of its own."""

    def write(self, events: Sequence[Event]) -> None:
        """Take events. They may wait until the next `flush`."""
        try:
            self._file.add(events)
        except OSError as error:
            raise self._failure(error) from error

    def flush(self, until_ns: int = 0) -> None:
        """Hand everything to the kernel, so that a reader sees it and killing us does not lose it."""
        try:
            self._file.flush()
        except OSError as error:
            raise self._failure(error) from error

    def close(self) -> None:
        """Flush and close. Closing again does nothing."""
        if self._is_closed:
            return
        try:
            self._file.close()
        except OSError as error:
            raise self._failure(error) from error
        self._is_closed = True

    def _failure(self, error: OSError) -> TcpwatchError:
        self._is_closed = True
        self._file.cut()
        self._file.release()
        return cannot_write(self.path, error)


def cannot_create(path: Path, error: OSError) -> TcpwatchError:
    """What to say of a file that cannot be created."""
    if isinstance(error, FileExistsError):
        return TcpwatchError(
            f"{path} exists already, and is not overwritten", hint="choose another name, or remove it first"
        )
    look = "df -h" if error.errno in FULL else "ls -ld"
    return TcpwatchError(f"cannot create {path}: {error.strerror}", hint=f"{look} {shlex.quote(str(path.parent))}")


def cannot_write(path: Path, error: OSError) -> TcpwatchError:
    """What to say of a recording that cannot go on."""
    file, directory = shlex.quote(str(path)), shlex.quote(str(path.parent))
    return TcpwatchError(
        f"cannot write {path}: {error.strerror}",
        hint=f"the file is intact up to this point: tcpwatch replay {file}; df -h {directory}",
    )


def create(path: Path) -> int:
    """A descriptor of a new file of mode 0600 for writing. Raises OSError, FileExistsError among it."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)


def _chunks(lines: list[str]) -> Iterator[list[str]]:
    begin = size = 0
    for number, line in enumerate(lines):
        size += len(line)
        if size >= CHUNK:
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
