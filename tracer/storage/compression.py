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

_ZSTD_PIECE = 256
"""Compressed bytes that are decompressed at once: each four of them may become 128 KiB (RFC 8878, RLE_Block)."""


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
    """Zstandard frames as the raw stream that io.BufferedReader wants; the library's errors as zlib's.

    All that was flushed comes out, also of a frame that has no end.
    """

    def __init__(self, file: BinaryIO, library: Any) -> None:
        self._file = file
        self._decompressor = library.ZstdDecompressor()
        self._frame: Any = None
        self._error = library.ZstdError
        self._ready = self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            data = self._rest or self._file.read(_ZSTD_PIECE)
            if not data:
                return 0
            if self._frame is None:
                self._frame = self._decompressor.decompressobj()
            try:
                self._ready, self._rest = self._frame.decompress(data), b""
            except self._error as error:
                raise zlib.error(str(error)) from None
            if self._frame.eof:
                self._frame, self._rest = None, self._frame.unused_data
        part, self._ready = self._ready[: len(buffer)], self._ready[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)


def zstandard_library(name: str) -> Any:
    """The module zstandard, for the file of that name. Raises TcpwatchError if it is not installed."""
    try:
        import zstandard
    except ImportError:
        raise TcpwatchError(
            f"{name} needs the Python package zstandard", hint="sudo apt-get install python3-zstandard; or use .gz"
        ) from None
    return zstandard
