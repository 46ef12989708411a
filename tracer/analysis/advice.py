"""What to do about a stall, and what to change so that it does not come back.

Sentences for a person, never more certain than the evidence: from one end of a connection nobody can see the path.
What is said about the kernel was measured (tests/kernel/test_advice.py); what clients and servers call their
settings is in :mod:`tracer.analysis.clients`, what firewalls do in :mod:`tracer.analysis.middleboxes`.
"""

from __future__ import annotations

import errno
import ipaddress
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from tracer.analysis.clients import (
    HEARTBEATS,
    INTERVAL_S,
    MYSQL,
    POSTGRESQL,
    REDIS,
    Client,
    clients_of,
    filled,
    if_this_is,
    one_of,
    server_of,
)
from tracer.analysis.expiry import lateness
from tracer.analysis.idle_timeouts import Bracket, service_of
from tracer.analysis.keepalive import (
    DEFAULT_KEEPALIVE_S,
    is_cautious,
    is_proven,
    keepalive_for,
    narrowed,
    why_default,
)
from tracer.analysis.middleboxes import Middlebox, matching
from tracer.model.durations import duration, setting
from tracer.model.events import Event

MAX_NAME = 32
_TURN_ON = "the application has to set SO_KEEPALIVE"
_ERRORS = frozenset(errno.errorcode.values())
_SYSCTLS = "sysctl -w net.ipv4.tcp_keepalive_time={seconds} net.ipv4.tcp_keepalive_intvl={interval}"
_SERVER_PROBES = {
    MYSQL: f"MySQL and MariaDB have keepalive on. There: {_SYSCTLS}",
    POSTGRESQL: f"PostgreSQL has keepalive on. There: {_SYSCTLS}",
    REDIS: "Redis has keepalive on, with a time of its own. There: redis-cli CONFIG SET tcp-keepalive {seconds}",
}
_IDLE_LIMITS = {
    MYSQL: "MySQL and MariaDB close after wait_timeout of silence (28800 s by default): "
    "SHOW GLOBAL VARIABLES LIKE 'wait_timeout'",
    POSTGRESQL: "PostgreSQL closes after idle_session_timeout of silence, if that is set: SHOW idle_session_timeout",
    REDIS: "Redis closes after `timeout` of silence, if that is set: CONFIG GET timeout",
}


@dataclass(frozen=True, slots=True)
class Case:
    """A stall, and what is known around it.

    verdict: one of tracer.analysis.verdicts. event: the newest of it. idle_ms: the silence before it, milliseconds.
    over: it has ended, so that there is nothing to relieve. hz: the kernel's ticks a second. bracket: of the service
    that is talked to. refused_reset: the kernel refused a RST on this connection before (RFC 5961).
    survived_as_much: this connection survived as much silence before, ended by a probe or by data.
    """

    verdict: str
    event: Event
    idle_ms: int | None
    over: bool
    hz: int
    bracket: Bracket
    refused_reset: bool
    survived_as_much: bool


def advice(case: Case) -> list[str]:
    """Sentences, the most useful first; a command stands at the end after a colon, to be copied. Maybe none.

    Text from outside the kernel (process names, a recording's addresses) is in none of them unless it was parsed.
    """
    if case.event.mptcp:
        goes_on = "An MPTCP connection goes on while one of its subflows works. To see them"
        return [f"{goes_on}{_there(case.event)}ss -tiM"]
    say = _BY_VERDICT.get(case.verdict)
    return say(case) if say else []


def _idle_drop(case: Case) -> list[str]:
    if _is_in_doubt(case):
        return [*_orphan(case), *_doubt(case), *_relief(case), *_refused(case), *_bound(case)]
    return [
        *_orphan(case),
        *_cure(case),
        *_relief(case),
        *_refused(case),
        *_bound(case),
        *_raise_timeout(case),
        *_suspects(case, "reset"),
        *_try_again(case, "if it connects at once, a forgotten session is the likely cause"),
    ]


def _idle_reset(case: Case) -> list[str]:
    restart = "A peer that restarted, or closed after an idle limit of its own, may answer with a RST, too."
    if _is_in_doubt(case):
        return [*_doubt(case), restart]
    return [*_cure(case), restart, *_raise_timeout(case), *_suspects(case, "silent")]


def _keepalive_failed(case: Case) -> list[str]:
    did = "Nobody answers the keepalive probes: the path or the peer is dead."
    if case.survived_as_much:
        return [
            did,
            "It survived as much silence before: look for a failover, a reboot, a route change.",
            *_relief(case),
        ]
    sooner = _set(
        case, "If the first probe always fails, the session is forgotten before it comes. Lower its time to"
    )
    return [did, *sooner, *_relief(case)]


def _unreachable(case: Case) -> list[str]:
    event = case.event
    error = next((each for each in (event.soft_error, event.send_error) if each in _ERRORS), None)
    told = f" ({error})" if error else ""
    what = (
        f"An ICMP error came back{told}: a host or router is down, has no route, or a rule rejects"
        if event.soft_error or not event.send_error
        else f"This host cannot send to the peer{told}: it has no route or no neighbour for it"
    )
    peer = _address(event.raddr)
    return [f"{what}{_there(event)}ip route get {peer}" if peer else f"{what}.", *_relief(case), *_bound(case)]


def _local_drop(case: Case) -> list[str]:
    """Only two of the errors tell the firewall from the queue."""
    event = case.event
    there, peer = _there(event), _address(event.raddr)
    rules = f"Look for a rule that drops it, in chains with the hook output or postrouting{there}nft list ruleset"
    queue = f"Look for drops in the queue of its interface{there}tc -s qdisc"
    route = [f"Look whether there is a route to the peer{there}ip route get {peer}"] if peer else []
    if event.send_error in ("EPERM", "EACCES"):
        looks = [rules]
    elif event.send_error is not None:
        looks = [queue]
    else:
        looks = [rules, queue, *route]
    return [*_orphan(case), *looks, *_relief(case), *_bound(case)]


def _path_loss(case: Case) -> list[str]:
    return [
        *_orphan(case),
        *_try_again(case, "if that hangs, too, look at the path and the peer"),
        *_relief(case),
        *_bound(case),
    ]


def _unanswered(case: Case) -> list[str]:
    """From here a slow query, a stopped peer and a lost reply look alike; the other end's socket tells them apart."""
    return [*_look_there(case.event), *_end_the_wait(case), *_relief(case)]


def _look_there(event: Event) -> list[str]:
    local = _address(event.laddr)
    if local is None or event.lport is None or event.rport is None:
        return []
    return [
        "Look at this connection on the peer. Recv-Q above 0: its application does not read. timer:(on,...): its "
        "reply is not acknowledged, the path drops it. Neither: it is still at work. "
        f"There: ss -tno sport = :{event.rport} dst {_quoted(local)} dport = :{event.lport}"
    ]


def _end_the_wait(case: Case) -> list[str]:
    event = case.event
    timeout = "Set a read timeout in the client: TCP_USER_TIMEOUT does not end this wait, since nothing is in flight."
    if event.keepalive is not False:
        return [timeout]
    on = _if_this_is(event, lambda client: client.probes and filled(client.probes, DEFAULT_KEEPALIVE_S))
    return [
        "With keepalive on, the wait would end if the peer is dead, and firewalls would keep the session; "
        f"{on or _TURN_ON}",
        timeout,
        *_own_heartbeat(event),
    ]


def _own_heartbeat(event: Event) -> list[str]:
    """A hedge for protocols whose libraries end a wait by themselves, which no socket shows."""
    port, _ = _service(event)
    protocol = HEARTBEATS.get(port or 0)
    if protocol is None:
        return []
    return [f"A heartbeat or request timeout of the {protocol} client, if it has one, ends this wait by itself."]


def _packet_loss(case: Case) -> list[str]:
    return [
        "Packets are lost now and then: nothing to change for this one.",
        f"If it goes on, look for errors and drops along the path, here first{_there(case.event)}ip -s -s link",
    ]


def _zero_window(case: Case) -> list[str]:
    port = case.event.rport
    there = f": ss -tn sport = :{port}" if port is not None else "."
    if case.event.probes_out:
        return [f"Look at the peer, if it is still there: Recv-Q shows what waits to be read{there}"]
    return [
        "The peer answers, but its application does not read: it is stopped, slow, or waits for something itself.",
        f"Look at the peer, not at the network: there Recv-Q shows what waits to be read{there}",
    ]


def _handshake(case: Case) -> list[str]:
    if case.event.kind == "synack":
        return ["The client does not complete its connect(): the way back to it is blocked, or it has gone."]
    return [
        "Nobody answers the SYN: a firewall drops it, the address or port is wrong, or the host is down.",
        *_relief(case),
        "To give up sooner set the client's connect timeout, or this (2: some 7 s)"
        f"{_there(case.event)}sysctl -w net.ipv4.tcp_syn_retries=2",
    ]


def _peer_closed(case: Case) -> list[str]:
    port, is_local = _service(case.event)
    if is_local:
        return ["The client had closed the connection before the server wrote: no fault of the network."]
    limit = _IDLE_LIMITS.get(port or 0)
    return [
        "The peer had closed the connection before the application wrote: no fault of the network.",
        *([limit] if limit else []),
        "A restart of the peer looks the same.",
        "Let the pool check a connection before use, or replace it before the peer closes it.",
    ]


_BY_VERDICT: dict[str, Callable[[Case], list[str]]] = {
    "idle-drop": _idle_drop,
    "idle-reset": _idle_reset,
    "keepalive-failed": _keepalive_failed,
    "local-drop": _local_drop,
    "unreachable": _unreachable,
    "path-loss": _path_loss,
    "packet-loss": _packet_loss,
    "unanswered": _unanswered,
    "zero-window": _zero_window,
    "handshake": _handshake,
    "peer-closed": _peer_closed,
}


def _is_in_doubt(case: Case) -> bool:
    """Whether something contradicts an idle timeout."""
    return case.survived_as_much or _longer_survived_ms(case) is not None


def _longer_survived_ms(case: Case) -> int | None:
    survived, idle = case.bracket.survived_ms, case.idle_ms
    return survived if survived is not None and idle is not None and survived >= idle else None


def _doubt(case: Case) -> list[str]:
    survived = _longer_survived_ms(case)
    if case.survived_as_much:
        why = "This connection survived as much silence before: that speaks against an idle timeout."
    else:
        why = f"A connection to this service survived {duration(survived or 0)} of silence: against an idle timeout."
    return [why, "Look for a failover, a reboot, a route change, or a firewall that lost its sessions at that time."]


def _cure(case: Case) -> list[str]:
    """Keepalive that comes in time: turn it on, or let it come sooner."""
    event = case.event
    if event.keepalive is False:
        return _cure_off(case)
    period_s = _period_s(event)
    if event.keepalive and period_s is not None and not _is_late(case):
        return [
            f"A keepalive probe was due after {setting(period_s)} of silence, and none was answered. Its timer was "
            "armed before that time was set, or the path was dead by then. Reconnect, and watch its probes."
        ]
    due = f"due after {setting(period_s)}, too late for this path" if period_s is not None else "due too late"
    on = "Keepalive is on, but" if event.keepalive else "If keepalive is on,"
    return [*_set(case, f"{on} its probe is {due}. Lower it to"), *_instead(case)]


def _cure_off(case: Case) -> list[str]:
    """Keepalive for a socket that has none. A client's setting brings its times along, or the sysctls apply."""
    event = case.event
    seconds = keepalive_for(case.bracket, case.idle_ms, case.hz)
    known = narrowed(case.bracket, case.idle_ms)
    # A silence that was fatal within seconds leaves no whole second.
    value = seconds or (DEFAULT_KEEPALIVE_S if known.fatal_ms is None else 1)
    how = _if_this_is(event, lambda client: client.probes and filled(client.probes, value))
    candidates, _ = _clients(event)
    instead = _instead(case)
    off = "Keepalive is off on this socket"
    if not how and candidates and instead:
        return [
            f"{off}, and no sysctl turns it on; if this is {_names(candidates)}, no setting of its own does.",
            *instead,
            *_why(case, value),
        ]
    has_times = any(each.sets_times for each in candidates)
    if not has_times:
        times = _set(case, "With keepalive on, its first probe must come within")
    else:
        times = _why(case, seconds) if seconds else []
    return [f"{off}, and no sysctl turns it on; {how or _TURN_ON}", *times, *instead]


def _instead(case: Case) -> list[str]:
    """What else keeps the session: probes of the server (one end is enough), or messages of the application's own."""
    event = case.event
    seconds = keepalive_for(case.bracket, case.idle_ms, case.hz)
    if seconds is None:
        return []
    lines = []
    let = "Or let the server probe, one end is enough"
    server = _if_this_is(event, lambda client: client.server_probes and filled(client.server_probes, seconds))
    port, is_local = _service(event)
    if server:
        lines.append(f"{let}; {server}")
    elif event.keepalive is False and not is_local and port in _SERVER_PROBES:
        lines.append(f"{let}: {filled(_SERVER_PROBES[port], seconds)}")
    heartbeat = _if_this_is(event, lambda client: client.heartbeat and filled(client.heartbeat, seconds))
    if heartbeat:
        lines.append(f"Or let the application send something while idle; {heartbeat}")
    return lines


def _set(case: Case, what: str) -> list[str]:
    """`what 30m: command`, why that value, and when it takes effect. Nothing where what is set is short enough."""
    seconds = keepalive_for(case.bracket, case.idle_ms, case.hz)
    period_s = _period_s(case.event)
    if seconds is None or (period_s is not None and not _is_too_long(case, period_s)):
        return []
    lines = [f"{what} {setting(seconds)}{_by(case, seconds)}", *_why(case, seconds)]
    return lines if case.event.keepalive is False else lines + _takes_effect(case, seconds)


def _why(case: Case, seconds: int) -> list[str]:
    """What the value rests on."""
    known = narrowed(case.bracket, case.idle_ms)
    if known.fatal_ms is None or known.survived_ms != case.bracket.survived_ms:
        return []
    if known.survived_ms is not None and is_proven(seconds, known, case.hz):
        survived = duration(known.survived_ms)
        return [f"A connection survived {survived} of silence, and a probe after {setting(seconds)} comes sooner."]
    fatal = duration(known.fatal_ms)
    enough = why_default() if seconds == DEFAULT_KEEPALIVE_S else f"{setting(seconds)} is less than half of {fatal}."
    unknown = f"No silence close to {fatal} is known to have been survived, so the idle timeout may be far shorter."
    return [f"{unknown} {enough}"]


def _is_too_long(case: Case, seconds: int) -> bool:
    """Whether a keepalive setting, time or interval, is longer than what is known of the path allows."""
    known = narrowed(case.bracket, case.idle_ms)
    return not (is_proven(seconds, known, case.hz) or is_cautious(seconds, known, case.hz))


def _period_s(event: Event) -> int | None:
    """The longest silence between probes that are answered, seconds, but for the timer's lateness.

    After a probe the timer is armed for the interval, answered or not, and only then for the rest of the idle time
    (tcp_keepalive_timer(), net/ipv4/tcp_timer.c): where the interval is longer, it is what counts.
    """
    if event.keepalive_idle_s is None:
        return None
    return max(event.keepalive_idle_s, event.keepalive_interval_s or 0)


def _is_late(case: Case) -> bool:
    """Whether a probe may come later than the silence that was fatal."""
    period_s = _period_s(case.event)
    if period_s is None or case.idle_ms is None:
        return True
    return (period_s + lateness(period_s, case.hz)) * 1000 > case.idle_ms


def _by(case: Case, seconds: int) -> str:
    """How this socket gets a probe after that time, where it does not yet."""
    event = case.event
    if event.keepalive_idle_own:
        # TCP_KEEPIDLE wins over the sysctl (keepalive_time_when(), include/net/tcp.h).
        if not _idle_is_long(case):
            return " in the application: TCP_KEEPINTVL"
        own = _times(event, seconds)
        return f" in the application{f', {own}' if own else ': TCP_KEEPIDLE'}"
    # Only what is too long: the other must not grow.
    too_long = {"time": _idle_is_long(case), "intvl": _interval_is_long(case)}
    settings = " ".join(f"net.ipv4.tcp_keepalive_{name}={seconds}" for name in too_long if too_long[name])
    return f"{_there(event)}sysctl -w {settings}"


def _idle_is_long(case: Case) -> bool:
    idle_s = case.event.keepalive_idle_s
    return idle_s is None or _is_too_long(case, idle_s)


def _interval_is_long(case: Case) -> bool:
    interval_s = case.event.keepalive_interval_s
    return _is_too_long(case, INTERVAL_S if interval_s is None else interval_s)


def _takes_effect(case: Case, seconds: int) -> list[str]:
    """From when on. An armed timer keeps its expiry; data does not touch it (tcp_keepalive_timer())."""
    event = case.event
    if event.keepalive_idle_own:
        too_long = _interval_is_long(case)
        return [
            "This socket has a TCP_KEEPIDLE of its own, which no sysctl changes.",
            *(["Its TCP_KEEPINTVL has to be as short: after a probe it decides when the next comes."] * too_long),
        ]
    period_s = _period_s(event)
    until = f" (in up to {setting(period_s)})" if period_s is not None else ""
    own = _times(event, seconds) if _idle_is_long(case) else ""
    _, is_local = _clients(event)
    whose = "" if is_local else "for this client alone, "
    return [
        f"New connections use it at once, existing ones when their current timer expires{until}. "
        "Reconnect them to use it now.",
        "To make it permanent, set it in /etc/sysctl.d, or among the container's sysctls.",
        *([f"Or {whose}{own}"] if own else []),
    ]


def _relief(case: Case) -> list[str]:
    """The line that ends this socket now: tcp_abort() (net/ipv4/tcp.c) makes the waiting call fail."""
    event = case.event
    local, remote = _address(event.laddr), _address(event.raddr)
    if case.over or event.orphan or not (local and remote and event.lport and event.rport):
        return []
    ends = f"src {_quoted(local)} sport = :{event.lport} dst {_quoted(remote)} dport = :{event.rport}"
    return [
        "To end it now, with ECONNABORTED for the application (root, CONFIG_INET_DIAG_DESTROY)"
        f"{_there(event)}ss -K -t -n {ends}"
    ]


def _bound(case: Case) -> list[str]:
    """What would have ended the wait sooner. A ping before use is no help: it waits as long."""
    event = case.event
    if event.orphan or event.user_timeout_ms:
        return []
    bound = _if_this_is(event, _bounded)
    if bound:
        return [f"To bound the wait next time, {bound}"]
    if _service(event)[1]:
        return []
    return ["To bound the wait next time: TCP_USER_TIMEOUT, or a read timeout; a ping before use hangs, too."]


def _refused(case: Case) -> list[str]:
    if not case.refused_reset:
        return []
    return [
        "A RST was refused as inexact (RFC 5961), probably the firewall's at expiry: let it drop silently, or send "
        "the exact sequence number; keepalive below its timeout is the cure."
    ]


def _raise_timeout(case: Case) -> list[str]:
    """The alternative at the firewall: longer than the first probe may take."""
    period_s = _period_s(case.event)
    if not case.event.keepalive or period_s is None or not _is_late(case):
        return []
    late_s = lateness(period_s, case.hz)
    enough_s = math.ceil(period_s + late_s)
    enough_s = enough_s if enough_s < 120 else math.ceil(enough_s / 60) * 60
    return [
        f"Or raise the firewall's idle timeout to {setting(enough_s)} or more. "
        f"The probe due after {setting(period_s)} may be {duration(late_s * 1000)} late."
    ]


def _suspects(case: Case, unlike: str) -> list[str]:
    """Known idle timeouts that fit, without those that are known to behave otherwise."""
    boxes: list[Middlebox] = [
        each for each in matching(narrowed(case.bracket, case.idle_ms)) if each.at_expiry != unlike
    ]
    if not boxes:
        return []
    names = ", ".join(f"{each.name} {setting(each.timeout_s)}" for each in boxes)
    return [f"Known idle timeouts that would fit, if one of these is on the path: {names}."]


def _orphan(case: Case) -> list[str]:
    return ["No process holds this socket any more: nobody waits for it."] if case.event.orphan else []


def _service(event: Event) -> tuple[int | None, bool]:
    """The service's port, and whether it is ours."""
    service = service_of(event)
    return (service.port, service.is_local) if service else (event.rport, False)


def _clients(event: Event) -> tuple[tuple[Client, ...], bool]:
    """Who may be at our end, and whether that end is the server."""
    port, is_local = _service(event)
    # No program that we know has a longer name, and the answers for all names are remembered.
    comm, exe = (event.comm or "")[:MAX_NAME], (event.exe or "")[:MAX_NAME]
    if is_local:
        server = server_of(comm, exe)
        return ((server,) if server else ()), True
    return clients_of(comm, exe, port, event.keepalive), False


def _if_this_is(event: Event, setting_of: Callable[[Client], str | None]) -> str:
    candidates, is_local = _clients(event)
    return if_this_is(candidates, setting_of, is_server=is_local)


def _names(candidates: Sequence[Client]) -> str:
    return one_of(each.name for each in candidates)


def _times(event: Event, seconds: int) -> str:
    """The candidates' settings for the time of the first probe."""
    return _if_this_is(event, lambda client: filled(client.probes or "", seconds) if client.sets_times else None)


def _bounded(client: Client) -> str | None:
    if client.bound is None or not client.bound_unit:
        return client.bound
    return f"{client.bound} (N: {client.bound_unit}, more than its slowest answer takes)"


def _inside(event: Event) -> str:
    """What a command needs in front to run in the connection's network namespace.

    Only a process that holds the socket leads there: the number of one that has ended may be another's by now.
    """
    pid = event.pids[0] if event.pids and not event.orphan else 0
    return f"nsenter -t {pid} -n " if pid > 0 else ""


def _there(event: Event) -> str:
    """What stands between a sentence and its command: a colon, and where the command has to run."""
    return f"{_namespace(event)}: {_inside(event)}"


def _namespace(event: Event) -> str:
    """Which namespace, where no process names it."""
    return "" if _inside(event) or event.netns is None else f", in network namespace {event.netns} (see lsns -t net)"


@lru_cache(maxsize=1024)
def _address(text: str | None) -> str | None:
    """An address as commands take it. None for what is none: a recording may hold anything, a shell runs anything."""
    try:
        parsed = ipaddress.ip_address(text or "")
    except ValueError:
        return None
    return None if isinstance(parsed, ipaddress.IPv6Address) and parsed.scope_id else str(parsed)


def _quoted(address: str) -> str:
    """IPv6 in brackets, as ss wants it, and out of the shell's reach."""
    return f"'[{address}]'" if ":" in address else address


def _try_again(case: Case, then: str) -> list[str]:
    """A new connection tells more, as long as it is the same time and a service that we can reach."""
    peer, port = _address(case.event.raddr), case.event.rport
    if case.over or peer is None or port is None or _service(case.event)[1]:
        return []
    return [f"Try a new connection to {f'[{peer}]' if ':' in peer else peer}:{port}; {then}."]
