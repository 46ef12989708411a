"""What an action did to a connection, or why it left one alone."""

from __future__ import annotations

from enum import Enum

from tracer.model.dataclass import dataclass
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


class Answer(str, Enum):
    """What a probe of one connection brought. The values are the JSON contract (docs/events.md)."""

    ALIVE = "alive"
    """The peer answered."""
    NO_ANSWER = "no-answer"
    RESET = "reset"
    """The peer, or something on the path, answered with a RST, which ended the connection."""
    BUSY = "busy"
    """It had data that was unacknowledged or unsent all the time. No probe was sent."""
    UNREACHABLE = "unreachable"
    """It could not be probed. The detail says why."""


@dataclass(frozen=True, slots=True)
class Probed:
    """The result for one connection, as it was when it was chosen.

    rtt_ms: from the first probe to its answer; None if the answer may be that of something sent later. probes: how
    many were sent.
    """

    socket: Socket
    answer: Answer
    rtt_ms: float | None = None
    detail: str = ""
    probes: int = 0


@dataclass(frozen=True, slots=True, order=True)
class Service:
    """The end that the connections of a service share, and where they come from.

    is_here: this end is the server, and `address` is local. netns: of the sockets.
    """

    address: str
    port: int
    netns: int
    is_here: bool


def service_of(found: Socket) -> Service:
    """The service of a connection with known ends."""
    address, port = (found.laddr, found.lport) if found.accepted else (found.raddr, found.rport)
    return Service(address or "", port or 0, found.netns or 0, bool(found.accepted))


@dataclass(frozen=True, slots=True)
class Connected:
    """What a new connection to a service brought. error: the name of an errno; None if it opened."""

    service: Service
    error: str | None = None
    took_ms: float | None = None


class Left(Enum):
    """Why `end` leaves a connection alone that the filters accept."""

    REPLY = "it waits for a reply, and may get it"
    WINDOW = "the peer answers the probes of its closed window"
    RECOVERED = "it recovered between two looks"
    ORPHAN = "no process holds it, so no call waits"
    MPTCP = "the application holds another socket"
    SESSION = "the terminal of this command is connected by it"
