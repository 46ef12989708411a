"""A TCP connection as one end has it at this moment: a row of `tcpwatch sockets`.

The field names are the JSON contract (docs/events.md), the same as an event's where they mean the same. None means
unknown and is left out of the JSON.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any

from tracer.model.events import Event
from tracer.model.times import format_time


@dataclass(slots=True, kw_only=True)
class Socket:
    """One socket. Times in the unit that the name ends with, ports in host byte order."""

    time_ns: int  # wall clock, nanoseconds since 1970, when it was read
    family: int | None = None  # 4 or 6; a v4-mapped address is 4
    laddr: str | None = None
    lport: int | None = None
    raddr: str | None = None
    rport: int | None = None
    netns: int | None = None  # inode
    state: str | None = None
    accepted: bool | None = None  # it came from a listener: this end is the server
    pid: int | None = None
    comm: str | None = None
    exe: str | None = None  # name of the program file that pid executes, where it is not comm
    pids: list[int] | None = None
    cgroup: str | None = None
    silent_ms: int | None = None  # since the peer was last heard
    since_sent_ms: int | None = None  # since data was last sent, retransmissions included
    since_received_ms: int | None = None  # since data was last received
    waiting: bool | None = None  # sent last, all acknowledged and read, and no listener's: an answer is due
    waiting_ms: int | None = None
    unacked_bytes: int | None = None
    unsent_bytes: int | None = None
    unread_bytes: int | None = None  # received and not read by the application
    snd_wnd: int | None = None  # bytes that the peer is ready to take
    timer: str | None = None  # as `ss -o` names it: on, keepalive, persist; None where no timer is armed
    timer_ms: int | None = None  # until it is due
    attempt: int | None = None  # as `ss -o` counts: RTOs so far, or probes that nobody answered
    rto_ms: int | None = None
    srtt_ms: float | None = None
    ca_state: str | None = None
    backoff: int | None = None
    keepalive: bool | None = None
    keepalive_idle_s: int | None = None
    keepalive_idle_own: bool | None = None  # the socket's (TCP_KEEPIDLE), not its namespace's
    keepalive_interval_s: int | None = None
    keepalive_probes: int | None = None
    user_timeout_ms: int | None = None  # 0: not set
    orphan: bool | None = None  # no process holds it any more
    mptcp: bool | None = None  # one subflow of a Multipath TCP connection
    soft_error: str | None = None  # an ICMP error came back, and the kernel goes on trying
    at_risk: list[str] | None = None  # tracer.analysis.risk.REASONS that apply

    @classmethod
    def of(cls, event: Event, **others: Any) -> Socket:
        """The socket with everything that an event knows about it, and the other fields as given."""
        return cls(**dict(zip(_SHARED, _shared(event), strict=True)), **others)


_NAMES = tuple(field.name for field in fields(Socket) if field.name != "time_ns")
_values = attrgetter(*_NAMES)
_OWN = {
    "accepted", "since_sent_ms", "since_received_ms", "waiting", "waiting_ms", "unread_bytes", "timer", "timer_ms",
    "attempt", "at_risk",
}  # fmt: skip
_SHARED = tuple(field.name for field in fields(Socket) if field.name not in _OWN)
_shared = attrgetter(*_SHARED)


def to_json(socket: Socket) -> dict[str, Any]:
    """The socket as a flat JSON object, `time` first."""
    known = {name: value for name, value in zip(_NAMES, _values(socket), strict=True) if value is not None}
    return {"time": format_time(socket.time_ns), **known}


def longest_silence_first(sockets: Iterable[Socket]) -> list[Socket]:
    """Sorted; those whose peer was never heard last."""
    return sorted(sockets, key=lambda socket: -1 if socket.silent_ms is None else socket.silent_ms, reverse=True)
