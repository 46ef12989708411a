"""The kinds of event."""

from __future__ import annotations

from enum import Enum


class Kind(str, Enum):
    """A value of `Event.event`. Compares, hashes, prints and serialises as its plain string.

    enum.StrEnum needs Python 3.11. Events hold the plain string: a recording may have kinds of a later version.
    """

    RETRANSMIT = "retransmit"
    KEEPALIVE = "keepalive"
    WINDOW_PROBE = "window-probe"
    UNSENT = "unsent"
    FOUND = "found"
    WAITING = "waiting"
    STATE = "state"
    RESET = "reset"
    ERROR = "error"
    RESUME = "resume"
    ACTION = "action"
    STALL = "stall"
    COUNTERS = "counters"
    LOST = "lost"

    __str__ = str.__str__
    __format__ = str.__format__  # type: ignore[assignment]


EVENTS = tuple(kind.value for kind in Kind)
"""The kinds that this version knows. The reader skips and counts others."""
COMPACT = (Kind.FOUND, Kind.RESUME, Kind.ACTION, Kind.STALL, Kind.COUNTERS, Kind.LOST)
"""The kinds of event in a compact recording."""
