"""What is kept of a connection: while it stalls, and between its stalls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tracer.analysis.expiry import GiveUp
from tracer.analysis.idle_timeouts import Service
from tracer.analysis.outstanding import SYN, Outstanding
from tracer.analysis.verdicts import Evidence
from tracer.model.events import TEXTS, Event, size_of

ORDINARY_BYTES = 6000
"""The memory of an episode whose events are not large, with its places in the tracker."""
MAX_ORDINARY = 1000
"""Characters and processes of an event that is not large."""
_PIDS = ("pids",)  # a few texts matter only in many episodes
_SIZED = (*TEXTS, "pids")


def _is_large(event: Event, names: Sequence[str]) -> bool:
    get = event.known().get
    return sum(map(len, filter(None, map(get, names)))) > MAX_ORDINARY


@dataclass(slots=True)
class Episode:
    """A stall that has not ended."""

    id: str
    since_ns: int  # CLOCK_BOOTTIME: when what is unanswered was first sent
    facts: Event  # the newest event that tells what is outstanding
    owner: Event  # the newest event that knows whose it is
    seen: Evidence
    service: Service | None
    survived_as_much: bool
    refused_reset: bool
    give_up: GiveUp | None = None
    verdict: str = ""
    told: tuple[str, GiveUp | None] = ("", None)  # verdict and give-up time as last told
    told_ns: int = 0
    is_confirmed: bool = False  # as an idle-drop, by more retransmissions than are lost by chance
    revoked: bool = False  # it was presumed to be over, and that is still to be taken back
    quiet_ns: int = 60_000_000_000  # how long after told_ns an update without news is due
    heard_ns: int | None = None  # the peer answered, and it may be over
    closed_ns: int | None = None  # the socket is closed, and its error may follow
    uncertain: bool = False  # events were lost meanwhile
    errno: int | None = None  # that was reported for its end
    error: str | None = None
    due_ns: int = 0  # of the entry in the heap that counts
    size: int = ORDINARY_BYTES  # its memory

    def weigh(self, *, is_one_of_many: bool) -> int:
        """Set size anew, from all texts if there are many episodes. Returns by how much it has grown."""
        names = _SIZED if is_one_of_many else _PIDS
        before, self.size = self.size, ORDINARY_BYTES
        if _is_large(self.facts, names):
            self.size += size_of(self.facts)
        if self.owner is not self.facts and _is_large(self.owner, names):
            self.size += size_of(self.owner)
        return self.size - before

    def learn(self, event: Event, now: Outstanding) -> None:
        """A newer event of what is outstanding."""
        self.facts = event
        self.learn_owner(event)
        self.seen.retransmits = now.count
        self.seen.attempt = event.attempt or 0
        self.uncertain = False
        self.seen.one_way = self.seen.one_way or now.one_way

    def begin_anew(self, now: Outstanding, idle_ms: int | None) -> None:
        """It is about something else now. idle_ms: the silence before that."""
        self.since_ns = now.since_ns
        self.heard_ns = None
        self.give_up = None
        self.seen.sign, self.seen.idle_ms, self.seen.one_way = now.sign, idle_ms, False
        self.seen.retransmits = 0
        self.seen.handshake = now.sign == SYN

    def learn_owner(self, event: Event) -> None:
        """A newer event that may know the owner."""
        if event.pid is not None or event.comm is not None or self.owner.comm is None:
            self.owner = event


@dataclass(slots=True)
class Memory:
    """What is kept of a connection between episodes."""

    heard_ns: int | None = None  # the peer was heard, though the kernel's own clock of silence goes on: its probes
    probed_after_ms: int | None = None  # the silence at our latest probe
    survived_ms: int | None = None  # the longest silence that ended well, by a probe or by data
    refused_reset: bool = False
    given_up: bool = False  # the application has closed it: nobody waits any more

    def survive(self, silence_ms: int | None) -> None:
        """The connection was alive after this silence."""
        if silence_ms is not None:
            self.survived_ms = max(silence_ms, self.survived_ms or 0)
