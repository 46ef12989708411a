"""Events that show that something is unanswered: each begins a stall, or continues the open one."""

from __future__ import annotations

from tracer.analysis.evidence import CHANCE, DROPPED_HERE, NO_ERROR, Evidence
from tracer.analysis.outstanding import KEEPALIVE, RTO, TLP, UNSENT, WAITING, WINDOW_PROBE, Outstanding, outstanding
from tracer.analysis.progress import as_predicted, is_about_something_else, is_beyond_count, progressed
from tracer.analysis.stall_lifecycle import StallLifecycle
from tracer.analysis.stall_state import StallState
from tracer.analysis.timeouts import gives_up, next_expiry_ns
from tracer.model.events import Event
from tracer.model.kinds import Kind

MS = 1_000_000
SECOND = 1_000_000_000

OVERDUE = 1.25
"""A retransmission this much later than the kernel's timer has it does not come, or was missed."""
WINDOW_PROBES = 3
"""A window that is closed for the third probe is a stall, some 1.4 s after it closed; before, flow control."""
WALKS_NS = 60 * SECOND
"""A wait that goes on is found again by the first walk after its silence has doubled, or by the next."""
UNKNOWN_WAIT_NS = 240 * SECOND
"""How long to wait for the next sign where the event does not show when the timer expires: twice TCP_RTO_MAX."""
_RTO_MAX_MS = 120_000  # TCP_RTO_MAX, include/net/tcp.h
_UNKNOWN_RTO_MS = 1000  # TCP_TIMEOUT_INIT


def retransmit(stalls: StallLifecycle, event: Event) -> list[Event]:
    """A retransmission, by a timer or by fast recovery."""
    stall = stalls.store.open.get(event.sock)
    if event.kind == "fast" and stall is not None and event.sock is not None:
        # Later segments were acknowledged, so the peer is there.
        return stalls.answered(event.sock, stall, event)
    # When a peer stops reading, a tail loss probe into the closed window comes first. Nothing is lost then.
    if stall is None and event.kind == TLP and event.snd_wnd == 0:
        return []
    return sign(stalls, event)


def keepalive(stalls: StallLifecycle, event: Event) -> list[Event]:
    """A keepalive probe. A first one shows that the probe before was answered, a later one that it was not."""
    assert event.sock is not None
    if event.attempt != 1:
        return sign(stalls, event)
    history = stalls.store.history(event.sock)
    history.survive(history.probed_after_ms)
    history.probed_after_ms = event.silent_ms
    stall = stalls.store.open.get(event.sock)
    # A probe goes out while nothing is in flight, and shows nothing about a request that was acknowledged.
    return stalls.answered(event.sock, stall, event) if stall is not None and stall.evidence.sign != WAITING else []


def window_probe(stalls: StallLifecycle, event: Event) -> list[Event]:
    """A probe of a closed window."""
    is_early = event.attempt is None or event.attempt < WINDOW_PROBES
    if is_early and event.sock not in stalls.store.open.by_sock:
        return []
    return sign(stalls, event)


def waiting(stalls: StallLifecycle, event: Event) -> list[Event]:
    """A request that was acknowledged and not answered."""
    assert event.sock is not None
    stall = stalls.store.open.get(event.sock)
    if stall is None or stall.evidence.sign == WAITING:
        return sign(stalls, event)
    if stall.evidence.sign == KEEPALIVE:
        return []
    # Nothing is in flight any more, so what was in flight is acknowledged.
    silent_ns = 0 if event.silent_ms is None else event.silent_ms * MS
    answered_ns = max(stall.since_ns, event.ktime_ns - silent_ns)
    return [*stalls.recovered(event.sock, stall, event.ktime_ns, answered_ns), *sign(stalls, event)]


def sign(stalls: StallLifecycle, event: Event) -> list[Event]:
    """Something is unanswered: begin a stall, or update the open one."""
    sock = event.sock
    now = outstanding(event, stalls.hz)
    if now is None or sock is None:
        return []
    reported: list[Event] = []
    stall = stalls.store.open.get(sock) or stalls.reopened(sock, event, now)
    if stall is not None and progressed(stall, event, now):
        if stalls.is_lasting(stall, event.ktime_ns):
            answered_ns = event.ktime_ns if stall.answered_ns is None else stall.answered_ns
            reported += stalls.recovered(sock, stall, event.ktime_ns, answered_ns)
            stall = None
        else:
            stalls.restart(stall, event, now)
    elif stall is not None and is_about_something_else(stall, event, now):
        stalls.restart(stall, event, now)
    if stall is None:
        stall = stalls.begin(event, now)
        if stall is None:
            return reported
    _learn(stalls, stall, event, now)
    _expect_next(stalls, sock, stall, event, now)
    stalls.store.open.weigh(stall)
    reported += stalls.report(stall, event)
    stalls.confirm(stall)
    return reported


def _learn(stalls: StallLifecycle, stall: StallState, event: Event, now: Outstanding) -> None:
    """Take what the event shows about what is unanswered."""
    _learn_window(stalls, stall, event, now)
    evidence = stall.evidence
    if not stalls.ends_only and not as_predicted(stall, event):
        stall.give_up = gives_up(event, stalls.hz)
    if evidence.window_closed and not evidence.significant_probes and not (event.user_timeout_ms or event.orphan):
        stall.give_up = None  # only the peer's silence would end it
    counted = evidence.retransmits
    stall.learn(event, now)
    if evidence.window_closed and now.sign == RTO:
        evidence.retransmits = max(now.count, counted + 1)  # the kernel does not count them
    elif is_beyond_count(event):
        evidence.retransmits = max(now.count, counted + (event.event != Kind.FOUND))
    if now.sign != KEEPALIVE:
        evidence.icmp = event.soft_error is not None
    if now.sign == UNSENT:
        evidence.dropped_here, evidence.unrouted = True, False
    elif now.sign != KEEPALIVE and event.event != Kind.FOUND:  # a walk does not see the error of sending
        _learn_sending(evidence, event)


def _learn_sending(evidence: Evidence, event: Event) -> None:
    """Whether this host lets out what it sends. A full queue may drop one packet of many, by chance."""
    is_dropped = event.send_error in DROPPED_HERE
    evidence.dropped = evidence.dropped + 1 if is_dropped else 0
    evidence.has_left = evidence.has_left or event.send_error is None
    evidence.dropped_here = is_dropped and (evidence.dropped >= CHANCE or not evidence.has_left)
    evidence.unrouted = not (event.send_error is None or is_dropped or event.send_error in NO_ERROR)


def _learn_window(stalls: StallLifecycle, stall: StallState, event: Event, now: Outstanding) -> None:
    """Whether the peer's window is closed, and how many probes in a row the peer has not answered."""
    evidence = stall.evidence
    evidence.window_closed = now.sign == WINDOW_PROBE or (now.sign == RTO and event.snd_wnd == 0)
    if not evidence.window_closed:
        evidence.unanswered_probes = 0
    elif now.sign == WINDOW_PROBE:
        evidence.unanswered_probes = 0 if event.probes_out is None else event.probes_out
    elif stall.last_event is event or event.silent_ms is None:
        evidence.unanswered_probes = 0
    else:
        # Whether the peer sent anything since the retransmission before, by stamps in jiffies.
        received_ns = event.ktime_ns - event.silent_ms * MS + 2 * SECOND // stalls.hz
        was_answered = received_ns >= stall.last_event.ktime_ns
        evidence.unanswered_probes = 0 if was_answered else evidence.unanswered_probes + 1


def _expect_next(stalls: StallLifecycle, sock: str, stall: StallState, event: Event, now: Outstanding) -> None:
    """Schedule when the next sign is overdue: a quarter and a second after its timer expires."""
    stall.answered_ns = None
    if now.sign == WAITING:
        next_ns: int | None = event.ktime_ns + (0 if event.silent_ms is None else event.silent_ms * MS) + WALKS_NS
    elif now.sign == WINDOW_PROBE and event.event != Kind.FOUND and event.probes_out is None:
        rto_ms = _UNKNOWN_RTO_MS if event.rto_ms is None else event.rto_ms
        doublings = 0 if event.attempt is None else max(0, min(event.attempt, 16))
        next_ns = event.ktime_ns + min(rto_ms << doublings, _RTO_MAX_MS) * MS
    else:
        next_ns = next_expiry_ns(event, stalls.hz)
    # Never before now, whatever a recording claims.
    wait_ns = max(0, next_ns - event.ktime_ns) if next_ns is not None else UNKNOWN_WAIT_NS
    stalls.store.open.set_due(sock, stall, event.ktime_ns + int(wait_ns * OVERDUE) + SECOND)
