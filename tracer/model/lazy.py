"""Lazily decoded events: most are written as JSON and never inspected.

An event shares its connection, the state of its socket and its owner with other events. Each of these is a `Part`,
which is converted once from fields to JSON or back. Only a few numbers are the event's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from operator import attrgetter
from typing import Any

from tracer.model.events import Event, names_of
from tracer.model.json_members import fields_of, members

CONNECTION = names_of("connection")
SOCKET = names_of("state", "settings")
OWN = names_of("numbers", "details", "action", "stall", "counters", "lost")
OWNER = names_of("owner")
_AT_HAND = frozenset({"time_ns", "ktime_ns", "event", "sock"})


class Part:
    """Some fields of an event, which do not change: known by name, as JSON (see `members`), or both.

    json: None until `json_of` makes it.
    """

    __slots__ = ("_fields", "json")

    def __init__(self, known: Mapping[str, Any] | None = None, json: str | None = None) -> None:
        self._fields = known
        self.json = json

    @property
    def fields(self) -> Mapping[str, Any]:
        """The fields by name."""
        if self._fields is None:
            self._fields = fields_of(self.json or "")
        return self._fields


def json_of(part: Part) -> str:
    """The fields as members of a JSON object, each after a comma."""
    if part.json is None:
        part.json = members(part.fields)
    return part.json


NOTHING = Part({})


class LazyEvent(Event):
    """An Event that shares parts with others.

    sock: as in its connection. After the first three fields come, in the order of JSON lines: connection, the
    socket's state and settings, the event's own fields, its owner. own: by name, or as JSON that is not parsed yet.
    Its own fields can be set, the shared ones cannot.
    """

    def __init__(
        self,
        time_ns: int,
        ktime_ns: int,
        event: str,
        sock: str | None,
        connection: Part,
        socket: Part,
        own: dict[str, Any] | str,
        owner: Part = NOTHING,
    ) -> None:
        self.time_ns = time_ns
        self.ktime_ns = ktime_ns
        self.event = event
        self.sock = sock
        self.connection = connection
        self.socket = socket
        self.own = own
        self.owner = owner

    @property
    def own_fields(self) -> dict[str, Any]:
        """Its own fields by name."""
        if isinstance(self.own, str):
            self.own = fields_of(self.own)
        return self.own

    def known(self) -> dict[str, Any]:
        """All fields that are known, by name, in the order of JSON lines. The event does not keep the dictionary."""
        return {
            "time_ns": self.time_ns,
            "ktime_ns": self.ktime_ns,
            "event": self.event,
            **self.connection.fields,
            **self.socket.fields,
            **self.own_fields,
            **self.owner.fields,
        }

    def whole(self) -> Event:
        """A plain event with the same fields. Reading many of them takes less time there."""
        return Event.of(self.known())


class _Shared:
    """A field that is in one of the parts, or absent."""

    def __init__(self, name: str, part: str) -> None:
        self._name = name
        self._fields_of = attrgetter(f"{part}.fields")

    def __get__(self, event: LazyEvent | None, owner: type) -> Any:
        return None if event is None else self._fields_of(event).get(self._name)

    def __set__(self, event: LazyEvent, value: Any) -> None:
        raise AttributeError(f"{self._name} is shared with other events")


class _Own:
    """A field of the event's own, or absent."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, event: LazyEvent | None, owner: type) -> Any:
        if event is None:
            return None
        own = event.own
        return (event.own_fields if isinstance(own, str) else own).get(self._name)

    def __set__(self, event: LazyEvent, value: Any) -> None:
        if value is None:
            event.own_fields.pop(self._name, None)
        else:
            event.own_fields[self._name] = value


_PARTS = {
    **dict.fromkeys(CONNECTION, "connection"),
    **dict.fromkeys(SOCKET, "socket"),
    **dict.fromkeys(OWNER, "owner"),
}
for _name in (each.name for each in fields(Event) if each.name not in _AT_HAND):
    setattr(LazyEvent, _name, _Shared(_name, _PARTS[_name]) if _name in _PARTS else _Own(_name))
