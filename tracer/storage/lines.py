"""A line of a recording → the event, in parts: those that the line shares with others are read once.

A line as tracer/encoding.py writes it is cut at the first field of each part. If each piece is a JSON object when it
is put in braces, the line as a whole is one, with the members of all: so it does not matter whether it was cut where
it was meant to be. What is not found as it was written is read as one object, by whoever asked.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from functools import lru_cache
from typing import Any

from tracer.events import EVENTS, LARGEST, Event, checked, parse_time
from tracer.parts import CONNECTION, OWNER, SETTINGS, STATES, Part, PartedEvent

_decode = json.JSONDecoder().raw_decode
_KINDS = frozenset(EVENTS)
_HEAD = ("time", "ktime_ns", "event")
_OF_CONNECTION, _OF_SOCKET, _OF_OWNER = frozenset(CONNECTION), frozenset({*STATES, *SETTINGS}), frozenset(OWNER)
_SHARED = _OF_CONNECTION | _OF_SOCKET | _OF_OWNER
_OWN = {field.name: str(field.type) for field in fields(Event) if field.name not in _SHARED}


def parted_event(line: bytes) -> PartedEvent | None:
    """The event of a line; None where this does not see one, which says nothing about the line."""
    head, _, rest = line.partition(b',"family":')
    connection, _, rest = rest.partition(b',"state":')
    socket, _, rest = rest.partition(b',"unacked_bytes":')
    if not rest:
        return None
    own, owned, owner = rest.partition(b',"pids":')
    if not owned:
        own, owned, owner = rest.partition(b',"cgroup":')
    try:
        known = _object(b'%b,"unacked_bytes":%b%b' % (head, own, b"}\n" if owned else b""))
        values = list(known.values())
        if _are_numbers(tuple(known), tuple(map(type, values))):
            # No number is more than the sum, which is not a number where one of them is none.
            if b"-" in own or values[1] < 0 or not sum(values[3:], values[1]) <= LARGEST:
                return None
        else:
            known = {"time": values[0], **checked(known)}
        if known["event"] not in _KINDS:
            return None
        parts = [_of_connection(connection), _of_socket(socket), Part(known)]
        if owned:
            parts.append(_of_owner(owned[1:] + owner))
        return PartedEvent.made(parse_time(known.pop("time")), known.pop("ktime_ns"), known.pop("event"), parts)
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
        return None


@lru_cache(maxsize=1024)
def _of_connection(piece: bytes) -> Part:
    return _shared(b'{"family":%b}\n' % piece, _OF_CONNECTION)


@lru_cache(maxsize=1024)
def _of_socket(piece: bytes) -> Part:
    return _shared(b'{"state":%b}\n' % piece, _OF_SOCKET)


@lru_cache(maxsize=1024)
def _of_owner(piece: bytes) -> Part:
    return _shared(b"{%b" % piece, _OF_OWNER)


def _shared(text: bytes, names: frozenset[str]) -> Part:
    known = _object(text)
    if not names.issuperset(known):
        raise ValueError("other fields")
    return Part(checked(known))


def _object(line: bytes) -> dict[str, Any]:
    text = line.decode()
    known, end = _decode(text)
    if text[end:] != "\n":
        raise ValueError("something else than one object")
    return known  # type: ignore[no-any-return]


@lru_cache(maxsize=1024)
def _are_numbers(names: Sequence[str], kinds: Sequence[type]) -> bool:
    """Whether what an event has for itself are numbers, besides its head. ValueError where it is not all its own."""
    if names[: len(_HEAD)] != _HEAD or kinds[: len(_HEAD)] != (str, int, str) or not _OWN.keys() >= set(names[1:]):
        raise ValueError("other fields")
    return all(
        kind in (int, float) and _OWN[name].startswith(("int", "float") if kind is int else "float")
        for name, kind in zip(names[len(_HEAD) :], kinds[len(_HEAD) :], strict=True)
    )
