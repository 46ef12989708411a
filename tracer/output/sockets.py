"""The output of `tcpwatch sockets`: a row for each connection, and with --at-risk the advice."""

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
    "not visible from this host: whether such a firewall is on the path, keepalive probes of the peer, "
    "timeouts and heartbeats of the application"
)
_NOTHING = "-"
_MAX_NAMESPACES = 4
_MAX_PROGRAMS = 6


def sockets_as_json(sockets: Iterable[Socket]) -> Iterator[str]:
    """A line for each socket. Everything outside ASCII is escaped, so that no terminal interprets it."""
    for socket in sockets:
        yield socket_to_line(socket)


def sockets_as_text(sockets: Sequence[Socket]) -> str:
    """A table of the sockets, in their order."""
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
    """A sentence and a table for each kind of risk, the worst first, then what helps.

    sockets: those at risk. ttl_s: the firewall's idle timeout, seconds. hz: the kernel's jiffies per second.
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
    """Lines for stderr: the number of connections, and with ttl_s what tcpwatch cannot know."""
    namespaces = plural(len({socket.netns for socket in found}), "network namespace")
    if ttl_s is None:
        yield f"{plural(len(shown), 'connection')} in {namespaces}"
        return
    yield (
        f"{len(shown):,} of {plural(len(found), 'connection')} in {namespaces} would be dropped by a firewall with "
        f"an idle timeout of {_ttl(ttl_s)}"
    )
    yield _HEDGE


def _heading(reasons: Sequence[str], count: int, ttl_s: float) -> str:
    ttl = _ttl(ttl_s)
    why = "Keepalive is off" if KEEPALIVE_OFF in reasons else "Keepalive comes too late"
    is_one = count == 1
    who = plural(count, "connection")
    if WAITING in reasons:
        waits = f"{who} {'waits' if is_one else 'wait'} for a reply"
        until = f"{'it waits' if is_one else 'they wait'} " + (
            "with no time limit" if KEEPALIVE_OFF in reasons else "until keepalive gives up"
        )
        if STRANDED in reasons:
            return f"{waits}, silent for more than {ttl}. Such a firewall drops the reply. {why}: {until}."
        return f"{waits}. After {ttl} of silence such a firewall drops the reply. {why}: {until}."
    if STRANDED in reasons:
        has = "has" if is_one else "have"
        return f"{who} {has} been silent for more than {ttl}. Such a firewall has forgotten {_it(is_one)}. {why}."
    return f"{who} would be forgotten after {ttl} of silence. {why}."


def _it(is_one: bool) -> str:
    return "it" if is_one else "them"


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
            "No sysctl turns keepalive on. The application has to set SO_KEEPALIVE, and "
            f"TCP_KEEPIDLE={seconds} or net.ipv4.tcp_keepalive_time={seconds}."
        )
    if any(_is_late(socket.keepalive_interval_s, ttl_s, hz) for socket in off):
        yield f"The interval must be short, too: TCP_KEEPINTVL={seconds} or net.ipv4.tcp_keepalive_intvl={seconds}."
    yield from _settings(off, seconds)
    if is_own:
        yield (
            "If the application set TCP_KEEPIDLE itself, only the application can lower it: "
            f"TCP_KEEPIDLE={seconds} and TCP_KEEPINTVL={seconds} or less."
        )
        yield from _settings([socket for socket in late if socket.keepalive_idle_own], seconds)
    yield from commands
    if any(not socket.keepalive_idle_own for socket in late):
        yield "Open connections use a new value when their current timer expires."
    if seconds == DEFAULT_KEEPALIVE_S and (off or is_own or commands):
        yield why_default()


def _settings(sockets: Sequence[Socket], seconds: int) -> Iterator[str]:
    """The setting in the words of each program, for the programs with most of the sockets."""

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
    yield from (line for line, _ in known.most_common(_MAX_PROGRAMS))
    if len(known) > _MAX_PROGRAMS:
        yield f"… and settings of {plural(len(known) - _MAX_PROGRAMS, 'more program')}: select them with --comm."


def _sysctls(sockets: Sequence[Socket], seconds: int, ttl_s: float, hz: int) -> Iterator[str]:
    """A command for each network namespace of these sockets, with the values that are too long there."""
    by_netns: dict[int | None, tuple[str, str]] = {}
    for socket in sockets:
        times = {"time": socket.keepalive_idle_s, "intvl": socket.keepalive_interval_s}
        settings = [f"net.ipv4.tcp_keepalive_{name}={seconds}" for name, s in times.items() if _is_late(s, ttl_s, hz)]
        if settings:
            inside = f"nsenter -t {socket.pids[0]} -n " if socket.pids else by_netns.get(socket.netns, ("",))[0]
            by_netns[socket.netns] = inside, " ".join(settings)
    for netns in sorted(by_netns, key=lambda netns: -1 if netns is None else netns)[:_MAX_NAMESPACES]:
        inside, settings_there = by_netns[netns]
        yield f"In network namespace {netns}: {inside}sysctl -w {settings_there}"
    if len(by_netns) > _MAX_NAMESPACES:
        yield f"… and likewise in {plural(len(by_netns) - _MAX_NAMESPACES, 'more network namespace')}."


def _is_late(seconds: int | None, ttl_s: float, hz: int) -> bool:
    """Whether a probe that is due after this time may come after the timeout. None: unknown, so no."""
    return seconds is not None and seconds + lateness(seconds, hz) > ttl_s


def _ends(socket: Socket) -> tuple[str, str]:
    return endpoint(socket.laddr, socket.lport), endpoint(socket.raddr, socket.rport)


def _duration(ms: int | None) -> str:
    return _NOTHING if ms is None else duration(ms)


def _seconds(seconds: float | None) -> str:
    return "never" if seconds is None else duration(seconds * 1000)


def _timer(socket: Socket) -> str:
    """`1h59m` until the keepalive timer expires; `on 3.0s #4`, `persist 5.2s #2` with the unanswered attempts."""
    if socket.timer is None:
        return _NOTHING
    kind = "" if socket.timer == "keepalive" else f"{safe(socket.timer)} "
    attempt = f" #{socket.attempt}" if socket.attempt else ""
    return f"{kind}{_duration(socket.timer_ms)}{attempt}"


def _keepalive(socket: Socket) -> str:
    """`off`, or `2h+9x75s`: the first probe after two hours of silence, and the end after 9 probes every 75s."""
    if socket.keepalive is None or socket.keepalive_idle_s is None or socket.keepalive_interval_s is None:
        return _NOTHING
    if not socket.keepalive:
        return "off"
    return f"{setting(socket.keepalive_idle_s)}+{socket.keepalive_probes}x{setting(socket.keepalive_interval_s)}"


def _ttl(seconds: float) -> str:
    return setting(int(seconds)) if seconds == int(seconds) else f"{seconds:g}s"


def _detail(socket: Socket) -> str:
    """What is in progress, in parentheses."""
    details = []
    if socket.waiting:
        details.append(f"waiting {_duration(socket.waiting_ms)}")
    for count, what in (
        (socket.unacked_bytes, "unacked"),
        (socket.unsent_bytes, "unsent"),
        (socket.unread_bytes, "unread"),
    ):
        if count:
            details.append(f"{size(count)} {what}")
    if socket.soft_error:
        details.append(safe(socket.soft_error))
    return f" ({', '.join(details)})" if details else ""
