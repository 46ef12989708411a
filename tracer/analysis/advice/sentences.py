"""The advice for each verdict, most useful sentence first.

Sentences for a person, never stronger than the evidence. A command stands at the end after a colon, to be copied.
What they claim about the kernel is measured in tests/kernel/test_advice_holds.py. Names of settings are in
:mod:`tracer.analysis.clients`, idle timeouts of firewalls in :mod:`tracer.analysis.middleboxes`.
"""

from __future__ import annotations

import errno

from tracer.analysis.advice.commands import address, connect_again, end_now, look_at_the_peer, where
from tracer.analysis.advice.context import AdviceContext, service_port, setting_in_words
from tracer.analysis.advice.keepalive import TURN_ON, probe_sooner, raise_firewall_timeout, set_time
from tracer.analysis.clients import HEARTBEATS, MYSQL, POSTGRESQL, REDIS, Client, filled
from tracer.analysis.keepalive_time import DEFAULT_KEEPALIVE_S, narrowed
from tracer.analysis.middleboxes import matching
from tracer.model.durations import duration, setting
from tracer.model.events import Event

_ERRORS = frozenset(errno.errorcode.values())
_IDLE_LIMITS = {
    MYSQL: "MySQL and MariaDB close a connection after wait_timeout of silence (8h by default): "
    "SHOW GLOBAL VARIABLES LIKE 'wait_timeout'",
    POSTGRESQL: "PostgreSQL closes a connection after idle_session_timeout of silence, if that is set: "
    "SHOW idle_session_timeout",
    REDIS: "Redis closes a connection after `timeout` of silence, if that is set: CONFIG GET timeout",
}


def no_advice(context: AdviceContext) -> list[str]:
    """No advice: the verdict is not decided yet."""
    return []


def mptcp(context: AdviceContext) -> list[str]:
    """The advice for one subflow of a Multipath TCP connection, for every verdict."""
    goes_on = "An MPTCP connection goes on while one of its subflows works. To see them"
    return [f"{goes_on}{where(context.event)}ss -tiM"]


def idle_drop(context: AdviceContext) -> list[str]:
    """Keepalive that comes in time; or what contradicts an idle timeout."""
    if context.contradicts_idle_timeout:
        return [*_orphan(context), *_doubt(context), *end_now(context), *_refused(context), *_bound(context)]
    return [
        *_orphan(context),
        *probe_sooner(context),
        *end_now(context),
        *_refused(context),
        *_bound(context),
        *raise_firewall_timeout(context),
        *_suspects(context, "reset"),
        *connect_again(context, "if it connects at once, a forgotten session is the likely cause"),
    ]


def idle_reset(context: AdviceContext) -> list[str]:
    """As for a session that was dropped, but a peer may reset as well."""
    restart = (
        "A peer that restarted, or that closed the connection after its own idle limit, answers with a RST as well."
    )
    if context.contradicts_idle_timeout:
        return [*_doubt(context), restart]
    return [*probe_sooner(context), restart, *raise_firewall_timeout(context), *_suspects(context, "silent")]


def keepalive_failed(context: AdviceContext) -> list[str]:
    """End the wait; probe sooner unless this silence was survived before."""
    did = "The keepalive probes are not answered: the path or the peer is probably dead."
    if context.survived_as_much:
        return [
            did,
            "The connection survived a silence this long before. Look for a failover, a reboot or a route change.",
            *end_now(context),
        ]
    sooner = set_time(
        context,
        "If the first probe always fails, the path has forgotten the session by then. Lower the keepalive time to",
    )
    return [did, *sooner, *end_now(context)]


def unreachable(context: AdviceContext) -> list[str]:
    """What the error means, and the route to the peer."""
    event = context.event
    error = next((each for each in (event.soft_error, event.send_error) if each in _ERRORS), None)
    name = f" ({error})" if error else ""
    what = (
        f"An ICMP error came back{name}: a host or router is down or has no route, or a firewall rejects the packets."
        if event.soft_error or not event.send_error
        else f"This host cannot send to the peer{name}: it has no route, or no neighbour entry for the next hop."
    )
    peer = address(event.raddr)
    route = [f"Look at the route{where(event)}ip route get {peer}"] if peer else []
    return [what, *route, *end_now(context), *_bound(context)]


def local_drop(context: AdviceContext) -> list[str]:
    """The firewall or the queue: only EPERM and EACCES are certainly the firewall's."""
    event = context.event
    there, peer = where(event), address(event.raddr)
    chains = "in chains with the hook output or postrouting"
    rules = f"Look for a firewall rule that drops the packets, {chains}{there}nft list ruleset"
    queue = f"Look for drops in the queue of the interface{there}tc -s qdisc"
    route = [f"Look at the route to the peer{there}ip route get {peer}"] if peer else []
    if event.send_error in ("EPERM", "EACCES"):
        looks = [rules]
    elif event.send_error is not None:
        looks = [queue]
    else:
        looks = [rules, queue, *route]
    return [*_orphan(context), *looks, *end_now(context), *_bound(context)]


def path_loss(context: AdviceContext) -> list[str]:
    """A new connection shows whether the peer and the path are alive."""
    return [
        *_orphan(context),
        *connect_again(context, "if that hangs as well, look at the path and the peer"),
        *end_now(context),
        *_bound(context),
    ]


def unanswered(context: AdviceContext) -> list[str]:
    """A slow query, a stopped peer and a lost reply look alike here; the peer's socket shows which it is."""
    return [*look_at_the_peer(context.event), *_end_the_wait(context), *end_now(context)]


def _end_the_wait(context: AdviceContext) -> list[str]:
    event = context.event
    timeout = (
        "Set a read timeout in the client. TCP_USER_TIMEOUT does not end this wait, because nothing is in flight."
    )
    if event.keepalive is not False:
        return [timeout]
    on = setting_in_words(event, lambda client: client.probes and filled(client.probes, DEFAULT_KEEPALIVE_S))
    return [
        "With keepalive on, the wait would end if the peer is dead, and firewalls would keep the session: "
        f"{on or TURN_ON}",
        timeout,
        *_own_heartbeat(event),
    ]


def _own_heartbeat(event: Event) -> list[str]:
    """Some protocols have libraries that end a wait by themselves, which no socket shows."""
    port, _ = service_port(event)
    protocol = None if port is None else HEARTBEATS.get(port)
    if protocol is None:
        return []
    return [f"A heartbeat or request timeout of the {protocol} client, if it has one, ends this wait by itself."]


def packet_loss(context: AdviceContext) -> list[str]:
    """Nothing to change, or where to look for drops."""
    return [
        "Single packets get lost. Nothing needs to change for this one.",
        "If losses go on, look for errors and drops along the path, first on this host"
        f"{where(context.event)}ip -s -s link",
    ]


def zero_window(context: AdviceContext) -> list[str]:
    """The peer's receive queue."""
    port = context.event.rport
    there = f": ss -tn sport = :{port}" if port is not None else "."
    if context.event.probes_out:
        return [f"If the peer is still there, its Recv-Q shows the bytes that its application has not read{there}"]
    return [
        "The peer's application is stopped or slow, or it waits for something itself.",
        f"Look at the peer, not at the network. Its Recv-Q shows the bytes that its application has not read{there}",
    ]


def handshake(context: AdviceContext) -> list[str]:
    """Firewall, address or host, and how to give up sooner."""
    if context.event.kind == "synack":
        return ["The client does not complete the handshake: the path back to it is blocked, or it is gone."]
    return [
        "The SYN is not answered: a firewall drops it, the address is wrong, or the host is down.",
        *end_now(context),
        "To give up sooner, set the client's connect timeout, or lower tcp_syn_retries (2: about 7s)"
        f"{where(context.event)}sysctl -w net.ipv4.tcp_syn_retries=2",
    ]


def peer_closed(context: AdviceContext) -> list[str]:
    """The peer's own idle limit, by the service's port."""
    port, is_local = service_port(context.event)
    if is_local:
        return ["The client had closed the connection before the server wrote. The network is not at fault."]
    limit = None if port is None else _IDLE_LIMITS.get(port)
    return [
        "The peer had closed the connection before the application wrote. The network is not at fault.",
        *([limit] if limit else []),
        "A restart of the peer looks like this, too.",
        "Let the connection pool test a connection before use, or replace it before the peer closes it.",
    ]


def _doubt(context: AdviceContext) -> list[str]:
    survived_ms = context.longer_survived_ms
    why = "This connection survived a silence this long before, so an idle timeout is unlikely."
    if not context.survived_as_much and survived_ms is not None:
        survived = duration(survived_ms)
        why = f"A connection to this service survived {survived} of silence, so an idle timeout is unlikely."
    return [why, "Look for a failover, a reboot, a route change, or a firewall that lost its sessions at that time."]


def _bound(context: AdviceContext) -> list[str]:
    """What would have ended the wait sooner. A ping before use does not: it waits as long."""
    event = context.event
    if event.orphan or event.user_timeout_ms:
        return []
    bound = setting_in_words(event, _bounded)
    if bound:
        return [f"To limit the wait next time, {bound}"]
    if service_port(event)[1]:
        return []
    return [
        "To limit the wait next time, set TCP_USER_TIMEOUT or a read timeout. A ping before use would hang as well."
    ]


def _refused(context: AdviceContext) -> list[str]:
    if not context.refused_reset:
        return []
    return [
        "A RST with the wrong sequence number was ignored (RFC 5961). It probably came from a firewall that dropped "
        "the session: let that firewall drop silently, or send the exact sequence number. Keepalive below its idle "
        "timeout avoids both."
    ]


def _suspects(context: AdviceContext, unlike: str) -> list[str]:
    """Known idle timeouts that fit, without those that are known to behave otherwise."""
    boxes = [each for each in matching(narrowed(context.idle_timeout, context.idle_ms)) if each.at_expiry != unlike]
    if not boxes:
        return []
    names = ", ".join(f"{each.name} {setting(each.timeout_s)}" for each in boxes)
    return [f"If one of these is on the path, its default idle timeout would fit: {names}."]


def _orphan(context: AdviceContext) -> list[str]:
    return ["No process holds this socket any more, so nobody waits for it."] if context.event.orphan else []


def _bounded(client: Client) -> str | None:
    if client.bound is None or not client.bound_unit:
        return client.bound
    return f"{client.bound} (N: {client.bound_unit}, more than its slowest answer takes)"
