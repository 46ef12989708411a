"""Ring-buffer bytes → events: the mirror of struct event in bpf/event.h."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Any, NamedTuple

from tracer.events import CA_STATES, LARGEST, STATES, Event, error_name, retransmit_kind
from tracer.kernel.ring import HEADER_BYTES, RingError
from tracer.parts import Part, PartedEvent
from tracer.sockets import Socket

_CONNECTION = (
    *((name, "Q") for name in ("sk", "born")),
    *((name, "16s") for name in ("laddr", "raddr")),
    ("netns", "I"),
    *((name, "H") for name in ("lport", "rport")),
    ("family", "B"),
)
_SOCK_BYTES = struct.calcsize("<QQ")  # sk and born, which together are one socket's for ever
_SETTINGS = (
    ("flags", "H"),
    *((name, "I") for name in ("keepalive_idle", "keepalive_interval", "keepalive_probes", "user_timeout_ms")),
)
_STATES = tuple((name, "B") for name in ("state", "old_state", "new_state", "ca_state", "backoff", "orphan"))
_LAYOUT = (
    ("ktime_ns", "Q"),
    *_CONNECTION,
    ("type", "B"),
    *_SETTINGS,
    ("silent", "I"),
    *((name, "Q") for name in ("inode", "cgroup")),
    *((name, "I") for name in ("rto", "srtt_us", "unacked", "snd_wnd", "pid", "reason")),
    ("error", "i"),
    *((name, "I") for name in ("jiffies", "retrying_ms", "rto_max", "unsent", "unread")),
    *((name, "I") for name in ("since_sent", "since_data", "timer_in", "soft_error")),
    *((name, "H") for name in ("attempt", "segments")),
    ("comm", "16s"),
    *_STATES,
    *((name, "B") for name in ("pending", "direction", "cause", "retries", "syn_linear", "timer")),
)
_OF_WALKS = frozenset({"unread", "since_sent", "since_data", "timer_in", "timer"})
"""Members that say nothing of an event: see `Decoder.socket`."""


def _struct_of(layout: Sequence[tuple[str, str]]) -> struct.Struct:
    return struct.Struct("<" + "".join(code for _, code in layout))


_CONNECTION_STRUCT, _SETTINGS_STRUCT, _STATES_STRUCT = map(_struct_of, (_CONNECTION, _SETTINGS, _STATES))


def _event_codes() -> str:
    """The layout as it is taken for an event: whose, settings and states as one piece each, without what it lacks."""
    codes = []
    pieces = {part[0]: part for part in (_CONNECTION, _SETTINGS, _STATES)}
    inside = {member for part in pieces.values() for member in part[1:]}
    for member in _LAYOUT:
        name, code = member
        size = struct.calcsize(f"<{code}")
        if member in pieces:
            codes.append(f"{_struct_of(pieces[member]).size}s")
        elif member not in inside:
            codes.append(f"{size}x" if name in _OF_WALKS else code)
    return "".join(codes)


_RECORD = struct.Struct("<" + _event_codes())
SIZE = _RECORD.size
"""Bytes of one event."""
_SLOT = struct.Struct(f"<{HEADER_BYTES}x{_event_codes()}{-SIZE % 8}x")  # as it stands in the ring

OFFSETS = {
    name: struct.calcsize("<" + "".join(code for _, code in _LAYOUT[:index]))
    for index, (name, _) in enumerate(_LAYOUT)
}
"""Bytes from the start of each member, also for the test that compares this mirror with the C."""

_SOCKET = struct.Struct("<IIII")  # unread, since_sent, since_data, timer_in
_SHORT = struct.Struct("<H")
_STATE, _CA_STATE = (_STATES.index((name, "B")) for name in ("state", "ca_state"))

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
_FULL_SOCK, _KEEPALIVE, _SYNACK, _HAS_REASON, _OWN_IDLE, _ACCEPTED, _AWAITS = 1, 2, 4, 8, 16, 32, 64
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
            ktime_ns, connection, kind, settings, silent, inode, cgroup, rto, srtt_us, unacked, snd_wnd, pid, reason,
            error, jiffies, retrying_ms, rto_max, unsent, soft_error, attempt, segments, comm,
            states, pending, direction, cause, retries, syn_linear,
        ) = members  # fmt: skip
        name = _EVENTS.get(kind)
        if name is None:
            raise WireError(f"event type {kind}")
        if ktime_ns > LARGEST:
            raise WireError(f"time {ktime_ns}")
        hz = self.hz
        flags, of_settings = _settings(settings, hz)
        is_full = flags & _FULL_SOCK
        # In the order of Event's fields; what is not known is not there.
        known: dict[str, Any] = {}
        if is_full:
            known["unacked_bytes"] = unacked
            if unsent:
                known["unsent_bytes"] = unsent
            if silent != _UNKNOWN:
                known["silent_ms"] = silent * 1000 // hz
            if rto:
                known["rto_ms"] = rto * 1000 // hz
            if srtt_us:
                known["srtt_ms"] = srtt_us / 1000
            known["snd_wnd"] = snd_wnd
            if soft_error:
                known["soft_error"] = error_name(soft_error)
            if name in _TIMED:
                known["jiffies"] = jiffies
        if name == "retransmit":
            if is_full:
                known["rto_max_ms"] = rto_max * 1000 // hz
                if retrying_ms != _UNKNOWN:
                    known["retrying_ms"] = retrying_ms
                known["retries"] = retries
                if syn_linear:
                    known["syn_linear_timeouts"] = syn_linear
            known["kind"] = retransmit_kind(
                synack=bool(flags & _SYNACK),
                state=STATES.get(states[_STATE]),
                ca_state=states[_CA_STATE],
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
        elif name == "error" and error > 0:
            known["errno"] = error
            known["error"] = error_name(error)
        parts = [_connection(connection, self.key), _states(states, is_full), of_settings, Part(known)]
        time_ns = (ktime_ns + clock_offset_ns) // 1000 * 1000
        return PartedEvent.made(time_ns, ktime_ns, name, parts), _owner(Owner, (inode, cgroup, pid, comm))

    def socket(self, record: bytes, event: Event) -> Socket:
        """The socket of a record of a walk over all sockets, of which `decode` made the event."""
        unread, since_sent, since_data, timer_in = _SOCKET.unpack_from(record, OFFSETS["unread"])
        (attempt,) = _SHORT.unpack_from(record, OFFSETS["attempt"])
        (flags,) = _SHORT.unpack_from(record, OFFSETS["flags"])
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
def _connection(raw: bytes, key: bytes) -> Part:
    sk, _, laddr, raddr, netns, lport, rport, family = _CONNECTION_STRUCT.unpack(raw)
    known: dict[str, Any] = {"family": family, "laddr": _address(laddr, family)}
    if lport:
        known["lport"] = lport
    known["raddr"] = _address(raddr, family)
    known["rport"] = rport
    if netns:
        known["netns"] = netns
    if sk:
        digest = _keyed(key).copy()
        digest.update(raw[:_SOCK_BYTES])
        known["sock"] = digest.hexdigest()
    return Part(known)


@lru_cache(maxsize=4)
def _keyed(key: bytes) -> blake2b:
    """A digest to copy: with a key, making one takes as long as all the rest."""
    return blake2b(digest_size=8, key=key)


@lru_cache(maxsize=1024)
def _states(raw: bytes, is_full: bool) -> Part:
    state, old_state, new_state, ca_state, backoff, orphan = _STATES_STRUCT.unpack(raw)
    names = {"state": state, "old_state": old_state, "new_state": new_state}
    known: dict[str, Any] = {name: STATES[number] for name, number in names.items() if number in STATES}
    if is_full:
        if ca_state in CA_STATES:
            known["ca_state"] = CA_STATES[ca_state]
        known["backoff"] = backoff
        if orphan:
            known["orphan"] = True
    return Part(known)


@lru_cache(maxsize=256)
def _settings(raw: bytes, hz: int) -> tuple[int, Part]:
    """The flags as well. Most sockets of a host have the same settings."""
    flags, idle, interval, probes, user_timeout_ms = _SETTINGS_STRUCT.unpack(raw)
    known: dict[str, Any] = {}
    if flags & _FULL_SOCK:
        known["keepalive"] = bool(flags & _KEEPALIVE)
        if idle:
            known["keepalive_idle_s"] = idle // hz
        known["keepalive_idle_own"] = bool(flags & _OWN_IDLE)
        if interval:
            known["keepalive_interval_s"] = interval // hz
        if probes:
            known["keepalive_probes"] = probes
        known["user_timeout_ms"] = user_timeout_ms
    return flags, Part(known)


@lru_cache(maxsize=4096)
def _address(raw: bytes, family: int) -> str:
    if family == 4:
        return str(ipaddress.IPv4Address(raw[12:]))
    return str(ipaddress.IPv6Address(raw))


@lru_cache(maxsize=4096)
def text(raw: bytes) -> str:
    """A name that the kernel has, up to a NUL; any bytes. Those that are no UTF-8 are written as escapes."""
    return raw.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")
