"""What `protect` sets on a socket: never a longer time than it has. No I/O."""

from __future__ import annotations

from dataclasses import replace

from tracer.model.protection import Protection, Settings
from tracer.model.sockets import Socket

STATES = frozenset({"ESTABLISHED", "CLOSE_WAIT", "FIN_WAIT1", "FIN_WAIT2"})
"""The states of a connection that may be idle. Before these, keepalive does nothing, and the user timeout would limit
connect()."""
_ARMED_LATE_MS = 1000
"""An armed timer that is due this much later than the settings demand was armed under others."""


def protected(before: Settings, wanted: Protection) -> Settings:
    """The settings with each time at most as long as wanted, and none longer than before.

    An interval that is not given stays, but at most as long as the wanted idle time.
    """
    interval_s = wanted.idle_s if wanted.interval_s is None else wanted.interval_s
    probes = before.keepalive_probes if wanted.probes is None else wanted.probes
    keepalive = replace(
        before,
        keepalive=True,
        keepalive_idle_s=max(1, min(before.keepalive_idle_s, wanted.idle_s)),  # a sysctl may be 0, an option may not
        keepalive_interval_s=min(before.keepalive_interval_s, interval_s),
        keepalive_probes=min(before.keepalive_probes, probes),
    )
    return replace(keepalive, user_timeout_ms=_user_timeout_ms(keepalive, wanted.user_timeout_ms))


def _user_timeout_ms(settings: Settings, wanted_ms: int | None) -> int:
    """The user timeout, given the settings of keepalive.

    A user timeout replaces the number of probes (tcp_keepalive_timer(), net/ipv4/tcp_timer.c). One that is longer
    than keepalive takes would delay the end of a dead connection, so it is set to the time that keepalive takes.
    """
    own_ms = settings.user_timeout_ms
    if wanted_ms is None or 0 < own_ms <= wanted_ms:
        return own_ms
    return min(wanted_ms, settings.gives_up_ms, own_ms or wanted_ms)


def ends_on_one_probe(settings: Settings) -> bool:
    """Whether a single unanswered probe ends an idle connection, because the user timeout has passed by then."""
    first_check_ms = 1000 * (settings.keepalive_idle_s + settings.keepalive_interval_s)
    return 0 < settings.user_timeout_ms <= first_check_ms


def is_armed_late(socket: Socket, before: Settings) -> bool:
    """Whether the keepalive timer is due later than the settings demand, because a sysctl was lowered since."""
    if not before.keepalive or socket.timer != "keepalive" or socket.timer_ms is None:
        return False
    longest_s = max(before.keepalive_idle_s, before.keepalive_interval_s if socket.attempt else 0)
    return socket.timer_ms > longest_s * 1000 + _ARMED_LATE_MS


def may_be_idle(socket: Socket) -> bool:
    """Whether this connection is in a state in which keepalive matters, and a process may still use it."""
    return socket.state in STATES and not socket.orphan
