"""Events that may end a stall: something from the peer, a change of state, a reset, an error."""

from __future__ import annotations

from tracer.analysis.idle_timeouts import service_of
from tracer.analysis.outcomes import Outcome
from tracer.analysis.outstanding import KEEPALIVE, WAITING, Outstanding, at_keepalive_timeout, at_timeout
from tracer.analysis.progress import slack_ns
from tracer.analysis.stall_lifecycle import StallLifecycle
from tracer.analysis.stall_state import StallState
from tracer.analysis.survival import EMPTY_SEGMENTS, survived_silence_ms
from tracer.model.actions import Result
from tracer.model.events import Event

MS = 1_000_000

CLOSED_NS = 100 * MS
"""The report of the error comes with the close, a moment later."""
JUST_NOW_MS = 100
ACTION_NS = 2000 * MS
"""How long after the close of a connection the message of `tcpwatch end` may come."""

_RESETS = frozenset({"ECONNRESET", "EPIPE", "ECONNREFUSED"})
_UNREACHABLE = frozenset({"EHOSTUNREACH", "ENETUNREACH", "ENOPROTOOPT", "EHOSTDOWN", "ENONET", "EACCES", "EPERM"})
_ABORTED = "ECONNABORTED"
"""By SOCK_DESTROY: tcp_abort(), net/ipv4/tcp.c. An `action` shows whether tcpwatch end asked for it."""
_GIVEN_UP = frozenset({"ETIMEDOUT", *_UNREACHABLE})


def resume(stalls: StallLifecycle, event: Event) -> list[Event]:
    """The peer sent something after a silence, or during a stall. Sets the event's idle_ms."""
    assert event.sock is not None
    if event.idle_ms is not None:
        event.idle_ms = None  # of a recording
    stall = stalls.store.open.get(event.sock)
    if event.cause != "no-progress" and event.cause not in EMPTY_SEGMENTS:
        stalls.store.unfollowed.discard(event.sock)
    if event.cause == "no-progress":
        if stall is None:
            return []
        stall.evidence.one_way = True
        return stalls.report(stall, event)
    if stall is None or stall.evidence.sign == WAITING:
        _survived(stalls, event)
    if stall is None:
        stalls.store.revocable.pop(event.sock)
        return []
    if stall.evidence.sign == WAITING and (event.cause in EMPTY_SEGMENTS or event.unacked_bytes):
        # An answer to a probe, or the ACK of a later request: the peer is there, and still owes the reply.
        return stalls.end(event.sock, stall, event.ktime_ns, Outcome.ALIVE, event.ktime_ns)
    if event.cause == "probe" or (event.cause in EMPTY_SEGMENTS and stall.evidence.sign != KEEPALIVE):
        return []  # it acknowledges nothing that is outstanding
    return stalls.answered(event.sock, stall, event)


def _survived(stalls: StallLifecycle, event: Event) -> None:
    """The peer sent something after a silence during which nothing was retransmitted."""
    assert event.sock is not None
    history = stalls.store.history(event.sock)
    silence_ms = survived_silence_ms(event, history.probed_by_peer_ns)
    event.idle_ms = silence_ms
    history.survive(silence_ms)
    if event.cause in EMPTY_SEGMENTS:
        history.probed_by_peer_ns = event.ktime_ns
    if silence_ms is not None and silence_ms >= stalls.min_idle_ms:
        stalls.idle_timeouts.survived(service_of(event), silence_ms)


def state(stalls: StallLifecycle, event: Event) -> list[Event]:
    """A change of state: an answer to something, or the end of the connection."""
    assert event.sock is not None
    stall = stalls.store.open.get(event.sock)
    if event.new_state == event.old_state:
        return []  # close() after shutdown() answers nothing
    stalls.store.unfollowed.discard(event.sock)
    if event.sock in stalls.store.histories and event.new_state == "CLOSE":
        del stalls.store.histories[event.sock]
    if stall is None:
        if event.new_state != "CLOSE":
            stalls.store.revocable.pop(event.sock)
        return []
    if event.new_state == "CLOSE":
        return _closed(stalls, event.sock, stall, event)
    if event.new_state in ("ESTABLISHED", "FIN_WAIT2", "TIME_WAIT") or (
        event.new_state == "CLOSE_WAIT" and stall.evidence.sign == WAITING  # a FIN is something to read, too
    ):
        return stalls.recovered(event.sock, stall, event.ktime_ns, event.ktime_ns)
    if event.new_state in ("FIN_WAIT1", "LAST_ACK") and stall.answered_ns is None:
        # The application closed it before the kernel gave up.
        stalls.learn_owner(stall, event)
        stalls.store.history(event.sock).given_up = True
        return stalls.end(event.sock, stall, event.ktime_ns, Outcome.CLOSED, event.ktime_ns)
    return []


def _closed(stalls: StallLifecycle, sock: str, stall: StallState, event: Event) -> list[Event]:
    stalls.learn_owner(stall, event)
    if event.silent_ms is not None and event.silent_ms < JUST_NOW_MS and not stall.evidence.reset:
        # The last ACK of a connection that this end has closed. The kernel did not give up.
        if event.old_state in ("LAST_ACK", "CLOSING"):
            return stalls.recovered(sock, stall, event.ktime_ns, event.ktime_ns)
        # Data for an end that has closed aborts the connection: tcp_rcv_state_process(), net/ipv4/tcp_input.c.
        if event.old_state == "FIN_WAIT1":
            return stalls.end(sock, stall, event.ktime_ns, Outcome.CLOSED, event.ktime_ns)
    stall.closed_ns = event.ktime_ns
    wait_ns = ACTION_NS if stall.error == _ABORTED else CLOSED_NS
    stalls.store.open.set_due(sock, stall, event.ktime_ns + wait_ns)
    return []


def reset(stalls: StallLifecycle, event: Event) -> list[Event]:
    """A RST that was received, sent, or ignored."""
    assert event.sock is not None
    stall = stalls.store.open.get(event.sock)
    if event.direction == "refused":
        stalls.store.history(event.sock).refused_reset = True
        if stall is not None:
            stall.refused_reset = True
        return []
    if event.direction == "sent":
        # By this RST the kernel gives up on the peer.
        if stall is None and event.reason == "TCP_KEEPALIVE_TIMEOUT":
            _begin_keepalive_failure(stalls, event)
        return []
    reported: list[Event] = []
    if stall is not None and stall.answered_ns is not None:
        # What was unanswered was answered before.
        reported = stalls.recovered(event.sock, stall, event.ktime_ns, stall.answered_ns)
        stall = None
    if stall is None:
        now = _at_reset(event)
        was_idle = now.idle_ms is not None and now.idle_ms >= stalls.min_idle_ms
        if not (event.state == "ESTABLISHED" and was_idle) and event.state != "CLOSE_WAIT":
            return reported
        stall = stalls.begin(event, now)
        if stall is None:
            return reported
    stall.evidence.reset = True
    stall.evidence.peer_closed = event.state == "CLOSE_WAIT"
    stalls.store.open.set_due(event.sock, stall, event.ktime_ns + CLOSED_NS)
    return reported


def _at_reset(event: Event) -> Outstanding:
    """What a RST answers where no sign came before: what is in flight; without that, it ends a silence."""
    stuck_ms = event.stuck_ms if event.stuck_ms is not None and event.unacked_bytes else 0
    idle_ms = None if event.silent_ms is None else max(0, event.silent_ms - stuck_ms)
    return Outstanding("reset", max(0, event.ktime_ns - stuck_ms * MS), idle_ms, 0)


def _begin_keepalive_failure(stalls: StallLifecycle, event: Event) -> None:
    """Keepalive gave up, and no failed probe was seen before: events are missing, or only one probe is allowed."""
    now = at_keepalive_timeout(event, stalls.hz)
    stall = stalls.begin(event, now)
    if stall is not None and event.sock is not None:
        stall.evidence.retransmits = now.count
        stalls.store.open.set_due(event.sock, stall, event.ktime_ns + CLOSED_NS)


def error(stalls: StallLifecycle, event: Event) -> list[Event]:
    """The error that the application gets."""
    assert event.sock is not None
    reported: list[Event] = []
    stall = stalls.store.open.get(event.sock)
    # An error of a socket that is still open comes from ICMP, and ends nothing yet.
    if event.state != "CLOSE" and (stall is None or stall.closed_ns is None):
        if stall is not None and event.error == _ABORTED:  # before Linux 6.10 tcp_abort() closes the socket after it
            stall.errno, stall.error = event.errno, event.error
        return []
    if stall is None:
        stall = _died_after_all(stalls, event)
        if stall is not None:
            reported = stalls.report(stall, event)
        else:
            stall = _died_unseen(stalls, event)
        if stall is None:
            return []
    stalls.learn_owner(stall, event)
    outcome = Outcome.ENDED if stall.is_ended_by_action else Outcome.CLOSED
    if event.error == "ETIMEDOUT":
        outcome = Outcome.TIMED_OUT
    elif event.error in _RESETS or stall.evidence.reset:
        outcome = Outcome.RESET
    elif event.error in _UNREACHABLE:
        outcome = Outcome.UNREACHABLE
        stall.evidence.icmp = True
    stall.errno, stall.error = event.errno, event.error
    if event.error == _ABORTED and not stall.is_ended_by_action:
        stall.closed_ns = event.ktime_ns
        stalls.store.open.set_due(event.sock, stall, event.ktime_ns + ACTION_NS)
        return reported
    return [*reported, *stalls.end(event.sock, stall, event.ktime_ns, outcome, event.ktime_ns)]


def action(stalls: StallLifecycle, event: Event) -> list[Event]:
    """What a command did to the connection. Its message may come before or after the error."""
    assert event.sock is not None
    stall = stalls.store.open.get(event.sock)
    if stall is None or (event.action, event.result) != ("end", Result.ENDED.value):
        return []
    stall.is_ended_by_action = True
    if stall.closed_ns is None:
        return []
    return stalls.end(event.sock, stall, event.ktime_ns, Outcome.ENDED, stall.closed_ns)


def _died_after_all(stalls: StallLifecycle, event: Event) -> StallState | None:
    """The stall that ended without evidence, where the kernel gave up and the peer sent nothing since it began."""
    assert event.sock is not None
    stall = stalls.store.revocable.pop(event.sock)
    if stall is None or event.error not in _GIVEN_UP or event.silent_ms is None:
        return None
    received_ns = event.ktime_ns - event.silent_ms * MS
    return stalls.revoke(event.sock, stall) if received_ns <= stall.since_ns + slack_ns(event) else None


def _died_unseen(stalls: StallLifecycle, event: Event) -> StallState | None:
    """A stall without any sign before the kernel gave up: events were lost, or there were none.

    Before Linux 6.17 a retransmission that this host itself drops does not cause an event.
    """
    now = at_timeout(event, stalls.hz)
    stall = stalls.begin(event, now) if now is not None else None
    if stall is not None and now is not None:
        stall.evidence.retransmits = stall.evidence.attempt = now.count
    return stall
