"""What waits for an answer, from one event: since when, after how long a silence, and how often it was sent again.

Nothing here depends on earlier events, so a connection that was stuck before tcpwatch started is described like one
that was watched from the beginning. The kernel keeps the times: `stuck_ms` where the event has it; in recordings of
older versions the send time is computed from the retransmission timer.
"""

from __future__ import annotations

from tracer.analysis.probe_timer import BASE_MS
from tracer.analysis.readings import attempts, probes, retrying_ms
from tracer.analysis.timer_wheel import bucket
from tracer.model.dataclass import dataclass
from tracer.model.events import Event
from tracer.model.kinds import Kind

MS = 1_000_000

_RTO_MIN_MS = 200  # TCP_RTO_MIN, include/net/tcp.h
_RTO_MAX_MS = 120_000  # TCP_RTO_MAX

TLP, RTO, SYN, FIN = "tlp", "rto", "syn", "fin"
KEEPALIVE, WINDOW_PROBE, UNSENT, WAITING = "keepalive", "window-probe", "unsent", "waiting"
"""Signs: what an event shows to be outstanding. TLP and RTO are data, by the timer that retransmitted it."""

_PROBES = frozenset({KEEPALIVE, WINDOW_PROBE, UNSENT})


@dataclass(frozen=True, slots=True)
class Outstanding:
    """What is unanswered at the time of an event.

    sign: TLP, RTO, …
    since_ns: when it was first sent, CLOCK_BOOTTIME nanoseconds. For keepalive, when the first unanswered probe was
    sent; for a closed window, when it closed.
    idle_ms: the silence of the peer before since_ns; None in a handshake and where it cannot be known.
    count: retransmissions by the timer, or probes, so far, as the kernel counts; 1 for a tail loss probe; for data
    that this host does not let out, the attempts to send it.
    one_way: the peer sent something after the first retransmission by the timer that acknowledged nothing. Otherwise
    the count would have begun anew.
    """

    sign: str
    since_ns: int
    idle_ms: int | None
    count: int
    one_way: bool = False


def sign_of(event: Event) -> str | None:
    """The sign of an event; None where it shows nothing outstanding."""
    if event.event == Kind.RETRANSMIT:
        return event.kind if event.kind in (TLP, RTO, SYN, FIN) else None
    if event.event == Kind.FOUND:
        if event.kind != "retransmit":
            return event.kind if event.kind in _PROBES else None
        return SYN if event.state == "SYN_SENT" else RTO if event.unacked_bytes else FIN
    return event.event if event.event in _PROBES or event.event == WAITING else None


def outstanding(event: Event, hz: int) -> Outstanding | None:
    """What is unanswered at this event; None where `sign_of` is. hz: jiffies per second of its kernel."""
    sign = sign_of(event)
    if sign is None:
        return None
    stuck_ms = max(0.0, _stuck_ms(event, sign, hz))
    # Whole milliseconds, and not before the host booted, whatever a recording claims.
    since_ns = max(0, event.ktime_ns - round(stuck_ms) * MS)
    silent_ms = event.silent_ms
    one_way = (
        sign in (RTO, FIN)
        and silent_ms is not None
        and event.retrying_ms is not None
        and silent_ms + 2000 // hz < event.retrying_ms
    )
    idle_ms = None
    # What the peer sent meanwhile has reset the kernel's clock of silence.
    if sign not in (SYN, WAITING) and silent_ms is not None and not one_way:
        idle_ms = max(0, silent_ms - round(stuck_ms))
    count = 0 if sign == WAITING else probes(event)
    return Outstanding(sign, since_ns, idle_ms, count, one_way)


def at_keepalive_timeout(event: Event, hz: int) -> Outstanding:
    """The unanswered probes, at the reset by which the kernel gives up (tcp_keepalive_timer()).

    That is after `keepalive_probes` of them, or with TCP_USER_TIMEOUT set at the first expiry after a probe that
    finds it over. hz: jiffies per second.
    """
    silent_ms, idle_s, interval_ms = event.silent_ms, event.keepalive_idle_s, _probe_interval_ms(event, hz)
    count = 1 if event.keepalive_probes is None else max(1, event.keepalive_probes)
    if event.user_timeout_ms:
        count = 1
        if silent_ms is not None and idle_s is not None:
            count = max(1, int((silent_ms - idle_s * 1000) / interval_ms))
    stuck_ms = round(count * interval_ms)
    if silent_ms is None:
        return Outstanding(KEEPALIVE, max(0, event.ktime_ns - stuck_ms * MS), None, count)
    stuck_ms = min(silent_ms, stuck_ms)
    return Outstanding(KEEPALIVE, max(0, event.ktime_ns - stuck_ms * MS), silent_ms - stuck_ms, count)


def at_timeout(event: Event, hz: int) -> Outstanding | None:
    """What was unanswered, at the ETIMEDOUT by which the kernel gives up; None for other errors.

    hz: jiffies per second.
    """
    if event.error != "ETIMEDOUT" or event.stuck_ms is None:
        return None
    since_ns = max(0, event.ktime_ns - event.stuck_ms * MS)
    if event.silent_ms is None:
        return Outstanding(SYN, since_ns, None, attempts(event))
    if not event.unacked_bytes:
        return None
    return Outstanding(RTO, since_ns, max(0, event.silent_ms - event.stuck_ms), attempts(event))


def _stuck_ms(event: Event, sign: str, hz: int) -> float:
    if sign == WAITING:
        # A recording of an older version has only the silence, which is no longer than the wait.
        asked_ms = event.silent_ms if event.asked_ms is None else event.asked_ms
        return 0 if asked_ms is None else asked_ms
    if sign == KEEPALIVE:
        return _since_first_probe_ms(event, hz)
    if sign == UNSENT:
        # The timer is armed when sending fails for the first time, and its clock starts when it expires.
        return retrying_ms(event) + _probe_base_ms(event)
    if event.stuck_ms is not None:
        return event.stuck_ms
    if sign == SYN:
        return retrying_ms(event)  # tcp_connect() starts this clock with the SYN
    if sign == WINDOW_PROBE:
        return _since_window_closed_ms(event)
    rto_ms = first_rto_ms(event)
    loss_probe_ms = min(rto_ms, 2 * _srtt_ms(event) + _RTO_MIN_MS)  # tcp_schedule_loss_probe()
    if not event.attempt:
        return loss_probe_ms
    return retrying_ms(event) + rto_ms + loss_probe_ms


def first_rto_ms(event: Event) -> float:
    """The RTO before it was doubled for the first time, milliseconds, from a later retransmission."""
    backoff = min(max(0, attempts(event) - 1) if event.backoff is None else event.backoff, 32)
    rto_ms = event.rto_ms or _RTO_MIN_MS
    if rto_ms < (event.rto_max_ms or _RTO_MAX_MS):
        return rto_ms / (1 << backoff)
    # At its maximum the RTO no longer shows what it began with.
    return max(rto_ms / (1 << backoff), _RTO_MIN_MS + _srtt_ms(event))


def _since_first_probe_ms(event: Event, hz: int) -> float:
    """Since the first probe that was not answered.

    A probe's event is from when it goes out; of a connection that was found, the latest went out when its timer was
    armed. The timer's slots make each interval longer than it was set, all of them equally (`bucket`).
    """
    interval_ms = _probe_interval_ms(event, hz)
    since_latest_ms = 0.0
    if event.event == Kind.FOUND and event.timer_ms is not None:
        since_latest_ms = max(0.0, interval_ms - event.timer_ms)
    since_ms = (probes(event) - 1) * interval_ms + since_latest_ms
    # The peer was not silent for longer than that, whatever a recording claims.
    return since_ms if event.silent_ms is None else min(since_ms, event.silent_ms)


def _probe_interval_ms(event: Event, hz: int) -> float:
    interval_s = 0 if event.keepalive_interval_s is None else event.keepalive_interval_s
    return bucket(0, max(1, interval_s * hz)) * 1000 / hz


def _since_window_closed_ms(event: Event) -> float:
    """The probes so far, each after twice the time of the one before (tcp_probe0_when(), include/net/tcp.h)."""
    base_ms = _probe_base_ms(event)
    return float(sum(min(base_ms << min(number, 16), _RTO_MAX_MS) for number in range(min(probes(event), 64))))


def _probe_base_ms(event: Event) -> int:
    """The timeout of the first probe: tcp_probe0_base(), include/net/tcp.h."""
    return BASE_MS if event.rto_ms is None else max(BASE_MS, event.rto_ms)


def _srtt_ms(event: Event) -> float:
    """The smoothed round-trip time; 0 before it was measured."""
    return 0 if event.srtt_ms is None else event.srtt_ms
