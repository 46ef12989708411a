"""What is known about a stall, and the rule that concludes its verdict."""

from __future__ import annotations

from tracer.analysis.outcomes import Outcome
from tracer.analysis.probe_timer import MIN_UNANSWERED
from tracer.analysis.verdicts import Verdict
from tracer.model.dataclass import dataclass

OUTAGE_NS = 10_000_000_000
"""A stall that recovers sooner than this was packet loss, a longer one was an outage."""
CHANCE = 3
"""On a path that loses packets, fewer retransmissions of one segment in a row than this are lost by chance."""
DROPPED_HERE = frozenset({"EPERM", "EACCES", "ENOBUFS", "ENOMEM", "NET_XMIT_DROP"})
"""Errors of sending that come from this host's own rules and queues."""
NO_ERROR = frozenset({"EBUSY", "EAGAIN"})
"""The earlier copy has not left this host yet, or there is nothing to retransmit after all."""


@dataclass(slots=True)
class Evidence:
    """What is known about a stall: about what is unanswered now, and how the stall ended."""

    sign: str  # of tracer.analysis.outstanding, or "reset" where nothing came before
    idle_ms: int | None  # silence before what is unanswered was first sent, None where it is not known
    retransmits: int = 0  # unanswered retransmissions or probes, as the kernel counts
    attempt: int = 0  # retransmissions by the timer, of the newest sign
    handshake: bool = False  # SYN_SENT
    peer_closed: bool = False  # CLOSE_WAIT: the peer's FIN came before
    icmp: bool = False  # an ICMP error came back
    unrouted: bool = False  # this host has no route to the peer
    dropped_here: bool = False  # this host itself drops what the connection sends
    has_left: bool = False  # a retransmission was sent without an error
    dropped: int = 0  # retransmissions in a row that this host dropped, to the newest
    window_closed: bool = False
    unanswered_probes: int = 0  # probes of a closed window since the peer last sent anything
    one_way: bool = False  # the peer sends, but acknowledges nothing
    reset: bool = False  # a RST was received
    outcome: Outcome | None = None
    duration_ns: int = 0

    @property
    def significant_probes(self) -> int:
        """The unanswered probes of a closed window; 0 where they are too few to mean anything."""
        return self.unanswered_probes if self.unanswered_probes >= MIN_UNANSWERED else 0


def conclude(evidence: Evidence, min_idle_ms: int) -> Verdict:
    """The verdict. min_idle_ms: a silence of at least this long counts as idle.

    The order of the questions matters: a stalled connection answers several of them with yes.
    """
    was_idle = evidence.idle_ms is not None and evidence.idle_ms >= min_idle_ms
    if evidence.dropped_here:
        return Verdict.LOCAL_DROP
    if evidence.outcome is Outcome.PRESUMED:
        return Verdict.NO_ANSWER
    if evidence.handshake:
        return Verdict.UNREACHABLE if evidence.icmp or evidence.unrouted else Verdict.HANDSHAKE
    if evidence.sign == "waiting":
        return Verdict.UNANSWERED
    if evidence.window_closed:
        # The peer closed its window, so it was there.
        return Verdict.ZERO_WINDOW if evidence.unanswered_probes < CHANCE else Verdict.PATH_LOSS
    if (evidence.icmp or evidence.unrouted) and evidence.outcome is not Outcome.RECOVERED:
        return Verdict.UNREACHABLE
    if evidence.sign == "keepalive":
        return Verdict.KEEPALIVE_FAILED
    if evidence.reset and evidence.peer_closed:
        return Verdict.PEER_CLOSED
    if evidence.reset and was_idle:
        return Verdict.IDLE_RESET
    # A reset is an answer, too.
    was_lost = evidence.reset and (evidence.sign == "fin" or evidence.attempt < CHANCE)
    if evidence.outcome is Outcome.RECOVERED or was_lost:
        return Verdict.PACKET_LOSS if evidence.duration_ns < OUTAGE_NS else Verdict.PATH_LOSS
    # What the peer sends meanwhile gets through, so the path knows the session in that direction.
    if was_idle and not evidence.one_way:
        return Verdict.IDLE_DROP
    outcome = evidence.outcome
    is_undecided = outcome is None or outcome.is_undecided or not outcome.has_evidence
    return Verdict.NO_ANSWER if is_undecided and evidence.attempt < CHANCE else Verdict.PATH_LOSS
