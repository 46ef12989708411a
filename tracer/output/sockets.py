"""The result of `tcpwatch sockets`: a row for each connection, and what a firewall would strand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from tracer.analysis.clients import Client, clients_of, filled, if_this_is, server_of
from tracer.analysis.idle_timeouts import IdleTimeoutRange
from tracer.analysis.keepalive_time import DEFAULT_KEEPALIVE_S, keepalive_for, why_default
from tracer.analysis.risk import KEEPALIVE_LATE, KEEPALIVE_OFF, STRANDED, WAITING, first_probe_s, gives_up_s
from tracer.analysis.timer_wheel import lateness
from tracer.model.durations import setting
from tracer.model.sockets import Socket
from tracer.output.format import duration, endpoint, owner, plural, safe, size
from tracer.output.table import table
from tracer.recordings.encoding import socket_to_line

_HEDGE = (
    "not seen from here: whether such a firewall is on the path, keepalive probes of the peer, "
    "timeouts and heartbeats of the application"
)
_NOTHING = "-"
_SHOWN_NAMESPACES = 4
_SHOWN_PROGRAMS = 6


def sockets_as_json(sockets: Iterable[Socket]) -> Iterator[str]:
    """A line for each socket. Everything outside ASCII is escaped, so no terminal acts on it."""
    for socket in sockets:
        yield socket_to_line(socket)


def sockets_as_text(sockets: Sequence[Socket]) -> str:
    """A table, in the order given."""
    return table(
        ["LOCAL", "REMOTE", "STATE", "SILENT", "TIMER", "KEEPALIVE", "OWNER"],
        [
            (
                *_ends(socket),
                socket.state or _NOTHING,
                _duration(socket.silent_ms),
                _timer(socket),
                _keepalive(socket),
                owner(socket) + _detail(socket),
            )
            for socket in sockets
        ],
    )


def risks_as_text(sockets: Sequence[Socket], ttl_s: float, hz: int) -> str:
    """The sockets at risk, the worst first: a sentence for each kind with a table below it, then what helps.

    ttl_s: seconds of silence after which the firewall forgets. hz: the kernel's jiffies per second.
    """
    paragraphs = []
    for reasons, group in groupby(sockets, key=lambda socket: tuple(socket.at_risk or ())):
        rows = list(group)
        paragraphs.append(f"{_heading(reasons, len(rows), ttl_s)}\n{_table_at_risk(reasons, rows, hz)}")
    helps = list(_what_helps(sockets, ttl_s, hz))
    if helps:
        paragraphs.append("\n".join(helps) + "\n")
    return "\n".join(paragraphs)


def about_sockets(found: Sequence[Socket], shown: Sequence[Socket], ttl_s: float | None) -> Iterator[str]:
    """What to say beside the rows: how many there were, and with ttl_s how far they can be trusted."""
    namespaces = plural(len({socket.netns for socket in found}), "network namespace")
    if ttl_s is None:
        yield f"{plural(len(shown), 'connection')} in {namespaces}"
        return
    yield (
        f"{len(shown):,} of {plural(len(found), 'connection')} in {namespaces} would be stranded by a firewall that "
        f"forgets after {_ttl(ttl_s)} of silence"
    )
    yield _HEDGE


def _heading(reasons: Sequence[str], count: int, ttl_s: float) -> str:
    ttl = _ttl(ttl_s)
    why = "keepalive is off" if KEEPALIVE_OFF in reasons else "keepalive comes too late"
    one = count == 1
    who = plural(count, "connection")
    if WAITING in reasons:
        waits = "waits" if one else "wait"
        until = "for ever" if KEEPALIVE_OFF in reasons else "until keepalive gives up"
        if STRANDED in reasons:
            return (
                f"{who} {waits} for an answer that such a firewall drops, {until}: silent for more than {ttl}; {why}."
            )
        return f"{who} {waits} for an answer, {until} if it does not come within {ttl} of silence: {why}."
    if STRANDED in reasons:
        return f"{who} would be stranded already, silent for more than {ttl}: {why}."
    return f"{who} would be stranded by {ttl} of silence: {why}."


def _table_at_risk(reasons: Sequence[str], rows: Sequence[Socket], hz: int) -> str:
    headings = ["LOCAL", "REMOTE", "SILENT"]
    if WAITING in reasons:
        headings.append("WAITING")
    if KEEPALIVE_LATE in reasons:
        headings += ["KEEPALIVE", "PROBE"]
        if WAITING in reasons:
            headings.append("GIVES UP")
    headings.append("OWNER")
    cells = []
    for socket in rows:
        row = {
            "SILENT": _duration(socket.silent_ms),
            "WAITING": _duration(socket.waiting_ms),
            "KEEPALIVE": _keepalive(socket),
            "PROBE": _seconds(first_probe_s(socket, hz)),
            "GIVES UP": _seconds(gives_up_s(socket, hz)),
            "OWNER": owner(socket),
        }
        cells.append((*_ends(socket), *(row[heading] for heading in headings[2:])))
    return table(headings, cells)


def _what_helps(sockets: Sequence[Socket], ttl_s: float, hz: int) -> Iterator[str]:
    seconds = keepalive_for(IdleTimeoutRange(survived_ms=None, fatal_ms=None), round(ttl_s * 1000), hz)
    if seconds is None:
        return
    off = [socket for socket in sockets if KEEPALIVE_OFF in (socket.at_risk or ())]
    late = [socket for socket in sockets if KEEPALIVE_LATE in (socket.at_risk or ())]
    is_own = any(socket.keepalive_idle_own for socket in late)
    commands = list(_sysctls([socket for socket in late if not socket.keepalive_idle_own], seconds, ttl_s, hz))
    if off:
        yield (
            "Where keepalive is off, no sysctl turns it on. The application has to set SO_KEEPALIVE, and "
            f"TCP_KEEPIDLE={seconds} or net.ipv4.tcp_keepalive_time={seconds}."
        )
    if any(_is_late(socket.keepalive_interval_s or 0, ttl_s, hz) for socket in off):
        yield f"The interval must be short, too: TCP_KEEPINTVL={seconds} or net.ipv4.tcp_keepalive_intvl={seconds}."
    yield from _settings(off, seconds)
    if is_own:
        yield (
            "Where the application set TCP_KEEPIDLE itself, only the application can lower it: "
            f"TCP_KEEPIDLE={seconds} and TCP_KEEPINTVL={seconds} or less."
        )
        yield from _settings([socket for socket in late if socket.keepalive_idle_own], seconds)
    yield from commands
    if any(not socket.keepalive_idle_own for socket in late):
        yield "An armed timer keeps its expiry. Connections that are open now use a new value when it expires."
    if seconds == DEFAULT_KEEPALIVE_S and (off or is_own or commands):
        yield why_default()


def _settings(sockets: Sequence[Socket], seconds: int) -> Iterator[str]:
    """What the programs that own them call the setting, for those that own most."""

    def setting_of(client: Client) -> str | None:
        setting = client.probes or client.server_probes or client.heartbeat
        return filled(setting, seconds) if setting else None

    known: Counter[str] = Counter()
    for socket in sockets:
        is_server = bool(socket.accepted)
        server = server_of(socket.comm, socket.exe)
        clients = clients_of(socket.comm, socket.exe, socket.rport, socket.keepalive)
        candidates = ([server] if server else []) if is_server else clients
        how = if_this_is(candidates, setting_of, is_server=is_server)
        if how:
            where = f"from port {socket.lport}" if is_server else f"to port {socket.rport}"
            known[f"{safe(socket.comm or '?')} {where}, {how}"] += 1
    yield from (line for line, _ in known.most_common(_SHOWN_PROGRAMS))
    if len(known) > _SHOWN_PROGRAMS:
        yield f"… and settings of {plural(len(known) - _SHOWN_PROGRAMS, 'more program')}: select them with --comm."


def _sysctls(sockets: Sequence[Socket], seconds: int, ttl_s: float, hz: int) -> Iterator[str]:
    """A command for each network namespace that has one of these sockets, with what is too long there."""
    by_netns: dict[int, tuple[str, str]] = {}
    for socket in sockets:
        times = {"time": socket.keepalive_idle_s or 0, "intvl": socket.keepalive_interval_s or 0}
        settings = [f"net.ipv4.tcp_keepalive_{name}={seconds}" for name, s in times.items() if _is_late(s, ttl_s, hz)]
        if settings:
            inside = f"nsenter -t {socket.pids[0]} -n " if socket.pids else by_netns.get(socket.netns or 0, ("",))[0]
            by_netns[socket.netns or 0] = inside, " ".join(settings)
    for netns, (inside, settings_there) in sorted(by_netns.items())[:_SHOWN_NAMESPACES]:
        yield f"In network namespace {netns}: {inside}sysctl -w {settings_there}"
    if len(by_netns) > _SHOWN_NAMESPACES:
        yield f"The same in {plural(len(by_netns) - _SHOWN_NAMESPACES, 'more network namespace')}."


def _is_late(seconds: int, ttl_s: float, hz: int) -> bool:
    """Whether a probe that is due after that time may come after the timeout."""
    return seconds + lateness(seconds, hz) > ttl_s


def _ends(socket: Socket) -> tuple[str, str]:
    return endpoint(socket.laddr, socket.lport), endpoint(socket.raddr, socket.rport)


def _duration(ms: int | None) -> str:
    return _NOTHING if ms is None else duration(ms)


def _seconds(seconds: float | None) -> str:
    return "never" if seconds is None else duration(seconds * 1000)


def _timer(socket: Socket) -> str:
    """`1h59m` until the keepalive timer looks again; `on 3.0s #4`, `persist 5.2s #2` with what went unanswered."""
    if socket.timer is None:
        return _NOTHING
    kind = "" if socket.timer == "keepalive" else f"{safe(socket.timer)} "
    attempt = f" #{socket.attempt}" if socket.attempt else ""
    return f"{kind}{_duration(socket.timer_ms)}{attempt}"


def _keepalive(socket: Socket) -> str:
    """`off`, or `2h+9x75s`: the first probe after two hours of silence, the peer dead after 9 times 75 s more."""
    if socket.keepalive is None or socket.keepalive_idle_s is None:
        return _NOTHING
    if not socket.keepalive:
        return "off"
    return f"{setting(socket.keepalive_idle_s)}+{socket.keepalive_probes}x{setting(socket.keepalive_interval_s or 0)}"


def _ttl(seconds: float) -> str:
    return setting(int(seconds)) if seconds == int(seconds) else f"{seconds:g}s"


def _detail(socket: Socket) -> str:
    """What is going on, where anything is."""
    told = []
    if socket.waiting:
        told.append(f"waiting {_duration(socket.waiting_ms)}")
    for count, what in (
        (socket.unacked_bytes, "unacked"),
        (socket.unsent_bytes, "unsent"),
        (socket.unread_bytes, "unread"),
    ):
        if count:
            told.append(f"{size(count)} {what}")
    if socket.soft_error:
        told.append(safe(socket.soft_error))
    return f" ({', '.join(told)})" if told else ""
