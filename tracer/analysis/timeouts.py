"""When the kernel gives up on a peer that is not heard any more.

It decides only when a timer expires: the answer is the first expiry past a limit. Limits (tcp_write_timeout() and
tcp_keepalive_timer(), net/ipv4/tcp_timer.c) and expiries (the timer wheel, kernel/time/timer.c) are computed here
as the kernel computes them, from one event. Whether the peer is heard meanwhile, and all of it void, is for
:mod:`tracer.analysis.stalls`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from tracer.analysis import probing
from tracer.analysis.expiry import (
    CONGESTED_MS,
    EXACT_MS,
    MAX_EXPIRIES,
    GiveUp,
    bucket,
    give_up_at,
    lateness,
    max_lag,
    slot_shift,
    time_ns,
    to_jiffies,
    when_over,
)
from tracer.model.events import Event

FAR_MS = 10 * 365 * 86_400_000
"""Nothing is waited for so long: a time beyond that is a damaged recording's, or stands for never."""

_RTO_BASE_MS = 200  # TCP_RTO_MIN, include/net/tcp.h: the limit is reckoned with it, whatever the RTO is
_SYN_BASE_MS = 1000  # TCP_TIMEOUT_INIT
_RTO_MAX_MS = 120_000  # TCP_RTO_MAX
_THIN_RETRIES = 6  # TCP_THIN_LINEAR_RETRIES: so many RTOs of a thin stream are not doubled
_ORPHAN_RETRIES = 8  # tcp_orphan_retries(): in place of 0, until the RTO has come to its maximum


def gives_up(event: Event, hz: int) -> GiveUp | None:
    """When the kernel gives up if nothing is heard from the event on; None where that cannot be known.

    event: a `retransmit`, `keepalive`, `window-probe` or `unsent`, a `found` of such a kind, whose next expiry is
    known, or a `waiting`, which only keepalive can end. hz: jiffies per second of the kernel that it comes from.

    None where that is FAR_MS away; for `fast`, which follows an ACK and counts towards no limit yet; for a SYN/ACK,
    whose limit is not in the event; for a closed window whose latest probe was answered.
    """
    if event.event == "waiting":
        give_up = _of_waiting(event, hz)
    elif _is_like(event, "keepalive"):
        give_up = _of_keepalive(event, hz)
    elif _like(event) in probing.KINDS:
        give_up = probing.gives_up(event, hz)
    else:
        timer = _retransmission_timer(event, hz)
        if timer is not None and timer.window_closed:
            give_up = timer.while_window_is_closed()
        else:
            give_up = (timer.regular() or timer.window()) if timer is not None and timer.limited else None
    if give_up is not None and give_up.latest_ns - event.ktime_ns > FAR_MS * 1_000_000:
        return None
    return give_up


def next_expiry_ns(event: Event, hz: int) -> int | None:
    """When the timer behind a retransmission or a probe expires again, CLOCK_BOOTTIME nanoseconds.

    At the latest, if nothing is heard: where nothing more is seen by then, something was heard. None where it cannot
    be known. hz: jiffies per second.
    """
    if event.event == "found":
        return event.ktime_ns + event.timer_ms * 1_000_000 if event.timer_ms is not None else None
    if event.event in probing.KINDS:
        return probing.next_expiry_ns(event, hz)
    if event.event == "keepalive":
        if event.jiffies is None or not event.keepalive_interval_s:
            return None
        return time_ns(event, hz, bucket(event.jiffies, event.keepalive_interval_s * hz) + max_lag(hz))
    timer = _retransmission_timer(event, hz)
    if timer is None:
        return None
    return time_ns(event, hz, bucket(timer.now, timer.longest_timeout()) + max_lag(hz))


@dataclass(slots=True)  # not frozen: one is made for each retransmission
class _RetransmissionTimer:
    """The timer as a retransmission leaves it. In jiffies where the name does not say ms."""

    event: Event
    hz: int
    now: int
    rto: int  # before this retransmission doubles it
    rto_max: int
    attempt: int
    limit_ms: int
    limit_attempts: int | None  # of a SYN
    syn: bool
    loss_probe: bool  # the timer was armed anew, and for the first RTO
    next_expiry: int | None  # where the kernel says so; then `rto` was doubled for it already

    @property
    def limited(self) -> bool:
        """Whether the time counts, or will from the next expiry on."""
        if self.loss_probe:
            return True
        return self.event.kind != "fast" and self.attempt > 0 and self.event.retrying_ms is not None

    @property
    def window_closed(self) -> bool:
        """Whether the peer has closed its window on data in flight: then the kernel's limit is another one."""
        return self.event.snd_wnd == 0 and not self.syn and not self.event.orphan

    @property
    def irregular(self) -> bool:
        """Whether the RTO is not known to double each time, where it is to.

        Each ICMP message "unreachable" takes one doubling back (tcp_ld_RTO_revert(), RFC 6069); local congestion
        does without. `backoff` tells, but not before the second retransmission.
        """
        if self.syn:
            return False
        if self.attempt <= 1 and (self.event.soft_error or self.event.send_error):
            return True
        if self.thin and self.loss_probe:
            return True  # whether the stream counts as thin is decided with the first RTO
        doubled = max(0, self.attempt - _THIN_RETRIES) if self.thin else self.attempt
        return doubled > (self.event.backoff or 0) + (1 if self.next_expiry is None else 0)

    @property
    def thin(self) -> bool:
        """Whether the first RTOs are not doubled: TCP_THIN_LINEAR_TIMEOUTS (TCP_THIN_LINEAR_RETRIES of them)."""
        return bool(self.event.thin)

    def backed_off(self, rto: int, attempt: int) -> int:
        """The RTO after that retransmission: tcp_retransmit_timer(). Since 6.5 the first SYNs do not double it."""
        if self.syn and attempt <= (self.event.syn_linear_timeouts or 0):
            return rto
        if self.thin and attempt <= _THIN_RETRIES:
            return rto
        return min(2 * rto, self.rto_max)

    def clamped(self, rto: int, elapsed_ms: float) -> tuple[int, bool]:
        """What the timer is armed with, and whether that is all that is left: tcp_clamp_rto_to_user_timeout()."""
        if not self.event.user_timeout_ms:
            return rto, False
        left = max(1, to_jiffies(self.event.user_timeout_ms - elapsed_ms, self.hz))
        return min(rto, left), left <= rto

    def longest_timeout(self) -> int:
        """What the timer is armed with now, at most."""
        if self.loss_probe or self.event.kind == "fast":
            return self.rto + 1  # tcp_pacing_delay()
        timeout, _ = self.clamped(self.backed_off(self.rto, self.attempt), self.event.retrying_ms or 0)
        return max(timeout, to_jiffies(CONGESTED_MS, self.hz)) if self.irregular else timeout

    def regular(self) -> GiveUp | None:
        """Where the RTO doubles each time, expiry by expiry; None where it does not, or with too many of them."""
        if self.irregular:
            return None
        candidates = []
        for lag, (now, attempt, elapsed_ms) in product((0, max_lag(self.hz)), self._starts()):
            over = when_over(self._expiries(now, attempt, elapsed_ms, lag))
            if over is None:
                return None
            candidates.append(over)
        return give_up_at(self.event, self.hz, candidates)

    def _starts(self) -> Iterator[tuple[int, int, float]]:
        """The retransmission by RTO to count from: its jiffy, its number, and the milliseconds elapsed by then."""
        if not self.loss_probe:
            yield self.now, self.attempt, float(self.event.retrying_ms or 0)
            return
        # The first one is still to come and starts the clock. tcp_pacing_delay() may make it a jiffy later.
        for timeout in (self.rto, self.rto + 1):
            yield bucket(self.now, timeout), 1, 0.0

    def _expiries(self, now: int, attempt: int, elapsed_ms: float, lag: int) -> Iterator[tuple[int, bool, bool]]:
        """The jiffy of each expiry, and whether the kernel may give up then, and must. lag: jiffies each is late."""
        # The kernel compares milliseconds of a clock, read somewhere within the jiffies that are known here.
        slack_ms = 1000 / self.hz + 1
        rto, rto_max, limit_ms, hz = self.rto, self.rto_max, self.limit_ms, self.hz
        may_fall = bool(self.event.orphan) and self.event.retries == _ORPHAN_RETRIES
        is_clamped, over = bool(self.event.user_timeout_ms), False
        known = self.next_expiry
        for _ in range(MAX_EXPIRIES):
            if known is not None:
                expiry, known = known + lag, None
                # Armed for what was left of the user timeout, it finds that over.
                over = is_clamped and elapsed_ms + (expiry - now) * 1000 / hz + slack_ms >= limit_ms
            else:
                timeout = rto = self.backed_off(rto, attempt)
                if is_clamped:
                    timeout, over = self.clamped(rto, elapsed_ms + (-slack_ms if lag else slack_ms))
                expiry = bucket(now, timeout) + lag
                if over:
                    # What is left ends at one time, whenever the timer before it ran; but a jiffy more or less of it
                    # may be another slot of the wheel.
                    slack = to_jiffies(slack_ms, self.hz)
                    end = now + self.clamped(rto, elapsed_ms)[0]
                    soonest, last = max(end, bucket(now, max(1, timeout - slack))), bucket(now, timeout + slack) + lag
                    if (last - soonest) * 1000 > EXACT_MS * self.hz:
                        yield soonest, True, False
                        expiry = last
            elapsed_ms += (expiry - now) * 1000 / hz
            over = over or (self.limit_attempts is not None and attempt >= self.limit_attempts)
            # The limit may fall to 0 then: tcp_orphan_retries() is told whether the RTO is below its maximum.
            falls = may_fall and rto >= rto_max
            may = over or falls or elapsed_ms + slack_ms >= limit_ms
            yield expiry, may, over or elapsed_ms - slack_ms >= limit_ms
            now, attempt = expiry, attempt + 1

    def window(self) -> GiveUp:
        """However the RTO goes on: not before the limit, and not later than the longest RTO after it.

        An RTO that passes the limit is longer than all those before it together by no more than the first.
        """
        rto_ms = self._longest_ms(self.rto)
        elapsed_low_ms = elapsed_high_ms = float(self.event.retrying_ms or 0)
        if self.loss_probe:
            elapsed_low_ms = -rto_ms  # the first RTO is still to come
        if self.event.send_error and self.attempt <= 1:
            # It counts from when the segment was last sent (tcp_retransmit_skb()): a probe and an RTO ago at most.
            elapsed_high_ms += 2 * rto_ms
        left_ms = max(0.0, self.limit_ms - elapsed_low_ms)
        last_ms = min(self.rto_max * 1000 / self.hz, left_ms + 2 * rto_ms + CONGESTED_MS)
        latest_ms = left_ms + self._longest_ms(to_jiffies(last_ms, self.hz))
        earliest_ms = max(0.0, self.limit_ms - elapsed_high_ms)
        start_ns = self.event.ktime_ns
        return GiveUp(start_ns + int(earliest_ms * 1_000_000), start_ns + int(latest_ms * 1_000_000))

    def while_window_is_closed(self) -> GiveUp:
        """With data in flight, if the peer is not heard.

        tcp_rtx_probe0_timed_out() (6.6, and stable releases before it) gives up after twice the largest RTO, and
        looks at TCP_USER_TIMEOUT; kernels before it give up after TCP_RTO_MAX of silence, and do not. Which one it is
        cannot be seen, so the window spans both.
        """
        silent_ms, stuck_ms = float(self.event.silent_ms or 0), float(self.event.stuck_ms or 0)
        user_timeout_ms = self.event.user_timeout_ms
        rto_max_ms = self.rto_max * 1000 / self.hz
        shortest_ms = min(_RTO_MAX_MS, user_timeout_ms or _RTO_MAX_MS)
        left_ms = max(0.0, 2 * rto_max_ms - min(silent_ms, stuck_ms))
        last_ms = min(rto_max_ms, left_ms + 2 * self._longest_ms(self.rto))
        earliest_ms = max(0.0, shortest_ms - max(silent_ms, stuck_ms))
        latest_ms = left_ms + self._longest_ms(to_jiffies(last_ms, self.hz))
        start_ns = self.event.ktime_ns
        return GiveUp(start_ns + int(earliest_ms * 1_000_000), start_ns + int(latest_ms * 1_000_000))

    def _longest_ms(self, timeout: int) -> float:
        """How long a timer takes at most that was armed for so many jiffies."""
        return (timeout + (1 << slot_shift(timeout))) * 1000 / self.hz


def _retransmission_timer(event: Event, hz: int) -> _RetransmissionTimer | None:
    """None for other events and where something is missing."""
    if not _is_like(event, "retransmit") or event.kind == "synack":
        return None
    if event.jiffies is None or not event.rto_ms or not event.rto_max_ms or event.retries is None:
        return None
    syn = event.state in ("SYN_SENT", "SYN_RECV")
    attempt = event.attempt or 0
    # Of a FIN the kind does not say whether it is a loss probe's; what else comes before the first RTO is recovery.
    probing = event.kind == "tlp" or (event.kind == "fin" and event.ca_state not in ("Recovery", "Loss"))
    model_ms = _model_ms(event.retries, event.rto_max_ms, _SYN_BASE_MS if syn else _RTO_BASE_MS)
    return _RetransmissionTimer(
        event=event,
        hz=hz,
        now=event.jiffies,
        rto=max(1, round(event.rto_ms * hz / 1000)),
        rto_max=round(event.rto_max_ms * hz / 1000),
        attempt=attempt,
        limit_ms=event.user_timeout_ms or model_ms,
        limit_attempts=event.retries + (event.syn_linear_timeouts or 0) if syn else None,
        syn=syn,
        loss_probe=attempt == 0 and probing,
        next_expiry=_next_expiry(event, hz),
    )


def _like(event: Event) -> str | None:
    """Its kind, or that of which a connection was found between two."""
    return event.kind if event.event == "found" else event.event


def _is_like(event: Event, kind: str) -> bool:
    return _like(event) == kind


def _next_expiry(event: Event, hz: int) -> int | None:
    """The jiffy at which the timer of a connection that was found expires; None for other events."""
    if event.event != "found" or event.timer_ms is None or event.jiffies is None:
        return None
    return event.jiffies + round(event.timer_ms * hz / 1000)


def _model_ms(retries: int, rto_max_ms: int, base_ms: int) -> int:
    """How long so many retransmissions would take if the RTO began with `base_ms`: tcp_model_timeout()."""
    doublings = max(1, rto_max_ms // base_ms).bit_length() - 1
    if retries <= doublings:
        return ((2 << retries) - 1) * base_ms
    return ((2 << doublings) - 1) * base_ms + (retries - doublings) * rto_max_ms


def _of_keepalive(event: Event, hz: int) -> GiveUp | None:
    """At the expiry that finds all probes unanswered, or the user timeout over where there is one."""
    if event.jiffies is None or not event.keepalive_interval_s or not event.keepalive_probes:
        return None
    interval = event.keepalive_interval_s * hz
    over, probes_left = event.jiffies, max(0, event.keepalive_probes - (event.attempt or 1))
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
        known = _next_expiry(event, hz)
        expiry = (bucket(event.jiffies, interval) if known is None else known) + lag
        left = probes_left
        while left > 0 or expiry < over:
            expiry = bucket(expiry, interval) + lag
            left -= 1
        candidates.append((expiry, expiry))
    return give_up_at(event, hz, candidates)


def _of_waiting(event: Event, hz: int) -> GiveUp | None:
    """After the first probe, which may be long ahead, and the others: none of them answered, as for a keepalive."""
    if not event.keepalive or not event.keepalive_idle_s or not event.keepalive_interval_s or event.silent_ms is None:
        return None
    interval_ms = bucket(0, event.keepalive_interval_s * hz) * 1000 / hz
    rounds = max(1, event.keepalive_probes or 1)
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
