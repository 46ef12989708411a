"""Events → a recording."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from tracer.encoding import to_line
from tracer.errors import TcpwatchError
from tracer.events import Event
from tracer.storage.compression import is_packed, packed
from tracer.storage.header import Header

PACKED_FLUSH_S = 1.0
"""A packed recording is readable up to so many seconds ago: each flush makes it larger."""
MOST_LINES = 1024
"""Lines that wait to be written at once, which is quicker than one by one."""


class RecordingWriter:
    """A sink that writes a recording of mode 0600, packed where its name ends in .gz or .zst.

    An existing file is not overwritten: nothing recorded is lost. Raises TcpwatchError where the file
    cannot be made or written; what was written until then stays readable.
    """

    def __init__(self, path: Path, header: Header) -> None:
        self.path = path
        self._flush_s = PACKED_FLUSH_S if is_packed(path) else 0.0
        self._flushed = time.monotonic()
        self._closed = False
        self._lines: list[str] = []  # not written yet
        self._file = _create(path)
        try:
            self._stream = packed(path, self._file)
        except TcpwatchError:
            self._file.close()
            path.unlink()
            raise
        try:
            self._stream.write(header.to_line().encode())
            self._stream.flush()
        except OSError as error:
            raise self._failure(error) from error

    def __enter__(self) -> RecordingWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def size(self) -> int:
        """Bytes on disk, without what was not flushed yet."""
        return os.fstat(self._file.fileno()).st_size

    @property
    def is_in_place(self) -> bool:
        """Whether the file still is where it was made."""
        try:
            return os.path.samestat(self.path.stat(), os.fstat(self._file.fileno()))
        except FileNotFoundError:
            return False

    def write(self, *events: Event) -> None:
        """Take some events; they may wait until the next `flush`."""
        self._lines += map(to_line, events)
        if len(self._lines) >= MOST_LINES:
            try:
                self._write_lines()
            except OSError as error:
                raise self._failure(error) from error

    def flush(self, until_ns: int = 0) -> None:
        """Hand everything to the kernel, so that a reader sees it and killing us does not lose it."""
        now = time.monotonic()
        try:
            self._write_lines()
            if now - self._flushed >= self._flush_s:
                self._flushed = now
                self._stream.flush()
        except OSError as error:
            raise self._failure(error) from error

    def close(self) -> None:
        """Flush and close. Closing again does nothing."""
        if self._closed:
            return
        try:
            self._write_lines()
            self._stream.close()
            self._file.close()
        except OSError as error:
            raise self._failure(error) from error
        self._closed = True

    def _write_lines(self) -> None:
        lines, self._lines = self._lines, []
        self._stream.write("".join(lines).encode())

    def _failure(self, error: OSError) -> TcpwatchError:
        self._abandon()
        return TcpwatchError(
            f"cannot write {self.path}: {error.strerror}",
            hint=f"what was written until then is good: tcpwatch replay {self.path}; df -h {self.path.parent}",
        )

    def _abandon(self) -> None:
        """Close without another try to write what is left: it would fail again, and hide the first error."""
        self._closed = True
        try:
            os.close(self._file.fileno())
            self._file.close()
        except (OSError, ValueError):
            pass


def _create(path: Path) -> BinaryIO:
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
    try:
        if not path.exists() or stat.S_ISREG(path.stat().st_mode):
            flags |= os.O_EXCL
        elif path.parent.stat().st_mode & stat.S_IWOTH:
            flags |= os.O_NOFOLLOW  # anybody may have put a link there
        return os.fdopen(os.open(path, flags, 0o600), "wb")
    except FileExistsError:
        raise TcpwatchError(
            f"{path} exists already, and is not overwritten", hint="choose another name, or remove it first"
        ) from None
    except OSError as error:
        raise TcpwatchError(f"cannot create {path}: {error.strerror}", hint=f"ls -ld {path.parent}") from error
