"""A TCP connection as one end has it now: a row of `tcpwatch sockets`.

The field names are the JSON contract (docs/events.md). An absent field is None here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import field, fields
from operator import attrgetter
from typing import Any

from tracer.model.dataclass import dataclass
from tracer.model.events import Event
from tracer.model.fields import SOCKETS, declared
from tracer.model.times import format_time


def _declared(sentence: str) -> Any:
    return declared("socket", kinds=(), tables={SOCKETS: sentence})


@dataclass(slots=True, kw_only=True)
class Socket:
    """One socket. Times in the unit that the name ends with, ports in host byte order.

    Fields without a declaration are an event's, with the same meaning.
    """

    time_ns: int
    family: int | None = None
    laddr: str | None = None
    lport: int | None = None
    raddr: str | None = None
    rport: int | None = None
    netns: int | None = None
    state: str | None = None
    accepted: bool | None = _declared("it came from a listener: this end is the server")
    inode: int | None = _declared(
        "inode of the socket, as `ss -e` and /proc/PID/fd show it; for an MPTCP subflow, that of its connection. "
        "Absent if no process holds the socket"
    )
    pid: int | None = None
    comm: str | None = None
    exe: str | None = None
    pids: list[int] | None = None
    cgroup: str | None = None
    container: str | None = None
    container_name: str | None = None
    pod: str | None = None
    pod_namespace: str | None = None
    unit: str | None = None
    silent_ms: int | None = None
    since_sent_ms: int | None = _declared("time since data was last sent, retransmissions included")
    since_received_ms: int | None = _declared("time since data was last received")
    waiting: bool | None = _declared(
        "this end asked last, everything was acknowledged and read, and no answer has come. A client that only ever "
        "sends looks the same"
    )
    waiting_ms: int | None = _declared("how long it has waited")
    has_reader: bool | None = _declared(
        "with `waiting`: a thread is in recv() or poll() for this socket, or an epoll instance watches it. False for "
        "an idle connection of a blocking client that expects no answer"
    )
    unacked_bytes: int | None = None
    unsent_bytes: int | None = None
    unread_bytes: int | None = _declared("bytes received, and not read by the application")
    stuck_ms: int | None = _declared(
        "time since the oldest unacknowledged data or SYN was first sent, or since the peer closed its window"
    )
    snd_wnd: int | None = None
    timer: str | None = _declared(
        "the timer that is armed, as `ss -o` names it: `on`, `keepalive`, `persist`. Absent where none is"
    )
    timer_ms: int | None = _declared("time until the timer is due")
    attempt: int | None = _declared("as `ss -o` counts: RTOs so far, or unanswered probes")
    rto_ms: int | None = None
    srtt_ms: float | None = None
    ca_state: str | None = None
    backoff: int | None = None
    keepalive: bool | None = None
    keepalive_idle_s: int | None = None
    keepalive_idle_own: bool | None = None
    keepalive_interval_s: int | None = None
    keepalive_probes: int | None = None
    user_timeout_ms: int | None = None
    orphan: bool | None = None
    mptcp: bool | None = None
    soft_error: str | None = None
    at_risk: list[str] | None = _declared(
        "with `--at-risk TTL`: why a firewall that forgets a session after that much silence would strand the "
        "connection. `keepalive-off`; `keepalive-late`: the first probe, with the lateness of its timer, comes after "
        "TTL; `stranded`: it has been silent for longer already; `waiting`: it would wait for an answer that is "
        "dropped, until keepalive gives up, or for ever"
    )

    stuck: str | None = _declared(
        "with `--stuck`: why the connection hangs, see below. `retransmitting`, `probing-in-vain`, `cannot-send`, "
        "`closed-window`, `syn-unanswered`, `waiting-for-a-reply`"
    )
    since: str | None = None
    gives_up_at: str | None = None
    gives_up_in_ms: int | None = None
    gives_up_window_ms: int | None = None
    trouble: Event | None = field(default=None, compare=False, repr=False)
    """The `found` event that a live run would begin with; None without trouble. It is not in JSON."""


_NAMES = tuple(each.name for each in fields(Socket) if each.name not in ("time_ns", "trouble"))
_values = attrgetter(*_NAMES)


def to_json(socket: Socket) -> dict[str, Any]:
    """The socket as a flat JSON object, `time` first."""
    known = {name: value for name, value in zip(_NAMES, _values(socket)) if value is not None}
    return {"time": format_time(socket.time_ns), **known}


def longest_silence_first(sockets: Iterable[Socket]) -> list[Socket]:
    """Sorted; last come those that never received anything from the peer."""
    return sorted(sockets, key=lambda socket: -1 if socket.silent_ms is None else socket.silent_ms, reverse=True)
