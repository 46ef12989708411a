"""Ring-buffer bytes → events: the mirror of struct event in bpf/event.h."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple

from tracer.errors import TcpwatchError
from tracer.events import CA_STATES, STATES, Event, error_name, retransmit_kind
from tracer.sockets import Socket

_LAYOUT = (
    *((name, "Q") for name in ("ktime_ns", "sk", "born", "inode", "cgroup")),
    *((name, "I") for name in ("netns", "silent", "rto", "srtt_us", "unacked", "snd_wnd")),
    *((name, "I") for name in ("keepalive_idle", "keepalive_interval", "keepalive_probes")),
    *((name, "I") for name in ("user_timeout_ms", "pid", "reason")),
    ("error", "i"),
    *((name, "I") for name in ("jiffies", "retrying_ms", "rto_max", "unsent", "unread")),
    *((name, "I") for name in ("since_sent", "since_data", "timer_in", "soft_error")),
    *((name, "H") for name in ("lport", "rport", "attempt", "flags")),
    *((name, "16s") for name in ("laddr", "raddr", "comm")),
    *((name, "B") for name in ("type", "family", "state", "old_state", "new_state", "ca_state")),
    *((name, "B") for name in ("backoff", "pending", "direction", "cause")),
    *((name, "B") for name in ("retries", "syn_linear", "timer")),
    ("reserved", "3s"),
)

_RECORD = struct.Struct("<" + "".join(code for _, code in _LAYOUT))
SIZE = _RECORD.size
"""Bytes of one event."""

OFFSETS = {
    name: struct.calcsize("<" + "".join(code for _, code in _LAYOUT[:index]))
    for index, (name, _) in enumerate(_LAYOUT)
}
"""Bytes from the start of each member, also for the test that compares this mirror with the C."""

_SOCKET = struct.Struct("<IIII")  # unread, since_sent, since_data, timer_in
_ATTEMPT = struct.Struct("<HH")  # attempt, flags

_EVENTS = {
    1: "retransmit",
    2: "keepalive",
    3: "state",
    4: "reset",
    5: "error",
    6: "resume",
    7: "window-probe",
    8: "socket",
}
_DIRECTIONS = {1: "received", 2: "sent", 3: "refused"}
_CAUSES = {1: "data", 2: "keepalive", 3: "window", 4: "no-progress"}
_TIMERS = {1: "on", 3: "persist", 5: "on", 6: "on", 100: "keepalive"}
_FULL_SOCK, _KEEPALIVE, _SYNACK, _HAS_REASON, _ORPHAN, _OWN_IDLE, _ACCEPTED, _AWAITS = 1, 2, 4, 8, 16, 32, 64, 128
_UNKNOWN = 0xFFFFFFFF


class WireError(TcpwatchError):
    """Bytes that are not an event: the two sides of tcpwatch do not belong together."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"the kernel side handed over no event ({what}): bpf/ and tracer/ are of different versions",
            hint="install tcpwatch again, all of it; tcpwatch --version",
        )


class Owner(NamedTuple):
    """What the kernel side knew about whose socket it is; the rest is up to owners.py."""

    inode: int  # 0: no process holds the socket
    cgroup: int  # cgroup id, 0: unknown
    pid: int  # who connected or closed, 0: not seen
    comm: str


@dataclass(frozen=True, slots=True)
class Decoder:
    """Turns records into events.

    hz: jiffies per second of this kernel. clock_offset_ns is passed with each record: what to add
    to CLOCK_BOOTTIME for the wall clock. reasons: enum sk_rst_reason of this kernel. key: random
    per run; socket addresses leave only as a keyed hash, because a kernel address is a secret.
    """

    hz: int
    reasons: Mapping[int, str]
    key: bytes

    def decode(self, record: bytes, clock_offset_ns: int) -> tuple[Event, Owner]:
        """One event, still without its processes. Raises WireError."""
        if len(record) < SIZE:
            raise WireError(f"{len(record)} bytes instead of {SIZE}")
        (
            ktime_ns, sk, born, inode, cgroup,
            netns, silent, rto, srtt_us, unacked, snd_wnd,
            keepalive_idle, keepalive_interval, keepalive_probes, user_timeout_ms, pid, reason,
            error, jiffies, retrying_ms, rto_max, unsent, _, _, _, _, soft_error, lport, rport, attempt, flags,
            laddr, raddr, comm,
            kind, family, state, old_state, new_state, ca_state, backoff, pending, direction, cause,
            retries, syn_linear, _, _,
        ) = _RECORD.unpack_from(record)  # fmt: skip
        if kind not in _EVENTS:
            raise WireError(f"event type {kind}")
        if ktime_ns >> 63:
            raise WireError(f"time {ktime_ns}")
        name = _EVENTS[kind]
        event = Event(
            time_ns=(ktime_ns + clock_offset_ns) // 1000 * 1000,
            ktime_ns=ktime_ns,
            event=name,
            family=family,
            laddr=_address(laddr, family),
            lport=lport or None,
            raddr=_address(raddr, family),
            rport=rport,
            netns=netns or None,
            sock=_identity(self.key, sk, born) if sk else None,
            state=STATES.get(state),
        )
        if flags & _FULL_SOCK:
            ms_per_jiffy = 1000 / self.hz
            if silent != _UNKNOWN:
                event.silent_ms = int(silent * ms_per_jiffy)
            event.unacked_bytes = unacked
            event.unsent_bytes = unsent or None
            event.rto_ms = int(rto * ms_per_jiffy) if rto else None
            event.srtt_ms = srtt_us / 1000 if srtt_us else None
            event.snd_wnd = snd_wnd
            event.ca_state = CA_STATES.get(ca_state)
            event.backoff = backoff
            event.keepalive = bool(flags & _KEEPALIVE)
            event.keepalive_idle_s = keepalive_idle // self.hz if keepalive_idle else None
            event.keepalive_idle_own = bool(flags & _OWN_IDLE)
            event.keepalive_interval_s = keepalive_interval // self.hz if keepalive_interval else None
            event.keepalive_probes = keepalive_probes or None
            event.user_timeout_ms = user_timeout_ms
            event.orphan = True if flags & _ORPHAN else None
            event.soft_error = error_name(soft_error) if soft_error else None
        if name in ("retransmit", "keepalive", "window-probe") and flags & _FULL_SOCK:
            event.jiffies = jiffies
        if name == "retransmit":
            event.attempt = attempt
            if flags & _FULL_SOCK:
                event.rto_max_ms = int(rto_max * 1000 / self.hz)
                event.retrying_ms = None if retrying_ms == _UNKNOWN else retrying_ms
                event.retries = retries
                event.syn_linear_timeouts = syn_linear or None
            event.send_error = error_name(error) if error > 0 else None
            event.kind = retransmit_kind(
                synack=bool(flags & _SYNACK),
                state=event.state,
                ca_state=ca_state,
                pending=pending,
                attempt=attempt,
                unacked=unacked,
                silent_jiffies=silent,
            )
        elif name in ("keepalive", "window-probe"):
            event.attempt = attempt
        elif name == "resume":
            event.cause = _CAUSES.get(cause)
        elif name == "state":
            event.old_state = STATES.get(old_state)
            event.new_state = STATES.get(new_state)
        elif name == "reset":
            event.direction = _DIRECTIONS.get(direction)
            if flags & _HAS_REASON:
                event.reason = self.reasons.get(reason, f"reason {reason}")
        elif error > 0:
            event.errno = error
            event.error = error_name(error)
        return event, Owner(inode, cgroup, pid, text(comm.split(b"\0", 1)[0]))

    def socket(self, record: bytes, event: Event) -> Socket:
        """The socket of a record of a walk over all sockets, of which `decode` made the event."""
        unread, since_sent, since_data, timer_in = _SOCKET.unpack_from(record, OFFSETS["unread"])
        attempt, flags = _ATTEMPT.unpack_from(record, OFFSETS["attempt"])
        timer = _TIMERS.get(record[OFFSETS["timer"]])
        since_sent_ms = self._ms(since_sent)
        waiting = event.state == "ESTABLISHED" and flags & (_ACCEPTED | _AWAITS) == _AWAITS
        return Socket.of(
            event,
            accepted=bool(flags & _ACCEPTED),
            since_sent_ms=since_sent_ms,
            since_received_ms=self._ms(since_data),
            unread_bytes=unread,
            timer=timer,
            timer_ms=self._ms(timer_in) if timer else None,
            attempt=attempt if timer else None,
            waiting=waiting,
            waiting_ms=since_sent_ms if waiting else None,
        )

    def _ms(self, jiffies: int) -> int | None:
        return None if jiffies == _UNKNOWN else jiffies * 1000 // self.hz


@lru_cache(maxsize=4096)
def _address(raw: bytes, family: int) -> str:
    if family == 4:
        return str(ipaddress.IPv4Address(raw[12:]))
    return str(ipaddress.IPv6Address(raw))


@lru_cache(maxsize=4096)
def _identity(key: bytes, sk: int, born: int) -> str:
    return blake2b(struct.pack("<QQ", sk, born), digest_size=8, key=key).hexdigest()


def text(raw: bytes) -> str:
    """A name that the kernel has, which may be any bytes: those that are no UTF-8 are written as escapes."""
    return raw.decode("utf-8", "backslashreplace")
