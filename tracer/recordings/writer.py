"""A sink that writes one recording to one file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from tracer.model.errors import TcpwatchError
from tracer.model.events import Event
from tracer.recordings.failures import cannot_create, cannot_write
from tracer.recordings.file import RecordingFile, create
from tracer.recordings.header import Header
from tracer.recordings.targets import is_stream


class RecordingWriter:
    """Writes a recording of mode 0600, compressed if its name ends in .gz or .zst.

    Does not overwrite an existing file. Raises TcpwatchError if the file cannot be created or written. What was
    flushed before can be read.
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
        """Hand everything to the kernel, where a reader sees it and the death of this process does not lose it."""
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
