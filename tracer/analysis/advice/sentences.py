"""The advice for each verdict: its steps, then further lines, most useful first.

Sentences for a person, never stronger than the evidence. A command stands at the end after a colon, to be copied.
What they claim about the kernel is measured in tests/kernel/test_advice_holds.py, and tests/kernel/
test_printed_commands.py runs each command. Names of settings are in :mod:`tracer.analysis.clients`, idle timeouts of
firewalls in :mod:`tracer.analysis.middleboxes`.
"""

from __future__ import annotations

import errno

from tracer.analysis.advice.checks import BEHIND_NAT, ends, idle_limit, new_connection, orphan, others
from tracer.analysis.advice.commands import (
    ON_THE_PEER,
    enter,
    here,
    peers_socket,
    probe_this,
    protect_all,
    release_all,
    release_this,
    route,
    with_place,
)
from tracer.analysis.advice.context import AdviceContext, service_port, setting_in_words
from tracer.analysis.advice.keepalive import TURN_ON
from tracer.analysis.advice.limits import limit_step, limit_the_wait, read_timeout
from tracer.analysis.advice.steps import Advice
from tracer.analysis.advice.sysctls import permanent, set_now
from tracer.analysis.clients import HEARTBEATS, filled
from tracer.analysis.keepalive_time import DEFAULT_KEEPALIVE_S, MAX_DEFAULT_S
from tracer.model.events import Event

_ERRORS = frozenset(errno.errorcode.values())
_SYN_RETRIES = "net.ipv4.tcp_syn_retries=2"


def no_advice(context: AdviceContext) -> Advice:
    """No advice: the verdict is not decided yet."""
    return Advice()


def mptcp(context: AdviceContext) -> Advice:
    """The advice for one subflow of a Multipath TCP connection, for every verdict."""
    return Advice(
        check=with_place(context, "the subflows of this connection", here(context, "ss -tiM")),
        further=["An MPTCP connection goes on while one of its subflows works.", *enter(context)],
    )


def unreachable(context: AdviceContext) -> Advice:
    """What the error means, and the route to the peer."""
    event = context.event
    error = next((each for each in (event.soft_error, event.send_error) if each in _ERRORS), None)
    name = f" ({error})" if error else ""
    what = (
        f"An ICMP error came back{name}: a host or router is down or has no route, or a firewall rejects the packets."
        if event.soft_error or not event.send_error
        else f"This host cannot send to the peer{name}: it has no route, or no neighbour entry for the next hop."
    )
    return Advice(
        check=route(context, "the route to the peer"),
        release=release_all(context),
        cure=limit_step(context),
        further=[what, *ends(context), *limit_the_wait(context)],
    )


def local_drop(context: AdviceContext) -> Advice:
    """The firewall or the queue: only EPERM and EACCES are certainly the firewall's."""
    event = context.event
    rules, queue = here(context, "nft list ruleset", root=True), here(context, "tc -s qdisc", root=True)
    chains = with_place(context, "rules with hook output or postrouting", rules)
    drops = with_place(context, "drops in the interface's queue", queue)
    legacy = "Rules that were made with iptables-legacy are not in the list of nft."
    further = []
    if event.send_error in ("EPERM", "EACCES"):
        check, cure = chains, "change the firewall rule that drops these packets"
        further = [legacy]
    elif event.send_error is not None:
        check, cure = drops, limit_step(context)
    else:
        check, cure = chains, limit_step(context)
        further = [
            legacy,
            with_place(context, "Look for drops in the interface's queue", queue),
            route(context, "Look at the route to the peer"),
        ]
    return Advice(
        check=check,
        release=release_all(context),
        cure=cure,
        further=[*orphan(context), *filter(None, further), *ends(context), *limit_the_wait(context)],
    )


def path_loss(context: AdviceContext) -> Advice:
    """Other connections and a new one show whether the peer and the path are alive."""
    opens = "If the new connection opens, the path works again, or only this session is lost."
    check, meaning = ("", []) if context.over else others(context, opens, in_flight=not context.event.probes_out)
    return Advice(
        check=check,
        release=release_all(context),
        cure=limit_step(context),
        further=[*orphan(context), *meaning, *ends(context), *limit_the_wait(context)],
    )


def unanswered(context: AdviceContext) -> Advice:
    """A slow query, a stopped peer and a lost reply look alike to tracing. A probe finds a dead path or peer.

    Nothing is in flight, so the connection itself can be probed. Of a living one, the peer's socket shows the rest.
    """
    there = peers_socket(context.event)
    meaning = [
        "With Recv-Q above 0, the peer's application does not read. With timer:(on,...), the path drops its reply. "
        "With neither, it is still working on the request.",
        BEHIND_NAT,
    ]
    probe = probe_this(context)
    if probe:
        answers = [
            "The result alive means that path and peer work. Then the peer's application is slow, or has stopped.",
            "no-answer means that path or peer are probably dead, so release it. A reset ends the wait itself.",
            *([f"If it is alive, look at its socket, {there}"] if there else []),
        ]
    return Advice(
        check=probe or there,
        release=release_this(context),
        cure=read_timeout(context),
        further=[
            *(answers if probe else []),
            *(meaning if there else []),
            *_end_the_wait(context),
            *ends(context),
        ],
    )


def _end_the_wait(context: AdviceContext) -> list[str]:
    event = context.event
    timeout = (
        "Set a read timeout in the client. TCP_USER_TIMEOUT does not end this wait, because nothing is in flight."
    )
    if event.keepalive is not False:
        return [*_probe_the_wait(context), timeout]
    on = setting_in_words(event, lambda client: client.probes and filled(client.probes, DEFAULT_KEEPALIVE_S))
    return [
        *_probe_the_wait(context),
        "With keepalive on, the next wait would end if the peer is dead, and firewalls would keep the session: "
        f"{on or TURN_ON}",
        timeout,
        *_own_heartbeat(event),
    ]


def _probe_the_wait(context: AdviceContext) -> list[str]:
    """Keepalive from outside, where it is off or comes late."""
    event = context.event
    is_early = event.keepalive_idle_s is not None and event.keepalive_idle_s <= MAX_DEFAULT_S
    protect = protect_all(context, DEFAULT_KEEPALIVE_S)
    if not protect or context.over or event.orphan or event.keepalive is None or (event.keepalive and is_early):
        return []
    return [f"To end this wait if the peer is dead, and to keep firewalls' sessions if it is alive: {protect}"]


def _own_heartbeat(event: Event) -> list[str]:
    """Some protocols have libraries that end a wait by themselves, which no socket shows."""
    port, _ = service_port(event)
    protocol = None if port is None else HEARTBEATS.get(port)
    if protocol is None:
        return []
    return [f"A heartbeat or request timeout of the {protocol} client, if it has one, ends this wait by itself."]


def packet_loss(context: AdviceContext) -> Advice:
    """Nothing to change, or where to look for drops."""
    return Advice(
        check=with_place(context, "errors and drops of its interfaces", here(context, "ip -s -s link")),
        further=[
            "Single packets get lost. Nothing needs to change for this one.",
            "If losses go on, look for errors and drops along the path, first on this host.",
            *enter(context),
        ],
    )


def zero_window(context: AdviceContext) -> Advice:
    """The peer's receive queue."""
    port = context.event.rport
    check = f"its unread bytes are Recv-Q, {ON_THE_PEER}: ss -tn sport = :{port}" if port else ""
    if context.event.probes_out:
        further = ["If the peer is still there, its Recv-Q shows the bytes that its application has not read."]
    else:
        further = [
            "The peer's application is stopped or slow, or it waits for something itself.",
            "Look at the peer, not at the network. Its Recv-Q shows the bytes that its application has not read.",
        ]
    return Advice(check=check, release=release_this(context), further=[*further, *ends(context)])


def handshake(context: AdviceContext) -> Advice:
    """Firewall, address or host, and how to give up sooner."""
    if context.event.kind == "synack":
        return Advice(
            check=route(context, "the way back to the client"),
            further=[
                "The client does not complete the handshake: the path back to it is blocked, or it is gone.",
                *enter(context),
            ],
        )
    check, meaning = new_connection(context, "If it connects, SYNs are lost at times, or the server is overloaded.")
    return Advice(
        check=check,
        release=release_all(context),
        cure=set_now(context, "give up a connect after about 7s", [_SYN_RETRIES]),
        further=[
            "The SYN is not answered: a firewall drops it, the address is wrong, or the host is down.",
            *meaning,
            "Or set the client's connect timeout, which concerns this client alone.",
            *permanent(context, [_SYN_RETRIES]),
            *ends(context),
        ],
    )


def peer_closed(context: AdviceContext) -> Advice:
    """The peer's own idle limit, by the service's port."""
    _, is_local = service_port(context.event)
    if is_local:
        return Advice(
            further=["The client had closed the connection before the server wrote. The network is not at fault."]
        )
    check, limit = idle_limit(context)
    return Advice(
        check=check,
        cure="test pooled connections before use, or replace them sooner",
        further=[
            "The peer had closed the connection before the application wrote. The network is not at fault.",
            *limit,
            "A restart of the peer looks like this, too.",
            "Let the connection pool test a connection before use, or replace it before the peer closes it.",
        ],
    )
