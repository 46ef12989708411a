"""The fields that depend on the kind of event: from which members of struct event each comes, and how.

Which events have a field is declared in tracer/model/events.py. One row here is all that decoding needs.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Mapping
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
_RETRANSMIT, _FOUND, _ERROR = Kind.RETRANSMIT.value, Kind.FOUND.value, Kind.ERROR.value
_BY_PROBE0 = frozenset({Kind.WINDOW_PROBE.value, Kind.UNSENT.value})
"""Events of the kernel's PROBE0 timer."""
_RETRIED = _BY_PROBE0 | {_RETRANSMIT}
_DIRECTIONS = {1: "received", 2: "sent", 3: "refused"}
_CAUSES = {1: "data", 2: "keepalive", 3: "window", 4: "no-progress"}
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


def _known_ms(ms: int) -> int | None:
    return None if ms == UNKNOWN else ms


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
    "jiffies": lambda of: of.jiffies,
    "rto_max_ms": lambda of: of.rto_max * 1000 // of.hz if of.like in _RETRIED else None,
    "retrying_ms": lambda of: _known_ms(of.retrying_ms) if of.like in _RETRIED else None,
    "retries": lambda of: of.retries if of.like in _RETRIED else None,
    "thin": lambda of: True if of.like == _RETRANSMIT and of.flags & THIN else None,
    "probes_out": lambda of: of.probes_out if of.like in _BY_PROBE0 else None,
    "syn_linear_timeouts": lambda of: of.syn_linear if of.syn_linear and of.like == _RETRANSMIT else None,
    "stuck_ms": lambda of: _known_ms(of.stuck_ms),
    "asked_ms": lambda of: _ms(of.since_sent, of.hz) if of.flags & (ACCEPTED | AWAITS) == AWAITS else None,
    "timer_ms": lambda of: _ms(of.timer_in, of.hz),
    "kind": _kind,
    "attempt": _attempt,
    "segments": lambda of: of.segments,
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


def _rows_of(kind: str, *, is_full: bool) -> list[tuple[str, Decode]]:
    return [
        (name, ROWS[name])
        for name in names_of("details")
        if kind in DECLARATIONS[name].kinds and (is_full or (name in _WITHOUT_SOCKET and kind != _FOUND))
    ]


_ROWS_BY_KIND = {
    (kind, is_full): _rows_of(kind, is_full=is_full) for kind in TYPES.values() for is_full in (True, False)
}


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
    for field, decode in _ROWS_BY_KIND[name, bool(socket[0] & FULL_SOCK)]:
        value = decode(of)
        if value is not None:
            known[field] = value
