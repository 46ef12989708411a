"""Events and ring-buffer records for tests: say what matters, the rest is ordinary."""

from __future__ import annotations

import ipaddress
import struct
from typing import Any

from tracer.kernel.layout import LAYOUT
from tracer.model.events import Event
from tracer.model.sockets import Socket

SECOND = 1_000_000_000
START = 1_800_000_000 * SECOND  # 2027-01-15 08:00:00 UTC


def event(name: str = "retransmit", /, at: float = 0, **fields: Any) -> Event:
    """An event of a connection from 10.66.1.2:33356 to 10.66.2.2:3306, `at` seconds after START."""
    time_ns = START + round(at * SECOND)
    ordinary: dict[str, Any] = {
        "family": 4,
        "laddr": "10.66.1.2",
        "lport": 33356,
        "raddr": "10.66.2.2",
        "rport": 3306,
        "netns": 4026532000,
        "sock": "00112233445566aa",
        "state": "ESTABLISHED",
    }
    return Event(time_ns=time_ns, ktime_ns=time_ns - START + SECOND, event=name, **{**ordinary, **fields})


def socket(**fields: Any) -> Socket:
    """That connection as `tcpwatch sockets` finds it at START: idle for a minute, keepalive as the system has it."""
    ordinary: dict[str, Any] = {
        "family": 4,
        "laddr": "10.66.1.2",
        "lport": 33356,
        "raddr": "10.66.2.2",
        "rport": 3306,
        "netns": 4026532000,
        "state": "ESTABLISHED",
        "pid": 8506,
        "comm": "php",
        "pids": [8506],
        "silent_ms": 60_000,
        "waiting": False,
        "unacked_bytes": 0,
        "unread_bytes": 0,
        "timer": "keepalive",
        "timer_ms": 7_140_000,
        "attempt": 0,
        "keepalive": True,
        "keepalive_idle_s": 7200,
        "keepalive_idle_own": False,
        "keepalive_interval_s": 75,
        "keepalive_probes": 9,
        "user_timeout_ms": 0,
    }
    return Socket(time_ns=START, **{**ordinary, **fields})


def record(**members: Any) -> bytes:
    """The bytes of a struct event: a tail loss probe of that connection after 8 s, at HZ=250."""
    ordinary: dict[str, Any] = {
        "ktime_ns": 5 * SECOND,
        "sk": 0xFFFF888012345678,
        "inode": 4711,
        "netns": 4026532000,
        "silent": 2053,
        "rto": 51,
        "srtt_us": 39,
        "unacked": 38,
        "snd_wnd": 65536,
        "keepalive_idle": 7200 * 250,
        "keepalive_interval": 75 * 250,
        "keepalive_probes": 9,
        "jiffies": 4_294_967,
        "retrying_ms": 0xFFFFFFFF,
        "stuck_ms": 0xFFFFFFFF,
        "rto_max": 120 * 250,
        "retries": 15,
        "lport": 33356,
        "rport": 3306,
        "flags": 1 | 2,
        "laddr": mapped("10.66.1.2"),
        "raddr": mapped("10.66.2.2"),
        "type": 1,
        "family": 4,
        "state": 1,
        "pending": 5,
        "segments": 1,
    }
    values = {**ordinary, **members}
    empty = {"laddr": b"", "raddr": b"", "comm": b""}
    codes = "".join(code for _, code in LAYOUT)
    return struct.pack(f"<{codes}", *(values.get(name, empty.get(name, 0)) for name, _ in LAYOUT))


def mapped(address: str) -> bytes:
    """16 bytes, IPv4 as ::ffff:a.b.c.d."""
    parsed = ipaddress.ip_address(address)
    return parsed.packed if parsed.version == 6 else b"\0" * 10 + b"\xff\xff" + parsed.packed
