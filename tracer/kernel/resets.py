"""Remove received resets that no peer sent.

When data arrives for a socket that the application has closed, tcp_rcv_state_process() (net/ipv4/tcp_input.c) calls
tcp_reset(), which has the tracepoint of received resets, and then sends a reset. A real RST is never answered. So a
received reset that is followed by a sent one was data. The kernel processes the ACK of data before that, but not the
ACK of a RST: so only a reset at the moment of the last received segment is in doubt.
"""

from __future__ import annotations

from collections.abc import Sequence

from tracer.model.events import Event
from tracer.model.kinds import Kind

AT_ONCE_NS = 10_000_000
"""How long after it the answer is sent: microseconds, sometimes milliseconds in a virtual machine."""
_RESET = Kind.RESET.value
_MAX_SILENT_MS = 10  # one jiffy at any HZ
_CLOSED_BY_US = frozenset({"FIN_WAIT1", "FIN_WAIT2"})


def is_open(events: Sequence[Event], now_ns: int) -> bool:
    """Whether a reset is in doubt and its answer may still come. events: by time. now_ns: CLOCK_BOOTTIME."""
    for place in range(len(events) - 1, -1, -1):
        event = events[place]
        if now_ns - event.ktime_ns > AT_ONCE_NS:
            return False
        if _is_in_doubt(event) and not _is_answered(event, events[place + 1 :]):
            return True
    return False


def without_false(events: list[Event]) -> list[Event]:
    """The events, by time, without received resets that no peer sent."""
    false = {
        place
        for place, event in enumerate(events)
        if _is_in_doubt(event) and _is_answered(event, events[place + 1 :])
    }
    return [event for place, event in enumerate(events) if place not in false] if false else events


def _is_in_doubt(event: Event) -> bool:
    return (
        event.event == _RESET
        and event.direction == "received"
        and event.state in _CLOSED_BY_US
        and (event.silent_ms is None or event.silent_ms <= _MAX_SILENT_MS)
    )


def _is_answered(event: Event, later: Sequence[Event]) -> bool:
    for other in later:
        if other.ktime_ns - event.ktime_ns > AT_ONCE_NS:
            return False
        if other.event == _RESET and other.direction == "sent" and _ends(other) == _ends(event):
            return True
    return False


def _ends(event: Event) -> tuple[object, ...]:
    return event.netns, event.laddr, event.lport, event.raddr, event.rport
