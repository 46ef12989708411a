"""Events that are put together when somebody looks into them: into most nobody does, they are only written down.

Most of what such an event says was said before: the two ends of a connection, the settings of its socket, its
process. Those are parts that it shares with others, and only a few numbers are its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from tracer.model.events import Event

AT_HAND = frozenset({"time_ns", "ktime_ns", "event", "sock"})
"""What each event is asked for."""
CONNECTION = ("family", "laddr", "lport", "raddr", "rport", "netns", "sock")
STATES = ("state", "old_state", "new_state", "ca_state", "backoff", "orphan", "mptcp")
SETTINGS = (
    "keepalive", "keepalive_idle_s", "keepalive_idle_own", "keepalive_interval_s", "keepalive_probes",
    "user_timeout_ms",
)  # fmt: skip
OWNER = ("pids", "pid", "comm", "exe", "cgroup")


@dataclass(slots=True, eq=False)
class Part:
    """Some fields. Once they are known they do not change. json: the same as text, once that was asked for."""

    fields: Mapping[str, Any]
    json: str | None = None


@dataclass(slots=True, eq=False)
class Row:
    """A part that only one event has: numbers, and their names, which others have as well."""

    names: Sequence[str]
    values: tuple[float, ...]
    json: None = None

    @property
    def fields(self) -> Mapping[str, Any]:
        """As a Part has them."""
        return dict(zip(self.names, self.values, strict=True))


NOTHING = Part({})


class PartedEvent(Event):
    """An Event in parts, which becomes a plain one as soon as a field is asked for that is not at hand.

    parts: its connection, how its socket is, what is its own, and its owner, which is NOTHING until it is set.
    Together, in this order, they are its fields after the first three. sock: as in its connection.
    """

    def __init__(
        self,
        time_ns: int,
        ktime_ns: int,
        event: str,
        sock: str | None,
        connection: Part,
        socket: Part,
        own: Part | Row,
    ) -> None:
        self.time_ns = time_ns
        self.ktime_ns = ktime_ns
        self.event = event
        self.sock = sock
        self.parts: list[Part | Row] = [connection, socket, own, NOTHING]

    def connection(self) -> Mapping[str, Any]:
        """The fields of its connection."""
        return self.parts[0].fields

    def known(self) -> dict[str, Any]:
        """All fields that are known, by name. From then on it is a plain event."""
        known = {"time_ns": self.time_ns, "ktime_ns": self.ktime_ns, "event": self.event}
        for part in self.parts:
            known.update(part.fields)
        self.__dict__, self.__class__ = known, Event  # type: ignore[assignment]
        return known


class _OfConnection:
    """What filters ask for: no reason to put the event together."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, event: PartedEvent | None, owner: type) -> Any:
        return None if event is None else event.connection().get(self._name)

    def __set__(self, event: PartedEvent, value: Any) -> None:
        event.known()[self._name] = value


class _Elsewhere(_OfConnection):
    """A field that is in one of the parts, or in none."""

    def __get__(self, event: PartedEvent | None, owner: type) -> Any:
        return None if event is None else event.known().get(self._name)


for _field in fields(Event):
    if _field.name not in AT_HAND:
        setattr(PartedEvent, _field.name, (_OfConnection if _field.name in CONNECTION else _Elsewhere)(_field.name))
