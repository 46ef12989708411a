"""Standard output whose errors can be told from all others."""

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
    """Standard output could not be written. A reader who has gone is a BrokenPipeError as usual."""


def describe(error: OutputError) -> TcpwatchError:
    """For a person."""
    return TcpwatchError(
        f"cannot write to standard output: {error.strerror}", hint=_HINTS.get(error.errno or 0, "ls -l /dev/stdout")
    )


class _Descriptor(io.FileIO):
    """Descriptor 1. Waits where the reader has made it non-blocking, as ssh and Node.js do with a shared pipe."""

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
    """Takes everything and keeps nothing, where even /dev/null is missing."""

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, data: Any, /) -> int:
        """Forget the data."""
        return len(data)


def open_stdout(errors: str) -> TextIO:
    """What to put in the place of sys.stdout. errors: how to spell what its encoding lacks.

    Takes everything and shows nothing where descriptor 1 was closed at the start.
    """
    before = sys.stdout
    if before is None:
        try:
            return Path(os.devnull).open("w", encoding="utf-8")
        except OSError:
            return io.TextIOWrapper(io.BufferedWriter(_Nothing()), encoding="utf-8")
    before.flush()
    # It lives as long as the process: nobody closes descriptor 1.
    raw = _Descriptor(before.fileno(), "wb", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=before.encoding, errors=errors, line_buffering=before.isatty()
    )


def occupy_standard_descriptors() -> None:
    """Open 0, 1 and 2 where they were closed.

    Otherwise a file that is opened later gets such a number, and what a library prints would be written into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            with suppress(OSError):
                has_null = Path(os.devnull).exists()
                # Write-only, so that to read standard input is the error that it would be.
                os.open(os.devnull if has_null else "/", os.O_WRONLY if has_null else os.O_RDONLY)
