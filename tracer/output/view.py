"""What the default view leaves out: connections without trouble that open and close, and what stalls repeat.

The former are by far the most frequent events, and bury the few that matter. `-a` shows them. JSON and recordings
have them.
"""

from __future__ import annotations

from collections import OrderedDict

from tracer.analysis.outcomes import Outcome
from tracer.model.actions import Answer
from tracer.model.events import Event
from tracer.model.kinds import Kind

MAX_TROUBLED = 8192
"""Connections with trouble that are remembered."""
_DEAD = frozenset({Answer.NO_ANSWER.value, Answer.RESET.value})
"""Results of probes that are shown by default. The others are many, and nothing is wrong."""
_SIGNS = frozenset({Kind.RETRANSMIT, Kind.WINDOW_PROBE, Kind.UNSENT, Kind.FOUND, Kind.WAITING})


class View:
    """Decides which events a person sees.

    shows_all: show every event. min_idle_ms: the state changes of a connection with a peer silent for at least this
    long are shown.
    """

    def __init__(self, *, shows_all: bool, min_idle_ms: int) -> None:
        self.shows_all = shows_all
        self._min_idle_ms = min_idle_ms
        self._troubled: OrderedDict[str, None] = OrderedDict()  # sockets

    def shows(self, event: Event) -> bool:
        """Whether to show the event. It has to be called for every event, in order."""
        kind, sock = event.event, event.sock
        if kind == Kind.COUNTERS:
            return False
        if sock is not None and not event.orphan:
            if kind in _SIGNS or (kind == Kind.KEEPALIVE and event.attempt is not None and event.attempt > 1):
                self._remember(sock)
            elif kind == Kind.STALL:
                self._follow_stall(sock, event)
        if self.shows_all:
            return True
        if kind == Kind.FOUND:
            return event.kind == "idle"
        if kind == Kind.WAITING:
            return False
        if kind == Kind.ACTION and event.action == "probe":
            return event.result in _DEAD
        if kind != Kind.STATE or sock in self._troubled:
            return True
        return event.silent_ms is not None and event.silent_ms >= self._min_idle_ms

    def _follow_stall(self, sock: str, stall: Event) -> None:
        outcome = Outcome.of(stall.outcome)
        if stall.phase == "end" and outcome is not None and outcome.is_harmless:
            self._troubled.pop(sock, None)
        else:
            self._remember(sock)

    def _remember(self, sock: str) -> None:
        self._troubled[sock] = None
        self._troubled.move_to_end(sock)
        if len(self._troubled) > MAX_TROUBLED:
            self._troubled.popitem(last=False)
