"""Events → stalls: one per episode, from its first sign to its outcome.

A connection stalls when what it sent is not answered: a retransmission by a timer, a keepalive probe after one that
nobody answered, a window that stays closed, a request that was acknowledged and not answered. This module decides
when an episode begins and ends, and what belongs to it. :mod:`tracer.analysis.outstanding` reads one event,
:mod:`tracer.analysis.verdicts` judges, :mod:`tracer.analysis.timeouts` computes when the kernel gives up, and
:mod:`tracer.analysis.advice` says what to change.

There is no clock here. Time is what the events carry, and how far the source says that it has come: the same events
give the same stalls, live and from a recording. Any event may be the first of its connection, and any may be missing:
what a stall says follows from its newest event, and only what was seen ends it for good.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from itertools import islice

from tracer.analysis.continuity import (
    OF_DATA,
    as_foretold,
    is_about_something_else,
    is_same_kind,
    progressed,
    slack_ns,
)
from tracer.analysis.idle_timeouts import Service, Silences, is_fatal, service_of, survived_silence_ms
from tracer.analysis.outstanding import (
    KEEPALIVE,
    RTO,
    TLP,
    UNSENT,
    WAITING,
    WINDOW_PROBE,
    Outstanding,
    at_keepalive_timeout,
    at_timeout,
    outstanding,
)
from tracer.analysis.stall_event import account, is_news
from tracer.analysis.stall_state import Episode, Memory
from tracer.analysis.timeouts import gives_up, next_expiry_ns
from tracer.analysis.verdicts import CHANCE, DROPPED_HERE, NO_ERROR, PRESUMED, Evidence, verdict
from tracer.model.events import Event
from tracer.model.recent import RecentSet

MS = 1_000_000
SECOND = 1_000_000_000

MIN_IDLE_MS = 60_000
"""The silence from which on idleness is under suspicion, unless told otherwise."""
LASTING_NS = 10 * SECOND
"""The end of a stall that lasted so long is told at once; after a shorter one, loss may go on: see SETTLE_NS."""
SETTLE_NS = 2 * SECOND
"""On a connection that was in use: if it loses again within this time, that is the same episode."""
CLOSED_NS = 100 * MS
"""The report of the error comes with the close, a moment later."""
OVERDUE = 1.25
"""A retransmission that is so much later than the kernel's timer says does not come, or was missed."""
WINDOW_PROBES = 3
"""A window that is closed for the third probe is a stall, some 1.4 s after it closed; before, flow control."""
WALKS_NS = 60 * SECOND
"""A wait that goes on is found again by the first walk after its silence has doubled, or by the next."""
JUST_NOW_MS = 100
MAX_OPEN = 65536
MAX_OPEN_BYTES = 72 << 20
"""Memory for open stalls: of some twelve thousand."""
MANY = 256
"""Of fewer stalls texts are not weighed."""
MAX_REMEMBERED = 65536
MAX_REVOCABLE_BYTES = 6 << 20
MAX_CONFIRMED = 1024

_RESETS = frozenset({"ECONNRESET", "EPIPE", "ECONNREFUSED"})
_UNREACHABLE = frozenset({"EHOSTUNREACH", "ENETUNREACH", "ENOPROTOOPT", "EHOSTDOWN", "ENONET", "EACCES", "EPERM"})
_GIVEN_UP = frozenset({"ETIMEDOUT", *_UNREACHABLE})


class StallTracker:
    """Finds the stalls in a stream of events.

    hz: jiffies per second of the kernel that the events come from. silences collects what connections survived and
    what they did not; pass one to share it. ends_only: of a stall only its end is told.

    Memory is bounded: of more than MAX_OPEN open stalls, or of fewer with more than MAX_OPEN_BYTES, the oldest ends
    as `ongoing`. unfollowed counts these; what comes of such a connection begins no other stall, until the peer is
    heard or the connection closes. Of more than MAX_REMEMBERED connections the one that was heard of longest ago is
    forgotten.
    """

    def __init__(
        self, *, hz: int, min_idle_ms: int = MIN_IDLE_MS, silences: Silences | None = None, ends_only: bool = False
    ) -> None:
        self.hz = hz
        self.unfollowed = 0
        self._unfollowed = RecentSet(MAX_REMEMBERED)
        self.ends_only = ends_only
        self.min_idle_ms = min_idle_ms
        self.silences = silences if silences is not None else Silences()
        self._open: OrderedDict[str, Episode] = OrderedDict()
        self._due: list[tuple[int, str]] = []
        self._memories: OrderedDict[str, Memory] = OrderedDict()
        self._revocable: OrderedDict[str, Episode] = OrderedDict()  # ended without evidence
        self._open_bytes = self._revocable_bytes = 0
        self._confirmed: OrderedDict[Service, int] = OrderedDict()  # idle-drops; the silence before them

    def feed(self, *events: Event) -> list[Event]:
        """What to pass on for events: before each the stalls whose time had come, then itself, then what it changes.

        A recorded stall says nothing that the other events do not: it is found again, and not passed on.
        """
        passed: list[Event] = []
        for event in events:
            if self._due and self._due[0][0] <= event.ktime_ns:
                passed += self.advance(event.ktime_ns)
            kind, sock = event.event, event.sock
            if kind == "stall":
                continue
            passed.append(event)
            if kind == "state" and not (
                sock in self._open
                or sock in self._memories
                or sock in self._revocable
                or (self.unfollowed and sock in self._unfollowed)
            ):
                continue  # most events are of connections that nothing is wrong with
            if kind == "lost":
                self.missed()
            elif sock is not None and kind in _TAKE:
                passed += _TAKE[kind](self, event)
                if len(self._open) > MAX_OPEN or self._open_bytes > MAX_OPEN_BYTES:
                    passed += self._make_room(event.ktime_ns)
        return passed

    def missed(self) -> None:
        """Events are missing here: of what is open, no answer can be concluded from what does not come."""
        for stall in self._open.values():
            stall.uncertain = True

    def advance(self, until_ns: int) -> list[Event]:
        """The stalls that end, or are due for an update, because nothing came until then (CLOCK_BOOTTIME)."""
        told: list[Event] = []
        while self._due and self._due[0][0] <= until_ns:
            due_ns, sock = heapq.heappop(self._due)
            stall = self._open.get(sock)
            if stall is not None and stall.due_ns == due_ns:
                told += self._time_is_up(sock, stall, due_ns)
        return told

    def finish(self, until_ns: int, most: int | None = None) -> list[Event]:
        """The end of the run: what is still open then ends as `ongoing`. most: stalls to end now; None: all."""
        told = self.advance(until_ns)
        for sock in list(islice(self._open, most)):
            stall = self._open[sock]
            if stall.heard_ns is not None:
                told += self._recovered(sock, stall, until_ns, stall.heard_ns)
            elif stall.closed_ns is not None:
                told += self._closed(sock, stall, until_ns)
            else:
                told += self._end(sock, stall, until_ns, "ongoing", until_ns)
        return told

    # What each kind of event means.

    def _retransmit(self, event: Event) -> list[Event]:
        assert event.sock is not None
        stall = self._open.get(event.sock)
        if event.kind == "fast" and stall is not None:
            # Later segments were acknowledged: the peer is there.
            return self._answered(event.sock, stall, event)
        # A tail loss probe into a closed window is how a peer that does not read begins: no loss.
        if stall is None and event.kind == TLP and event.snd_wnd == 0:
            return []
        return self._sign(event)

    def _keepalive(self, event: Event) -> list[Event]:
        assert event.sock is not None
        if event.attempt != 1:
            return self._sign(event)
        # The first again: the one before was answered.
        memory = self._remember(event.sock)
        memory.survive(memory.probed_after_ms)
        memory.probed_after_ms = event.silent_ms
        stall = self._open.get(event.sock)
        # It goes out while nothing is in flight, and says nothing about a request that was acknowledged.
        return self._answered(event.sock, stall, event) if stall is not None and stall.seen.sign != WAITING else []

    def _window_probe(self, event: Event) -> list[Event]:
        if event.sock not in self._open and (event.attempt or 0) < WINDOW_PROBES:
            return []
        return self._sign(event)

    def _waiting(self, event: Event) -> list[Event]:
        assert event.sock is not None
        stall = self._open.get(event.sock)
        if stall is None or stall.seen.sign == WAITING:
            return self._sign(event)
        if stall.seen.sign == KEEPALIVE:
            return []
        # Nothing is in flight any more: what was, is acknowledged.
        heard_ns = max(stall.since_ns, event.ktime_ns - (event.silent_ms or 0) * MS)
        return [*self._recovered(event.sock, stall, event.ktime_ns, heard_ns), *self._sign(event)]

    def _sign(self, event: Event) -> list[Event]:
        """A sign that something is unanswered: the begin of a stall, or the next of one."""
        sock = event.sock
        now = outstanding(event, self.hz)
        if now is None or sock is None:
            return []
        told: list[Event] = []
        stall = self._open.get(sock) or self._reopened(sock, event, now)
        if stall is not None and progressed(stall, event, now):
            if self._is_lasting(stall, event.ktime_ns):
                told += self._recovered(sock, stall, event.ktime_ns, stall.heard_ns or event.ktime_ns)
                stall = None
            else:
                self._begin_anew(stall, event, now)
        elif stall is not None and is_about_something_else(stall, event, now):
            self._begin_anew(stall, event, now)
        if stall is None:
            stall = self._begin(event, now)
            if stall is None:
                return told
        self._learn_window(stall, event, now)
        if not self.ends_only and not as_foretold(stall, event):
            stall.give_up = gives_up(event, self.hz)
        if stall.seen.window_closed and not stall.seen.in_vain and not (event.user_timeout_ms or event.orphan):
            stall.give_up = None  # only the peer's silence would end it
        counted = stall.seen.retransmits
        stall.learn(event, now)
        if stall.seen.window_closed and now.sign == RTO:
            stall.seen.retransmits = max(now.count, counted + 1)  # the kernel does not count them
        if now.sign != KEEPALIVE:
            stall.seen.icmp = event.soft_error is not None
            failed = event.send_error is not None and event.send_error not in NO_ERROR
            stall.seen.dropped_here = now.sign == UNSENT or event.send_error in DROPPED_HERE
            stall.seen.unrouted = failed and not stall.seen.dropped_here
        self._expect(stall, event, now)
        self._open_bytes += self._grown(stall)
        told += self._tell(sock, stall, event)
        self._confirm(stall)
        return told

    def _learn_window(self, stall: Episode, event: Event, now: Outstanding) -> None:
        """Whether the peer's window is closed, and whether it answers that question still."""
        seen = stall.seen
        seen.window_closed = now.sign == WINDOW_PROBE or (now.sign == RTO and event.snd_wnd == 0)
        if not seen.window_closed:
            seen.unanswered = 0
        elif now.sign == WINDOW_PROBE:
            seen.unanswered = event.probes_out or 0
        else:
            # Whether the peer was heard since the retransmission before, by stamps in jiffies.
            heard_ns = event.ktime_ns - (event.silent_ms or 0) * MS + 2 * SECOND // self.hz
            is_first = stall.facts is event
            seen.unanswered = 0 if is_first or heard_ns >= stall.facts.ktime_ns else seen.unanswered + 1

    def _resume(self, event: Event) -> list[Event]:
        assert event.sock is not None
        stall = self._open.get(event.sock)
        if event.cause not in ("no-progress", "keepalive"):
            self._unfollowed.discard(event.sock)
        if event.cause == "no-progress":
            if stall is None:
                return []
            stall.seen.one_way = True
            return self._tell(event.sock, stall, event)
        if stall is None or stall.seen.sign == WAITING:
            self._survived(event)
        if stall is None:
            self._no_longer_revocable(event.sock)
            return []
        if stall.seen.sign == WAITING and (event.cause == "keepalive" or event.unacked_bytes):
            # An answer to a probe, or the ACK of a later request: the peer is there, and still owes the reply.
            return self._end(event.sock, stall, event.ktime_ns, "alive", event.ktime_ns)
        if event.cause == "keepalive" and stall.seen.sign != KEEPALIVE:
            return []  # a probe of the peer's does not acknowledge what is waiting
        return self._answered(event.sock, stall, event)

    def _survived(self, event: Event) -> None:
        """The peer is heard again after a silence, and nothing was repeated meanwhile."""
        assert event.sock is not None
        memory = self._remember(event.sock)
        silence_ms = survived_silence_ms(event, memory.heard_ns)
        memory.survive(silence_ms)
        if event.cause == "keepalive":
            memory.heard_ns = event.ktime_ns
        if silence_ms is not None and silence_ms >= self.min_idle_ms:
            self.silences.survived(service_of(event), silence_ms)

    def _state(self, event: Event) -> list[Event]:
        assert event.sock is not None
        stall = self._open.get(event.sock)
        if event.new_state == event.old_state:
            return []  # close() after shutdown(): no answer to anything
        self._unfollowed.discard(event.sock)
        if event.sock in self._memories and event.new_state == "CLOSE":
            del self._memories[event.sock]
        if stall is None:
            if event.new_state != "CLOSE":
                self._no_longer_revocable(event.sock)
            return []
        if event.new_state == "CLOSE":
            self._learn_owner(stall, event)
            if event.silent_ms is not None and event.silent_ms < JUST_NOW_MS and not stall.seen.reset:
                # The last ACK of a connection that this end has closed, and not the kernel's giving up.
                if event.old_state in ("LAST_ACK", "CLOSING"):
                    return self._recovered(event.sock, stall, event.ktime_ns, event.ktime_ns)
                # Data for an end that has closed, which breaks off: tcp_rcv_state_process(), net/ipv4/tcp_input.c.
                if event.old_state == "FIN_WAIT1":
                    return self._end(event.sock, stall, event.ktime_ns, "closed", event.ktime_ns)
            stall.closed_ns = event.ktime_ns
            self._set_due(event.sock, stall, event.ktime_ns + CLOSED_NS)
            return []
        if event.new_state in ("ESTABLISHED", "FIN_WAIT2", "TIME_WAIT") or (
            event.new_state == "CLOSE_WAIT" and stall.seen.sign == WAITING  # its end is something to read as well
        ):
            return self._recovered(event.sock, stall, event.ktime_ns, event.ktime_ns)
        if event.new_state in ("FIN_WAIT1", "LAST_ACK") and stall.heard_ns is None:
            # The application has given it up before the kernel does, or it has ended.
            self._learn_owner(stall, event)
            self._remember(event.sock).given_up = True
            return self._end(event.sock, stall, event.ktime_ns, "closed", event.ktime_ns)
        return []

    def _reset(self, event: Event) -> list[Event]:
        assert event.sock is not None
        stall = self._open.get(event.sock)
        if event.direction == "refused":
            self._remember(event.sock).refused_reset = True
            if stall is not None:
                stall.refused_reset = True
            return []
        if event.direction == "sent":
            # The kernel gives the peer up, and says so to it.
            if stall is None and event.reason == "TCP_KEEPALIVE_TIMEOUT":
                self._begin_keepalive_failure(event)
            return []
        told: list[Event] = []
        if stall is not None and stall.heard_ns is not None:
            # What was unanswered was answered before.
            told = self._recovered(event.sock, stall, event.ktime_ns, stall.heard_ns)
            stall = None
        if stall is None:
            now = self._at_reset(event)
            was_idle = (now.idle_ms or 0) >= self.min_idle_ms
            if not (event.state == "ESTABLISHED" and was_idle) and event.state != "CLOSE_WAIT":
                return told
            stall = self._begin(event, now)
            if stall is None:
                return told
        stall.seen.reset = True
        stall.seen.peer_closed = event.state == "CLOSE_WAIT"
        self._set_due(event.sock, stall, event.ktime_ns + CLOSED_NS)
        return told

    def _error(self, event: Event) -> list[Event]:
        assert event.sock is not None
        revoked: list[Event] = []
        stall = self._open.get(event.sock)
        # An error that is reported to a living socket is ICMP news (sk_err_soft is not yet what it dies of).
        if event.state != "CLOSE" and (stall is None or stall.closed_ns is None):
            return []
        if stall is None:
            stall = self._died_after_all(event)
            if stall is not None:
                revoked = self._tell(event.sock, stall, event)
            else:
                stall = self._died_unseen(event)
            if stall is None:
                return []
        self._learn_owner(stall, event)
        outcome = "closed"
        if event.error == "ETIMEDOUT":
            outcome = "timed-out"
        elif event.error in _RESETS or stall.seen.reset:
            outcome = "reset"
        elif event.error in _UNREACHABLE:
            outcome = "unreachable"
            stall.seen.icmp = True
        stall.errno, stall.error = event.errno, event.error
        return [*revoked, *self._end(event.sock, stall, event.ktime_ns, outcome, event.ktime_ns)]

    def confirmed(self) -> list[tuple[Service, int]]:
        """Services of which a connection was found dead after a silence (milliseconds), since this was last asked.

        Connections that have been silent for longer are probably dead as well.
        """
        taken = list(self._confirmed.items())
        self._confirmed.clear()
        return taken

    def _confirm(self, stall: Episode) -> None:
        seen = stall.seen
        if stall.verdict != "idle-drop" or seen.attempt < CHANCE or stall.is_confirmed or stall.service is None:
            return
        stall.is_confirmed = True
        if seen.idle_ms is not None:
            self._confirmed[stall.service] = min(seen.idle_ms, self._confirmed.get(stall.service, seen.idle_ms))
            if len(self._confirmed) > MAX_CONFIRMED:
                self._confirmed.popitem(last=False)

    # How an episode goes on.

    def _begin(self, event: Event, now: Outstanding) -> Episode | None:
        """Open a stall; None where nobody waits any more."""
        assert event.sock is not None
        memory = self._memories.get(event.sock) or Memory()
        if memory.given_up or event.sock in self._unfollowed:
            return None
        stall = Episode(
            id=f"{event.sock}-{event.ktime_ns:x}",
            since_ns=now.since_ns,
            facts=event,
            owner=event,
            seen=Evidence(sign=now.sign, idle_ms=None),
            service=service_of(event),
            survived_as_much=False,
            refused_reset=memory.refused_reset,
        )
        self._begin_anew(stall, event, now)
        self._open[event.sock] = stall
        self._open_bytes += stall.size + self._grown(stall)
        return stall

    def _begin_anew(self, stall: Episode, event: Event, now: Outstanding) -> None:
        """What was unanswered before is no more, or is joined by something newer: now it is this."""
        memory = self._memories.get(event.sock or "") or Memory()
        idle_ms = now.idle_ms
        # The kernel's own clock of silence ignores the peer's keepalive probes: their sequence number is old, and
        # they leave tcp_rcv_established() before it is set (tcp_validate_incoming(), net/ipv4/tcp_input.c).
        if idle_ms is not None and memory.heard_ns is not None:
            idle_ms = min(idle_ms, max(0, now.since_ns - memory.heard_ns) // MS)
        stall.begin_anew(now, idle_ms)
        stall.survived_as_much = (
            idle_ms is not None and memory.survived_ms is not None and memory.survived_ms >= idle_ms
        )

    def _at_reset(self, event: Event) -> Outstanding:
        """A reset that nothing came before answers what is in flight, or ends a silence."""
        stuck_ms = (event.stuck_ms or 0) if event.unacked_bytes else 0
        idle_ms = None if event.silent_ms is None else max(0, event.silent_ms - stuck_ms)
        return Outstanding("reset", max(0, event.ktime_ns - stuck_ms * MS), idle_ms, 0)

    def _begin_keepalive_failure(self, event: Event) -> None:
        """Where the probes before were not seen, or only one is allowed and no second one tells that it failed."""
        now = at_keepalive_timeout(event, self.hz)
        stall = self._begin(event, now)
        if stall is not None and event.sock is not None:
            stall.seen.retransmits = now.count
            self._set_due(event.sock, stall, event.ktime_ns + CLOSED_NS)

    def _make_room(self, now_ns: int) -> list[Event]:
        """End the oldest stalls where there are too many."""
        told: list[Event] = []
        while len(self._open) > 1 and (len(self._open) > MAX_OPEN or self._open_bytes > MAX_OPEN_BYTES):
            sock, oldest = next(iter(self._open.items()))
            if oldest.heard_ns is not None:
                told += self._recovered(sock, oldest, now_ns, oldest.heard_ns)
            elif oldest.closed_ns is not None:
                told += self._closed(sock, oldest, now_ns)
            else:
                self.unfollowed += 1
                self._unfollowed.add(sock)
                told += self._end(sock, oldest, now_ns, "ongoing", oldest.facts.ktime_ns)
        return told

    def _answered(self, sock: str, stall: Episode, event: Event) -> list[Event]:
        """The peer answered: the end, or on a connection in use perhaps only the end of one loss."""
        if self._is_lasting(stall, event.ktime_ns) or stall.seen.sign not in OF_DATA:
            return self._recovered(sock, stall, event.ktime_ns, event.ktime_ns)
        stall.heard_ns = event.ktime_ns
        self._set_due(sock, stall, event.ktime_ns + SETTLE_NS)
        return []

    def _is_lasting(self, stall: Episode, now_ns: int) -> bool:
        was_idle = stall.seen.idle_ms is not None and stall.seen.idle_ms >= self.min_idle_ms
        return was_idle or stall.seen.handshake or now_ns - stall.since_ns >= LASTING_NS

    def _recovered(self, sock: str, stall: Episode, now_ns: int, heard_ns: int) -> list[Event]:
        if stall.seen.idle_ms is not None and stall.seen.idle_ms >= self.min_idle_ms:
            self.silences.survived(stall.service, stall.seen.idle_ms)
        return self._end(sock, stall, now_ns, "recovered", heard_ns)

    def _closed(self, sock: str, stall: Episode, now_ns: int) -> list[Event]:
        """The socket is gone, and no error was reported to anybody."""
        assert stall.closed_ns is not None
        # An orphan gets no report (tcp_done_with_error(), net/ipv4/tcp.c): it dies of the time, or of a reset.
        outcome = "reset" if stall.seen.reset else "timed-out" if stall.facts.orphan else "closed"
        return self._end(sock, stall, now_ns, outcome, stall.closed_ns)

    def _time_is_up(self, sock: str, stall: Episode, now_ns: int) -> list[Event]:
        if stall.closed_ns is not None:
            return self._closed(sock, stall, now_ns)
        if stall.heard_ns is not None:
            return self._recovered(sock, stall, now_ns, stall.heard_ns)
        if stall.seen.reset:
            return self._end(sock, stall, now_ns, "reset", now_ns)
        # Nobody saw an answer. Without one the kernel would have sent it again; but events may be missing.
        outcome = "ongoing" if stall.uncertain else PRESUMED
        self._revocable[sock] = stall
        self._revocable_bytes += stall.size
        while len(self._revocable) > MAX_REMEMBERED or self._revocable_bytes > MAX_REVOCABLE_BYTES:
            self._no_longer_revocable(next(iter(self._revocable)))
        return self._end(sock, stall, now_ns, outcome, stall.facts.ktime_ns)

    def _reopened(self, sock: str, event: Event, now: Outstanding) -> Episode | None:
        """The stall that was taken for over, where this sign is its next one."""
        stall = self._no_longer_revocable(sock)
        if stall is None or not is_same_kind(stall.seen.sign, now.sign) or progressed(stall, event, now):
            return None
        return self._revoke(sock, stall)

    def _died_after_all(self, event: Event) -> Episode | None:
        """The stall that was taken for over, where the kernel gave up on a peer that was not heard since it began."""
        assert event.sock is not None
        stall = self._no_longer_revocable(event.sock)
        if stall is None or event.error not in _GIVEN_UP or event.silent_ms is None:
            return None
        heard_ns = event.ktime_ns - event.silent_ms * MS
        return self._revoke(event.sock, stall) if heard_ns <= stall.since_ns + slack_ns(event) else None

    def _died_unseen(self, event: Event) -> Episode | None:
        """The stall that the kernel gave up on, and of which nothing was seen before: that may be lost, or no event.

        Before Linux 6.17 a retransmission that this host itself drops is none.
        """
        now = at_timeout(event, self.hz)
        stall = self._begin(event, now) if now is not None else None
        if stall is not None and now is not None:
            stall.seen.retransmits = stall.seen.attempt = now.count
        return stall

    def _grown(self, stall: Episode) -> int:
        is_one_of_many = len(self._open) > MANY
        return stall.weigh(is_one_of_many=is_one_of_many)

    def _learn_owner(self, stall: Episode, event: Event) -> None:
        stall.learn_owner(event)
        self._open_bytes += self._grown(stall)

    def _no_longer_revocable(self, sock: str) -> Episode | None:
        stall = self._revocable.pop(sock, None)
        if stall is not None:
            self._revocable_bytes -= stall.size
        return stall

    def _revoke(self, sock: str, stall: Episode) -> Episode:
        stall.seen.outcome = None
        stall.revoked = True
        self._open[sock] = stall
        self._open_bytes += stall.size
        return stall

    def _expect(self, stall: Episode, event: Event, now: Outstanding) -> None:
        """When the next sign would come; it does not come a quarter later, and not a second later."""
        assert event.sock is not None
        stall.heard_ns = None
        if now.sign == WAITING:
            next_ns: int | None = event.ktime_ns + (event.silent_ms or 0) * MS + WALKS_NS
        elif now.sign == WINDOW_PROBE and event.event != "found" and event.probes_out is None:
            rto_ms = (event.rto_ms or 1000) << max(0, min(event.attempt or 0, 16))
            next_ns = event.ktime_ns + min(rto_ms, 120_000) * MS
        else:
            next_ns = next_expiry_ns(event, self.hz)
        # Never before now, whatever a recording claims.
        wait_ns = max(0, next_ns - event.ktime_ns) if next_ns is not None else 240 * SECOND
        self._set_due(event.sock, stall, event.ktime_ns + int(wait_ns * OVERDUE) + SECOND)

    def _set_due(self, sock: str, stall: Episode, due_ns: int) -> None:
        stall.due_ns = due_ns
        heapq.heappush(self._due, (due_ns, sock))
        if len(self._due) > 4 * len(self._open) + 1024:
            self._due = [(each.due_ns, key) for key, each in self._open.items() if each.due_ns]
            heapq.heapify(self._due)

    # What is said about it.

    def _tell(self, sock: str, stall: Episode, event: Event) -> list[Event]:
        """Its begin, or an update where there is news."""
        if stall.revoked:
            stall.verdict = verdict(stall.seen, self.min_idle_ms)
            return [self._account(stall, "update", event.ktime_ns)]
        if self.ends_only:
            return []
        stall.verdict = verdict(stall.seen, self.min_idle_ms)
        if not stall.told[0]:
            return [self._account(stall, "begin", event.ktime_ns)]
        told_verdict, told_give_up = stall.told
        # Where packets are lost and acknowledged in turns, no time is worth telling.
        is_serious = stall.verdict != "no-answer"
        news = stall.verdict != told_verdict or (is_serious and is_news(stall.give_up, told_give_up))
        overdue = event.ktime_ns - stall.told_ns >= stall.quiet_ns
        if not news and not overdue:
            return []
        if overdue:
            stall.quiet_ns *= 2
        return [self._account(stall, "update", event.ktime_ns)]

    def _end(self, sock: str, stall: Episode, now_ns: int, outcome: str, ended_ns: int) -> list[Event]:
        del self._open[sock]
        self._open_bytes -= stall.size
        stall.seen.outcome = outcome
        stall.seen.duration_ns = max(0, ended_ns - stall.since_ns)
        stall.verdict = verdict(stall.seen, self.min_idle_ms)
        idle_ms = stall.seen.idle_ms
        # Where events were lost, an answer may have been among them.
        is_unknown = outcome == "ongoing" and stall.uncertain
        if not is_unknown and is_fatal(stall.verdict, outcome, idle_ms, stall.seen.retransmits):
            assert idle_ms is not None
            if idle_ms >= self.min_idle_ms:
                self.silences.fatal(stall.service, idle_ms)
        stall.give_up = None
        return [self._account(stall, "end", now_ns)]

    def _account(self, stall: Episode, phase: str, now_ns: int) -> Event:
        stall.told, stall.told_ns = (stall.verdict, stall.give_up), now_ns
        return account(stall, phase, now_ns, hz=self.hz, bracket=self.silences.bracket(stall.service))

    def _remember(self, sock: str) -> Memory:
        memory = self._memories.setdefault(sock, Memory())
        self._memories.move_to_end(sock)
        if len(self._memories) > MAX_REMEMBERED:
            self._memories.popitem(last=False)
        return memory


_TAKE = {
    "retransmit": StallTracker._retransmit,
    "keepalive": StallTracker._keepalive,
    "window-probe": StallTracker._window_probe,
    "unsent": StallTracker._sign,
    "found": StallTracker._sign,
    "waiting": StallTracker._waiting,
    "resume": StallTracker._resume,
    "state": StallTracker._state,
    "reset": StallTracker._reset,
    "error": StallTracker._error,
}
