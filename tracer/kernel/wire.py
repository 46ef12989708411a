"""Ring-buffer bytes → events: the mirror of struct event in bpf/event.h."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Any, NamedTuple

from tracer.events import CA_STATES, LARGEST, STATES, Event, error_name, retransmit_kind
from tracer.kernel.ring import HEADER_BYTES, RingError
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
    *((name, "B") for name in ("retries", "syn_linear", "timer", "reserved")),
    ("segments", "H"),
)

_OF_WALKS = frozenset({"unread", "since_sent", "since_data", "timer_in", "timer", "reserved"})
"""Members that say nothing of an event: see `Decoder.socket`."""
_CODES = "".join(f"{struct.calcsize(code)}x" if name in _OF_WALKS else code for name, code in _LAYOUT)
_RECORD = struct.Struct("<" + _CODES)
SIZE = _RECORD.size
"""Bytes of one event."""
_SLOT = struct.Struct(f"<{HEADER_BYTES}x{_CODES}{-SIZE % 8}x")  # as it stands in the ring

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
_TIMED = frozenset({"retransmit", "keepalive", "window-probe"})
_DIRECTIONS = {1: "received", 2: "sent", 3: "refused"}
_CAUSES = {1: "data", 2: "keepalive", 3: "window", 4: "no-progress"}
_TIMERS = {1: "on", 3: "persist", 5: "on", 6: "on", 100: "keepalive"}
_FULL_SOCK, _KEEPALIVE, _SYNACK, _HAS_REASON, _ORPHAN, _OWN_IDLE, _ACCEPTED, _AWAITS = 1, 2, 4, 8, 16, 32, 64, 128
_UNKNOWN = 0xFFFFFFFF
_owner = tuple.__new__  # without the function that a NamedTuple puts before it


class WireError(RingError):
    """Bytes that are not an event."""


class Owner(NamedTuple):
    """What the kernel side knew about whose socket it is; the rest is up to owners.py."""

    inode: int  # 0: no process holds the socket
    cgroup: int  # cgroup id, 0: unknown
    pid: int  # who connected or closed, 0: not seen
    comm: bytes  # the name of that process, for `text`: hardly any event needs it


@dataclass(frozen=True, slots=True)
class Decoder:
    """Turns records into events.

    hz: jiffies per second of this kernel. clock_offset_ns is passed with the records: what to add
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
        return self._event(_RECORD.unpack_from(record), clock_offset_ns)

    def decode_all(self, taken: bytes, clock_offset_ns: int) -> list[tuple[Event, Owner]]:
        """The events of what a ring's `take` gave, in the order of their time. Raises WireError.

        The ring keeps the order of reservation, which two CPUs may swap.
        """
        if len(taken) % _SLOT.size:
            raise WireError(f"{len(taken)} bytes of records that take {_SLOT.size} each")
        return [self._event(members, clock_offset_ns) for members in sorted(_SLOT.iter_unpack(taken))]

    def _event(self, members: tuple[Any, ...], clock_offset_ns: int) -> tuple[Event, Owner]:
        # Written for speed: this and the writing of JSON are what an event costs.
        (
            ktime_ns, sk, born, inode, cgroup,
            netns, silent, rto, srtt_us, unacked, snd_wnd,
            keepalive_idle, keepalive_interval, keepalive_probes, user_timeout_ms, pid, reason,
            error, jiffies, retrying_ms, rto_max, unsent, soft_error, lport, rport, attempt, flags,
            laddr, raddr, comm,
            kind, family, state, old_state, new_state, ca_state, backoff, pending, direction, cause,
            retries, syn_linear, segments,
        ) = members  # fmt: skip
        name = _EVENTS.get(kind)
        if name is None:
            raise WireError(f"event type {kind}")
        if ktime_ns > LARGEST:
            raise WireError(f"time {ktime_ns}")
        # In the order of Event's fields; what is not known is not there.
        known: dict[str, Any] = {
            "time_ns": (ktime_ns + clock_offset_ns) // 1000 * 1000,
            "ktime_ns": ktime_ns,
            "event": name,
            "family": family,
            "laddr": _address(laddr, family),
        }
        if lport:
            known["lport"] = lport
        known["raddr"] = _address(raddr, family)
        known["rport"] = rport
        if netns:
            known["netns"] = netns
        if sk:
            known["sock"] = _identity(self.key, sk, born)
        if state in STATES:
            known["state"] = STATES[state]
        if flags & _FULL_SOCK:
            if silent != _UNKNOWN:
                known["silent_ms"] = silent * 1000 // self.hz
            known["unacked_bytes"] = unacked
            if unsent:
                known["unsent_bytes"] = unsent
            if rto:
                known["rto_ms"] = rto * 1000 // self.hz
            if srtt_us:
                known["srtt_ms"] = srtt_us / 1000
            known["snd_wnd"] = snd_wnd
            if ca_state in CA_STATES:
                known["ca_state"] = CA_STATES[ca_state]
            known["backoff"] = backoff
            known.update(
                _keepalive(
                    self.hz, flags & (_KEEPALIVE | _OWN_IDLE), keepalive_idle, keepalive_interval, keepalive_probes
                )
            )
            known["user_timeout_ms"] = user_timeout_ms
            if flags & _ORPHAN:
                known["orphan"] = True
            if soft_error:
                known["soft_error"] = error_name(soft_error)
            if name in _TIMED:
                known["jiffies"] = jiffies
        if name == "state":
            if old_state in STATES:
                known["old_state"] = STATES[old_state]
            if new_state in STATES:
                known["new_state"] = STATES[new_state]
        elif name == "retransmit":
            if flags & _FULL_SOCK:
                known["rto_max_ms"] = rto_max * 1000 // self.hz
                if retrying_ms != _UNKNOWN:
                    known["retrying_ms"] = retrying_ms
                known["retries"] = retries
                if syn_linear:
                    known["syn_linear_timeouts"] = syn_linear
            known["kind"] = retransmit_kind(
                synack=bool(flags & _SYNACK),
                state=known.get("state"),
                ca_state=ca_state,
                pending=pending,
                attempt=attempt,
                unacked=unacked,
                silent_jiffies=silent,
            )
            known["attempt"] = attempt
            if segments:
                known["segments"] = segments
            if error > 0:
                known["send_error"] = error_name(error)
        elif name in ("keepalive", "window-probe"):
            known["attempt"] = attempt
        elif name == "resume":
            if cause in _CAUSES:
                known["cause"] = _CAUSES[cause]
        elif name == "reset":
            if direction in _DIRECTIONS:
                known["direction"] = _DIRECTIONS[direction]
            if flags & _HAS_REASON:
                known["reason"] = self.reasons.get(reason, f"reason {reason}")
        elif error > 0:
            known["errno"] = error
            known["error"] = error_name(error)
        return Event.of(known), _owner(Owner, (inode, cgroup, pid, comm))

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


@lru_cache(maxsize=256)
def _keepalive(hz: int, flags: int, idle: int, interval: int, probes: int) -> Mapping[str, Any]:
    """The fields about it; most sockets of a host have the same settings. idle and interval: jiffies."""
    fields: dict[str, Any] = {"keepalive": bool(flags & _KEEPALIVE)}
    if idle:
        fields["keepalive_idle_s"] = idle // hz
    fields["keepalive_idle_own"] = bool(flags & _OWN_IDLE)
    if interval:
        fields["keepalive_interval_s"] = interval // hz
    if probes:
        fields["keepalive_probes"] = probes
    return fields


@lru_cache(maxsize=4096)
def text(raw: bytes) -> str:
    """A name that the kernel has, up to a NUL; any bytes. Those that are no UTF-8 are written as escapes."""
    return raw.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")
