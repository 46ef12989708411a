"""What is kept about a connection: while it stalls, and between its stalls."""

from __future__ import annotations

from collections.abc import Sequence

from tracer.analysis.evidence import Evidence
from tracer.analysis.give_up import GiveUp
from tracer.analysis.idle_timeouts import Service
from tracer.analysis.outstanding import SYN, Outstanding
from tracer.analysis.verdicts import Verdict
from tracer.model.dataclass import dataclass
from tracer.model.events import TEXTS, Event, size_of

ORDINARY_BYTES = 6000
"""The memory of a stall with events of ordinary size, and of its entries in the tracker."""
MAX_ORDINARY = 1000
"""Characters and processes of an event of ordinary size."""
_PIDS = ("pids",)  # texts of a few stalls need little memory
_SIZED = (*TEXTS, "pids")


def _is_large(event: Event, names: Sequence[str]) -> bool:
    get = event.known().get
    return sum(map(len, filter(None, map(get, names)))) > MAX_ORDINARY


@dataclass(slots=True)
class StallState:
    """A stall that has not ended. Times are CLOCK_BOOTTIME nanoseconds."""

    id: str
    since_ns: int  # when what is unanswered was first sent
    last_event: Event  # the newest event that shows what is outstanding
    owner: Event  # the newest event that knows the owner
    evidence: Evidence
    service: Service | None
    survived_as_much: bool
    refused_reset: bool
    give_up: GiveUp | None = None
    verdict: Verdict | None = None
    reported_verdict: Verdict | None = None
    reported_give_up: GiveUp | None = None
    reported_ns: int = 0
    reported_retransmits: int = 0
    is_confirmed: bool = False  # a provisional verdict, by more retransmissions than are lost by chance
    revoked: bool = False  # its end was reported without evidence, and the next report revokes that
    quiet_ns: int = 60_000_000_000  # after reported_ns, when an update without news is due
    answered_ns: int | None = None  # the peer answered, and the stall may be over
    closed_ns: int | None = None  # the socket is closed, and its error may follow
    is_ended_by_action: bool = False  # tcpwatch end reported that it ended the connection
    uncertain: bool = False  # events were lost meanwhile
    errno: int | None = None  # what the application got at its end
    error: str | None = None
    is_overdue: bool = False  # its next sign did not come in time, and a walk may find it
    due_ns: int = 0  # of its valid entry in the schedule
    size: int = ORDINARY_BYTES  # its memory, bytes

    def weigh(self, *, is_one_of_many: bool) -> int:
        """Update size, and return by how many bytes it has grown. Only of many stalls the texts count."""
        names = _SIZED if is_one_of_many else _PIDS
        before, self.size = self.size, ORDINARY_BYTES
        if _is_large(self.last_event, names):
            self.size += size_of(self.last_event)
        if self.owner is not self.last_event and _is_large(self.owner, names):
            self.size += size_of(self.owner)
        return self.size - before

    def learn(self, event: Event, now: Outstanding) -> None:
        """Take a newer event about what is outstanding."""
        self.last_event = event
        self.learn_owner(event)
        self.evidence.retransmits = now.count
        self.evidence.attempt = 0 if event.attempt is None else event.attempt
        self.uncertain = self.is_overdue = False
        self.evidence.one_way = self.evidence.one_way or now.one_way

    def restart(self, now: Outstanding, idle_ms: int | None) -> None:
        """Make the stall about something else. idle_ms: the silence before that."""
        self.since_ns = now.since_ns
        self.answered_ns = None
        self.give_up = None
        self.evidence.sign, self.evidence.idle_ms, self.evidence.one_way = now.sign, idle_ms, False
        self.evidence.retransmits = 0
        self.evidence.handshake = now.sign == SYN
        self.evidence.dropped_here, self.evidence.has_left, self.evidence.dropped = False, False, 0

    def learn_owner(self, event: Event) -> None:
        """Take a newer event that may know the owner."""
        if event.pid is not None or event.comm is not None or self.owner.comm is None:
            self.owner = event


@dataclass(slots=True)
class ConnectionHistory:
    """What is kept about a connection between its stalls."""

    probed_by_peer_ns: int | None = None  # the peer's latest keepalive probe, which the kernel's clock ignores
    probed_after_ms: int | None = None  # the silence at our latest probe
    survived_ms: int | None = None  # the longest silence that ended well, by a probe or by data
    refused_reset: bool = False
    given_up: bool = False  # the application has closed it, and waits no more

    def survive(self, silence_ms: int | None) -> None:
        """Record that the connection was alive after this silence."""
        if silence_ms is not None:
            self.survived_ms = silence_ms if self.survived_ms is None else max(silence_ms, self.survived_ms)
