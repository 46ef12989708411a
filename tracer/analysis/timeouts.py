"""When the kernel gives up on a peer from which nothing more is received.

The kernel decides only when a timer expires, so the answer is the first expiry past a limit. The module of each timer
computes limits and expiries as the kernel does, from one event. Whether the peer sends something
meanwhile is for :mod:`tracer.analysis.stalls`.
"""

from __future__ import annotations

from tracer.analysis import keepalive_timer, probe_timer
from tracer.analysis.give_up import GiveUp
from tracer.analysis.retransmission_timer import retransmission_timer
from tracer.analysis.timer_wheel import bucket, max_lag, time_ns, timer_of
from tracer.model.events import Event
from tracer.model.kinds import Kind

MAX_MS = 10 * 365 * 86_400_000
"""A give-up time further ahead than this is not reported: it comes from a damaged recording, or means never."""


def gives_up(event: Event, hz: int) -> GiveUp | None:
    """When the kernel gives up if nothing is received after the event; None where that cannot be known.

    event: a `retransmit`, `keepalive`, `window-probe` or `unsent`; a `found` of one of these kinds; or a `waiting`,
    which only keepalive can end. hz: jiffies per second of the event's kernel.

    None also where that is MAX_MS away; for `fast`, which follows an ACK and does not count towards a limit yet; for
    a SYN/ACK, because the event does not have its limit; for a closed window if its latest probe was answered.
    """
    timer_name = timer_of(event)
    if event.event == Kind.WAITING:
        give_up = keepalive_timer.before_probing(event, hz)
    elif timer_name == "keepalive":
        give_up = keepalive_timer.while_probing(event, hz)
    elif timer_name in probe_timer.KINDS:
        give_up = probe_timer.gives_up(event, hz)
    else:
        timer = retransmission_timer(event, hz)
        give_up = timer.gives_up() if timer is not None else None
    if give_up is not None and give_up.latest_ns - event.ktime_ns > MAX_MS * 1_000_000:
        return None
    return give_up


def next_expiry_ns(event: Event, hz: int) -> int | None:
    """When the timer behind a retransmission or a probe expires again, at the latest, CLOCK_BOOTTIME nanoseconds.

    If nothing is seen by then, the peer has answered, or events are missing. None where it cannot be known.
    hz: jiffies per second.
    """
    if event.event == Kind.FOUND:
        return event.ktime_ns + event.timer_ms * 1_000_000 if event.timer_ms is not None else None
    if event.event in probe_timer.KINDS:
        return probe_timer.next_expiry_ns(event, hz)
    if event.event == Kind.KEEPALIVE:
        if event.jiffies is None or not event.keepalive_interval_s:
            return None
        return time_ns(event, hz, bucket(event.jiffies, event.keepalive_interval_s * hz) + max_lag(hz))
    timer = retransmission_timer(event, hz)
    if timer is None:
        return None
    return time_ns(event, hz, bucket(timer.now, timer.longest_timeout()) + max_lag(hz))
