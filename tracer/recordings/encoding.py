"""Events and sockets → JSON lines, byte for byte as `json` writes them, and several times faster."""

from __future__ import annotations

from tracer.model import sockets
from tracer.model.events import Event
from tracer.model.json_members import encode, members
from tracer.model.lazy import LazyEvent, json_of
from tracer.model.sockets import Socket
from tracer.model.times import format_second
from tracer.model.validation import to_json

_LEADING = ["time_ns", "ktime_ns", "event"]


def to_line(event: Event) -> str:
    """The event as a line with its newline. All but ASCII is escaped, so that no terminal acts on it.

    Its numbers are finite: JSON has no others.
    """
    if type(event) is LazyEvent:
        connection, socket = event.connection, event.socket
        own, owner = event.own, event.owner
        second, micros = divmod(event.time_ns // 1000, 1_000_000)
        return (
            f'{{"time":"{format_second(second)}.{micros:06d}Z","ktime_ns":{event.ktime_ns},"event":"{event.event}"'
            f"{connection.json or json_of(connection)}{socket.json or json_of(socket)}"
            f"{own if isinstance(own, str) else members(own)}"
            f"{owner.json or json_of(owner)}}}\n"
        )
    known = event.known()
    if list(known)[:3] != _LEADING or None in known.values():
        return encode(to_json(event)) + "\n"
    second, micros = divmod(known["time_ns"] // 1000, 1_000_000)
    rest = dict(known)
    del rest["time_ns"]
    return f'{{"time":"{format_second(second)}.{micros:06d}Z"{members(rest)}}}\n'


def socket_to_line(socket: Socket) -> str:
    """The socket as a line with its newline, as :func:`to_line` writes an event."""
    return f"{{{members(sockets.to_json(socket))[1:]}}}\n"
