"""How a field of an event is declared: the annotation gives its JSON type, `declared` everything else.

Validation, the parts of lazy events, encoding and the tables of docs/events.md follow from the declarations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, field, fields
from typing import Any

from tracer.model.dataclass import dataclass
from tracer.model.kinds import Kind

MAX_NUMBER = 2**63 - 1
"""The largest number in JSON: the kernel's nanoseconds are signed, too."""
MAX_TEXT = 512
"""Characters of a text, unless its field allows more."""
MAX_PATH = 4096
"""Characters of a name or path (PATH_MAX)."""

EVERY = "every"
"""The table of docs/events.md for fields of all events."""
SOCKETS = "sockets"
"""The table of docs/events.md for fields that only `tcpwatch sockets` has."""
SOCKET_EVENTS = tuple(kind for kind in Kind if kind not in (Kind.COUNTERS, Kind.LOST))
_METADATA = "tcpwatch"


@dataclass(frozen=True, slots=True)
class Declaration:
    """What a field is.

    group: connection, state, settings, numbers, details, owner and so on: events share the first three and the last.
    kinds: the events that may have it. docs: its sentence, for each table of docs/events.md that lists it. in_stalls:
    a stall copies it from its newest event. max_length: characters of a text.
    """

    group: str
    kinds: tuple[Kind, ...]
    docs: Mapping[str, str]
    in_stalls: bool = False
    max_length: int = MAX_TEXT


def declared(
    group: str,
    sentence: str = "",
    *,
    kinds: tuple[Kind, ...] = SOCKET_EVENTS,
    tables: Mapping[str, str] | None = None,
    in_stalls: bool = False,
    max_length: int = MAX_TEXT,
) -> Any:
    """A dataclass field that is absent by default. sentence: for the table of all events, or tables for others."""
    docs = tables if tables is not None else {EVERY: sentence}
    return field(default=None, metadata={_METADATA: Declaration(group, kinds, docs, in_stalls, max_length)})


def required(sentence: str) -> Any:
    """A dataclass field that every event has."""
    return field(metadata={_METADATA: Declaration("leading", tuple(Kind), {EVERY: sentence})})


def declaration(of: Field[Any]) -> Declaration | None:
    """The declaration of a dataclass field; None where it has none."""
    found: Declaration | None = of.metadata.get(_METADATA)
    return found


def declarations(of: type) -> dict[str, Declaration]:
    """The declared fields of a dataclass, in its order."""
    return {each.name: found for each in fields(of) if (found := declaration(each)) is not None}


def json_types(of: type) -> dict[str, str]:
    """The JSON type of each field of a dataclass: int, float, str, bool, list[int], list[str] or dict[str, int]."""
    return {each.name: str(each.type).removesuffix(" | None") for each in fields(of)}
