"""What hangs now: sockets with a peer that owes an answer, by a single look at them.

A look shows less than the events of a trace: it cannot tell when a probe was sent. So each rule waits until the
kernel's own count shows that more than chance is at work.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

from tracer.model.sockets import Socket

LOST_BY_CHANCE = 2
"""Retransmissions or probes without an answer that a healthy path may cost."""
WAITING_MS = 60_000
"""A reply that takes longer than this counts as missing: bpf/settings.h has the same default for `waiting`."""


class Stuck(str, Enum):
    """Why a socket hangs, the worst first."""

    RETRANSMITTING = "retransmitting"
    """Data is in flight, and nothing acknowledges it."""
    PROBING = "probing in vain"
    """Keepalive probes, or probes of a closed window, go unanswered."""
    WINDOW = "closed window"
    """The peer answers, but its application does not read."""
    SYN = "SYN unanswered"
    REPLY = "waiting for a reply"
    """The peer acknowledged a request, and has sent no reply for WAITING_MS. A slow reply looks the same."""


def stuck(socket: Socket, waiting_ms: int = WAITING_MS) -> Stuck | None:
    """Why this socket hangs; None if nothing shows that it does. waiting_ms: a reply that takes longer is missing."""
    attempt = 0 if socket.attempt is None else socket.attempt
    if socket.state == "SYN_SENT":
        return Stuck.SYN if attempt >= LOST_BY_CHANCE else None
    if socket.timer == "on" and attempt > LOST_BY_CHANCE:
        return Stuck.RETRANSMITTING
    if socket.timer == "keepalive" and attempt >= LOST_BY_CHANCE:
        return Stuck.PROBING
    if socket.timer == "persist":
        return Stuck.PROBING if attempt > LOST_BY_CHANCE else Stuck.WINDOW
    if socket.waiting and socket.waiting_ms is not None and socket.waiting_ms >= waiting_ms:
        return Stuck.REPLY
    return None


_ORDER = {reason: number for number, reason in enumerate(Stuck)}


def worst_first(sockets: Iterable[Socket]) -> list[tuple[Stuck, Socket]]:
    """The sockets that hang, with the reason: by reason, and then the longest silence first."""
    found = [(reason, socket) for socket in sockets if (reason := stuck(socket)) is not None]
    return sorted(found, key=lambda item: (_ORDER[item[0]], _silence_first(item[1])))


def _silence_first(socket: Socket) -> int:
    return 0 if socket.silent_ms is None else -socket.silent_ms
