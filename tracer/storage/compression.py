"""Decompress a recording while it is read. compressors.py is the other direction."""

from __future__ import annotations

import gzip
import io
import zlib
from typing import Any, BinaryIO, cast

from tracer.errors import TcpwatchError

GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
DAMAGED: tuple[type[Exception], ...] = (zlib.error, gzip.BadGzipFile)
"""What reading packed data raises that is not what was written; EOFError where it ends too early."""


def unpacked(name: str, file: BinaryIO) -> tuple[BinaryIO, str]:
    """The plain bytes of a file, and the command that unpacks it; empty where it is plain.

    Told by its first bytes, not by its name.
    """
    start = file.read(len(ZSTD)) or b""
    whole = cast(BinaryIO, io.BufferedReader(_Rewound(start, file)))
    if start.startswith(GZIP):
        return cast(BinaryIO, gzip.GzipFile(fileobj=whole, mode="rb")), "zcat"
    if start == ZSTD:
        return cast(BinaryIO, io.BufferedReader(_Unzstd(whole, zstandard_library(name)))), "zstdcat"
    return whole, ""


class _Rewound(io.RawIOBase):
    """A file of which the start was read already: a pipe cannot go back, and may give its first bytes one by one."""

    def __init__(self, start: bytes, file: BinaryIO) -> None:
        self._start = start
        self._file: Any = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._start:
            return int(self._file.readinto1(buffer))
        part, self._start = self._start[: len(buffer)], self._start[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)


class _Unzstd(io.RawIOBase):
    """The library's reader as the raw stream that io.BufferedReader wants; its errors as zlib's."""

    def __init__(self, file: BinaryIO, library: Any) -> None:
        self._reader = library.ZstdDecompressor().stream_reader(file, read_across_frames=True)
        self._error = library.ZstdError

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            # As much as there is: readinto() would go on into what is damaged, and return nothing.
            return int(self._reader.readinto1(buffer))
        except self._error as error:
            raise zlib.error(str(error)) from None


def zstandard_library(name: str) -> Any:
    """The module zstandard, for the file of that name. Raises TcpwatchError if it is not installed."""
    try:
        import zstandard
    except ImportError:
        raise TcpwatchError(
            f"{name} needs the Python package zstandard", hint="sudo apt-get install python3-zstandard; or use .gz"
        ) from None
    return zstandard
