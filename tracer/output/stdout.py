"""Standard output with errors of its own type."""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from tracer.model.errors import TcpwatchError

_HINTS = {
    errno.ENOSPC: "df -h",
    errno.EDQUOT: "quota",
    errno.EFBIG: "ulimit -f unlimited",
    errno.EBADF: "is it open for writing? tcpwatch > FILE",
    errno.EIO: "the terminal or the disk has gone; tcpwatch > FILE",
}


class OutputError(OSError):
    """Standard output could not be written. A closed pipe raises BrokenPipeError instead."""


def describe(error: OutputError) -> TcpwatchError:
    """The message and hint for such an error."""
    number = error.errno if error.errno is not None else 0
    return TcpwatchError(
        f"cannot write to standard output: {error.strerror}", hint=_HINTS.get(number, "ls -l /dev/stdout")
    )


class _Descriptor(io.FileIO):
    """Descriptor 1. Waits where the reader has made the pipe non-blocking, as ssh and Node.js do."""

    def write(self, data: Any, /) -> int:
        """Write some of the data. Raises OutputError, or BrokenPipeError."""
        while True:
            try:
                written = super().write(data)
            except BrokenPipeError:
                raise
            except OSError as error:
                raise OutputError(error.errno, error.strerror) from error
            if written is not None:
                return written
            select.select([], [self], [])


class _Nothing(io.RawIOBase):
    """Replaces /dev/null where that is missing."""

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, data: Any, /) -> int:
        """Discard the data."""
        return len(data)


def open_stdout(errors: str) -> TextIO:
    """The replacement of sys.stdout. errors: the error handler for characters that its encoding lacks.

    Discards everything if descriptor 1 was closed at the start.
    """
    before = sys.stdout
    if before is None:
        try:
            return Path(os.devnull).open("w", encoding="utf-8")
        except OSError:
            return io.TextIOWrapper(io.BufferedWriter(_Nothing()), encoding="utf-8")
    before.flush()
    # Descriptor 1 stays open until the process ends.
    raw = _Descriptor(before.fileno(), "wb", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=before.encoding, errors=errors, line_buffering=before.isatty()
    )


def occupy_standard_descriptors() -> None:
    """Open 0, 1 and 2 if they are closed.

    A file that is opened later would otherwise get one of these numbers, and the output of libraries.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            with suppress(OSError):
                has_null = Path(os.devnull).exists()
                # Write-only: reading standard input stays an error.
                os.open(os.devnull if has_null else "/", os.O_WRONLY if has_null else os.O_RDONLY)
