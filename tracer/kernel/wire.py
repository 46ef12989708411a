"""Ring-buffer records → events. layout.py has the members, details.py the fields that depend on the kind of event."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Mapping
from functools import lru_cache
from hashlib import blake2s
from socket import inet_ntoa
from typing import Any, NamedTuple

from tracer.kernel import layout
from tracer.kernel.details import (
    FULL_SOCK,
    KEEPALIVE,
    MPTCP,
    OWN_IDLE,
    TYPES,
    UNKNOWN,
    SocketMembers,
    add_details,
)
from tracer.kernel.layout import SIZE
from tracer.kernel.program.ring import RingError
from tracer.model.dataclass import dataclass
from tracer.model.events import CA_STATES, STATES, Event, error_name
from tracer.model.fields import MAX_NUMBER
from tracer.model.kinds import Kind
from tracer.model.lazy import LazyEvent, Part

_STATE = Kind.STATE.value
_CLOSING = frozenset({4, 9})  # new states: FIN_WAIT1, LAST_ACK
_SOCK_BYTES = struct.calcsize("<QQ")  # sk and born, which together identify a socket
_unpack_connection = layout.struct_of(layout.CONNECTION).unpack
_unpack_socket = layout.struct_of(layout.SOCKET).unpack
_owner = tuple.__new__  # a NamedTuple's own constructor is a function in Python


class WireError(RingError):
    """Bytes that are not an event."""


class Owner(NamedTuple):
    """What the kernel side knows about the owner of a socket; owners.py finds out the rest."""

    inode: int  # 0: no process holds the socket
    cgroup: int  # cgroup id, 0: unknown
    pid: int  # who connected or closed, 0: not seen
    comm: bytes  # the name of that process, for `text`: hardly any event needs it
    born_ns: int = 0  # CLOCK_BOOTTIME of connect or accept, 0: not seen
    is_closing: bool = False  # this end has just closed it, or shut it down


class SocketState(NamedTuple):
    """The state and settings of a socket: as part of an event, and what other fields depend on."""

    part: Part
    is_full: bool
    is_closing: bool
    members: SocketMembers


@dataclass(frozen=True, slots=True)
class Decoder:
    """Turns records into events.

    hz: jiffies per second of this kernel. reasons: enum sk_rst_reason of this kernel. key: random per run; the
    address of a socket is a secret of the kernel, so only a keyed hash of it is shown. Each method takes
    clock_offset_ns, which is added to CLOCK_BOOTTIME for the wall clock.
    """

    hz: int
    reasons: Mapping[int, str]
    key: bytes

    def decode(self, record: bytes, clock_offset_ns: int) -> tuple[Event, Owner]:
        """One event, without its processes. Raises WireError."""
        if len(record) < SIZE:
            raise WireError(f"{len(record)} bytes instead of {SIZE}")
        return self._event(layout.RECORD.unpack_from(record), clock_offset_ns)

    def decode_all(self, taken: bytes, clock_offset_ns: int) -> list[tuple[Event, Owner]]:
        """The events of what `Ring.take` returned, in the order of their time. Raises WireError.

        The ring keeps the order of reservation, in which two CPUs may be swapped.
        """
        if len(taken) % layout.SLOT.size:
            raise WireError(f"{len(taken)} bytes of records that take {layout.SLOT.size} each")
        return [self._event(members, clock_offset_ns) for members in sorted(layout.SLOT.iter_unpack(taken))]

    def _event(self, members: tuple[Any, ...], clock_offset_ns: int) -> tuple[Event, Owner]:
        # Written for speed: decoding and encoding are most of what an event costs.
        (
            ktime_ns, raw_connection, kind, raw_socket, silent, inode, cgroup,
            rto, srtt_us, unacked, snd_wnd, unsent, soft_error, pid, comm, raw_details,
        ) = members  # fmt: skip
        name = TYPES.get(kind)
        if name is None:
            raise WireError(f"event type {kind}")
        if ktime_ns > MAX_NUMBER:
            raise WireError(f"time {ktime_ns}")
        hz = self.hz
        connection, sock, born_ns = _connection(raw_connection, self.key)
        socket, is_full, is_closing, socket_members = socket_state(raw_socket, hz)
        # In the order of Event's fields.
        own: dict[str, Any] = {}
        if is_full:
            own["unacked_bytes"] = unacked
            if unsent:
                own["unsent_bytes"] = unsent
            if silent != UNKNOWN:
                own["silent_ms"] = silent * 1000 // hz
            if rto:
                own["rto_ms"] = rto * 1000 // hz
            if srtt_us:
                own["srtt_ms"] = srtt_us / 1000
            own["snd_wnd"] = snd_wnd
            if soft_error:
                own["soft_error"] = error_name(soft_error)
        if name != _STATE:
            add_details(own, raw_details, name, socket_members, unacked, silent, hz, self.reasons)
        time_ns = (ktime_ns + clock_offset_ns) // 1000 * 1000
        event = LazyEvent(time_ns, ktime_ns, name, sock, connection, socket, own)
        return event, _owner(Owner, (inode, cgroup, pid, comm, born_ns, is_closing))


@lru_cache(maxsize=4096)
def _connection(raw: bytes, key: bytes) -> tuple[Part, str | None, int]:
    """The connection, the identity of its socket, and when that was made (CLOCK_BOOTTIME)."""
    sk, born_ns, laddr, raddr, netns, lport, rport, family = _unpack_connection(raw)
    known: dict[str, Any] = {"family": family, "laddr": address(laddr, family)}
    if lport:
        known["lport"] = lport
    known["raddr"] = address(raddr, family)
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

    The key is hashed as a prefix, which takes half the time of the key parameter. BLAKE2 is not open to length
    extension, so this is as secure.
    """
    return blake2s(key, digest_size=8)


@lru_cache(maxsize=4096)
def socket_state(raw: bytes, hz: int) -> SocketState:
    """The state and settings: most sockets of a host have the same."""
    (
        flags, state, old_state, new_state, ca_state, backoff, orphan, retries, syn_linear,
        idle, interval, probes, user_timeout_ms,
    ) = _unpack_socket(raw)  # fmt: skip
    states = {"state": state, "old_state": old_state, "new_state": new_state}
    known: dict[str, Any] = {name: STATES[number] for name, number in states.items() if number in STATES}
    if flags & FULL_SOCK:
        if ca_state in CA_STATES:
            known["ca_state"] = CA_STATES[ca_state]
        known["backoff"] = backoff
        if orphan:
            known["orphan"] = True
        if flags & MPTCP:
            known["mptcp"] = True
        known["keepalive"] = bool(flags & KEEPALIVE)
        if idle:
            known["keepalive_idle_s"] = idle // hz
        known["keepalive_idle_own"] = bool(flags & OWN_IDLE)
        if interval:
            known["keepalive_interval_s"] = interval // hz
        if probes:
            known["keepalive_probes"] = probes
        known["user_timeout_ms"] = user_timeout_ms
    members = SocketMembers(flags, state, ca_state, backoff, retries, syn_linear)
    return SocketState(Part(known), bool(flags & FULL_SOCK), new_state in _CLOSING, members)


@lru_cache(maxsize=4096)
def address(raw: bytes, family: int) -> str:
    """The text of 16 bytes: the last four of family 4."""
    if family == 4:
        return inet_ntoa(raw[12:])
    return str(ipaddress.IPv6Address(raw))


@lru_cache(maxsize=4096)
def text(raw: bytes) -> str:
    """A name from the kernel, up to a NUL. Bytes that are not UTF-8 become escapes."""
    return raw.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")
