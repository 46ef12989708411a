"""What an action did to a connection, or why it left one alone."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from tracer.model.sockets import Socket


class Result(str, Enum):
    """What became of one connection. The values are the JSON contract (docs/events.md)."""

    WOULD_END = "would-end"
    """With --dry-run: nothing was done."""
    ENDED = "ended"
    GONE = "gone"
    """It was closed, or ended by itself, before it could be ended."""
    RECOVERED = "recovered"
    """It no longer hung when its turn came, and was left alone."""
    UNREACHABLE = "unreachable"
    """The kernel refused. The detail says why."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result for one connection, as it was when it was chosen. detail: why it could not be reached."""

    socket: Socket
    result: Result
    detail: str = ""


class Left(Enum):
    """Why `end` leaves a connection alone that the filters accept."""

    REPLY = "it waits for a reply, and may get it"
    WINDOW = "the peer answers the probes of its closed window"
    RECOVERED = "it recovered between two looks"
    ORPHAN = "no process holds it, so no call waits"
    MPTCP = "the application holds another socket"
    SESSION = "the terminal of this command is connected by it"
