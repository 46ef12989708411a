"""When the kernel gives up on a window that stays closed, and on data that this host does not let out.

Both are the work of the PROBE0 timer. It gives up at an expiry that finds as many probes unanswered as
retransmissions would be, or TCP_USER_TIMEOUT over: tcp_probe_timer() and tcp_send_probe0(), net/ipv4/tcp_timer.c and
tcp_output.c.
"""

from __future__ import annotations

from collections.abc import Iterator

from tracer.analysis.give_up import CONGESTED_MS, MAX_EXPIRIES, GiveUp, give_up_at, when_over
from tracer.analysis.readings import retrying_ms
from tracer.analysis.timer_wheel import armed_expiry, bucket, max_lag, time_ns, to_jiffies
from tracer.model.dataclass import dataclass
from tracer.model.events import Event
from tracer.model.kinds import Kind

KINDS = frozenset({Kind.WINDOW_PROBE, Kind.UNSENT})
"""Events, and kinds of `found`, that are about this timer."""
BASE_MS = 200
"""The first timeout is the RTO, and no less than this: tcp_probe0_base(), include/net/tcp.h."""
MIN_UNANSWERED = 2
"""Fewer unanswered probes in a row mean nothing: a peer answers once in 500 ms at most, so that the second probe may
remain unanswered (tcp_oow_rate_limited(), net/ipv4/tcp_input.c; net.ipv4.tcp_invalid_ratelimit)."""
_MAX_BACKOFF = 10  # tcp_probe0_when(): ilog2(TCP_RTO_MAX / TCP_RTO_MIN) + 1
_ORPHAN_RETRIES = 8  # tcp_orphan_retries(): in place of 0, until the doubled RTO has come to its maximum


@dataclass(slots=True)
class ProbeTimer:
    """The PROBE0 timer after a probe, in jiffies where the name does not say ms.

    probes: unanswered, with that of the event. limit: the number of probes after which the kernel gives up. doubles:
    the backoff up to which the timeout doubles. is_unsent: data waits that this host does not let out. congested:
    because a queue is full; the kernel then tries again without doubling the timeout.
    """

    event: Event
    hz: int
    now: int
    rto: int
    rto_max: int
    probes: int
    backoff: int
    limit: int
    doubles: int
    is_unsent: bool
    congested: bool
    next_expiry: int | None  # of a connection that was found

    def timeout(self, backoff: int, elapsed_ms: float) -> int:
        """What the timer is armed with."""
        if self.congested:
            timeout = to_jiffies(CONGESTED_MS, self.hz)
        else:
            base = max(to_jiffies(BASE_MS, self.hz), self.rto)
            timeout = min(base << min(backoff, _MAX_BACKOFF), self.rto_max)
        if not self.event.user_timeout_ms:
            return timeout
        return min(timeout, max(2, to_jiffies(self.event.user_timeout_ms - elapsed_ms, self.hz)))

    def gives_up(self) -> GiveUp | None:
        """If nothing is received; None where that takes more than MAX_EXPIRIES."""
        candidates = []
        for lag in (0, max_lag(self.hz)):
            over = when_over(self._expiries(lag))
            if over is None:
                return None
            candidates.append(over)
        return give_up_at(self.event, self.hz, candidates)

    def _expiries(self, lag: int) -> Iterator[tuple[int, bool, bool]]:
        """The jiffy of each expiry, and whether the kernel may give up then, and must. lag: jiffies each is late."""
        now, probes, backoff = self.now, self.probes, self.backoff
        elapsed_ms, user_timeout_ms = float(retrying_ms(self.event)), self.event.user_timeout_ms
        known = self.next_expiry
        for _ in range(MAX_EXPIRIES):
            expiry = (bucket(now, self.timeout(backoff, elapsed_ms)) if known is None else known) + lag
            known = None
            elapsed_ms += (expiry - now) * 1000 / self.hz
            over = probes >= self.limit or bool(user_timeout_ms and elapsed_ms >= user_timeout_ms)
            # The limit of an orphan may fall to 0 then.
            falls = bool(self.event.orphan) and self.rto << min(backoff, 31) >= self.rto_max
            over = over or (falls and backoff >= self.limit)
            yield expiry, over or (falls and self.limit == _ORPHAN_RETRIES), over
            now, probes = expiry, probes + 1
            backoff += not self.congested and backoff < self.doubles


def probe_timer(event: Event, hz: int) -> ProbeTimer | None:
    """The timer of an event of KINDS; None where a field is missing, as in recordings of older versions."""
    if event.jiffies is None or not event.rto_ms or not event.rto_max_ms:
        return None
    if event.retries is None or event.probes_out is None:
        return None
    is_found = event.event == Kind.FOUND
    backoff, sent = 0 if event.backoff is None else event.backoff, event.probes_out
    # A probe counts towards both, unless it could not be sent for lack of room, or the backoff has come to
    # tcp_retries2 (tcp_send_probe0()). Of an orphan that is not known before, and usually more than its own limit.
    is_unsent = "unsent" in (event.event, event.kind)
    congested = sent > backoff and is_unsent
    doubles = event.retries if not event.orphan else backoff if sent > backoff else MAX_EXPIRIES
    return ProbeTimer(
        event=event,
        hz=hz,
        now=event.jiffies,
        rto=max(1, round(event.rto_ms * hz / 1000)),
        rto_max=round(event.rto_max_ms * hz / 1000),
        probes=sent if is_found else sent + 1,
        backoff=backoff if is_found or congested else min(backoff + 1, max(backoff, doubles)),
        limit=event.retries,
        doubles=doubles,
        is_unsent=is_unsent,
        congested=congested,
        next_expiry=armed_expiry(event, hz),
    )


def gives_up(event: Event, hz: int) -> GiveUp | None:
    """When the kernel gives up if nothing is received from the event on, CLOCK_BOOTTIME nanoseconds.

    None for a closed window if the peer answers its probes, unless TCP_USER_TIMEOUT or an orphan's limit ends it.
    """
    timer = probe_timer(event, hz)
    if timer is None:
        return None
    is_answered = not timer.is_unsent and (event.probes_out is None or event.probes_out < MIN_UNANSWERED)
    return None if is_answered and not (event.user_timeout_ms or event.orphan) else timer.gives_up()


def next_expiry_ns(event: Event, hz: int) -> int | None:
    """When the next probe goes out at the latest, if nothing is received before."""
    timer = probe_timer(event, hz)
    if timer is None:
        return None
    timeout = timer.timeout(timer.backoff, retrying_ms(event))
    return time_ns(event, hz, bucket(timer.now, timeout) + max_lag(hz))
