"""Events → stalls: one for each episode, from its first sign to its outcome.

A connection stalls when what it sent is not answered: a retransmission by a timer, a keepalive probe after one that
nobody answered, a window that stays closed, a request that was acknowledged and not answered. This module passes
each event on and sends it to its rule, in :mod:`tracer.analysis.stall_signs` or :mod:`tracer.analysis.stall_answers`.

Time comes from the events, and from how far their source has read. So the same events give the same stalls, live and
from a recording. Any event may be the first of its connection, and any may be missing: what a stall reports
follows from its newest event, and only what was seen ends it for good.
"""

from __future__ import annotations

from collections.abc import Callable

from tracer.analysis import stall_answers, stall_signs
from tracer.analysis.idle_timeouts import IdleTimeouts, Service
from tracer.analysis.outcomes import Outcome
from tracer.analysis.stall_lifecycle import StallLifecycle
from tracer.model.events import Event

MIN_IDLE_MS = 60_000
"""The default of min_idle_ms."""

_RULES: dict[str, Callable[[StallLifecycle, Event], list[Event]]] = {
    "retransmit": stall_signs.retransmit,
    "keepalive": stall_signs.keepalive,
    "window-probe": stall_signs.window_probe,
    "unsent": stall_signs.sign,
    "found": stall_signs.sign,
    "waiting": stall_signs.waiting,
    "resume": stall_answers.resume,
    "state": stall_answers.state,
    "reset": stall_answers.reset,
    "error": stall_answers.error,
    "action": stall_answers.action,
}


class StallTracker:
    """Finds the stalls in a stream of events.

    hz: jiffies per second of the events' kernel. min_idle_ms: a silence of at least this long counts as idle.
    idle_timeouts records which silences connections survived; pass one to share it. ends_only: only the end
    of a stall is reported. own_netns: inode of the host's own network namespace; 0: unknown.

    Memory is bounded (:mod:`tracer.analysis.stall_store`): where too many stalls are open, the oldest ends as
    `ongoing`, and its connection is not followed until the peer sends something or it closes.
    """

    def __init__(
        self,
        *,
        hz: int,
        min_idle_ms: int = MIN_IDLE_MS,
        idle_timeouts: IdleTimeouts | None = None,
        ends_only: bool = False,
        own_netns: int = 0,
    ) -> None:
        self.idle_timeouts = idle_timeouts if idle_timeouts is not None else IdleTimeouts()
        self._lifecycle = StallLifecycle(
            hz=hz,
            min_idle_ms=min_idle_ms,
            idle_timeouts=self.idle_timeouts,
            ends_only=ends_only,
            own_netns=own_netns,
        )
        self._store = self._lifecycle.store

    @property
    def open_sockets(self) -> list[str]:
        """The sockets with a stall that has not ended, the oldest stall first."""
        return list(self._store.open.by_sock)

    @property
    def unfollowed(self) -> int:
        """How often a stall ended as `ongoing` because too many were open."""
        return self._store.unfollowed_count

    def feed(self, *events: Event) -> list[Event]:
        """What to pass on: before each event the stalls that were due by then, then the event, then what it changes.

        A recorded stall repeats what the other events show. It is found again, and not passed on.
        """
        passed: list[Event] = []
        store, schedule = self._store, self._store.open.schedule
        for event in events:
            if schedule and schedule[0][0] <= event.ktime_ns:
                passed += self.advance(event.ktime_ns)
            kind = event.event
            if kind == "stall":
                continue
            passed.append(event)
            if kind == "state" and not store.knows(event.sock):
                continue  # most events are of connections without any trouble
            if kind == "lost":
                self.missed()
            elif event.sock is not None and kind in _RULES:
                # A resume stays as it is, because its rule adds to it.
                passed += _RULES[kind](self._lifecycle, event if kind == "resume" else event.whole())
                if store.open.are_too_many:
                    passed += self._lifecycle.make_room(event.ktime_ns)
        return passed

    def missed(self) -> None:
        """Note that events are missing here: an open stall may have been answered meanwhile."""
        for stall in self._store.open.by_sock.values():
            stall.uncertain = True

    def advance(self, until_ns: int) -> list[Event]:
        """The stalls that end, or are due for an update, because nothing came until then (CLOCK_BOOTTIME)."""
        reported: list[Event] = []
        while (due := self._store.open.take_due(until_ns)) is not None:
            due_ns, sock, stall = due
            reported += self._lifecycle.expire(sock, stall, due_ns)
        return reported

    def finish(self, until_ns: int, most: int | None = None) -> list[Event]:
        """The end of the run: what is still open then ends as `ongoing`. most: stalls to end now; None: all."""
        reported = self.advance(until_ns)
        for sock, stall in self._store.open.oldest(most):
            ended = self._lifecycle.close_or_recover(sock, stall, until_ns)
            reported += (
                self._lifecycle.end(sock, stall, until_ns, Outcome.ONGOING, until_ns) if ended is None else ended
            )
        return reported

    def confirmed(self) -> list[tuple[Service, int]]:
        """Services with a connection that was found dead after a silence (milliseconds), since the last call.

        Connections that have been silent for longer are probably dead as well.
        """
        return self._lifecycle.take_confirmed()

    def take_overdue(self) -> bool:
        """Whether the next sign of a stall did not come in time, since the last call.

        The stall ends without evidence unless something shows within OVERDUE_NS that it goes on.
        """
        was, self._lifecycle.has_overdue = self._lifecycle.has_overdue, False
        return was
