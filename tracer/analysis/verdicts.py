"""What a stall is consistent with. Never more: from one end of a connection nobody can see the path."""

from __future__ import annotations

from dataclasses import dataclass

from tracer.analysis.probing import IN_VAIN

VERDICTS = (
    "idle-drop",
    "idle-reset",
    "keepalive-failed",
    "local-drop",
    "unreachable",
    "path-loss",
    "packet-loss",
    "no-answer",
    "unanswered",
    "zero-window",
    "handshake",
    "peer-closed",
)

OUTAGE_NS = 10_000_000_000
"""What recovers sooner is packet loss, what takes longer was an outage."""
PRESUMED = "presumed"
"""An outcome: the next retransmission was not seen. An answer may have come, or the event was missed."""
DROPPED_HERE = frozenset({"EPERM", "EACCES", "ENOBUFS", "ENOMEM", "NET_XMIT_DROP"})
"""Errors of sending that come from this host's own rules and queues."""
NO_ERROR = frozenset({"EBUSY", "EAGAIN"})
"""The earlier copy has not left this host yet, or there is nothing to send again after all."""
WITHOUT_EVIDENCE = frozenset({PRESUMED, "ongoing"})
"""Outcomes that a later sign of the same stall takes back: an update of it then says `revoked`."""
CHANCE = 3
"""On a path that loses packets, fewer retransmissions of one segment in a row are lost by chance."""


@dataclass(slots=True)
class Evidence:
    """What is known of a stall: of what is unanswered now, and how it ended."""

    sign: str  # of tracer.analysis.outstanding, or "reset" where nothing came before
    idle_ms: int | None  # silence before what is unanswered was first sent, None where it is not known
    retransmits: int = 0  # or probes, that nobody answered, as the kernel counts
    attempt: int = 0  # retransmissions by the timer, of the newest sign
    handshake: bool = False  # SYN_SENT
    peer_closed: bool = False  # CLOSE_WAIT: the peer's FIN came before
    icmp: bool = False  # an ICMP error came back
    unrouted: bool = False  # this host has no way to send to the peer
    dropped_here: bool = False  # this host itself drops what the connection sends
    window_closed: bool = False
    unanswered: int = 0  # probes of a closed window since the peer was last heard
    one_way: bool = False  # something is received from the peer, and acknowledges nothing
    reset: bool = False  # a RST was received
    outcome: str | None = None
    duration_ns: int = 0

    @property
    def in_vain(self) -> int:
        """The probes of a closed window that nobody answered, where they are enough to say something."""
        return self.unanswered if self.unanswered >= IN_VAIN else 0


def verdict(seen: Evidence, min_idle_ms: int) -> str:
    """One of VERDICTS. min_idle_ms: the silence from which on idleness is under suspicion.

    The order of the questions matters: a stalled connection answers several of them with yes.
    """
    was_idle = seen.idle_ms is not None and seen.idle_ms >= min_idle_ms
    if seen.dropped_here:
        return "local-drop"
    if seen.outcome == PRESUMED:
        return "no-answer"
    if seen.handshake:
        return "unreachable" if seen.icmp or seen.unrouted else "handshake"
    if seen.sign == "waiting":
        return "unanswered"
    if seen.window_closed:
        # It closed its window, so it was there.
        return "zero-window" if seen.unanswered < CHANCE else "path-loss"
    if (seen.icmp or seen.unrouted) and seen.outcome != "recovered":
        return "unreachable"
    if seen.sign == "keepalive":
        return "keepalive-failed"
    if seen.reset and seen.peer_closed:
        return "peer-closed"
    if seen.reset and was_idle:
        return "idle-reset"
    # A reset is an answer, too.
    was_lost = seen.reset and (seen.sign == "fin" or seen.attempt < CHANCE)
    if seen.outcome == "recovered" or was_lost:
        return "packet-loss" if seen.duration_ns < OUTAGE_NS else "path-loss"
    # A peer that is heard meanwhile has a path to us: the session is known on the way back.
    if was_idle and not seen.one_way:
        return "idle-drop"
    undecided = seen.outcome in (None, "ongoing", "closed")
    return "no-answer" if undecided and seen.attempt < CHANCE else "path-loss"
