"""Records of the walk for `tcpwatch sockets` (bpf/sockets.bpf.c) → Sockets, for tens of thousands at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields
from socket import inet_ntoa
from struct import Struct
from typing import Any

from tracer.kernel.details import ACCEPTED, AWAITS, HAS_WAITER, TYPES, UNKNOWN
from tracer.kernel.holders import Held
from tracer.kernel.layout import LAYOUT, OFFSETS, SIZE, SOCKET, struct_of
from tracer.kernel.owner_names import NameFinder
from tracer.kernel.owners import Holders
from tracer.kernel.processes import Process
from tracer.kernel.wire import Decoder, address, socket_state
from tracer.model.events import Event, error_name, names_of
from tracer.model.kinds import Kind
from tracer.model.sockets import Socket

_SOCKET, _FOUND = (
    next(number for number, name in TYPES.items() if name == wanted) for wanted in ("socket", Kind.FOUND)
)
_TIMERS = {1: "on", 3: "persist", 5: "on", 6: "on", 100: "keepalive"}
_STATE_BYTES = struct_of(SOCKET).size
_MEMBERS = (
    "ktime_ns", "sk", "laddr", "raddr", "netns", "lport", "rport", "family", "flags",
    "silent", "inode", "cgroup", "rto", "srtt_us", "unacked", "snd_wnd", "unsent", "soft_error",
    "stuck_ms", "since_sent", "timer_in", "attempt", "timer", "unread", "since_data",
)  # fmt: skip
"""What a Socket needs beside its state and settings, in the order of LAYOUT."""


def _members_struct() -> Struct:
    """The members as the module struct unpacks them from a record, without the others."""
    return Struct("<" + "".join(code if name in _MEMBERS else f"{Struct(code).size}x" for name, code in LAYOUT))


_RECORD = _members_struct()
_TYPE, _SK, _STATE = OFFSETS["type"], OFFSETS["sk"], OFFSETS["flags"]
_STATE_FIELDS = frozenset(names_of("state", "settings")) & {field.name for field in fields(Socket)}
_OF_FILTERS = ("silent_ms", *(name for name in names_of("owner") if name != "cgroup"))


def sk_of(record: bytes) -> int:
    """The address of the socket."""
    return int.from_bytes(record[_SK : _SK + 8], "little")


def event_of(socket: Socket) -> Event:
    """What filters of processes and of silence look at."""
    known = {"time_ns": socket.time_ns, "ktime_ns": 0, "event": "socket"}
    return Event.of({**known, **{name: getattr(socket, name) for name in _OF_FILTERS}})


class SocketRecords:
    """Makes Sockets of records.

    hz: jiffies per second. held: the processes that hold each socket. clock_offset_ns: added to CLOCK_BOOTTIME for
    the wall clock. wanted: whether a socket is wanted, by its owner and its silence; None: all are. names: finds
    those of containers and units.
    """

    def __init__(
        self,
        hz: int,
        held: Held,
        clock_offset_ns: int,
        wanted: Callable[[Event], bool] | None = None,
        names: NameFinder | None = None,
    ) -> None:
        self._hz = hz
        self._held = held
        self._clock_offset_ns = clock_offset_ns
        self._wanted = wanted
        self._names = NameFinder() if names is None else names
        self._owners: dict[tuple[tuple[Process, ...], int], dict[str, Any]] = {}
        self._states: dict[bytes, dict[str, Any]] = {}
        self._decoder = Decoder(hz=hz, reasons={}, key=b"")

    def decode(self, data: bytes) -> Iterator[Socket]:
        """The sockets of these records that are wanted, with the `found` event of each one that is in trouble."""
        troubles = self._troubles(data)
        for sk, socket in self._sockets(data):
            if self._wanted is not None and not self._wanted(event_of(socket)):
                continue
            if sk in troubles:
                socket.trouble = self._decoder.decode(troubles[sk], self._clock_offset_ns)[0]
            yield socket

    @staticmethod
    def _troubles(data: bytes) -> dict[int, bytes]:
        """The records of sockets in trouble, by the address of the socket."""
        starts = [start for start in range(0, len(data), SIZE) if data[start + _TYPE] == _FOUND]
        return {sk_of(data[start : start + SIZE]): data[start : start + SIZE] for start in starts}

    def _sockets(self, data: bytes) -> Iterator[tuple[int, Socket]]:
        # Written for speed: 50,000 sockets should take no longer than `ss` does.
        hz, held, clock_offset_ns = self._hz, self._held, self._clock_offset_ns
        for start, members in zip(range(0, len(data), SIZE), _RECORD.iter_unpack(data)):
            if data[start + _TYPE] != _SOCKET:
                continue
            (
                ktime_ns, sk, laddr, raddr, netns, lport, rport, family, flags,
                silent, inode, cgroup, rto, srtt_us, unacked, snd_wnd, unsent, soft_error,
                stuck_ms, since_sent, timer_in, attempt, timer_number, unread, since_data,
            ) = members  # fmt: skip
            state = self._state(data[start + _STATE : start + _STATE + _STATE_BYTES])
            timer = _TIMERS.get(timer_number)
            since_sent_ms = None if since_sent == UNKNOWN else since_sent * 1000 // hz
            waiting = flags & (ACCEPTED | AWAITS) == AWAITS and state.get("state") == "ESTABLISHED"
            socket = Socket(
                time_ns=(ktime_ns + clock_offset_ns) // 1000 * 1000,
                family=family,
                laddr=inet_ntoa(laddr[12:]) if family == 4 else address(laddr, family),
                lport=lport or None,
                raddr=inet_ntoa(raddr[12:]) if family == 4 else address(raddr, family),
                rport=rport,
                netns=netns or None,
                accepted=flags & ACCEPTED != 0,
                inode=inode or None,
                silent_ms=None if silent == UNKNOWN else silent * 1000 // hz,
                since_sent_ms=since_sent_ms,
                since_received_ms=None if since_data == UNKNOWN else since_data * 1000 // hz,
                waiting=waiting,
                waiting_ms=since_sent_ms if waiting else None,
                has_reader=flags & HAS_WAITER != 0 if waiting else None,
                unacked_bytes=unacked,
                unsent_bytes=unsent or None,
                unread_bytes=unread,
                stuck_ms=None if stuck_ms == UNKNOWN else stuck_ms,
                snd_wnd=snd_wnd,
                timer=timer,
                timer_ms=timer_in * 1000 // hz if timer and timer_in != UNKNOWN else None,
                attempt=attempt if timer else None,
                rto_ms=rto * 1000 // hz if rto else None,
                srtt_ms=srtt_us / 1000 if srtt_us else None,
                soft_error=error_name(soft_error) if soft_error else None,
                **state,
                **self._owner(held.get(inode, ()), cgroup),
            )
            yield sk, socket

    def _state(self, raw: bytes) -> dict[str, Any]:
        """The fields of the state and settings. Most sockets of a host have the same."""
        known = self._states.get(raw)
        if known is None:
            of_event = socket_state(raw, self._hz).part.fields
            known = self._states[raw] = {name: of_event[name] for name in of_event if name in _STATE_FIELDS}
        return known

    def _owner(self, processes: tuple[Process, ...], cgroup: int) -> dict[str, Any]:
        """The fields of the owner. Sockets of one process and cgroup share them."""
        key = processes, cgroup
        known = self._owners.get(key)
        if known is None:
            holders = Holders(processes, not processes)
            known = self._owners[key] = dict(holders.part(self._names.now(cgroup, holders.pid)).fields)
        return known
