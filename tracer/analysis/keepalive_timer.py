"""When keepalive gives up on a peer: tcp_keepalive_timer(), net/ipv4/tcp_timer.c."""

from __future__ import annotations

from tracer.analysis.give_up import MAX_EXPIRIES, GiveUp, give_up_at
from tracer.analysis.readings import probes
from tracer.analysis.timer_wheel import armed_expiry, bucket, lateness, max_lag, slot_shift, time_ns, to_jiffies
from tracer.model.events import Event


def while_probing(event: Event, hz: int) -> GiveUp | None:
    """At the expiry that finds all probes unanswered, or the user timeout over where there is one."""
    if event.jiffies is None or not event.keepalive_interval_s or not event.keepalive_probes:
        return None
    interval = event.keepalive_interval_s * hz
    over, probes_left = event.jiffies, max(0, event.keepalive_probes - probes(event))
    if event.user_timeout_ms:
        if event.silent_ms is None:
            return None
        over += to_jiffies(event.user_timeout_ms, hz) - round(event.silent_ms * hz / 1000)
        probes_left = 0
        if over - event.jiffies > MAX_EXPIRIES * interval:
            after = over + interval + (1 << slot_shift(interval))
            return GiveUp(time_ns(event, hz, over), time_ns(event, hz, after))
    elif probes_left > MAX_EXPIRIES:
        # Older kernels take any number of them for net.ipv4.tcp_keepalive_probes.
        rounds = probes_left + 1
        after = over + rounds * (interval + (1 << slot_shift(interval)))
        return GiveUp(time_ns(event, hz, over + rounds * interval), time_ns(event, hz, after))
    candidates = []
    for lag in (0, max_lag(hz)):
        known = armed_expiry(event, hz)
        expiry = (bucket(event.jiffies, interval) if known is None else known) + lag
        left = probes_left
        while left > 0 or expiry < over:
            expiry = bucket(expiry, interval) + lag
            left -= 1
        candidates.append((expiry, expiry))
    return give_up_at(event, hz, candidates)


def before_probing(event: Event, hz: int) -> GiveUp | None:
    """After the first probe, which may be long ahead, and the others: none of them answered, as for a keepalive."""
    if not event.keepalive or not event.keepalive_idle_s or not event.keepalive_interval_s or event.silent_ms is None:
        return None
    interval_ms = bucket(0, event.keepalive_interval_s * hz) * 1000 / hz
    rounds = 1 if event.keepalive_probes is None else max(1, event.keepalive_probes)
    if event.user_timeout_ms:
        left_ms = event.user_timeout_ms - event.keepalive_idle_s * 1000
        rounds = max(1, -int(-left_ms // interval_ms))
    first_ms = first_late_ms = event.timer_ms
    if first_ms is None or first_late_ms is None:
        first_ms = max(0, event.keepalive_idle_s * 1000 - event.silent_ms)
        first_late_ms = first_ms + int(lateness(event.keepalive_idle_s, hz) * 1000)
    # Only the first interval does not begin where a slot of the wheel does.
    late_ms = lateness(event.keepalive_interval_s, hz) * 1000
    earliest_ns = event.ktime_ns + int((first_ms + rounds * interval_ms - late_ms) * 1_000_000)
    return GiveUp(earliest_ns, event.ktime_ns + int((first_late_ms + rounds * interval_ms) * 1_000_000))
