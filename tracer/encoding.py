"""Events and sockets → JSON lines, byte for byte what `json` makes of their `to_json`, in half of its time.

Events of a kind have the same fields, so a template, made once for their names, is filled in. What an event shares
with others was written with one of those.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import lru_cache
from json.encoder import encode_basestring_ascii
from typing import Any

from tracer import sockets
from tracer.events import Event, format_second, to_json
from tracer.parts import Part
from tracer.sockets import Socket

_encode = json.JSONEncoder(separators=(",", ":")).encode


def to_line(event: Event) -> str:
    """The event as a line with its newline; everything outside ASCII is escaped, so no terminal acts on it.

    Its numbers are finite: JSON has no others.
    """
    try:
        parts: list[Part] | None = getattr(event, "parts", None)
        if parts is not None:
            members = "".join([part.json or _of_part(part) for part in parts])
        else:
            known = event.known()
            if None in known.values():
                raise TypeError("None")
            members = _members(known, _LEADING)
    except (KeyError, TypeError):  # something is None, or in another order
        return _encode(to_json(event)) + "\n"
    second, rest = divmod(event.time_ns, 1_000_000_000)
    values = format_second(second), rest // 1000, event.ktime_ns, _quoted(event.event), members
    return '{"time":"%s.%06dZ","ktime_ns":%d,"event":%s%s}\n' % values  # noqa: UP031 - quicker than an f-string


def socket_to_line(socket: Socket) -> str:
    """The socket as a line with its newline, as :func:`to_line` writes an event."""
    known = sockets.to_json(socket)
    return f"{{{_members(known)[1:]}}}\n"


def _of_part(part: Part) -> str:
    part.json = _members(part.fields)
    return part.json


def _members(known: Mapping[str, Any], leading: Sequence[str] = ()) -> str:
    """The members of a JSON object, each after a comma, without those that lead. Raises KeyError or TypeError."""
    template, written = _template(tuple(known), leading)
    if not written and not leading:
        return template % tuple(known.values())
    values = list(known.values())
    for place, write in written:
        values[place] = write(values[place])
    return template % tuple(values[len(leading) :])


@lru_cache(maxsize=1024)
def _template(names: Sequence[str], leading: Sequence[str]) -> tuple[str, Sequence[tuple[int, Callable[[Any], str]]]]:
    """For fields of these names. Also the places of the values that are made texts first, and what makes them."""
    count = len(leading)
    if names[:count] != leading:
        raise KeyError(leading)
    kinds = [_KINDS[name] for name in names]
    members = [f',"{name}":{_PLACEHOLDERS.get(kind, "%s")}' for name, kind in zip(names, kinds, strict=True)]
    written = [(place, _WRITTEN[kind]) for place, kind in enumerate(kinds) if kind in _WRITTEN and place >= count]
    return "".join(members[count:]), written


_quoted = encode_basestring_ascii
_LEADING = ("time_ns", "ktime_ns", "event")
_KINDS = {field.name: str(field.type).removesuffix(" | None") for field in (*fields(Event), *fields(Socket))}
_KINDS["time"] = "str"
_PLACEHOLDERS = {"int": "%d", "float": "%r"}
_WRITTEN: dict[str, Callable[[Any], str]] = {
    "str": _quoted,
    "bool": {False: "false", True: "true"}.__getitem__,
    "list[int]": lambda numbers: f"[{','.join(map(str, numbers))}]",
    "list[str]": _encode,
}
