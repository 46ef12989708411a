"""Recordings that are packed while they are written and unpacked while they are read: .gz and .zst."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

from tracer.errors import TcpwatchError

GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
DAMAGED: tuple[type[Exception], ...] = (zlib.error, gzip.BadGzipFile)
"""What reading packed data raises that is not what was written; EOFError where it ends too early."""


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


def unpacked(name: str, file: BinaryIO) -> tuple[BinaryIO, str]:
    """The plain bytes of a file, and the command that unpacks it; empty where it is plain.

    Told by its first bytes, not by its name.
    """
    start = file.read(len(ZSTD)) or b""
    whole = cast(BinaryIO, io.BufferedReader(_Rewound(start, file)))
    if start.startswith(GZIP):
        return cast(BinaryIO, gzip.GzipFile(fileobj=whole, mode="rb")), "zcat"
    if start == ZSTD:
        return cast(BinaryIO, io.BufferedReader(_Unzstd(whole, _zstandard(name)))), "zstdcat"
    return whole, ""


class _Zstd:
    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        self._writer = _zstandard(name).ZstdCompressor(level=3).stream_writer(file, closefd=False)

    def write(self, data: bytes, /) -> None:
        self._writer.write(data)

    def flush(self) -> None:
        self._writer.flush()
        self._file.flush()

    def close(self) -> None:
        self._writer.close()


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


def _zstandard(name: str) -> Any:
    try:
        import zstandard
    except ImportError:
        raise TcpwatchError(
            f"{name} needs the Python package zstandard", hint="sudo apt-get install python3-zstandard; or use .gz"
        ) from None
    return zstandard
