"""The bytes of a recording: read from a file, decompressed, and split into lines.

Each step is a generator. An empty piece means that the input has no more data right now: the pieces before it can be
shown, and the piece after it may take any time. A regular file has no empty piece.
"""

from __future__ import annotations

import os
import select
import stat
import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from io import BytesIO
from typing import Any

GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
"""The beginning of compressed data."""
MAX_LINE = 1 << 20
"""Bytes, far more than an event has. The limit bounds the memory for a file without newlines."""
MAX_HOLE = 64 << 20
"""Bytes without a newline after which the rest of a file is skipped."""
_CHUNK = 1 << 16
_ZSTD_PIECE = 256
"""Compressed bytes that are decompressed together: four of them may become 128 KiB (RFC 8878, RLE_Block)."""
_MAX_WINDOW = 8 << 20
"""Memory that a Zstandard frame may need: RFC 8878 recommends it, and `zstd -19` uses it."""
_GZIP_WBITS = 31  # zlib's number for a gzip header and trailer around the data


class Damaged(Exception):
    """Compressed data cannot be read; the text gives the reason."""


class EndlessLine(Exception):
    """No newline within MAX_HOLE."""

    def __init__(self) -> None:
        super().__init__(f"no end of line within {MAX_HOLE >> 20} MB")


def chunks(descriptor: int) -> Iterator[bytes]:
    """The bytes of a file, pipe, socket or terminal as they arrive. Raises OSError."""
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        while data := os.read(descriptor, _CHUNK):
            yield data
        return
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while True:
        if not poll.poll(0):
            yield b""
            poll.poll()
        data = os.read(descriptor, _CHUNK)
        if not data:
            return
        yield data


def beginning(pieces: Iterator[bytes], size: int) -> tuple[bytes, Iterator[bytes]]:
    """The first bytes, fewer than size at the end of the input, and all pieces from the first on."""
    start = b""
    while len(start) < size:
        piece = next(pieces, None)
        if piece is None:
            break
        start += piece
    return start[:size], _with_start(start, pieces)


def _with_start(start: bytes, pieces: Iterator[bytes]) -> Iterator[bytes]:
    if start:
        yield start
    yield from pieces


def gunzipped(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The data of all gzip members. Raises Damaged, and EOFError if the last member has no end."""
    member: Any = None
    for piece in pieces:
        if not piece:
            yield piece
        is_drained = True  # zlib may take all input and keep output back
        while piece or not is_drained:
            if member is None:
                piece = piece.lstrip(b"\0")  # padding between members, as gzip(1) accepts it
                if not piece:
                    break
                member = zlib.decompressobj(_GZIP_WBITS)
            before = member.copy()
            try:
                data = member.decompress(piece, _CHUNK)
            except zlib.error as error:
                if rest := _before_damage(before, piece):
                    yield rest
                raise Damaged(str(error)) from None
            if data:
                yield data
            is_drained = member.eof or len(data) < _CHUNK
            piece = member.unused_data if member.eof else member.unconsumed_tail
            if member.eof:
                member = None
    if member is not None:
        raise EOFError


def _before_damage(member: Any, piece: bytes) -> bytes:
    """The data before the damage, which zlib discards with an error: byte by byte it does not."""
    data: list[bytes] = []
    with suppress(zlib.error):
        for at in range(len(piece)):
            data.append(member.decompress(piece[at : at + 1]))
    return b"".join(data)


def unzstd(pieces: Iterator[bytes], library: Any) -> Iterator[bytes]:
    """The data of all Zstandard frames. Raises Damaged, and EOFError if the last frame has no end.

    library: the module zstandard.
    """
    decompressor = library.ZstdDecompressor(max_window_size=_MAX_WINDOW)
    frame: Any = None
    data: list[bytes] = []
    size = 0
    for piece in pieces:
        if not piece:
            yield piece
        for start in range(0, len(piece), _ZSTD_PIECE):
            part = piece[start : start + _ZSTD_PIECE]
            while part:
                if frame is None:
                    frame = decompressor.decompressobj()
                try:
                    data.append(frame.decompress(part))
                except library.ZstdError as error:
                    yield b"".join(data)
                    raise Damaged(str(error)) from None
                size += len(data[-1])
                part = b""
                if frame.eof:
                    part, frame = frame.unused_data, None
            if size >= _CHUNK:
                yield b"".join(data)
                data, size = [], 0
        if size:
            yield b"".join(data)
            data, size = [], 0
    if frame is not None:
        raise EOFError


def lines(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Lines with their newline, which only the last one may lack.

    A line longer than MAX_LINE is replaced by a NUL and its end, which is not JSON. Raises EndlessLine for a line
    longer than MAX_HOLE.
    """
    begun: deque[bytes] = deque()  # of a line without its newline so far
    size = dropped = 0
    for piece in pieces:
        if not piece:
            yield piece
            continue
        found = BytesIO(piece).readlines()
        is_open = found[-1][-1:] != b"\n"
        if begun and (len(found) > 1 or not is_open):
            begun.append(found[0])
            yield _joined(begun, is_whole=not dropped and size + len(found[0]) <= MAX_LINE)
            del found[0]
            begun.clear()
            size = dropped = 0
        if is_open:
            begun.append(found.pop())
            size += len(begun[-1])
            while size - len(begun[0]) > MAX_LINE:
                size -= len(begun[0])
                dropped += len(begun.popleft())
            if dropped > MAX_HOLE:
                raise EndlessLine
        yield from found
    if begun:
        yield _joined(begun, is_whole=not dropped and size <= MAX_LINE)


def _joined(begun: deque[bytes], *, is_whole: bool) -> bytes:
    return b"".join(begun if is_whole else (b"\0", *begun))
