"""The Event type shared by capture, analysis, recordings and output.

Its declarations are the JSON contract. docs/events.md is made from them (scripts/field_tables.py).
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from sys import getsizeof
from typing import Any, NamedTuple

from tracer.model.dataclass import dataclass
from tracer.model.fields import EVERY, MAX_PATH, declarations, declared, json_types, required
from tracer.model.kinds import Kind

SUSPEND = "suspend"
"""The hook of a `lost` event which reports that the host slept for duration_ms: nothing was lost."""
RECORDING = "recording"
"""The hook of a `lost` event for events that the recording lacks: no space, or its reader was too slow."""

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

_TIMED = (Kind.RETRANSMIT, Kind.KEEPALIVE, Kind.WINDOW_PROBE, Kind.UNSENT, Kind.FOUND)
_RETRIED = (Kind.RETRANSMIT, Kind.WINDOW_PROBE, Kind.UNSENT, Kind.FOUND)
_RETRANSMITTED = (Kind.RETRANSMIT, Kind.FOUND)
_ACTION = (Kind.ACTION,)
_STALL = (Kind.STALL,)
_COUNTERS = (Kind.COUNTERS,)
_LOST = (Kind.LOST,)


@dataclass(kw_only=True, eq=False)
class Event:
    """One event. Times in the unit that the name ends with, ports in host byte order, absent fields None.

    Without slots: an event stores only the fields that it has, at most half of them.
    """

    time_ns: int = required("RFC 3339 in UTC, with microseconds")
    ktime_ns: int = required(
        "CLOCK_BOOTTIME in nanoseconds: the order of events, and what to subtract for a duration"
    )
    event: str = required(" ".join(f"`{kind}`" for kind in Kind))

    family: int | None = declared(
        "connection",
        "4 or 6. A v4-mapped address (`::ffff:10.1.2.3`) is shown and filtered as IPv4",
        in_stalls=True,
    )
    laddr: str | None = declared("connection", "local address", in_stalls=True)
    lport: int | None = declared(
        "connection", "local port. Absent while `connect()` has not chosen one", in_stalls=True
    )
    raddr: str | None = declared("connection", "remote address", in_stalls=True)
    rport: int | None = declared("connection", "remote port", in_stalls=True)
    netns: int | None = declared(
        "connection",
        "inode of the network namespace, as `lsns -t net` shows it",
        kinds=tuple(kind for kind in Kind if kind is not Kind.LOST),
        in_stalls=True,
    )
    sock: str | None = declared(
        "connection",
        "identity of the socket. It stays the same for the socket's life and for what follows its close, is never "
        "used twice, and differs from run to run",
        in_stalls=True,
    )

    state: str | None = declared(
        "state",
        "`ESTABLISHED`, `SYN_SENT`, `FIN_WAIT1`, …: the kernel's names without `TCP_`",
        in_stalls=True,
    )
    old_state: str | None = declared(
        "state", tables={"state": "the state before", "error": "the state in which the error closed the socket"}
    )
    new_state: str | None = declared("state", tables={"state": "the state after"})
    ca_state: str | None = declared("state", "congestion control: `Open` `Disorder` `CWR` `Recovery` `Loss`")
    backoff: int | None = declared("state", "times that the RTO was doubled")
    orphan: bool | None = declared("state", "true: no process holds the socket any more", in_stalls=True)
    mptcp: bool | None = declared(
        "state",
        "true: one subflow of a Multipath TCP connection. `pid` holds that connection; `error` is the subflow's, and "
        "the application may get none",
        in_stalls=True,
    )
    keepalive: bool | None = declared("settings", "SO_KEEPALIVE is on", in_stalls=True)
    keepalive_idle_s: int | None = declared(
        "settings",
        "idle time before the first keepalive probe: the socket's own, else its namespace's sysctl",
        in_stalls=True,
    )
    keepalive_idle_own: bool | None = declared(
        "settings",
        "true: `keepalive_idle_s` is the socket's own (TCP_KEEPIDLE), and the sysctl does not matter to it",
        in_stalls=True,
    )
    keepalive_interval_s: int | None = declared(
        "settings", "time between keepalive probes: the socket's own, else its namespace's sysctl", in_stalls=True
    )
    keepalive_probes: int | None = declared(
        "settings", "unanswered keepalive probes that end the connection: likewise", in_stalls=True
    )
    user_timeout_ms: int | None = declared("settings", "TCP_USER_TIMEOUT; 0 = not set", in_stalls=True)

    unacked_bytes: int | None = declared(
        "numbers", "bytes sent and not acknowledged. SYN and FIN do not count", in_stalls=True
    )
    unsent_bytes: int | None = declared(
        "numbers", "bytes that the application has written and the kernel has not sent yet", in_stalls=True
    )
    silent_ms: int | None = declared(
        "numbers",
        tables={
            EVERY: "time since anything was received from the peer, data or ACK. Absent if nothing ever was. Its "
            "resolution is one jiffy",
            "resume": "how long the peer was silent before",
        },
        in_stalls=True,
    )
    rto_ms: int | None = declared("numbers", "current retransmission timeout", in_stalls=True)
    srtt_ms: float | None = declared("numbers", "smoothed round-trip time", in_stalls=True)
    snd_wnd: int | None = declared("numbers", "the peer's receive window in bytes", in_stalls=True)
    soft_error: str | None = declared(
        "numbers", "an ICMP error came back, and the kernel goes on trying: `EHOSTUNREACH`, …", in_stalls=True
    )

    jiffies: int | None = declared(
        "details",
        tables={
            "retransmit": "the kernel's clock, low 32 bits; also on `keepalive`, `window-probe`, `unsent` and `found`"
        },
        kinds=_TIMED,
    )
    rto_max_ms: int | None = declared(
        "details", tables={"retransmit": "the RTO is doubled up to this"}, kinds=_RETRIED
    )
    retrying_ms: int | None = declared(
        "details",
        tables={
            "retransmit": "time since the first retransmission by the RTO timer, as the kernel compares it with "
            "`retries`; on `window-probe` and `unsent` since the first of them"
        },
        kinds=_RETRIED,
    )
    retries: int | None = declared(
        "details",
        tables={
            "retransmit": "the limit in force: `tcp_retries2` of the socket's namespace, `tcp_orphan_retries` of an "
            "orphan, the retries of a SYN; also on `window-probe` and `unsent`"
        },
        kinds=_RETRIED,
    )
    thin: bool | None = declared(
        "details",
        tables={
            "retransmit": "true: the stream is thin (TCP_THIN_LINEAR_TIMEOUTS), so that the first six RTOs are not "
            "doubled; on a `tlp` it is not decided yet"
        },
        kinds=_RETRANSMITTED,
    )
    probes_out: int | None = declared(
        "details",
        tables={
            "window-probe": "probes before this one that the peer has not answered",
            "unsent": "attempts by the timer before this one that failed",
            "stall": "of a closed window: probes that the peer has not answered",
        },
        kinds=(Kind.WINDOW_PROBE, Kind.UNSENT, Kind.FOUND, Kind.STALL),
    )
    syn_linear_timeouts: int | None = declared(
        "details",
        tables={"retransmit": "of a SYN: the RTO is not doubled for this number of them"},
        kinds=_RETRANSMITTED,
    )
    stuck_ms: int | None = declared(
        "details",
        tables={
            "found": "time since the oldest unacknowledged data was first sent, or since the peer closed its window; "
            "also on `retransmit`, `window-probe`, `reset`, `resume` and `error`"
        },
        kinds=(Kind.RETRANSMIT, Kind.WINDOW_PROBE, Kind.FOUND, Kind.RESET, Kind.RESUME, Kind.ERROR),
    )
    asked_ms: int | None = declared(
        "details",
        tables={
            "waiting": "time since data was last sent; also on `keepalive` and `found`, where a reply is outstanding"
        },
        kinds=(Kind.KEEPALIVE, Kind.FOUND, Kind.WAITING, Kind.STALL),
    )
    timer_ms: int | None = declared(
        "details",
        tables={
            "found": "time until the kernel calls the timer behind it, the lateness of the timer wheel included; "
            "also on `waiting`, where keepalive is on"
        },
        kinds=(Kind.FOUND, Kind.WAITING),
    )
    kind: str | None = declared(
        "details",
        tables={
            "retransmit": "`tlp`: tail loss probe, the first try about 2·srtt + 200 ms after a lone segment. `rto`: "
            "the retransmission timer. `fast`: because later segments were acknowledged. `syn`, `synack`, `fin`: "
            "those segments, by whichever timer",
            "found": "the event that shows the same trouble: `retransmit` `keepalive` `window-probe` `unsent`; or "
            "`idle`, see below",
        },
        kinds=_RETRANSMITTED,
    )
    attempt: int | None = declared(
        "details",
        tables={
            "retransmit": "how often the RTO timer has sent this segment again so far, as `ss -o` counts. 0 on a "
            "`tlp`, and on a SYN/ACK that answers another SYN of the client",
            "keepalive": "1 when everything so far was answered, 2 when one probe is unanswered, and so on",
            "found": "the kernel's count of them so far",
            "error": "with ETIMEDOUT: how often the RTO timer had sent the segment again",
        },
        kinds=(*_TIMED, Kind.ERROR),
    )
    segments: int | None = declared(
        "details",
        tables={
            "retransmit": "how many segments the kernel adds to `TcpRetransSegs`. 0 where it gave up before that: no "
            "route, no memory"
        },
        kinds=(Kind.RETRANSMIT,),
    )
    send_error: str | None = declared(
        "details",
        tables={
            "retransmit": "the retransmission did not leave this host (Linux 6.17): `EPERM` by its own firewall, "
            "`NET_XMIT_DROP` by its queue, `EHOSTUNREACH` without a route, `EBUSY` while the segment waits in its "
            "queue still, …"
        },
        kinds=(Kind.RETRANSMIT, Kind.STALL),
    )
    direction: str | None = declared(
        "details",
        tables={
            "reset": "`received`: a RST closes the connection. What reaches an end that has closed is not a RST, "
            "though the kernel reports it as one (tcp_reset(), net/ipv4/tcp_input.c): there is only the reset that "
            "is sent in answer. `sent`: this host sends one. `refused`: a RST was in the window but not exact, and "
            "was answered with a challenge ACK instead (RFC 5961); the connection lives on (Linux 6.11)"
        },
        kinds=(Kind.RESET,),
    )
    reason: str | None = declared(
        "details",
        tables={
            "reset": "why it is sent, by the kernel's name: `NO_SOCKET`, `TCP_KEEPALIVE_TIMEOUT`, … (Linux 6.10)"
        },
        kinds=(Kind.RESET,),
    )
    errno: int | None = declared(
        "details",
        tables={
            "error": "the number that the application's next call on the socket returns: 110",
            "stall": "of an `end`: what the application got",
        },
        kinds=(Kind.ERROR, Kind.STALL),
    )
    error: str | None = declared(
        "details",
        tables={"error": "its name: `ETIMEDOUT`", "stall": "the name of `errno`"},
        kinds=(Kind.ERROR, Kind.STALL),
    )
    cause: str | None = declared(
        "details",
        tables={
            "resume": "`data`: it sent data, or acknowledged ours. `window`: it opened its window. `no-progress`: it "
            "sends, but does not acknowledge the data that is outstanding. The others are empty segments. "
            "`keepalive`: after keepalive probes of this end. `answer`: after a window probe that a process of this "
            "host has sent, as `tcpwatch probe` does. `probe`: it sent a probe, by its keepalive timer, for a closed "
            "window, or by such a process. `ack`: another one, as a window update",
            "lost": "`full`: the ring buffer had no room, see `--buffer-size`. `reentered`: an interrupt brought the "
            "event while the hook was at work on the same CPU, and the kernel does not run a hook within itself "
            "(Linux 5.12)",
        },
        kinds=(Kind.RESUME, Kind.LOST),
    )

    action: str | None = declared(
        "action", tables={"action": "the command: `probe`, `protect` or `end`"}, kinds=_ACTION
    )
    result: str | None = declared(
        "action", tables={"action": "what became of the connection: a word of the command's `--json`"}, kinds=_ACTION
    )
    rtt_ms: float | None = declared(
        "action", tables={"action": "of a probe with the result `alive`: its round trip"}, kinds=_ACTION
    )
    before: dict[str, int] | None = declared(
        "action",
        tables={"action": "of `protect`: an object with the settings before, as `protect --json` has it"},
        kinds=_ACTION,
    )
    after: dict[str, int] | None = declared(
        "action", tables={"action": "of `protect`: the settings after it"}, kinds=_ACTION
    )
    detail: str | None = declared(
        "action", tables={"action": "why, or what was sent"}, kinds=_ACTION, max_length=MAX_PATH
    )
    by_user: str | None = declared(
        "action", tables={"action": "the user who ran the command: with sudo, the one who called sudo"}, kinds=_ACTION
    )
    by_pid: int | None = declared(
        "action",
        tables={"action": "the process of the command. Absent where it has no number in tcpwatch's PID namespace"},
        kinds=_ACTION,
    )

    phase: str | None = declared(
        "stall",
        tables={
            "stall": "`begin`, `update` or `end`. A stall that is over as soon as it is seen (a reset) has only its "
            "`end`. Updates come when there is news, or seldom"
        },
        kinds=_STALL,
    )
    id: str | None = declared(
        "stall", tables={"stall": "the same for the begin, the updates and the end of a stall"}, kinds=_STALL
    )
    since: str | None = declared(
        "stall",
        tables={
            "stall": "when the unanswered data was first sent (RFC 3339 in UTC), whether tcpwatch ran then or not"
        },
        kinds=_STALL,
    )
    idle_ms: int | None = declared(
        "stall",
        tables={
            "stall": "the silence before `since`. Absent in a handshake",
            "resume": "the silence that the connection survived: `silent_ms` without the time for which data waited, "
            "and from the peer's latest keepalive probe on. Absent where the event proves none",
        },
        kinds=(Kind.STALL, Kind.RESUME),
    )
    survived_before: bool | None = declared(
        "stall",
        tables={"stall": "true: this connection had survived a silence of `idle_ms` or more before"},
        kinds=_STALL,
    )
    refused_reset: bool | None = declared(
        "stall",
        tables={"stall": "true: the kernel ignored a RST for this connection, because it was not exact (RFC 5961)"},
        kinds=_STALL,
    )
    verdict: str | None = declared(
        "stall", tables={"stall": "what it is consistent with, never more: see below"}, kinds=_STALL
    )
    retransmits: int | None = declared(
        "stall",
        tables={
            "stall": "the kernel's own count of unanswered retransmissions by timer, or of unanswered probes; those "
            "before tcpwatch started included. Probes of a closed window that it does not count are added"
        },
        kinds=_STALL,
    )
    gives_up_at: str | None = declared(
        "stall", tables={"stall": "when the kernel gives up, at the earliest (RFC 3339 in UTC)"}, kinds=_STALL
    )
    gives_up_in_ms: int | None = declared(
        "stall", tables={"stall": "how long `gives_up_at` is from `time`"}, kinds=_STALL
    )
    gives_up_window_ms: int | None = declared(
        "stall",
        tables={
            "stall": "how much later than `gives_up_at` it may be. Absent from the first RTO on: then it is exact to "
            "a few milliseconds, 15 minutes ahead"
        },
        kinds=_STALL,
    )
    one_way: bool | None = declared(
        "stall",
        tables={
            "stall": "true: the peer sends meanwhile, and acknowledges nothing. One direction of the path is dead"
        },
        kinds=_STALL,
    )
    survived_ms: int | None = declared(
        "stall",
        tables={"stall": "the longest silence that a connection to this service is known to have survived so far"},
        kinds=_STALL,
    )
    fatal_ms: int | None = declared(
        "stall",
        tables={"stall": "the shortest silence that is known to have been fatal to one so far"},
        kinds=_STALL,
    )
    outcome: str | None = declared(
        "stall",
        tables={
            "stall": "of an `end`: `recovered` (a segment acknowledged it, or a change of state or the kernel's "
            "count proves that) `timed-out` `reset` `closed` (by this end) `unreachable` `ongoing` (when the run "
            "ended, or events were lost), `presumed` (the next retransmission was not seen, nor the connection found "
            "in trouble: it was probably answered), `unseen` (the same, but by then it may have timed out), "
            "`alive` (of `unanswered`: the peer answered a probe, or acknowledged more data), `ended` (by "
            "`tcpwatch end`: an `action` of this connection says so)"
        },
        kinds=_STALL,
    )
    revoked: bool | None = declared(
        "stall",
        tables={
            "stall": "of an `update`, true: the `end` before it, `presumed`, `unseen` or `ongoing`, was wrong, and "
            "the stall goes on"
        },
        kinds=_STALL,
    )
    duration_ms: int | None = declared(
        "stall",
        tables={
            "stall": "of an `end`: from `since`",
            "lost": "the time before `ktime_ns` in which they were lost; with the hook `suspend`, how long the host "
            "slept",
        },
        kinds=(Kind.STALL, Kind.LOST),
    )
    advice: list[str] | None = declared(
        "stall",
        tables={
            "stall": "what to do: at most one line each that begins with `Check: `, `Release: `, `Protect: ` and "
            "`Cure: `, in this order, then further lines, most useful first; a command stands at the end after a "
            "colon, and works as it is, with `sudo` where it needs root"
        },
        kinds=_STALL,
        max_length=MAX_PATH,
    )

    retrans_segs: int | None = declared(
        "counters",
        tables={"counters": "`TcpRetransSegs`: the sum of `segments` of all retransmissions"},
        kinds=_COUNTERS,
    )
    keepalives: int | None = declared(
        "counters",
        tables={"counters": "`TcpExtTCPKeepAlive`: the number of `keepalive` events"},
        kinds=_COUNTERS,
    )
    timeouts: int | None = declared(
        "counters",
        tables={
            "counters": "`TcpExtTCPTimeouts`: expiries of the retransmission timer. Each is a `retransmit` of kind "
            "`rto`, `syn`, `synack` or `fin` with an `attempt`, or at last an `error`; see below"
        },
        kinds=_COUNTERS,
    )
    seen_retrans_segs: int | None = declared(
        "counters",
        tables={
            "counters": "in a compact recording: the sum of `segments` of the events since the last `counters` of "
            "`netns`, to compare with `retrans_segs`"
        },
        kinds=_COUNTERS,
    )
    seen_keepalives: int | None = declared(
        "counters", tables={"counters": "likewise, to compare with `keepalives`"}, kinds=_COUNTERS
    )
    seen_timeouts: int | None = declared(
        "counters", tables={"counters": "likewise, to compare with `timeouts`"}, kinds=_COUNTERS
    )
    late: bool | None = declared(
        "counters",
        tables={
            "counters": "true: the namespace was first seen after the start, so its first counts may be from before. "
            "Also of a namespace with the inode of one that ended"
        },
        kinds=_COUNTERS,
    )

    count: int | None = declared("lost", tables={"lost": "the number of lost events"}, kinds=_LOST)
    hook: str | None = declared(
        "lost",
        tables={"lost": "where they were lost; `output`, `recording` and `suspend` are explained below"},
        kinds=_LOST,
        max_length=MAX_PATH,
    )
    ring_percent: int | None = declared(
        "lost", tables={"lost": "how full the ring buffer is at `ktime_ns`"}, kinds=_LOST
    )
    ring_peak_percent: int | None = declared(
        "lost", tables={"lost": "how full the ring buffer was at most, within `duration_ms`"}, kinds=_LOST
    )
    unread_ms: int | None = declared(
        "lost",
        tables={
            "lost": "the longest time within `duration_ms` that tcpwatch did not look into the ring buffer. It looks "
            "every 250 ms at least. With more than that, tcpwatch was held up: by a lack of CPU, or by what it "
            "writes to. With less, events came faster than it can take them"
        },
        kinds=_LOST,
    )

    pids: list[int] | None = declared(
        "owner",
        "the processes that hold the socket, lowest pid first. Absent once it is an orphan, or all of them have "
        "ended",
        in_stalls=True,
    )
    pid: int | None = declared(
        "owner",
        "the first of `pids`; after the last one has gone, who held it last. A process without a number in "
        "tcpwatch's PID namespace has no `pid`",
        in_stalls=True,
    )
    comm: str | None = declared("owner", "the name of that process", in_stalls=True, max_length=MAX_PATH)
    exe: str | None = declared(
        "owner",
        "name of the program file that `pid` executes, at most 35 bytes, where that is not `comm`: `python3.11` of "
        "`gunicorn`, `node` of `MainThread`. Also absent where `comm` is its first 15 bytes, which is all that a "
        "`comm` holds",
        in_stalls=True,
        max_length=MAX_PATH,
    )
    cgroup: str | None = declared(
        "owner", "path of the cgroup the socket was made in (cgroup v2)", in_stalls=True, max_length=MAX_PATH
    )
    container: str | None = declared(
        "owner",
        "id of the container that the cgroup belongs to, or the name of an LXC or systemd-nspawn container; of a "
        "container within a container, the outer one",
        in_stalls=True,
    )
    container_name: str | None = declared(
        "owner", "its name, where files of Kubernetes, Docker or Podman on this host have it", in_stalls=True
    )
    pod: str | None = declared(
        "owner",
        "name of the Kubernetes pod, from the names of its log files. Without them the HOSTNAME of `pid`, which is "
        "the container's own word; `pod_namespace` is then absent",
        in_stalls=True,
    )
    pod_namespace: str | None = declared("owner", "Kubernetes namespace of the pod", in_stalls=True)
    unit: str | None = declared(
        "owner",
        "systemd unit of this host, outside any container: `nginx.service`. `user@1000.service/worker.service` is a "
        "unit of that user's manager, which the user has named",
        in_stalls=True,
    )

    @classmethod
    def of(cls, known: dict[str, Any]) -> Event:
        """An event with these fields, which are not checked. The event keeps the dictionary itself."""
        event = object.__new__(cls)
        event.__dict__ = known
        return event

    def known(self) -> dict[str, Any]:
        """The fields by name. An unknown field is None or absent."""
        return self.__dict__

    def whole(self) -> Event:
        """The event with all its fields at hand: itself, or what a lazy event is put together to."""
        return self

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Event):
            return NotImplemented
        return _present(self) == _present(other)


DECLARATIONS = declarations(Event)
"""The fields of an event, in the order of JSON lines."""
OWNERS_NAMES = ("container", "container_name", "pod", "pod_namespace", "unit")
"""The fields that name where an owner runs."""
TEXTS = tuple(name for name, json_type in json_types(Event).items() if json_type == "str")
CARRIED_BY_STALLS = tuple(name for name, each in DECLARATIONS.items() if each.in_stalls and each.group != "owner")
"""The fields that a stall copies from its newest event, the owner's aside."""


def names_of(*groups: str) -> tuple[str, ...]:
    """The fields of these groups, in the order of JSON lines."""
    return tuple(name for name, each in DECLARATIONS.items() if each.group in groups)


def _present(event: Event) -> dict[str, Any]:
    return {name: value for name, value in event.known().items() if value is not None}


class Batch(NamedTuple):
    """Events in the order in which they are to be processed.

    until_ns, CLOCK_BOOTTIME: no later batch has an event from before it. A batch without events reports that nothing
    happened until then. has_gap: events before the first of these are missing.
    """

    events: Sequence[Event]
    until_ns: int
    has_gap: bool = False


def size_of(event: Event) -> int:
    """The approximate memory of an event in bytes, if it shares no value with others."""
    known = event.known()
    size = 160 * len(known)  # a name, a place in the dictionary, and a number or the fixed part of a text
    for value in known.values():
        if type(value) is str:
            size += len(value) if value.isascii() else 4 * len(value)
        elif type(value) in (dict, list):
            size += getsizeof(value) + sum(map(getsizeof, value))
    return size


def error_name(number: int) -> str:
    """`ETIMEDOUT` for 110."""
    return errno.errorcode.get(number, f"errno {number}")
