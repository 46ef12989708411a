"""Keepalive and user timeout of a socket: read them, and set them. Raises OSError.

They need no capability. do_tcp_setsockopt() (net/ipv4/tcp.c) takes them in every state; the callers choose.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator

from tracer.model.protection import Settings

_USER_TIMEOUT = 18  # TCP_USER_TIMEOUT, include/uapi/linux/tcp.h
MAX_TIME_S = 32767
"""The longest TCP_KEEPIDLE and TCP_KEEPINTVL (MAX_TCP_KEEPIDLE, include/net/tcp.h)."""
MAX_USER_TIMEOUT_S = (1 << 31) // 1000
"""The longest TCP_USER_TIMEOUT, an int in milliseconds."""


def read(held: socket.socket) -> Settings:
    """The settings in force. What the socket does not set is that of its namespace (do_tcp_getsockopt(), tcp.c)."""
    tcp = socket.IPPROTO_TCP
    return Settings(
        keepalive=held.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) != 0,
        keepalive_idle_s=held.getsockopt(tcp, socket.TCP_KEEPIDLE),
        keepalive_interval_s=held.getsockopt(tcp, socket.TCP_KEEPINTVL),
        keepalive_probes=held.getsockopt(tcp, socket.TCP_KEEPCNT),
        user_timeout_ms=held.getsockopt(tcp, _USER_TIMEOUT),
    )


def write(held: socket.socket, before: Settings, after: Settings, *, rearm: bool = False) -> None:
    """Change the settings that differ. rearm: arm the keepalive timer anew, even if it keeps its time.

    SO_KEEPALIVE arms the timer for the whole idle time from now on (tcp_set_keepalive(), net/ipv4/tcp_timer.c).
    TCP_KEEPIDLE subtracts the silence that has passed, if SO_KEEPALIVE is on (tcp_sock_set_keepidle_locked(),
    net/ipv4/tcp.c). So it is set last, and also where SO_KEEPALIVE alone changes.
    """
    for level, option, value in _changes(before, after):
        held.setsockopt(level, option, value)
    if rearm or (after.keepalive, after.keepalive_idle_s) != (before.keepalive, before.keepalive_idle_s):
        held.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, after.keepalive_idle_s)


def _changes(before: Settings, after: Settings) -> Iterator[tuple[int, int, int]]:
    tcp = socket.IPPROTO_TCP
    if after.keepalive_interval_s != before.keepalive_interval_s:
        yield tcp, socket.TCP_KEEPINTVL, after.keepalive_interval_s
    if after.keepalive_probes != before.keepalive_probes:
        yield tcp, socket.TCP_KEEPCNT, after.keepalive_probes
    if after.user_timeout_ms != before.user_timeout_ms:
        yield tcp, _USER_TIMEOUT, after.user_timeout_ms
    if after.keepalive != before.keepalive:
        yield socket.SOL_SOCKET, socket.SO_KEEPALIVE, int(after.keepalive)
