"""Compressors of recordings: bytes in, bytes out.

No compressor writes to a file. (gzip.GzipFile does when it is collected, and from Python 3.13 on prints an error if
that fails.) The output up to a `flush` and then `end` is a complete file, also if later output was truncated.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any, Protocol

from tracer.model.errors import TcpwatchError
from tracer.model.packages import installing

_GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"  # RFC 1952: deflate, no name, no time, unknown system
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_LAST_DEFLATE_BLOCK = b"\x03\x00"  # RFC 1951: final, fixed codes, empty
_LAST_ZSTD_BLOCK = b"\x01\x00\x00"  # RFC 8878, 3.1.1.2: last, raw, of size 0


class Compressor(Protocol):
    """Turns the lines of a recording into the bytes of its file."""

    def compress(self, data: bytes, /) -> bytes:
        """Compress data. Returns the output so far; some may stay inside."""

    def flush(self) -> bytes:
        """The rest of the output, with which a reader gets all data so far."""

    def end(self) -> bytes:
        """The bytes that complete a file with everything up to the last `flush`."""


def is_compressed(path: Path) -> bool:
    """Whether a recording of this name is compressed."""
    return path.suffix in (".gz", ".zst")


def compressor_for(path: Path) -> Compressor:
    """The compressor that the suffix of path asks for. Raises TcpwatchError if its library is missing."""
    if path.suffix == ".gz":
        return _Gzip()
    if path.suffix == ".zst":
        return _Zstd(str(path))
    return _Plain()


def decompressed(data: bytes, name: str) -> tuple[bytes, bool]:
    """Decompress the first bytes of a file. Returns the data, and whether all bytes were used.

    Raises ValueError for damaged data, or TcpwatchError if the compressor's library is missing.
    """
    frame: Any
    if data.startswith(_GZIP_HEADER[:2]):
        frame = zlib.decompressobj(16 + zlib.MAX_WBITS)
    elif data.startswith(_ZSTD_MAGIC):
        frame = zstandard_library(name).ZstdDecompressor().decompressobj()
    else:
        return data, True
    try:
        return frame.decompress(data), not frame.unused_data
    except Exception as error:  # each library has its own, and zstandard may not be installed
        raise ValueError(str(error)) from None


class _Plain:
    def compress(self, data: bytes, /) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""

    def end(self) -> bytes:
        return b""


class _Gzip:
    def __init__(self) -> None:
        self._deflate = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
        self._header = _GZIP_HEADER  # until it is returned
        self._crc = self._length = 0
        self._trailer = b""

    def compress(self, data: bytes, /) -> bytes:
        self._crc = zlib.crc32(data, self._crc)
        self._length += len(data)
        header, self._header = self._header, b""
        return header + self._deflate.compress(data)

    def flush(self) -> bytes:
        header, self._header = self._header, b""
        self._trailer = struct.pack("<II", self._crc, self._length & 0xFFFFFFFF)
        return header + self._deflate.flush(zlib.Z_SYNC_FLUSH)

    def end(self) -> bytes:
        return _LAST_DEFLATE_BLOCK + self._trailer


class _Zstd:
    """One frame without a checksum, so that it may end after any block."""

    def __init__(self, name: str) -> None:
        library = zstandard_library(name)
        self._frame: Any = library.ZstdCompressor(level=3, write_checksum=False).compressobj()
        self._block = library.COMPRESSOBJ_FLUSH_BLOCK

    def compress(self, data: bytes, /) -> bytes:
        return bytes(self._frame.compress(data))

    def flush(self) -> bytes:
        return bytes(self._frame.flush(self._block))

    def end(self) -> bytes:
        return _LAST_ZSTD_BLOCK


def zstandard_library(name: str) -> Any:
    """The module zstandard. Raises TcpwatchError, with the name of the file, if it is not installed."""
    try:
        import zstandard
    except ImportError:
        raise TcpwatchError(
            f"{name} needs the Python package zstandard", hint=f"{installing('python3-zstandard')}; or use .gz"
        ) from None
    return zstandard
