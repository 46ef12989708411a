"""Resets that the kernel reports, and that no peer sent.

Data that reaches a socket which the application has closed makes tcp_rcv_state_process() (net/ipv4/tcp_input.c) call
tcp_reset(), where the tracepoint of received resets is, and then answer with a reset. A RST is never answered, so the
two together tell. The data's acknowledgement is taken before that, and a RST's is not: so only a reset of a peer that
was heard in the same moment is in doubt.
"""

from __future__ import annotations

from collections.abc import Sequence

from tracer.model.events import Event

AT_ONCE_NS = 10_000_000
"""The answer is sent by the same call: microseconds later, now and then milliseconds in a virtual machine."""
_THE_SAME_MOMENT_MS = 10  # a jiffy, whatever HZ is
_CLOSED_BY_US = frozenset({"FIN_WAIT1", "FIN_WAIT2"})


def is_open(events: Sequence[Event], now_ns: int) -> bool:
    """Whether the answer that would tell may still come. events: by their time. now_ns: CLOCK_BOOTTIME."""
    for place in range(len(events) - 1, -1, -1):
        event = events[place]
        if now_ns - event.ktime_ns > AT_ONCE_NS:
            return False
        if _is_in_doubt(event) and not _is_answered(event, events[place + 1 :]):
            return True
    return False


def without_false(events: list[Event]) -> list[Event]:
    """The same events, in the order of their time, without received resets that were none."""
    false = {
        place
        for place, event in enumerate(events)
        if _is_in_doubt(event) and _is_answered(event, events[place + 1 :])
    }
    return [event for place, event in enumerate(events) if place not in false] if false else events


def _is_in_doubt(event: Event) -> bool:
    return (
        event.event == "reset"
        and event.direction == "received"
        and event.state in _CLOSED_BY_US
        and (event.silent_ms or 0) <= _THE_SAME_MOMENT_MS
    )


def _is_answered(event: Event, later: Sequence[Event]) -> bool:
    for other in later:
        if other.ktime_ns - event.ktime_ns > AT_ONCE_NS:
            return False
        if other.event == "reset" and other.direction == "sent" and _ends(other) == _ends(event):
            return True
    return False


def _ends(event: Event) -> tuple[object, ...]:
    return event.netns, event.laddr, event.lport, event.raddr, event.rport
