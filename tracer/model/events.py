"""What happened to which connection: the one type that everything after the kernel speaks.

The field names are the JSON contract (docs/events.md). None means unknown and is left
out of the JSON. `Event` does not say where it came from: live and replay are one path.
"""

from __future__ import annotations

import calendar
import errno
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from operator import itemgetter
from sys import getsizeof
from typing import Any, NamedTuple

EVENTS = (
    "retransmit", "keepalive", "window-probe", "unsent", "found", "waiting", "state", "reset", "error", "resume",
    "stall", "counters", "lost",
)  # fmt: skip
"""The values of `Event.event` that this version knows. Of a recording others are left out, and counted."""

SUSPEND = "suspend"
"""The hook of a `lost` event that says that the host slept, for duration_ms: timers stood still, nothing was lost."""
RECORDING = "recording"
"""The hook of a `lost` event that counts events which the recording lacks: no space, or its reader was too slow."""

STATES = {
    1: "ESTABLISHED",
    2: "SYN_SENT",
    3: "SYN_RECV",
    4: "FIN_WAIT1",
    5: "FIN_WAIT2",
    6: "TIME_WAIT",
    7: "CLOSE",
    8: "CLOSE_WAIT",
    9: "LAST_ACK",
    10: "LISTEN",
    11: "CLOSING",
    12: "NEW_SYN_RECV",
}
"""The kernel's numbers (include/net/tcp_states.h) and names, without their TCP_."""

CA_STATES = {0: "Open", 1: "Disorder", 2: "CWR", 3: "Recovery", 4: "Loss"}
"""enum tcp_ca_state, include/uapi/linux/tcp.h."""


@dataclass(kw_only=True)
class Event:
    """One event. Times in the unit that the name ends with, ports in host byte order.

    Without slots: of some fifty fields an event has half at most, and one made by `of` stores no others.
    """

    time_ns: int  # wall clock, nanoseconds since 1970; whole microseconds, as the JSON has no more
    ktime_ns: int  # CLOCK_BOOTTIME, nanoseconds: the order of events
    event: str
    family: int | None = None  # 4 or 6; a v4-mapped address is 4
    laddr: str | None = None
    lport: int | None = None  # None in connect(), before the socket has one
    raddr: str | None = None
    rport: int | None = None
    netns: int | None = None  # inode
    sock: str | None = None  # the same for all of a socket's life, never the same for two
    state: str | None = None
    old_state: str | None = None
    new_state: str | None = None
    ca_state: str | None = None
    backoff: int | None = None
    orphan: bool | None = None  # no process holds it any more
    mptcp: bool | None = None  # one subflow of a Multipath TCP connection
    keepalive: bool | None = None
    keepalive_idle_s: int | None = None
    keepalive_idle_own: bool | None = None  # the socket's (TCP_KEEPIDLE), not its namespace's
    keepalive_interval_s: int | None = None
    keepalive_probes: int | None = None
    user_timeout_ms: int | None = None  # 0: not set
    unacked_bytes: int | None = None
    unsent_bytes: int | None = None  # written by the application and not sent yet
    silent_ms: int | None = None  # since the peer was last heard
    rto_ms: int | None = None
    srtt_ms: float | None = None
    snd_wnd: int | None = None  # bytes that the peer is ready to take
    soft_error: str | None = None  # an ICMP error came back, and the kernel goes on trying
    jiffies: int | None = None  # retransmit, keepalive: the kernel's clock, its low 32 bits
    rto_max_ms: int | None = None  # retransmit
    retrying_ms: int | None = None  # since the first retransmission by RTO, window probe or attempt to send
    retries: int | None = None  # retransmit: the limit in force (tcp_retries2, tcp_orphan_retries, tcp_syn_retries)
    thin: bool | None = None  # retransmit: the first RTOs are not doubled, or may not be
    probes_out: int | None = None  # window-probe, unsent: so many before it without any answer
    syn_linear_timeouts: int | None = None  # retransmit of a SYN: the first so many do not double the RTO
    stuck_ms: int | None = None  # since what is not acknowledged was first sent, or the peer closed its window
    asked_ms: int | None = None  # waiting, keepalive: since data was last sent, to which no data has come in reply
    timer_ms: int | None = None  # found, waiting: until the timer behind it is called, as late as its wheel makes it
    kind: str | None = None  # retransmit: rto, tlp, fast, syn, synack, fin; found: what it is like
    attempt: int | None = None  # retransmit: RTOs so far, as `ss -o` counts; keepalive: 1 for the first probe
    segments: int | None = None  # retransmit: how many, as TcpRetransSegs counts
    send_error: str | None = None  # retransmit: why it did not leave this host
    direction: str | None = None  # reset: received, sent, refused
    reason: str | None = None  # reset: the kernel's
    errno: int | None = None
    error: str | None = None
    cause: str | None = None  # resume: what the peer was heard by; lost: why
    phase: str | None = None  # stall: begin, update, end
    id: str | None = None  # stall: the same for its begin, updates and end
    since: str | None = None  # stall: when what is unanswered was first sent, RFC 3339 in UTC
    idle_ms: int | None = None  # stall: silence before that
    verdict: str | None = None  # stall
    retransmits: int | None = None  # stall: retransmissions or probes that nobody answered, as the kernel counts
    gives_up_at: str | None = None  # stall: when the kernel gives up, at the earliest
    gives_up_in_ms: int | None = None  # stall: the same, from `time` on
    gives_up_window_ms: int | None = None  # stall: how much later it may be; absent where it is exact
    one_way: bool | None = None  # stall: the peer is heard meanwhile, and acknowledges nothing
    outcome: str | None = None  # stall: how it ended
    revoked: bool | None = None  # stall, update: the outcome that it was presumed to have was wrong
    duration_ms: int | None = (
        None  # stall: from `since` to its end; lost: since the look before, or how long the host slept
    )
    advice: list[str] | None = None  # stall
    retrans_segs: int | None = None  # counters: of the kernel's, since the last such event: TcpRetransSegs
    keepalives: int | None = None  # counters: TCPKeepAlive
    timeouts: int | None = None  # counters: TCPTimeouts
    late: bool | None = None  # counters: first seen after the start, so that its first counts may be from before
    count: int | None = None  # lost
    hook: str | None = None  # lost
    ring_percent: int | None = None  # lost: how full the ring buffer is
    ring_peak_percent: int | None = None  # lost: at most, within duration_ms
    unread_ms: int | None = None  # lost: the longest time that the ring buffer was not looked into
    pids: list[int] | None = None  # the processes that hold the socket
    pid: int | None = None  # the first of them
    comm: str | None = None
    exe: str | None = None  # name of the program file that pid executes, where it is not comm
    cgroup: str | None = None

    @classmethod
    def of(cls, known: dict[str, Any]) -> Event:
        """The event with these fields, unchecked: the quick way. The dictionary is the event's from now on."""
        event = object.__new__(cls)
        event.__dict__ = known
        return event

    def known(self) -> dict[str, Any]:
        """The fields by name. Those that are not known are None, or are not there."""
        return self.__dict__


class Batch(NamedTuple):
    """Events in the order in which they are to be taken, and how far they reach.

    until_ns, CLOCK_BOOTTIME: an event of an earlier time does not come any more. A batch without events says
    that nothing happened. has_gap: events before the first of these are missing.
    """

    events: Sequence[Event]
    until_ns: int
    has_gap: bool = False


class InvalidEvent(ValueError):
    """A JSON object that is not an event; the text says why."""


_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "str": (str,),
    "bool": (bool,),
    "float": (int, float),
    "list[int]": (list,),
    "list[str]": (list,),
}
_FIELDS: dict[str, tuple[type, ...]] = {
    field.name: _TYPES[str(field.type).removesuffix(" | None")] for field in fields(Event) if field.name != "time_ns"
}
LARGEST = 2**63 - 1
"""No number is larger: nanoseconds are signed to the kernel, too."""
MOST_TEXT = 4096
"""Characters of a text: the longest is a cgroup's path (PATH_MAX)."""
SHORT_TEXT = 64
"""Characters of most texts that events really have."""
TEXTS = tuple(field.name for field in fields(Event) if str(field.type).startswith("str"))
_LENGTHS = {**dict.fromkeys(TEXTS, 512), **dict.fromkeys(("comm", "exe", "cgroup", "hook"), MOST_TEXT)}
"""Characters that a text may have."""
_NAMES = {field.name: field.name for field in fields(Event)}
LATEST_NS = 253_402_300_799_999_999_000
"""The last microsecond that RFC 3339 has: of the year 9999."""
_SECOND = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)", re.ASCII)


def to_json(event: Event) -> dict[str, Any]:
    """The event as a flat JSON object, `time` first."""
    record = {name: value for name, value in event.known().items() if value is not None}
    return {"time": format_time(record.pop("time_ns")), **record}


def from_json(record: Mapping[str, Any]) -> Event:
    """The event of a JSON object. Unknown fields are ignored; raises InvalidEvent for anything else."""
    if not isinstance(record, Mapping):
        raise InvalidEvent("not a JSON object")
    values = checked(record)
    for name in ("ktime_ns", "event"):
        if name not in values:
            raise InvalidEvent(f"{name} is missing")
    time_text = record.get("time")
    if not isinstance(time_text, str):
        raise InvalidEvent("time is missing")
    return Event.of({"time_ns": parse_time(time_text), **values})


def checked(record: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a JSON object that an event has, its time aside. Raises InvalidEvent for a value that is none."""
    if _is_plain(record):
        # With names that are shared: JSON has its own for each record, which take more memory than the values.
        values = {_NAMES[name]: value for name, value in record.items() if name != "time"}
    else:
        values = _checked_one_by_one(record)
    values.pop("time", None)
    if not all(type(pid) is int and 0 <= pid <= LARGEST for pid in values.get("pids", ())):
        raise InvalidEvent("pids has something else than numbers")
    if not all(type(line) is str and len(line) <= MOST_TEXT for line in values.get("advice", ())):
        raise InvalidEvent("advice has something else than text")
    return values


def _is_plain(record: Mapping[str, Any]) -> bool:
    """Whether all fields are known and sound, what lists hold aside. False also where that is not easily told."""
    try:
        take_numbers, take_texts = _takers(tuple(record), tuple(map(type, record.values())))
        numbers, texts = take_numbers(record), take_texts(record)
        # No number is more than the sum, which is not a number where one of them is none.
        return min(numbers) >= 0 and sum(numbers) <= LARGEST and max(map(len, texts)) <= SHORT_TEXT
    except (KeyError, OverflowError):
        return False


_Taker = Callable[[Mapping[str, Any]], Sequence[Any]]


@lru_cache(maxsize=256)
def _takers(names: Sequence[str], kinds: Sequence[type]) -> tuple[_Taker, _Taker]:
    """What takes the numbers, and what takes the texts, of a record of such fields. KeyError where one is wrong."""
    of_kind: dict[type, list[str]] = {int: [], str: [], bool: [], list: []}
    for name, kind in zip(names, kinds, strict=True):
        if name != "time" and kind not in _FIELDS[name]:
            raise KeyError(name)
        of_kind[int if kind is float else kind].append(name)
    return _taker(of_kind[int], nothing=0), _taker(of_kind[str], nothing="")


def _taker(names: Sequence[str], nothing: Any) -> _Taker:
    if len(names) > 1:
        return itemgetter(*names)
    return lambda record: [record[name] for name in names] or [nothing]


def _checked_one_by_one(record: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in record.items():
        types = _FIELDS.get(name)
        if value is None or types is None:
            continue
        # The exact type: bool is an int to Python, not to us.
        kind = type(value)
        if kind not in types:
            raise InvalidEvent(f"{name} is {value!r:.40}")
        if kind is str:
            if len(value) > (most := _LENGTHS[name]):
                raise InvalidEvent(f"{name} has more than {most} characters")
        elif (kind is int or kind is float) and not 0 <= value <= LARGEST:
            raise InvalidEvent(f"{name} is {value!r:.40}")
        values[_NAMES[name]] = value
    return values


def size_of(event: Event) -> int:
    """The memory that the event takes, bytes, about, if it shares no value with others."""
    known = event.known()
    size = 160 * len(known)  # a name, a place in the dictionary, and a number or what any text takes
    for value in known.values():
        if type(value) is str:
            size += len(value) if value.isascii() else 4 * len(value)
        elif type(value) is list:
            size += getsizeof(value) + sum(map(getsizeof, value))
    return size


@lru_cache(maxsize=4)
def format_second(second: int) -> str:
    """Seconds since 1970 as RFC 3339 in UTC, without the zone."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


def format_time(time_ns: int) -> str:
    """RFC 3339 in UTC with microseconds."""
    second, rest = divmod(time_ns, 1_000_000_000)
    return f"{format_second(second)}.{rest // 1000:06d}Z"


def parse_time(text: str) -> int:
    """Nanoseconds since 1970 of what `format_time` wrote; InvalidEvent for anything else."""
    fraction = text[20:26]
    is_one = len(text) == len("2026-11-25T03:00:00.123456Z") and text[19] == "." and text[26] == "Z"
    second = parse_second(text[:19]) if is_one and fraction.isdecimal() and fraction.isascii() else None
    if second is None:
        raise InvalidEvent(f"time is {text!r:.40}")
    return second * 1_000_000_000 + int(fraction) * 1000


@lru_cache(maxsize=4)
def parse_second(text: str) -> int | None:
    """Seconds since 1970 of what `format_second` wrote; None for anything else."""
    match = _SECOND.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second = map(int, match.groups())
    if not (year >= 1970 and 1 <= month <= 12 and 1 <= day <= 31 and hour < 24 and minute < 60 and second < 61):
        return None
    return calendar.timegm((year, month, day, hour, minute, second))


def error_name(number: int) -> str:
    """`ETIMEDOUT` for 110."""
    return errno.errorcode.get(number, f"errno {number}")


def retransmit_kind(
    *,
    synack: bool,
    state: str | None,
    ca_state: int,
    pending: int,
    attempt: int,
    backoff: int,
    unacked: int,
    silent_jiffies: int,
) -> str:
    """Why a segment went out again, from the socket at that instant.

    The RTO timer clears icsk_pending before it retransmits, a tail loss probe leaves
    ICSK_TIME_LOSS_PROBE (5) in it (tcp_write_timer_handler, net/ipv4/tcp_timer.c). When an
    ICMP error makes the kernel retry early (tcp_ld_RTO_revert, net/ipv4/tcp_ipv4.c), pending is
    set again, but the socket is in Loss and nothing has been heard; what recovery from loss
    sends follows an ACK at once. The retransmission timer doubles the RTO after it has sent, so
    what is sent with it doubled as often already is not by the timer, but because the path's
    MTU has shrunk (tcp_simple_retransmit, net/ipv4/tcp_input.c).
    """
    if synack or state == "SYN_RECV":  # without a request where both ends have connected at once
        return "synack"
    if state == "SYN_SENT":
        return "syn"
    if state in ("FIN_WAIT1", "CLOSING", "LAST_ACK") and unacked == 0:
        return "fin"
    if pending == 5 and ca_state < 3:
        return "tlp"
    if pending == 0 or (ca_state == 4 and attempt > backoff and silent_jiffies >= 2):
        return "rto"
    return "fast"
