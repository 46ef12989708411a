"""What a stall is consistent with. Never more: from one end of a connection nobody can see the path."""

from __future__ import annotations

from dataclasses import dataclass

VERDICTS = (
    "idle-drop",
    "idle-reset",
    "keepalive-failed",
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
    icmp: bool = False  # an ICMP error came back, or nothing could even be sent
    window_closed: bool = False
    one_way: bool = False  # something is received from the peer, and acknowledges nothing
    reset: bool = False  # a RST was received
    outcome: str | None = None
    duration_ns: int = 0


def verdict(seen: Evidence, min_idle_ms: int) -> str:
    """One of VERDICTS. min_idle_ms: the silence from which on idleness is under suspicion.

    The order of the questions matters: a stalled connection answers several of them with yes.
    """
    was_idle = seen.idle_ms is not None and seen.idle_ms >= min_idle_ms
    if seen.outcome == PRESUMED:
        return "no-answer"
    if seen.handshake:
        return "unreachable" if seen.icmp else "handshake"
    if seen.sign == "waiting":
        return "unanswered"
    if seen.window_closed:
        return "zero-window"
    if seen.icmp and seen.outcome != "recovered":
        return "unreachable"
    if seen.sign == "keepalive":
        return "keepalive-failed"
    if seen.reset and seen.peer_closed:
        return "peer-closed"
    if seen.reset and was_idle:
        return "idle-reset"
    if seen.outcome == "recovered":
        return "packet-loss" if seen.duration_ns < OUTAGE_NS else "path-loss"
    # A peer that is heard meanwhile has a path to us: the session is known on the way back.
    if was_idle and not seen.one_way:
        return "idle-drop"
    undecided = seen.outcome in (None, "ongoing", "closed")
    return "no-answer" if undecided and seen.attempt < CHANCE else "path-loss"
