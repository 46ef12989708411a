"""Connections that a firewall with a given idle timeout would drop, before anything breaks.

Such a firewall forgets an idle session and silently drops what comes later. A connection outlives that only if a
keepalive probe goes out in time, which follows from its settings, its silence and its armed timer. The peer's own
probes, an application's timeouts and heartbeats, and whether there is such a firewall on the path cannot be seen from
this end. Whether a connection waits depends on the moment, so it takes two looks.
"""

from __future__ import annotations

from collections.abc import Sequence

from tracer.analysis.clients import HEARTBEATS, MAX_HEARTBEAT_S
from tracer.analysis.timer_wheel import lateness
from tracer.model.sockets import Socket

STRANDED, WAITING, KEEPALIVE_OFF, KEEPALIVE_LATE = "stranded", "waiting", "keepalive-off", "keepalive-late"
REASONS = (STRANDED, WAITING, KEEPALIVE_OFF, KEEPALIVE_LATE)
"""
stranded: it is silent for longer than the timeout already. waiting: it waits for an answer and nothing is in flight,
so that no retransmission will reveal that the session is gone. keepalive-off: it never sends a probe.
keepalive-late: its first probe comes, or may come, after the timeout.
"""
LOOK_AGAIN_S = 3
"""Between two looks at connections that wait: most answers take less."""


def at_risk(sockets: Sequence[Socket], ttl_s: float, hz: int, before: Sequence[Socket] | None = None) -> list[Socket]:
    """The sockets that a firewall with an idle timeout of ttl_s seconds would drop, the worst first.

    It sets their `at_risk`. The worst hang already, if there is such a firewall; then come those with the other
    reasons, and within them the longest silence first. hz: jiffies per second of the kernel. before: an earlier look
    at the sockets; with it, `waiting` are only those that waited then, and neither received nor sent anything since.
    """
    waited = None if before is None else {_name(each): each for each in before if each.waiting}
    for socket in sockets:
        reasons = risks(socket, ttl_s, hz)
        if waited is not None and WAITING in reasons and not _still_waits(waited.get(_name(socket)), socket):
            reasons.remove(WAITING)
        socket.at_risk = reasons or None
    return sorted((socket for socket in sockets if socket.at_risk), key=_urgency)


def risks(socket: Socket, ttl_s: float, hz: int) -> list[str]:
    """The REASONS why a firewall with an idle timeout of ttl_s seconds would drop this connection, the worst first.

    Empty for a connection that probes in time, that is not ESTABLISHED, or that does not leave this host. hz: jiffies
    per second of the kernel.
    """
    if socket.state != "ESTABLISHED" or socket.keepalive is None or is_local(socket.laddr, socket.raddr):
        return []
    probe_s = first_probe_s(socket, hz)
    if probe_s is not None and probe_s <= ttl_s:
        return []
    silent = socket.silent_ms is not None and socket.silent_ms > ttl_s * 1000
    return [
        *([STRANDED] if silent else []),
        *([WAITING] if socket.waiting and not _may_have_sent_a_heartbeat(socket) else []),
        KEEPALIVE_OFF if probe_s is None else KEEPALIVE_LATE,
    ]


def _may_have_sent_a_heartbeat(socket: Socket) -> bool:
    """Whether the last data may be a heartbeat, which needs no answer."""
    return socket.rport in HEARTBEATS and (socket.waiting_ms is None or socket.waiting_ms <= MAX_HEARTBEAT_S * 1000)


def _name(socket: Socket) -> tuple[object, ...]:
    return socket.netns, socket.laddr, socket.lport, socket.raddr, socket.rport


def _still_waits(before: Socket | None, now: Socket) -> bool:
    """Whether nothing was received or sent between two looks: both silences have grown."""
    if before is None:
        return False
    elapsed_ms = (now.time_ns - before.time_ns) / 1_000_000

    def grew(then_ms: int | None, now_ms: int | None) -> bool:
        return then_ms is None or (now_ms is not None and now_ms - then_ms > elapsed_ms / 2)

    return grew(before.waiting_ms, now.waiting_ms) and grew(before.since_received_ms, now.since_received_ms)


def first_probe_s(socket: Socket, hz: int) -> float | None:
    """The silence after which a keepalive probe goes out, seconds, its timer as late as it may be; None: never.

    The kernel reads the settings when a timer expires or is armed. One that was armed before they were lowered keeps
    its expiry (tcp_keepalive_timer(), net/ipv4/tcp_timer.c). After an answered probe the next one comes not sooner
    than the interval, if that is longer than the idle time.
    """
    if not socket.keepalive or not socket.keepalive_idle_s:
        return None
    after_s = float(socket.keepalive_idle_s)
    if socket.keepalive_interval_s is not None:
        after_s = max(after_s, socket.keepalive_interval_s)
    if socket.timer == "keepalive" and not socket.attempt and socket.timer_ms is not None:
        silent_ms = 0 if socket.silent_ms is None else socket.silent_ms
        after_s = max(after_s, (silent_ms + socket.timer_ms) / 1000)
    return after_s + lateness(after_s, hz)


def gives_up_s(socket: Socket, hz: int) -> float | None:
    """The silence after which keepalive gives up on a peer that answers no probe, seconds, at worst; None: never.

    After keepalive_probes intervals from the first probe on; or with TCP_USER_TIMEOUT set at the first of them that
    finds it over, whatever the number of probes (tcp_keepalive_timer(), net/ipv4/tcp_timer.c).
    """
    probe_s = first_probe_s(socket, hz)
    if probe_s is None or not socket.keepalive_interval_s or not socket.keepalive_probes:
        return None
    interval_s = socket.keepalive_interval_s + lateness(socket.keepalive_interval_s, hz)
    if not socket.user_timeout_ms:
        return probe_s + socket.keepalive_probes * interval_s
    left_s = socket.user_timeout_ms / 1000 - probe_s
    return probe_s + max(1, -(-left_s // interval_s)) * interval_s


def _urgency(socket: Socket) -> tuple[bool, bool, bool, int]:
    reasons = socket.at_risk or []
    silent_ms = 0 if socket.silent_ms is None else socket.silent_ms
    return STRANDED not in reasons, WAITING not in reasons, KEEPALIVE_OFF not in reasons, -silent_ms


def is_local(laddr: str | None, raddr: str | None) -> bool:
    """Whether the connection does not leave this host: loopback, or the same address at both ends."""
    return raddr is None or laddr == raddr or raddr.startswith("127.") or raddr == "::1"
