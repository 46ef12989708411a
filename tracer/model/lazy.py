"""Lazily assembled events: most are written as JSON and never inspected.

An event shares its connection, the state of its socket and its owner with other events. Each of these is a `Part`
that is decoded and encoded once. Only a few numbers are the event's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from sys import intern
from typing import Any

from tracer.model.events import Event, names_of
from tracer.model.json_members import members

CONNECTION = names_of("connection")
SOCKET = names_of("state", "settings")
OWN = names_of("numbers", "details", "stall", "counters", "lost")
OWNER = names_of("owner")


class Part:
    """Some fields of an event, which do not change. json: as `json_of` makes it; None until it is asked for."""

    __slots__ = ("fields", "json")

    def __init__(self, known: Mapping[str, Any]) -> None:
        self.fields = known
        self.json: str | None = None


def json_of(part: Part) -> str:
    """The fields as members of a JSON object, each after a comma."""
    if part.json is None:
        part.json = members(part.fields)
    return part.json


NOTHING = Part({})


class LazyEvent(Event):
    """An Event that shares parts with others, and is put together when a field is read that is not at hand.

    At hand are time_ns, ktime_ns, event, sock and the fields of the connection. After the first three come, in the
    order of JSON lines: connection, the socket's state and settings, the event's own numbers, its owner. connection
    is None once the event is put together.
    """

    __slots__ = ("connection", "own", "owner", "socket")
    connection: Part | None
    socket: Part
    own: Mapping[str, Any]
    owner: Part

    def known(self) -> dict[str, Any]:
        """All fields that are known, by name, in the order of JSON lines."""
        if self.connection is not None:
            self.__dict__ = {
                "time_ns": self.time_ns,
                "ktime_ns": self.ktime_ns,
                "event": self.event,
                **self.connection.fields,
                **self.socket.fields,
                **{intern(name): value for name, value in self.own.items()},  # JSON has new names for each record
                **self.owner.fields,
                **self.__dict__,  # what was set meanwhile
            }
            self.connection = None
        return self.__dict__


class _InParts:
    """A field that the event does not have at hand: reading it puts the parts together.

    Not a data descriptor: once the event itself has the field, Python does not come here.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, event: LazyEvent | None, owner: type) -> Any:
        return None if event is None else event.known().get(self._name)


class _InConnection(_InParts):
    """A field of the connection, which filters read: no reason to put the parts together."""

    def __get__(self, event: LazyEvent | None, owner: type) -> Any:
        if event is None or event.connection is None:
            return None
        return event.connection.fields.get(self._name)


for _field in fields(Event):
    if _field.name in CONNECTION:
        setattr(LazyEvent, _field.name, _InConnection(_field.name))
    elif _field.name not in ("time_ns", "ktime_ns", "event"):
        setattr(LazyEvent, _field.name, _InParts(_field.name))

_new = object.__new__


def lazy_event(
    at_hand: dict[str, Any], connection: Part, socket: Part, own: Mapping[str, Any], owner: Part = NOTHING
) -> LazyEvent:
    """An event of these parts. at_hand: time_ns, ktime_ns, event, and sock if it is known."""
    event = _new(LazyEvent)
    event.__dict__ = at_hand
    event.connection = connection
    event.socket = socket
    event.own = own
    event.owner = owner
    return event
