"""Whether a new sign continues the open stall, shows progress since its last event, or is about something else.

This follows from the kernel's counts and clocks, so that events missing between the two do not matter.
"""

from __future__ import annotations

from tracer.analysis.outstanding import (
    FIN,
    KEEPALIVE,
    RTO,
    SYN,
    TLP,
    UNSENT,
    WAITING,
    WINDOW_PROBE,
    Outstanding,
    first_rto_ms,
)
from tracer.analysis.stall_state import StallState
from tracer.model.events import Event
from tracer.model.kinds import Kind

MS = 1_000_000
SECOND = 1_000_000_000

OF_DATA = frozenset({TLP, RTO, FIN})
"""Signs that something is in flight."""


def progressed(stall: StallState, event: Event, now: Outstanding) -> bool:
    """Whether something was acknowledged since the last sign: the kernel's count began anew, or its clock."""
    if stall.answered_ns is not None:
        return True
    was, sign = stall.evidence.sign, now.sign
    if was in OF_DATA and sign not in OF_DATA:
        return sign in (KEEPALIVE, WINDOW_PROBE, UNSENT)  # none goes out while anything is in flight
    if was == SYN:
        return sign != SYN  # what is connected was answered
    if not is_same_kind(was, sign) or sign == WAITING or event.kind == FIN:
        return False
    if event.snd_wnd == 0 and sign in OF_DATA:
        # Retransmissions into a closed window are not counted (tcp_retransmit_timer(), net/ipv4/tcp_timer.c).
        return now.since_ns > stall.since_ns + slack_ns(event)
    if _is_the_one_found(stall, event) or is_beyond_count(event):
        return False
    if event.kind == TLP:
        return True
    before, attempt = stall.last_event.attempt, event.attempt
    if before is not None and attempt is not None:
        has_begun_anew = attempt < before if event.event == Kind.FOUND else attempt <= before
        if has_begun_anew:
            return True
    return sign in OF_DATA and now.since_ns > stall.since_ns + slack_ns(event)


def is_beyond_count(event: Event) -> bool:
    """Whether the kernel counts no more probes of this closed window.

    It counts them by doubling the timeout, up to tcp_retries2 times (tcp_send_probe0(), net/ipv4/tcp_output.c).
    """
    if "window-probe" not in (event.event, event.kind) or event.backoff is None or event.retries is None:
        return False
    return event.backoff >= event.retries


def _is_the_one_found(stall: StallState, event: Event) -> bool:
    """Whether a walk came by between the kernel's counting of this retransmission and its event."""
    found = stall.last_event
    is_counted = found.event == Kind.FOUND and event.event == Kind.RETRANSMIT and event.attempt == found.attempt
    if not is_counted or event.rto_ms is None:
        return False
    return event.ktime_ns - found.ktime_ns < event.rto_ms * MS // 2


def is_same_kind(sign: str, other: str) -> bool:
    """Whether both are about data in flight, or are equal."""
    return sign == other or (sign in OF_DATA and other in OF_DATA)


def is_about_something_else(stall: StallState, event: Event, now: Outstanding) -> bool:
    """Whether something else is unanswered now, without evidence that what was before is answered."""
    if not is_same_kind(stall.evidence.sign, now.sign):
        return True
    return now.sign == WAITING and now.since_ns > stall.since_ns + slack_ns(event)


def slack_ns(event: Event) -> int:
    """How far apart two computed send times of the same data may be."""
    return SECOND + round(2 * first_rto_ms(event)) * MS


def as_predicted(stall: StallState, event: Event) -> bool:
    """Whether this retransmission follows the last one as its exact give-up time assumed: then that time stands."""
    before, give_up = stall.last_event, stall.give_up
    return (
        give_up is not None
        and give_up.is_exact
        and before.kind == event.kind
        and before.attempt is not None
        and event.attempt == before.attempt + 1
        and before.rto_ms is not None
        and event.rto_ms is not None
        and event.rto_max_ms is not None
        and abs(event.rto_ms - min(2 * before.rto_ms, event.rto_max_ms)) <= 2  # whole ms of jiffies
        and event.soft_error == before.soft_error
        and event.orphan == before.orphan
        and event.retries == before.retries
        and event.user_timeout_ms == before.user_timeout_ms
        and event.rto_max_ms == before.rto_max_ms
        and event.send_error == before.send_error
        and not event.thin
    )
