"""Lines of a recording → lazy events.

A line as encoding.py writes it is split at known keys into the parts of a LazyEvent. Parts that other lines share are
parsed and checked once. Any other line is left to the JSON reader, which knows whether it is valid.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from tracer.model.kinds import EVENTS
from tracer.model.lazy import CONNECTION, OWN, OWNER, SOCKET, LazyEvent, Part, lazy_event
from tracer.model.times import parse_second
from tracer.model.validation import check_lists, checked, is_plain

MAX_SHARED = 8192
"""Bytes of the parts that stay in memory, of one line. A longer line is left to the JSON reader."""
MAX_SHORT = 1024
"""Bytes of a part that a cache of 1,024 keeps."""

_scan = json.JSONDecoder().scan_once  # type: ignore[attr-defined]
_TIME = b'{"time":"'
_FRACTION = len(_TIME) + len("2026-11-25T03:00:00")
_KTIME = b'Z","ktime_ns":'
_KTIME_AT = _FRACTION + len(".123456")
_KTIME_FROM = _KTIME_AT + len(_KTIME)
_EVENT, _SOCK = b',"event":"', b',"sock":"'
_OWN_FROM = f',"{OWN[0]}":'.encode()
_OWNER_FROM = tuple(f',"{name}":'.encode() for name in OWNER)
_KINDS = {kind.encode(): kind for kind in EVENTS}
_CONNECTION_NAMES, _SOCKET_NAMES, _OWN_NAMES, _OWNER_NAMES = map(frozenset, (CONNECTION, SOCKET, OWN, OWNER))


def line_event(line: bytes) -> LazyEvent | None:
    """The event of a line; None where the line has another form, valid or not."""
    event_at = line.find(_EVENT, _KTIME_FROM)
    kind_at = event_at + len(_EVENT)
    kind_ends = line.find(b'"', kind_at)
    sock_at = line.find(_SOCK, kind_ends)
    own_at = line.find(_OWN_FROM, sock_at)
    if event_at < 0 or sock_at < 0 or own_at < 0 or line[-2:] != b"}\n":
        return None
    sock_ends = line.find(b'"', sock_at + len(_SOCK)) + 1
    owner_at = _owner_at(line, own_at)
    ktime = line[_KTIME_FROM:event_at]
    micros = line[_FRACTION + 1 : _KTIME_AT]
    if not (
        line.startswith(_TIME)
        and line[_FRACTION] == 46  # a full stop
        and line.startswith(_KTIME, _KTIME_AT)
        and micros.isdigit()
        and ktime.isdigit()
        and len(ktime) < 19
        and (ktime[0] != 48 or len(ktime) == 1)  # JSON has no leading zeros
        and sock_ends <= own_at <= MAX_SHORT
        and len(line) - owner_at + own_at <= MAX_SHARED
    ):
        return None
    try:
        connection = _connection(line[kind_ends + 1 : sock_ends])
        owner = line[owner_at:-2]
        at_hand = {
            "time_ns": _second_ns(line[len(_TIME) : _FRACTION]) + int(micros) * 1000,
            "ktime_ns": int(ktime),
            "event": _KINDS[line[kind_at:kind_ends]],
            "sock": connection.fields["sock"],
        }
        socket = _socket(line[sock_ends:own_at])
        own = _fields(line[own_at:owner_at], _OWN_NAMES)
        owned_by = (_short_owner if len(owner) <= MAX_SHORT else _long_owner)(owner)
    except (ValueError, TypeError, KeyError, RecursionError, StopIteration):
        return None
    return lazy_event(at_hand, connection, socket, own, owned_by)


def _owner_at(line: bytes, start: int) -> int:
    """Where the first field of the owner begins; the end of the fields where there is none."""
    for begins in _OWNER_FROM:
        at = line.find(begins, start)
        if at >= 0:
            return at
    return len(line) - 2


@lru_cache(maxsize=4)
def _second_ns(text: bytes) -> int:
    second = parse_second(text.decode())
    if second is None:
        raise ValueError("not a time")
    return second * 1_000_000_000


def _fields(piece: bytes, names: frozenset[str]) -> dict[str, Any]:
    """The fields of some members of the object, each after a comma. Raises ValueError or StopIteration."""
    if piece[:1] not in (b",", b""):
        raise ValueError("not members of an object")
    text = f"{{{piece[1:].decode()}}}"
    known, end = _scan(text, 0)
    if end != len(text) or not names.issuperset(known):
        raise ValueError("other fields")
    if is_plain(known):
        check_lists(known)
        return known  # type: ignore[no-any-return]
    return checked(known)


@lru_cache(maxsize=1024)
def _connection(piece: bytes) -> Part:
    return Part(_fields(piece, _CONNECTION_NAMES))


@lru_cache(maxsize=1024)
def _socket(piece: bytes) -> Part:
    return Part(_fields(piece, _SOCKET_NAMES))


def _owner(piece: bytes) -> Part:
    return Part(_fields(piece, _OWNER_NAMES))


_short_owner = lru_cache(maxsize=1024)(_owner)
_long_owner = lru_cache(maxsize=32)(_owner)  # its processes may take twenty times its memory
