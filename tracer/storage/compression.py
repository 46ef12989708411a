"""Recordings that are compressed while they are written: .gz and .zst. :mod:`tracer.storage.input` reads them."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from tracer.errors import TcpwatchError


class Stream(Protocol):
    """What a recording is written to."""

    def write(self, data: bytes, /) -> Any:
        """Take bytes."""

    def flush(self) -> Any:
        """Let a reader, too, see all that was written so far."""

    def close(self) -> Any:
        """End the packed data. The file below stays open."""


def is_packed(path: Path) -> bool:
    """Whether a recording of this name is packed."""
    return path.suffix in (".gz", ".zst")


def packed(path: Path, file: BinaryIO) -> Stream:
    """What to write to so that `file` gets what its suffix promises. Raises TcpwatchError without the library."""
    if path.suffix == ".gz":
        return gzip.GzipFile(filename="", fileobj=file, mode="wb", compresslevel=6)
    if path.suffix == ".zst":
        return _Zstd(file, str(path))
    return file


class _Zstd:
    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        self._writer = zstandard_library(name).ZstdCompressor(level=3).stream_writer(file, closefd=False)

    def write(self, data: bytes, /) -> None:
        self._writer.write(data)

    def flush(self) -> None:
        self._writer.flush()
        self._file.flush()

    def close(self) -> None:
        self._writer.close()


def zstandard_library(name: str) -> Any:
    """The module that compresses .zst. Raises TcpwatchError where it is not installed."""
    try:
        import zstandard
    except ImportError:
        raise TcpwatchError(
            f"{name} needs the Python package zstandard", hint="sudo apt-get install python3-zstandard; or use .gz"
        ) from None
    return zstandard
