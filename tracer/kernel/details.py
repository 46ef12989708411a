"""The fields that depend on the kind of event: from which members of struct event each comes, and how.

Which events have a field is declared in tracer/model/events.py. One row here is all that decoding needs.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Mapping
from functools import lru_cache
from operator import attrgetter
from typing import Any, NamedTuple

from tracer.kernel.layout import DETAILS, struct_of
from tracer.kernel.retransmits import retransmit_kind
from tracer.model.events import DECLARATIONS, STATES, error_name, names_of
from tracer.model.kinds import Kind

UNKNOWN = 0xFFFFFFFF
"""A duration that is not known, or that does not exist."""
FULL_SOCK, KEEPALIVE, SYNACK, HAS_REASON, OWN_IDLE, ACCEPTED, AWAITS = 1, 2, 4, 8, 16, 32, 64
MPTCP, THIN, HAS_WAITER = 128, 256, 512
"""enum event_flags, bpf/event.h."""
SOCKET_TYPE = "socket"
"""A record of a walk for `tcpwatch sockets`, which is not an event."""
TYPES: Mapping[int, str] = {
    1: Kind.RETRANSMIT.value,
    2: Kind.KEEPALIVE.value,
    3: Kind.STATE.value,
    4: Kind.RESET.value,
    5: Kind.ERROR.value,
    6: Kind.RESUME.value,
    7: Kind.WINDOW_PROBE.value,
    8: SOCKET_TYPE,
    9: Kind.FOUND.value,
    10: Kind.WAITING.value,
    11: Kind.UNSENT.value,
}
"""enum event_type."""
_FOUND, _ERROR = Kind.FOUND.value, Kind.ERROR.value
_DIRECTIONS = {1: "received", 2: "sent", 3: "refused"}
_CAUSES = {
    1: "data",
    2: "keepalive",
    3: "window",
    4: "no-progress",
    5: "probe",
    6: "answer",
    7: "ack",
}
"""enum resume_cause."""
_SEND_RESULTS = {1: "NET_XMIT_DROP"}
"""Results of sending that are not an errno: include/linux/netdevice.h."""
_unpack = struct_of(DETAILS).unpack
_FOUND_LIKE = [name for name, _ in DETAILS].index("found_like")


class SocketMembers(NamedTuple):
    """Members of the state of the socket that details depend on."""

    flags: int
    state: int
    ca_state: int
    backoff: int
    retries: int
    syn_linear: int


def _context_type() -> Any:
    """The type of what a detail is decoded from: all members of the group by name, the socket's, and the rest.

    name: the kind of event. like: the same, or for `found` the kind of the same trouble. silent: jiffies.
    """
    others = ("name", "like", "unacked", "silent", "hz", "reasons")
    return namedtuple("Context", (*(name for name, _ in DETAILS), *SocketMembers._fields, *others))


_Context = _context_type()
_new = tuple.__new__  # a namedtuple's own constructor is a function in Python


def _ms(jiffies: int, hz: int) -> int | None:
    return None if jiffies == UNKNOWN else jiffies * 1000 // hz


def _kind(of: Any) -> str | None:
    if of.name == _FOUND:
        like: str | None = of.like
        return "idle" if like == SOCKET_TYPE else like
    return retransmit_kind(
        synack=bool(of.flags & SYNACK),
        state=STATES.get(of.state),
        ca_state=of.ca_state,
        pending=of.pending,
        attempt=of.attempt,
        backoff=of.backoff,
        unacked=of.unacked,
        silent_jiffies=of.silent,
    )


def _attempt(of: Any) -> int | None:
    attempt: int = of.attempt
    if of.name == _ERROR:
        return attempt if attempt and of.error > 0 else None
    return None if of.like == SOCKET_TYPE else attempt


def _send_error(of: Any) -> str | None:
    error = of.error
    if error < 0:
        return _SEND_RESULTS.get(-error, f"NET_XMIT {-error}")
    return error_name(error) if error else None


def _reason(of: Any) -> str | None:
    if not of.flags & HAS_REASON:
        return None
    return str(of.reasons.get(of.reason, f"reason {of.reason}"))


Decode = Callable[[Any], Any]
ROWS: Mapping[str, Decode] = {
    "jiffies": attrgetter("jiffies"),
    "rto_max_ms": lambda of: of.rto_max * 1000 // of.hz,
    "retrying_ms": lambda of: None if of.retrying_ms == UNKNOWN else of.retrying_ms,
    "retries": attrgetter("retries"),
    "thin": lambda of: True if of.flags & THIN else None,
    "probes_out": attrgetter("probes_out"),
    "syn_linear_timeouts": lambda of: of.syn_linear or None,
    "stuck_ms": lambda of: None if of.stuck_ms == UNKNOWN else of.stuck_ms,
    "asked_ms": lambda of: _ms(of.since_sent, of.hz) if of.flags & (ACCEPTED | AWAITS) == AWAITS else None,
    "timer_ms": lambda of: _ms(of.timer_in, of.hz),
    "kind": _kind,
    "attempt": _attempt,
    "segments": attrgetter("segments"),
    "send_error": _send_error,
    "direction": lambda of: _DIRECTIONS.get(of.direction),
    "reason": _reason,
    "errno": lambda of: of.error if of.error > 0 else None,
    "error": lambda of: error_name(of.error) if of.error > 0 else None,
    "cause": lambda of: _CAUSES.get(of.cause),
}
"""Each field's value for an event that may have it; None where this one does not."""
_WITHOUT_SOCKET = frozenset(
    {"kind", "attempt", "segments", "send_error", "direction", "reason", "errno", "error", "cause"}
)
"""Fields that do not come from a full socket. `found` has none without one."""
_OF_LIKE = frozenset({"rto_max_ms", "retrying_ms", "retries", "thin", "probes_out", "syn_linear_timeouts"})
"""Fields that `found` has only where the event with the same trouble has them too."""


@lru_cache(maxsize=128)
def _rows_of(kind: str, like: str | None, is_full: bool) -> list[tuple[str, Decode]]:
    """The rows of the fields that such an event may have. kind, like: as a detail is decoded from them."""
    return [
        (name, ROWS[name])
        for name in names_of("details")
        if kind in DECLARATIONS[name].kinds
        and (name not in _OF_LIKE or like in DECLARATIONS[name].kinds)
        and (is_full or (name in _WITHOUT_SOCKET and kind != _FOUND))
    ]


def add_details(
    known: dict[str, Any],
    raw: bytes,
    name: str,
    socket: SocketMembers,
    unacked: int,
    silent: int,
    hz: int,
    reasons: Mapping[int, str],
) -> None:
    """Add the fields of the group `details` that this event has. raw: those members. silent: jiffies."""
    members = _unpack(raw)
    like = name if name != _FOUND else TYPES.get(members[_FOUND_LIKE])
    of = _new(_Context, (*members, *socket, name, like, unacked, silent, hz, reasons))
    for field, decode in _rows_of(name, like, bool(socket.flags & FULL_SOCK)):
        if (value := decode(of)) is not None:
            known[field] = value
