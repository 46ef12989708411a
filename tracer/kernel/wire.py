"""Ring-buffer bytes → events: the mirror of struct event in bpf/event.h."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2s
from socket import inet_ntoa
from typing import Any, NamedTuple, TypeAlias

from tracer.kernel.program.ring import HEADER_BYTES, RingError
from tracer.model.events import CA_STATES, LARGEST, STATES, Event, error_name, retransmit_kind
from tracer.model.lazy import Part, PartedEvent, Row
from tracer.model.sockets import Socket

_Layout: TypeAlias = Sequence[tuple[str, str]]
"""Names and codes of struct."""
_WHEN: _Layout = (("ktime_ns", "Q"),)
_CONNECTION: _Layout = (
    *((name, "Q") for name in ("sk", "born")),
    *((name, "16s") for name in ("laddr", "raddr")),
    ("netns", "I"),
    *((name, "H") for name in ("lport", "rport")),
    ("family", "B"),
)
_SOCK_BYTES = struct.calcsize("<QQ")  # sk and born, which together are one socket's for ever
_WHAT: _Layout = (("type", "B"),)
_CONDITION: _Layout = (
    ("flags", "H"),
    *((name, "B") for name in ("state", "old_state", "new_state", "ca_state", "backoff", "orphan")),
    *((name, "B") for name in ("retries", "syn_linear")),
    *((name, "I") for name in ("keepalive_idle", "keepalive_interval", "keepalive_probes", "user_timeout_ms")),
)
_NUMBERS: _Layout = (
    ("silent", "I"),
    *((name, "Q") for name in ("inode", "cgroup")),
    *((name, "I") for name in ("rto", "srtt_us", "unacked", "snd_wnd", "unsent", "soft_error", "pid")),
    ("comm", "16s"),
)
_DETAILS: _Layout = (
    ("reason", "I"),
    ("error", "i"),
    *((name, "I") for name in ("jiffies", "retrying_ms", "rto_max", "stuck_ms", "since_sent", "timer_in")),
    *((name, "H") for name in ("found_like", "probes_out", "attempt", "segments")),
    *((name, "B") for name in ("pending", "direction", "cause")),
)
_OF_WALKS: _Layout = (("timer", "B"), *((name, "I") for name in ("unread", "since_data")))
"""Members that say nothing of an event: see `Decoder.socket`."""
_LAYOUT: _Layout = (*_WHEN, *_CONNECTION, *_WHAT, *_CONDITION, *_NUMBERS, *_DETAILS, *_OF_WALKS)


def _codes(layout: _Layout) -> str:
    return "".join(code for _, code in layout)


def _struct_of(layout: _Layout) -> struct.Struct:
    return struct.Struct("<" + _codes(layout))


_CONNECTION_STRUCT, _CONDITION_STRUCT, _DETAILS_STRUCT, _WALK_STRUCT = map(
    _struct_of, (_CONNECTION, _CONDITION, _DETAILS, _OF_WALKS)
)
_EVENT_CODES = (
    f"{_codes(_WHEN)}{_CONNECTION_STRUCT.size}s{_codes(_WHAT)}{_CONDITION_STRUCT.size}s"
    f"{_codes(_NUMBERS)}{_DETAILS_STRUCT.size}s{_WALK_STRUCT.size}x"
)
"""The layout as it is taken for an event: what many have in common, or few look at, in one piece."""
_RECORD = struct.Struct("<" + _EVENT_CODES)
SIZE = _RECORD.size
"""Bytes of one event."""
_SLOT = struct.Struct(f"<{HEADER_BYTES}x{_EVENT_CODES}{-SIZE % 8}x")  # as it stands in the ring

OFFSETS = {name: struct.calcsize("<" + _codes(_LAYOUT[:index])) for index, (name, _) in enumerate(_LAYOUT)}
"""Bytes from the start of each member, also for the test that compares this mirror with the C."""

_SHORT, _INT = struct.Struct("<H"), struct.Struct("<I")

_EVENTS = {
    1: "retransmit",
    2: "keepalive",
    3: "state",
    4: "reset",
    5: "error",
    6: "resume",
    7: "window-probe",
    8: "socket",
    9: "found",
    10: "waiting",
    11: "unsent",
}
_STATE = next(number for number, name in _EVENTS.items() if name == "state")
_TIMED = frozenset({"retransmit", "keepalive", "window-probe", "unsent", "found"})
_OF_PROBE0 = frozenset({"window-probe", "unsent"})
"""What the kernel's PROBE0 timer does."""
_MAY_BE_STUCK = frozenset({"retransmit", "window-probe", "found", "reset", "resume", "error"})
_OF_WALKS_ONLY = frozenset({"found", "waiting"})
_MAY_HAVE_ASKED = frozenset({"keepalive", "found", "waiting"})
_USUAL = ("unacked_bytes", "silent_ms", "rto_ms", "srtt_ms", "snd_wnd")
"""What a change of state says in numbers, of a socket that has heard something."""
_DIRECTIONS = {1: "received", 2: "sent", 3: "refused"}
_CAUSES = {1: "data", 2: "keepalive", 3: "window", 4: "no-progress"}
_TIMERS = {1: "on", 3: "persist", 5: "on", 6: "on", 100: "keepalive"}
_CLOSING = frozenset({4, 9})  # new states: FIN_WAIT1, LAST_ACK
_FULL_SOCK, _KEEPALIVE, _SYNACK, _HAS_REASON, _OWN_IDLE, _ACCEPTED, _AWAITS = 1, 2, 4, 8, 16, 32, 64
_MPTCP, _THIN = 128, 256
_SEND_RESULTS = {1: "NET_XMIT_DROP"}
"""What sending may return that is no errno: include/linux/netdevice.h."""
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
    born_ns: int = 0  # CLOCK_BOOTTIME of connect or accept, 0: not seen
    is_closing: bool = False  # this end has just closed it, or shut it down


class _Condition(NamedTuple):
    """How a socket is: as part of an event, and what else is decided by."""

    part: Part
    is_full: bool
    flags: int
    state: int
    ca_state: int
    backoff: int
    retries: int
    syn_linear: int
    is_closing: bool


class _Details(NamedTuple):
    """As _DETAILS has them."""

    reason: int
    error: int
    jiffies: int
    retrying_ms: int
    rto_max: int
    stuck_ms: int
    since_sent: int
    timer_in: int
    found_like: int
    probes_out: int
    attempt: int
    segments: int
    pending: int
    direction: int
    cause: int


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
            ktime_ns, whose, kind, condition, silent, inode, cgroup,
            rto, srtt_us, unacked, snd_wnd, unsent, soft_error, pid, comm, details,
        ) = members  # fmt: skip
        name = _EVENTS.get(kind)
        if name is None:
            raise WireError(f"event type {kind}")
        if ktime_ns > LARGEST:
            raise WireError(f"time {ktime_ns}")
        hz = self.hz
        connection, sock, born_ns = _connection(whose, self.key)
        how = _condition(condition, hz)
        # In the order of Event's fields; what is not known is not there.
        own: Part | Row
        if kind == _STATE and how.is_full and srtt_us and rto and silent != _UNKNOWN and not (unsent or soft_error):
            own = Row(_USUAL, (unacked, silent * 1000 // hz, rto * 1000 // hz, srtt_us / 1000, snd_wnd))
        else:
            known: dict[str, Any] = {}
            if how.is_full:
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
            if kind != _STATE:
                self._add_details(known, name, how, unacked, silent, _Details._make(_DETAILS_STRUCT.unpack(details)))
            own = Part(known)
        time_ns = (ktime_ns + clock_offset_ns) // 1000 * 1000
        event = PartedEvent(time_ns, ktime_ns, name, sock, connection, how.part, own)
        return event, _owner(Owner, (inode, cgroup, pid, comm, born_ns, how.is_closing))

    def _add_details(
        self, known: dict[str, Any], name: str, how: _Condition, unacked: int, silent: int, details: _Details
    ) -> None:
        """What a change of state does not say; silent in jiffies."""
        attempt, error = details.attempt, details.error
        if how.is_full:
            if name in _TIMED:
                known["jiffies"] = details.jiffies
            like = _EVENTS.get(details.found_like) if name == "found" else name
            if like == "retransmit" or like in _OF_PROBE0:
                known["rto_max_ms"] = details.rto_max * 1000 // self.hz
                if details.retrying_ms != _UNKNOWN:
                    known["retrying_ms"] = details.retrying_ms
                known["retries"] = how.retries
            if like == "retransmit" and how.flags & _THIN:
                known["thin"] = True
            if like in _OF_PROBE0:
                known["probes_out"] = details.probes_out
            if like == "retransmit" and how.syn_linear:
                known["syn_linear_timeouts"] = how.syn_linear
            if name in _MAY_BE_STUCK and details.stuck_ms != _UNKNOWN:
                known["stuck_ms"] = details.stuck_ms
            if name in _MAY_HAVE_ASKED and how.flags & (_ACCEPTED | _AWAITS) == _AWAITS:
                known["asked_ms"] = self._ms(details.since_sent)
            if name in _OF_WALKS_ONLY and details.timer_in != _UNKNOWN:
                known["timer_ms"] = self._ms(details.timer_in)
            if name == "found" and like == "socket":
                known["kind"] = "idle"
            elif name == "found":
                if like is not None:
                    known["kind"] = like
                known["attempt"] = attempt
        if name == "retransmit":
            known["kind"] = retransmit_kind(
                synack=bool(how.flags & _SYNACK),
                state=STATES.get(how.state),
                ca_state=how.ca_state,
                pending=details.pending,
                attempt=attempt,
                backoff=how.backoff,
                unacked=unacked,
                silent_jiffies=silent,
            )
            known["attempt"] = attempt
            known["segments"] = details.segments
            if error > 0:
                known["send_error"] = error_name(error)
            elif error < 0:
                known["send_error"] = _SEND_RESULTS.get(-error, f"NET_XMIT {-error}")
        elif name in ("keepalive", "window-probe", "unsent"):
            known["attempt"] = attempt
        elif name == "resume":
            if details.cause in _CAUSES:
                known["cause"] = _CAUSES[details.cause]
        elif name == "reset":
            if details.direction in _DIRECTIONS:
                known["direction"] = _DIRECTIONS[details.direction]
            if how.flags & _HAS_REASON:
                known["reason"] = self.reasons.get(details.reason, f"reason {details.reason}")
        elif name == "error" and error > 0:
            if attempt:
                known["attempt"] = attempt
            known["errno"] = error
            known["error"] = error_name(error)

    def socket(self, record: bytes, event: Event) -> Socket:
        """The socket of a record of a walk over all sockets, of which `decode` made the event."""
        timer_number, unread, since_data = _WALK_STRUCT.unpack_from(record, OFFSETS["timer"])
        (since_sent,) = _INT.unpack_from(record, OFFSETS["since_sent"])
        (timer_in,) = _INT.unpack_from(record, OFFSETS["timer_in"])
        (attempt,) = _SHORT.unpack_from(record, OFFSETS["attempt"])
        (flags,) = _SHORT.unpack_from(record, OFFSETS["flags"])
        timer = _TIMERS.get(timer_number)
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
def _connection(raw: bytes, key: bytes) -> tuple[Part, str | None, int]:
    """And the socket of it, and when that was born."""
    sk, born_ns, laddr, raddr, netns, lport, rport, family = _CONNECTION_STRUCT.unpack(raw)
    known: dict[str, Any] = {"family": family, "laddr": _address(laddr, family)}
    if lport:
        known["lport"] = lport
    known["raddr"] = _address(raddr, family)
    known["rport"] = rport
    if netns:
        known["netns"] = netns
    if not sk:
        return Part(known), None, born_ns
    digest = _keyed(key).copy()
    digest.update(raw[:_SOCK_BYTES])
    known["sock"] = sock = digest.hexdigest()
    return Part(known), sock, born_ns


@lru_cache(maxsize=4)
def _keyed(key: bytes) -> blake2s:
    """A digest to copy.

    The key is what was hashed first, which takes half as long as a key that is given as one. Nothing can be appended
    to a digest of BLAKE2, so that it is as good.
    """
    return blake2s(key, digest_size=8)


@lru_cache(maxsize=4096)
def _condition(raw: bytes, hz: int) -> _Condition:
    """Most sockets of a host have the same settings."""
    (
        flags, state, old_state, new_state, ca_state, backoff, orphan, retries, syn_linear,
        idle, interval, probes, user_timeout_ms,
    ) = _CONDITION_STRUCT.unpack(raw)  # fmt: skip
    names = {"state": state, "old_state": old_state, "new_state": new_state}
    known: dict[str, Any] = {name: STATES[number] for name, number in names.items() if number in STATES}
    if flags & _FULL_SOCK:
        if ca_state in CA_STATES:
            known["ca_state"] = CA_STATES[ca_state]
        known["backoff"] = backoff
        if orphan:
            known["orphan"] = True
        if flags & _MPTCP:
            known["mptcp"] = True
        known["keepalive"] = bool(flags & _KEEPALIVE)
        if idle:
            known["keepalive_idle_s"] = idle // hz
        known["keepalive_idle_own"] = bool(flags & _OWN_IDLE)
        if interval:
            known["keepalive_interval_s"] = interval // hz
        if probes:
            known["keepalive_probes"] = probes
        known["user_timeout_ms"] = user_timeout_ms
    is_closing = new_state in _CLOSING
    is_full = bool(flags & _FULL_SOCK)
    return _Condition(Part(known), is_full, flags, state, ca_state, backoff, retries, syn_linear, is_closing)


@lru_cache(maxsize=4096)
def _address(raw: bytes, family: int) -> str:
    if family == 4:
        return inet_ntoa(raw[12:])
    return str(ipaddress.IPv6Address(raw))


@lru_cache(maxsize=4096)
def text(raw: bytes) -> str:
    """A name that the kernel has, up to a NUL; any bytes. Those that are no UTF-8 are written as escapes."""
    return raw.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")
