"""Lines of a recording → lazy events.

A line as encoding.py writes it is split at known keys into the parts of a LazyEvent. Parts that other lines share are
parsed and checked once. Any other line is left to the JSON reader, which knows whether it is valid.

A connection, and the event's own fields, differ from those of other lines mostly in digits. The text without its
digits is its shape. A shape is parsed and checked once. In a later line with the same shape, `_is_plain` checks that
the digits make numbers or stand in texts. Such JSON is parsed when one of its fields is read.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from tracer.model.json_members import parsed
from tracer.model.kinds import EVENTS
from tracer.model.lazy import CONNECTION, OWN, OWNER, SOCKET, LazyEvent, Part
from tracer.model.times import parse_second
from tracer.model.validation import checked

MAX_SHARED = 8192
"""Bytes of the parts that stay in memory, of one line. A longer line is left to the JSON reader."""
MAX_SHORT = 1024
"""Bytes of a part that a cache of 1,024 keeps."""
MAX_SHAPES = 1024
"""Texts without their digits that were checked."""

_match_head = re.compile(
    rb'\{"time":"([0-9T:-]{19})\.([0-9]{6})Z","ktime_ns":(0|[1-9][0-9]{0,17}),"event":"([a-z-]+)"'
).match
_is_plain = re.compile(
    rb'(?:,"[a-z_]+":(?:0|[1-9][0-9]{0,17}|"[ !#-\[\]-~]{0,64}"|true|false)|\.[0-9]{1,17})+'
).fullmatch
"""Whether a piece consists of members with a number, a bool or a short text, and has no digit elsewhere.

A fraction may follow any of them here: the shape shows where it belongs.
"""
_DIGITS = b"0123456789"
_own_shapes: set[bytes] = set()
_connection_shapes: set[bytes] = set()
"""Pieces that were parsed and checked, without their digits: names, types and texts in their order."""
_SOCK = b',"sock":"'
_OWN_FROM = f',"{OWN[0]}":'.encode()
_OWNER_FROM = tuple(f',"{name}":'.encode() for name in OWNER)
_KINDS = {kind.encode(): kind for kind in EVENTS}
_CONNECTION_NAMES, _SOCKET_NAMES, _OWN_NAMES, _OWNER_NAMES = map(frozenset, (CONNECTION, SOCKET, OWN, OWNER))


def line_event(line: bytes) -> LazyEvent | None:
    """The event of a line; None where the line has another form, valid or not."""
    head = _match_head(line)
    if head is None:
        return None
    head_ends = head.end()
    sock_at = line.find(_SOCK, head_ends)
    sock_ends = line.find(b'"', sock_at + len(_SOCK)) + 1
    own_at = line.find(_OWN_FROM, sock_ends)
    if sock_at < 0 or own_at < 0 or line[-2:] != b"}\n":
        return None
    owner_at = _owner_at(line, own_at)
    if not (own_at <= MAX_SHORT and len(line) - owner_at + own_at <= MAX_SHARED):
        return None
    second, micros, ktime_ns, kind = head.groups()
    own, owner = line[own_at:owner_at], line[owner_at:-2]
    try:
        connection, sock = _connection(line[head_ends:sock_ends])
        return LazyEvent(
            _second_ns(second) + int(micros) * 1000,
            int(ktime_ns),
            _KINDS[kind],
            sock,
            connection,
            _socket(line[sock_ends:own_at]),
            (_plain_own(own) if len(own) <= MAX_SHORT else None) or _fields(own, _OWN_NAMES),
            (_short_owner if len(owner) <= MAX_SHORT else _long_owner)(owner),
        )
    except (ValueError, TypeError, KeyError, RecursionError, StopIteration):
        return None


def _owner_at(line: bytes, start: int) -> int:
    """Where the first field of the owner begins; the end of the fields where there is none."""
    for begins in _OWNER_FROM:
        if (at := line.find(begins, start)) >= 0:
            return at
    return len(line) - 2


@lru_cache(maxsize=4)
def _second_ns(text: bytes) -> int:
    second = parse_second(text.decode())
    if second is None:
        raise ValueError("not a time")
    return second * 1_000_000_000


@lru_cache(maxsize=1024)
def _plain_own(piece: bytes) -> str | None:
    """The event's own fields as JSON, checked; None where only parsing shows whether they are valid."""
    if b"[" in piece or _is_plain(piece) is None:
        return None
    shape = piece.translate(None, _DIGITS)
    if shape not in _own_shapes:
        _fields(piece, _OWN_NAMES)
        _remember(_own_shapes, shape)
    return piece.decode()


@lru_cache(maxsize=1024)
def _connection(piece: bytes) -> tuple[Part, str]:
    """The connection, and the identity of its socket, which comes last and does not belong to the shape."""
    before, _, sock = piece.rpartition(_SOCK)
    shape = before.translate(None, _DIGITS)
    is_plain = _is_plain(piece) is not None
    if is_plain and shape in _connection_shapes:
        return Part(json=piece.decode()), sock[:-1].decode()
    known = _fields(piece, _CONNECTION_NAMES)
    if is_plain:
        _remember(_connection_shapes, shape)
    return Part(known), known["sock"]


def _remember(shapes: set[bytes], shape: bytes) -> None:
    if len(shape) <= MAX_SHORT:
        if len(shapes) >= MAX_SHAPES:
            shapes.clear()
        shapes.add(shape)


@lru_cache(maxsize=1024)
def _socket(piece: bytes) -> Part:
    return Part(_fields(piece, _SOCKET_NAMES))


def _owner(piece: bytes) -> Part:
    return Part(_fields(piece, _OWNER_NAMES))


_short_owner = lru_cache(maxsize=1024)(_owner)
_long_owner = lru_cache(maxsize=32)(_owner)  # its processes may take twenty times its memory


def _fields(piece: bytes, names: frozenset[str]) -> dict[str, Any]:
    """The fields of some members of the object, checked. Raises ValueError or StopIteration."""
    known = parsed(piece.decode())
    if not names.issuperset(known):
        raise ValueError("other fields")
    return checked(known)
