"""What `tcpwatch protect` is asked for, and what became of one connection."""

from __future__ import annotations

from dataclasses import asdict
from enum import Enum
from typing import Any

from tracer.model.dataclass import dataclass
from tracer.model.sockets import Socket


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a socket that are in force: its own, else those of its network namespace.

    The names are the JSON contract (docs/events.md). user_timeout_ms: 0 for none.
    """

    keepalive: bool
    keepalive_idle_s: int
    keepalive_interval_s: int
    keepalive_probes: int
    user_timeout_ms: int

    @property
    def gives_up_ms(self) -> int:
        """The silence after which unanswered keepalive probes end the connection, without a user timeout."""
        return 1000 * (self.keepalive_idle_s + self.keepalive_interval_s * self.keepalive_probes)

    def to_json(self) -> dict[str, Any]:
        """A flat JSON object."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Protection:
    """The longest times that are wanted. None: as the socket has it."""

    idle_s: int
    interval_s: int | None = None
    probes: int | None = None
    user_timeout_ms: int | None = None


class Result(str, Enum):
    """What became of one connection. The values are the JSON contract (docs/events.md)."""

    CHANGED = "changed"
    WOULD_CHANGE = "would-change"
    """With --dry-run: nothing was done."""
    UNCHANGED = "unchanged"
    """It has these settings already, or shorter ones."""
    UNREACHABLE = "unreachable"
    """It could not be reached, or the kernel refused. The detail says why."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result for one connection, as it was when it was found. before, after: None where it was not reached."""

    socket: Socket
    result: Result
    before: Settings | None = None
    after: Settings | None = None
    detail: str = ""
