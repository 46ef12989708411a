"""The output of `tcpwatch sockets --at-risk`: what an idle timeout would drop, and what helps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

from tracer.analysis.clients import Client, clients_of, filled, if_this_is, server_of
from tracer.analysis.idle_timeouts import IdleTimeoutRange
from tracer.analysis.keepalive_time import DEFAULT_KEEPALIVE_S, keepalive_for, why_default
from tracer.analysis.risk import KEEPALIVE_LATE, KEEPALIVE_OFF, STRANDED, WAITING, first_probe_s, gives_up_s
from tracer.analysis.socket_groups import Group, grouped
from tracer.analysis.timer_wheel import lateness
from tracer.model.durations import setting
from tracer.model.sockets import Socket
from tracer.output.format import duration, owner, plural, safe
from tracer.output.rows import Row, table, wrapped
from tracer.output.sockets import GROUPS, LOCAL_REMOTE, View, pair, ttl_in_words
from tracer.output.sockets_words import keepalive, keepalive_of_group, range_in_words, time_of, title

_MAX_NAMESPACES = 4
_MAX_PROGRAMS = 6
_MAX_SERVICES = 3
_COMMAND = "    sudo "


def risks_as_text(sockets: Sequence[Socket], ttl_s: float, view: View) -> Iterator[str]:
    """A sentence and a table for each kind of risk, the worst first, then what helps.

    sockets: those at risk. ttl_s: the firewall's idle timeout, seconds.
    """
    is_first = True
    for reasons, group in groupby(sockets, key=lambda socket: tuple(socket.at_risk or ())):
        found = list(group)
        yield "" if is_first else "\n"
        yield from (f"{line}\n" for line in wrapped(_heading(reasons, len(found), ttl_s), view.width, indent=""))
        yield from _table(reasons, found, view)
        is_first = False
    helps = list(_what_helps(sockets, ttl_s, view))
    if helps:
        yield "\n"
    for line in helps:
        is_command = line.startswith(_COMMAND)
        yield from (f"{each}\n" for each in ([line] if is_command else wrapped(line, view.width, indent="")))


def _table(reasons: Sequence[str], sockets: Sequence[Socket], view: View) -> Iterator[str]:
    names = ["SILENT"]
    if WAITING in reasons:
        names.append("WAITING")
    if KEEPALIVE_LATE in reasons:
        names += ["KEEPALIVE", "PROBE"]
        if WAITING in reasons:
            names.append("GIVES UP")
    if view.each:
        rows = [Row(pair(socket), _cells(names, _of_socket(socket, view.hz)), owner(socket)) for socket in sockets]
        headings = Row(LOCAL_REMOTE, tuple(names), "OWNER")
    else:
        groups = grouped(sockets)
        rows = [Row(title(group, view.limit), _cells(names, _of_group(group, view.hz))) for group in groups]
        headings = Row(GROUPS, tuple(names))
    yield from table(headings, rows, view.width, truncated=view.is_terminal)


def _cells(names: Sequence[str], of: dict[str, str]) -> tuple[str, ...]:
    return tuple(of[name] for name in names)


def _of_socket(socket: Socket, hz: int) -> dict[str, str]:
    return {
        "SILENT": time_of(socket.silent_ms),
        "WAITING": time_of(socket.waiting_ms),
        "KEEPALIVE": keepalive(socket),
        "PROBE": _seconds(first_probe_s(socket, hz)),
        "GIVES UP": _seconds(gives_up_s(socket, hz)),
    }


def _of_group(group: Group, hz: int) -> dict[str, str]:
    """Ranges, and the latest of the times until something is sent or given up."""
    waiting_ms = group.range_of(lambda socket: socket.waiting_ms)
    return {
        "SILENT": range_in_words(group.silent_ms()),
        "WAITING": time_of(waiting_ms[1] if waiting_ms is not None else None),
        "KEEPALIVE": keepalive_of_group(group),
        "PROBE": _seconds(_latest(group, lambda socket: first_probe_s(socket, hz))),
        "GIVES UP": _seconds(_latest(group, lambda socket: gives_up_s(socket, hz))),
    }


def _latest(group: Group, seconds_of: Callable[[Socket], float | None]) -> float | None:
    seconds = [seconds_of(socket) for socket in group.sockets]
    known = [each for each in seconds if each is not None]
    return max(known) if len(known) == len(seconds) else None


def _seconds(seconds: float | None) -> str:
    return "never" if seconds is None else duration(seconds * 1000)


def _heading(reasons: Sequence[str], count: int, ttl_s: float) -> str:
    ttl = ttl_in_words(ttl_s)
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


def _what_helps(sockets: Sequence[Socket], ttl_s: float, view: View) -> Iterator[str]:
    hz = view.hz
    seconds = keepalive_for(IdleTimeoutRange(survived_ms=None, fatal_ms=None), round(ttl_s * 1000), hz)
    if seconds is None:
        return
    off = [socket for socket in sockets if KEEPALIVE_OFF in (socket.at_risk or ())]
    late = [socket for socket in sockets if KEEPALIVE_LATE in (socket.at_risk or ())]
    is_own = any(socket.keepalive_idle_own for socket in late)
    commands = list(_sysctls([socket for socket in late if not socket.keepalive_idle_own], seconds, ttl_s, view))
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
    if sockets:
        yield "On open connections, at once and without a restart:"
        yield from _protect(sockets, seconds)
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


def _sysctls(sockets: Sequence[Socket], seconds: int, ttl_s: float, view: View) -> Iterator[str]:
    """A command for each network namespace of these sockets, with the values that are too long there."""
    by_netns: dict[int | None, tuple[str, str]] = {}
    for socket in sockets:
        times = {"time": socket.keepalive_idle_s, "intvl": socket.keepalive_interval_s}
        settings = [
            f"net.ipv4.tcp_keepalive_{name}={seconds}" for name, s in times.items() if _is_late(s, ttl_s, view.hz)
        ]
        if settings:
            inside = f"nsenter -t {socket.pids[0]} -n " if socket.pids else by_netns.get(socket.netns, ("",))[0]
            by_netns[socket.netns] = inside, " ".join(settings)
    for netns in sorted(by_netns, key=lambda netns: -1 if netns is None else netns)[:_MAX_NAMESPACES]:
        inside, settings_there = by_netns[netns]
        is_own = netns == view.own_netns
        yield "In this network namespace:" if is_own else f"In network namespace {netns}:"
        yield f"{_COMMAND}{'' if is_own else inside}sysctl -w {settings_there}"
    if len(by_netns) > _MAX_NAMESPACES:
        yield f"… and likewise in {plural(len(by_netns) - _MAX_NAMESPACES, 'more network namespace')}."


def _protect(sockets: Sequence[Socket], seconds: int) -> Iterator[str]:
    """A command for each service, for those with most of the sockets."""
    known = Counter(
        f"--lport {socket.lport}" if socket.accepted else f"--rport {socket.rport}"
        for socket in sockets
        if (socket.lport if socket.accepted else socket.rport)
    )
    for filters, _ in known.most_common(_MAX_SERVICES):
        yield f"{_COMMAND}tcpwatch protect {filters} --idle {setting(seconds)}"
    if len(known) > _MAX_SERVICES:
        yield f"… and likewise for {plural(len(known) - _MAX_SERVICES, 'more service')}."


def _is_late(seconds: int | None, ttl_s: float, hz: int) -> bool:
    """Whether a probe that is due after this time may come after the timeout. None: unknown, so no."""
    return seconds is not None and seconds + lateness(seconds, hz) > ttl_s
