"""How a stall begins, is reported, ends, and goes on after an end that was concluded without evidence."""

from __future__ import annotations

from collections import OrderedDict

from tracer.analysis.evidence import CHANCE, Evidence, conclude
from tracer.analysis.idle_timeouts import IdleTimeouts, Service, service_of
from tracer.analysis.outcomes import Outcome
from tracer.analysis.outstanding import WAITING, Outstanding
from tracer.analysis.progress import OF_DATA, is_same_kind, progressed
from tracer.analysis.stall_event import is_news, stall_event
from tracer.analysis.stall_state import ConnectionHistory, StallState
from tracer.analysis.stall_store import StallStore
from tracer.analysis.survival import is_fatal
from tracer.analysis.timeouts import gives_up
from tracer.model.events import Event

MS = 1_000_000
SECOND = 1_000_000_000

LASTING_NS = 10 * SECOND
"""The end of a stall that lasted this long, or took CHANCE retransmissions, is reported at once. See SETTLE_NS."""
SETTLE_NS = 2 * SECOND
"""If a connection in use loses data again within this time after the end of a shorter stall, it is the same stall."""
OVERDUE_NS = 3 * SECOND
"""How long a walk over all sockets may take to find a connection with an overdue sign."""
MAX_CONFIRMED = 1024


class StallLifecycle:
    """The steps of a stall's life. Each returns the events to report, stalls' `begin`, `update` and `end`.

    hz: jiffies per second of the events' kernel. min_idle_ms: a silence of at least this long counts as idle.
    idle_timeouts: where silences are recorded that connections survived, and that were fatal. ends_only: only the
    `end` of a stall is reported. own_netns: inode of the host's own network namespace; 0: unknown.
    """

    def __init__(
        self, *, hz: int, min_idle_ms: int, idle_timeouts: IdleTimeouts, ends_only: bool, own_netns: int
    ) -> None:
        self.hz = hz
        self.min_idle_ms = min_idle_ms
        self.idle_timeouts = idle_timeouts
        self.ends_only = ends_only
        self.own_netns = own_netns
        self.store = StallStore()
        self.has_overdue = False  # a stall that a walk may find
        self._confirmed: OrderedDict[Service, int] = OrderedDict()  # the silence before it was found dead, ms

    # Begin.

    def begin(self, event: Event, now: Outstanding) -> StallState | None:
        """Open a stall; None where no process waits any more, or where the connection is not followed."""
        assert event.sock is not None
        history = self.store.histories.get(event.sock) or ConnectionHistory()
        # After shutdown() a process may still wait. Recordings of older versions do not show which of them have none.
        is_held = not event.orphan and event.retries is not None
        if (history.given_up and not is_held) or event.sock in self.store.unfollowed:
            return None
        stall = StallState(
            id=f"{event.sock}-{event.ktime_ns:x}",
            since_ns=now.since_ns,
            last_event=event,
            owner=event,
            evidence=Evidence(sign=now.sign, idle_ms=None),
            service=service_of(event),
            survived_as_much=False,
            refused_reset=history.refused_reset,
        )
        self.restart(stall, event, now)
        self.store.open.add(event.sock, stall)
        self.store.open.weigh(stall)
        return stall

    def restart(self, stall: StallState, event: Event, now: Outstanding) -> None:
        """Make the stall about what is unanswered now: what was before is answered, or something newer joined it."""
        history = self.store.histories.get(event.sock or "") or ConnectionHistory()
        idle_ms = now.idle_ms
        # The kernel's own clock of silence ignores the peer's keepalive probes: their sequence number is old, and
        # they leave tcp_rcv_established() before it is set (tcp_validate_incoming(), net/ipv4/tcp_input.c).
        if idle_ms is not None and history.probed_by_peer_ns is not None:
            idle_ms = min(idle_ms, max(0, now.since_ns - history.probed_by_peer_ns) // MS)
        stall.restart(now, idle_ms)
        stall.survived_as_much = (
            idle_ms is not None and history.survived_ms is not None and history.survived_ms >= idle_ms
        )

    def learn_owner(self, stall: StallState, event: Event) -> None:
        """Take an event that may know the owner of an open stall."""
        stall.learn_owner(event)
        self.store.open.weigh(stall)

    # Report.

    def report(self, stall: StallState, event: Event) -> list[Event]:
        """The stall's `begin`, or an `update` where there is news."""
        if self.ends_only and not stall.revoked:
            return []
        stall.verdict = conclude(stall.evidence, self.min_idle_ms)
        if stall.revoked:
            return [self._event(stall, "update", event.ktime_ns)]
        if stall.reported_verdict is None:
            return [self._event(stall, "begin", event.ktime_ns)]
        # Where packets are lost and acknowledged in turns, another give-up time is not worth a line.
        news = stall.verdict is not stall.reported_verdict or (
            stall.verdict.is_decided and is_news(stall.give_up, stall.reported_give_up)
        )
        # The peer answers the probes of its closed window again, so that nothing ends the stall.
        news = news or (stall.evidence.window_closed and stall.give_up is None and stall.reported_give_up is not None)
        news = news or stall.reported_retransmits < stall.verdict.shown_from <= stall.evidence.retransmits
        overdue = event.ktime_ns - stall.reported_ns >= stall.quiet_ns
        if not news and not overdue:
            return []
        if overdue:
            stall.quiet_ns *= 2
        return [self._event(stall, "update", event.ktime_ns)]

    def _event(self, stall: StallState, phase: str, now_ns: int) -> Event:
        stall.reported_verdict, stall.reported_give_up, stall.reported_ns = stall.verdict, stall.give_up, now_ns
        stall.reported_retransmits = stall.evidence.retransmits
        idle_timeout = self.idle_timeouts.range_of(stall.service)
        return stall_event(stall, phase, now_ns, hz=self.hz, idle_timeout=idle_timeout, own_netns=self.own_netns)

    def confirm(self, stall: StallState) -> None:
        """Note where a provisional verdict is confirmed by more retransmissions than are lost by chance."""
        evidence, verdict = stall.evidence, stall.verdict
        if verdict is None or not verdict.is_provisional or evidence.attempt < CHANCE:
            return
        if stall.is_confirmed or stall.service is None:
            return
        stall.is_confirmed = True
        if evidence.idle_ms is not None:
            shortest_ms = self._confirmed.get(stall.service, evidence.idle_ms)
            self._confirmed[stall.service] = min(evidence.idle_ms, shortest_ms)
            if len(self._confirmed) > MAX_CONFIRMED:
                self._confirmed.popitem(last=False)

    def take_confirmed(self) -> list[tuple[Service, int]]:
        """Services with a connection that was found dead since the last call, and the silence before it, ms."""
        taken = list(self._confirmed.items())
        self._confirmed.clear()
        return taken

    # End.

    def answered(self, sock: str, stall: StallState, event: Event) -> list[Event]:
        """The peer answered: the end, or on a connection in use perhaps only the end of one loss."""
        if self.is_lasting(stall, event.ktime_ns) or stall.evidence.sign not in OF_DATA:
            return self.recovered(sock, stall, event.ktime_ns, event.ktime_ns)
        stall.answered_ns = event.ktime_ns
        self.store.open.set_due(sock, stall, event.ktime_ns + SETTLE_NS)
        return []

    def is_lasting(self, stall: StallState, now_ns: int) -> bool:
        """Whether an answer ends the stall at once."""
        was_idle = stall.evidence.idle_ms is not None and stall.evidence.idle_ms >= self.min_idle_ms
        is_decided = stall.evidence.sign in OF_DATA and stall.evidence.attempt >= CHANCE
        return was_idle or is_decided or stall.evidence.handshake or now_ns - stall.since_ns >= LASTING_NS

    def recovered(self, sock: str, stall: StallState, now_ns: int, answered_ns: int) -> list[Event]:
        """The end of a stall that was answered at answered_ns, reported at now_ns."""
        idle_ms = stall.evidence.idle_ms
        if idle_ms is not None and idle_ms >= self.min_idle_ms:
            self.idle_timeouts.survived(stall.service, idle_ms)
        return self.end(sock, stall, now_ns, Outcome.RECOVERED, answered_ns)

    def close_or_recover(self, sock: str, stall: StallState, now_ns: int) -> list[Event] | None:
        """The end of a stall that was answered, or was closed; None where it was not."""
        if stall.closed_ns is not None:
            # An orphan gets no error (tcp_done_with_error(), net/ipv4/tcp.c): it timed out, or was reset.
            outcome = Outcome.TIMED_OUT if stall.last_event.orphan else Outcome.CLOSED
            if stall.evidence.reset:
                outcome = Outcome.RESET
            if stall.is_ended_by_action:
                outcome = Outcome.ENDED
            return self.end(sock, stall, now_ns, outcome, stall.closed_ns)
        if stall.answered_ns is not None:
            return self.recovered(sock, stall, now_ns, stall.answered_ns)
        return None

    def end(self, sock: str, stall: StallState, now_ns: int, outcome: Outcome, ended_ns: int) -> list[Event]:
        """Close a stall that ended at ended_ns, and report it at now_ns."""
        self.store.open.remove(sock)
        evidence = stall.evidence
        evidence.outcome = outcome
        evidence.duration_ns = max(0, ended_ns - stall.since_ns)
        stall.verdict = conclude(evidence, self.min_idle_ms)
        idle_ms = evidence.idle_ms
        # Where events were lost, an answer may have been among them; where a sign is overdue, it was one perhaps.
        is_unknown = outcome is Outcome.ONGOING and (stall.uncertain or stall.is_overdue)
        if not is_unknown and is_fatal(stall.verdict, outcome, idle_ms, evidence.retransmits):
            assert idle_ms is not None
            if idle_ms >= self.min_idle_ms:
                self.idle_timeouts.fatal(stall.service, idle_ms)
        stall.give_up = None
        return [self._event(stall, "end", now_ns)]

    def expire(self, sock: str, stall: StallState, now_ns: int) -> list[Event]:
        """The end of a stall, because its next event did not come in time."""
        ended = self.close_or_recover(sock, stall, now_ns)
        if ended is not None:
            return ended
        if stall.evidence.reset:
            return self.end(sock, stall, now_ns, Outcome.RESET, now_ns)
        # A hook may have missed the sign, or the kernel's timer is late. A recording has what the walk found then.
        if not stall.is_overdue and stall.evidence.sign != WAITING:
            stall.is_overdue = self.has_overdue = True
            self.store.open.set_due(sock, stall, now_ns + OVERDUE_NS)
            return []
        # No answer was seen. Without one the kernel would have retransmitted; but events may be missing.
        give_up = gives_up(stall.last_event, self.hz)
        may_be_over = give_up is not None and give_up.earliest_ns <= now_ns
        outcome = Outcome.ONGOING if stall.uncertain else Outcome.UNSEEN if may_be_over else Outcome.PRESUMED
        self.store.revocable.add(sock, stall)
        return self.end(sock, stall, now_ns, outcome, stall.last_event.ktime_ns)

    def make_room(self, now_ns: int) -> list[Event]:
        """End the oldest stalls where there are too many."""
        ended: list[Event] = []
        while self.store.open.are_too_many:
            ((sock, oldest),) = self.store.open.oldest(1)
            end = self.close_or_recover(sock, oldest, now_ns)
            if end is None:
                self.store.stop_following(sock)
                end = self.end(sock, oldest, now_ns, Outcome.ONGOING, oldest.last_event.ktime_ns)
            ended += end
        return ended

    # Go on.

    def reopened(self, sock: str, event: Event, now: Outstanding) -> StallState | None:
        """The stall that ended without evidence, where this sign continues it."""
        stall = self.store.revocable.pop(sock)
        if stall is None or not is_same_kind(stall.evidence.sign, now.sign) or progressed(stall, event, now):
            return None
        return self.revoke(sock, stall)

    def revoke(self, sock: str, stall: StallState) -> StallState:
        """Open a stall again that ended without evidence."""
        stall.evidence.outcome = None
        stall.revoked = True
        self.store.open.add(sock, stall)
        return stall
