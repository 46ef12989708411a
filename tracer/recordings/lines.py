"""A line of a recording → the event: whether it is sound is seen at once, what it says only when somebody asks.

A line as encoding.py writes it has its fields in the order of Event's. What is different in each line is held
against a pattern that is made of those fields and takes less than JSON allows; what it shares with others, against
those that were read before. Any other line says nothing here, and is read as JSON by whoever asked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import fields
from functools import lru_cache
from typing import Any

from tracer.model.events import EVENTS, MOST_TEXT, SHORT_TEXT, Event, checked, parse_second
from tracer.model.lazy import CONNECTION, OWNER, SETTINGS, STATES, Part, PartedEvent

_new = object.__new__
_decode = json.JSONDecoder().raw_decode
_FIELDS = {field.name: str(field.type).removesuffix(" | None") for field in fields(Event)}
_SHARED = frozenset({*STATES, *SETTINGS})
_OWN = [name for name in list(_FIELDS)[3:] if name not in {*CONNECTION, *_SHARED, *OWNER}]
LONGEST_REMEMBERED = 8192
"""Bytes of what is not a line's own, which stays in memory for some of them. Longer: read as JSON."""
SHORT = 1024
"""Bytes of such a piece that stays in memory for a thousand of them."""
_FIRST_OWN, _LAST_OF_ALL = "unacked_bytes", "snd_wnd"
"""Fields from the one to the other are those that events of any kind have."""

_NUMBER = "(?:0|[1-9][0-9]{0,17})"
_CHARACTER = r"[ !#-\[\]-~]"  # printable ASCII that JSON writes as it is
_TEXT = f"{_CHARACTER}{{0,{SHORT_TEXT}}}"  # longer ones are read as JSON
_PATTERNS = {
    "int": _NUMBER,
    "float": rf"{_NUMBER}(?:\.[0-9]{{1,17}})?",
    "str": f'"{_TEXT}"',
    "bool": "(?:true|false)",
    "list[int]": rf"\[(?:{_NUMBER}(?:,{_NUMBER})*)?\]",
    "list[str]": rf'\[(?:"{_CHARACTER}{{0,{MOST_TEXT}}}"(?:,"{_CHARACTER}{{0,{MOST_TEXT}}}")*)?\]',
}


def _members(names: Iterable[str]) -> str:
    """The pattern of these members of an object, of which any may be absent."""
    return "".join(f'(?:,"{name}":{_PATTERNS[_FIELDS[name]]})?' for name in names)


def _mostly(names: Sequence[str], rare: Collection[str] = ()) -> str:
    """The same of members of which usually only the rare ones are absent: that is tried first, and quicker."""
    usual = "".join(f',"{name}":{_PATTERNS[_FIELDS[name]]}' for name in names if name not in rare)
    return f"(?:{usual}|{_members(names)})"


_match_head = re.compile(
    r'\{"time":"([0-9-]{10}T[0-9:]{8})\.([0-9]{6})Z"'
    rf',"ktime_ns":({_NUMBER}),"event":"([a-z-]+)"({_mostly(CONNECTION[:-1])},"sock":"({_TEXT})")'.encode()
).match
_OF_ALL = _OWN.index(_LAST_OF_ALL) + 1
_OWNER_OR_END = rf'(?=,"(?:{"|".join(OWNER)})"|\}})'
_match_own = re.compile(
    rf"{_mostly(_OWN[:_OF_ALL], ['unsent_bytes'])}(?:{_OWNER_OR_END}|{_members(_OWN[_OF_ALL:])})".encode()
).match
_OWN_BEGINS = f',"{_FIRST_OWN}":'.encode()
_KINDS = {kind.encode(): kind for kind in EVENTS}


class LineEvent(PartedEvent):
    """An Event of which only what is AT_HAND was read; asked for more it becomes a plain one."""

    unread: tuple[bytes, bytes, Part, Part]  # its connection and what is its own, as JSON; its socket, its owner

    @property
    def parts(self) -> list[Part]:  # type: ignore[override]
        """As a PartedEvent has them."""
        connection, own, socket, owner = self.unread
        return [_of_connection(connection), socket, Part(_object(b"{%b}" % own[1:])), owner]

    def connection(self) -> Mapping[str, Any]:
        """The fields of its connection."""
        return _of_connection(self.unread[0]).fields


def line_event(line: bytes) -> LineEvent | None:
    """The event of a line; None where this does not see one, which says nothing about the line."""
    head = _match_head(line)
    if head is None:
        return None
    second, micros, ktime, kind, connection, sock = head.groups()
    head_ends = head.end()
    own_begins = line.find(_OWN_BEGINS, head_ends)
    own = _match_own(line, own_begins) if own_begins > 0 else None
    if own is None or len(line) - len(own[0]) > LONGEST_REMEMBERED or own_begins > SHORT:
        return None
    owner = line[own.end() :]
    try:
        event = _new(LineEvent)
        event.__dict__ = {
            "time_ns": _second_ns(second) + int(micros) * 1000,
            "ktime_ns": int(ktime),
            "event": _KINDS[kind],
            "sock": sock.decode(),
            "unread": (
                connection, own[0], _of_socket(line[head_ends:own_begins]),
                (_of_short_owner if len(owner) <= SHORT else _of_long_owner)(owner),
            ),
        }  # fmt: skip
        return event
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


@lru_cache(maxsize=4)
def _second_ns(text: bytes) -> int:
    second = parse_second(text.decode())
    if second is None:
        raise ValueError("no time")
    return second * 1_000_000_000


@lru_cache(maxsize=1024)
def _of_connection(piece: bytes) -> Part:
    return Part(_object(b"{%b}" % piece[1:]))


@lru_cache(maxsize=1024)
def _of_socket(piece: bytes) -> Part:
    return _shared(b"{%b}" % piece[1:], _SHARED)


def _parsed_owner(piece: bytes) -> Part:
    if piece[-1:] != b"\n":
        raise ValueError("truncated")
    return _shared(b"{%b" % piece[:-1].removeprefix(b","), frozenset(OWNER))


_of_short_owner = lru_cache(maxsize=1024)(_parsed_owner)
_of_long_owner = lru_cache(maxsize=32)(_parsed_owner)  # the processes in it may take twenty times its memory


def _shared(text: bytes, names: frozenset[str]) -> Part:
    known = _object(text)
    if not names.issuperset(known):
        raise ValueError("other fields")
    return Part(checked(known))


def _object(text: bytes) -> dict[str, Any]:
    written = text.decode()
    known, end = _decode(written)
    if end != len(written):
        raise ValueError("something else than one object")
    return known  # type: ignore[no-any-return]
