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
    "zero-window",
    "handshake",
    "peer-closed",
)

OUTAGE_NS = 10_000_000_000
"""What recovers sooner is packet loss, what takes longer was an outage."""
CHANCE = 3
"""On a path that loses packets, fewer retransmissions of one segment in a row are lost by chance."""


@dataclass(slots=True)
class Evidence:
    """What has been seen of a stall so far."""

    sign: str  # what it began with: a kind of retransmit, keepalive, window-probe, reset, error
    idle_ms: int | None  # silence before that, None in a handshake
    retransmits: int = 0  # or probes, that nobody answered
    attempt: int = 0  # of the newest one
    handshake: bool = False  # SYN_SENT
    peer_closed: bool = False  # CLOSE_WAIT: the peer's FIN came before
    icmp: bool = False  # an ICMP error came back, or nothing could even be sent
    window_closed: bool = False
    one_way: bool = False  # the peer is heard, and acknowledges nothing
    progressed: bool = False  # something was acknowledged meanwhile
    reset: bool = False  # a RST was received
    outcome: str | None = None
    duration_ns: int = 0


def verdict(seen: Evidence, min_idle_ms: int) -> str:
    """One of VERDICTS. min_idle_ms: the silence from which on idleness is under suspicion.

    The order of the questions matters: a stalled connection answers several of them with yes.
    """
    was_idle = seen.idle_ms is not None and seen.idle_ms >= min_idle_ms
    if seen.handshake:
        return "unreachable" if seen.icmp else "handshake"
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
    if was_idle and not seen.one_way and not seen.progressed:
        return "idle-drop"
    undecided = seen.outcome in (None, "ongoing", "closed")
    return "packet-loss" if undecided and seen.attempt < CHANCE else "path-loss"
