"""When the kernel gives up on data, a SYN or a FIN that it retransmits: tcp_write_timeout(), net/ipv4/tcp_timer.c."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from tracer.analysis.give_up import CONGESTED_MS, EXACT_MS, MAX_EXPIRIES, GiveUp, give_up_at, when_over
from tracer.analysis.readings import attempts, linear_timeouts, retrying_ms
from tracer.analysis.timer_wheel import armed_expiry, bucket, max_lag, slot_shift, timer_of, to_jiffies
from tracer.model.dataclass import dataclass
from tracer.model.events import Event

_RTO_BASE_MS = 200  # TCP_RTO_MIN, include/net/tcp.h: the limit is computed from it, whatever the RTO is
_SYN_BASE_MS = 1000  # TCP_TIMEOUT_INIT
_RTO_MAX_MS = 120_000  # TCP_RTO_MAX
_THIN_RETRIES = 6  # TCP_THIN_LINEAR_RETRIES: the number of RTOs of a thin stream that are not doubled
_ORPHAN_RETRIES = 8  # tcp_orphan_retries(): in place of 0, until the RTO has come to its maximum


@dataclass(slots=True)  # not frozen: one is made for each retransmission
class RetransmissionTimer:
    """The timer after a retransmission, in jiffies where the name does not end in _ms."""

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
    next_expiry: int | None  # of a connection that was found; then `rto` is doubled already

    def gives_up(self) -> GiveUp | None:
        """When the kernel gives up if nothing is received; None where no limit applies yet."""
        if self.window_closed:
            return self.while_window_is_closed()
        return (self.regular() or self.window()) if self.limited else None

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
        does not double. `backoff` shows it, but not before the second retransmission.
        """
        if self.syn:
            return False
        if self.attempt <= 1 and (self.event.soft_error or self.event.send_error):
            return True
        if self.thin and self.loss_probe:
            return True  # whether the stream counts as thin is decided with the first RTO
        doubled = max(0, self.attempt - _THIN_RETRIES) if self.thin else self.attempt
        backoff = 0 if self.event.backoff is None else self.event.backoff
        return doubled > backoff + (1 if self.next_expiry is None else 0)

    @property
    def thin(self) -> bool:
        """Whether the first RTOs are not doubled: TCP_THIN_LINEAR_TIMEOUTS (TCP_THIN_LINEAR_RETRIES of them)."""
        return bool(self.event.thin)

    def backed_off(self, rto: int, attempt: int) -> int:
        """The RTO after that retransmission: tcp_retransmit_timer(). Since 6.5 the first SYNs do not double it."""
        if self.syn and attempt <= linear_timeouts(self.event):
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
        timeout, _ = self.clamped(self.backed_off(self.rto, self.attempt), retrying_ms(self.event))
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
            yield self.now, self.attempt, float(retrying_ms(self.event))
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
            # The limit may fall to 0 then: tcp_orphan_retries() depends on whether the RTO is below its maximum.
            falls = may_fall and rto >= rto_max
            may = over or falls or elapsed_ms + slack_ms >= limit_ms
            yield expiry, may, over or elapsed_ms - slack_ms >= limit_ms
            now, attempt = expiry, attempt + 1

    def window(self) -> GiveUp:
        """However the RTO goes on: not before the limit, and not later than the longest RTO after it.

        An RTO that passes the limit is longer than all those before it together by no more than the first.
        """
        rto_ms = self._longest_ms(self.rto)
        elapsed_low_ms = elapsed_high_ms = float(retrying_ms(self.event))
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
        """With data in flight, if nothing is received from the peer.

        tcp_rtx_probe0_timed_out() (6.6, and stable releases before it) gives up after twice the largest RTO, and
        looks at TCP_USER_TIMEOUT; kernels before it give up after TCP_RTO_MAX of silence, and do not. Which one it is
        cannot be seen, so the window spans both.
        """
        silent_ms, stuck_ms = self.event.silent_ms, self.event.stuck_ms
        user_timeout_ms = self.event.user_timeout_ms
        rto_max_ms = self.rto_max * 1000 / self.hz
        shortest_ms = min(_RTO_MAX_MS, user_timeout_ms or _RTO_MAX_MS)
        if silent_ms is None or stuck_ms is None:
            least_ms, most_ms = 0, shortest_ms  # how long the kernel has waited is not known
        else:
            least_ms, most_ms = min(silent_ms, stuck_ms), max(silent_ms, stuck_ms)
        left_ms = max(0.0, 2 * rto_max_ms - least_ms)
        last_ms = min(rto_max_ms, left_ms + 2 * self._longest_ms(self.rto))
        earliest_ms = max(0.0, shortest_ms - most_ms)
        latest_ms = left_ms + self._longest_ms(to_jiffies(last_ms, self.hz))
        start_ns = self.event.ktime_ns
        return GiveUp(start_ns + int(earliest_ms * 1_000_000), start_ns + int(latest_ms * 1_000_000))

    def _longest_ms(self, timeout: int) -> float:
        """How long a timer that was armed for timeout jiffies takes at most."""
        return (timeout + (1 << slot_shift(timeout))) * 1000 / self.hz


def retransmission_timer(event: Event, hz: int) -> RetransmissionTimer | None:
    """None for other events and where something is missing."""
    if timer_of(event) != "retransmit" or event.kind == "synack":
        return None
    if event.jiffies is None or not event.rto_ms or not event.rto_max_ms or event.retries is None:
        return None
    syn = event.state in ("SYN_SENT", "SYN_RECV")
    attempt = attempts(event)
    # The kind of a FIN does not show a loss probe. Otherwise what comes before the first RTO is recovery.
    probing = event.kind == "tlp" or (event.kind == "fin" and event.ca_state not in ("Recovery", "Loss"))
    model_ms = _model_ms(event.retries, event.rto_max_ms, _SYN_BASE_MS if syn else _RTO_BASE_MS)
    return RetransmissionTimer(
        event=event,
        hz=hz,
        now=event.jiffies,
        rto=max(1, round(event.rto_ms * hz / 1000)),
        rto_max=round(event.rto_max_ms * hz / 1000),
        attempt=attempt,
        limit_ms=event.user_timeout_ms or model_ms,
        limit_attempts=event.retries + linear_timeouts(event) if syn else None,
        syn=syn,
        loss_probe=attempt == 0 and probing,
        next_expiry=armed_expiry(event, hz),
    )


def _model_ms(retries: int, rto_max_ms: int, base_ms: int) -> int:
    """How long `retries` retransmissions would take if the RTO began with `base_ms`: tcp_model_timeout()."""
    doublings = max(1, rto_max_ms // base_ms).bit_length() - 1
    if retries <= doublings:
        return ((2 << retries) - 1) * base_ms
    return ((2 << doublings) - 1) * base_ms + (retries - doublings) * rto_max_ms
