"""Commands within advice: where they run, and addresses quoted for a shell.

A recording may hold any text, and a user pastes these commands into a root shell. So no text of an event is in a
command unless it was parsed as a number or an address.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache

from tracer.analysis.advice.context import AdviceContext, service_port
from tracer.model.events import Event


def where(event: Event) -> str:
    """What stands between a sentence and its command: the network namespace and a colon, or a colon and nsenter."""
    return f"{_namespace(event)}: {_nsenter(event)}"


def _nsenter(event: Event) -> str:
    """The prefix that runs a command in the connection's network namespace.

    Empty unless a process holds the socket: after that process has ended, its pid may belong to another one.
    """
    pid = event.pids[0] if event.pids and not event.orphan else 0
    return f"nsenter -t {pid} -n " if pid > 0 else ""


def _namespace(event: Event) -> str:
    """The namespace in words, where no process leads to it."""
    return "" if _nsenter(event) or event.netns is None else f", in network namespace {event.netns} (see lsns -t net)"


@lru_cache(maxsize=1024)
def address(text: str | None) -> str | None:
    """An address as commands take it; None for any other text."""
    try:
        parsed = ipaddress.ip_address(text or "")
    except ValueError:
        return None
    return None if isinstance(parsed, ipaddress.IPv6Address) and parsed.scope_id else str(parsed)


def quoted(address: str) -> str:
    """An IPv6 address in brackets, as ss takes it, and quoted for the shell; an IPv4 address as it is."""
    return f"'[{address}]'" if ":" in address else address


def end_now(context: AdviceContext) -> list[str]:
    """The command that ends the connection: tcp_abort() (net/ipv4/tcp.c) makes the waiting call fail."""
    event = context.event
    local, remote = address(event.laddr), address(event.raddr)
    if context.over or event.orphan or not (local and remote and event.lport and event.rport):
        return []
    ends = f"src {quoted(local)} sport = :{event.lport} dst {quoted(remote)} dport = :{event.rport}"
    return [
        "To end it now, with ECONNABORTED for the application (root, CONFIG_INET_DIAG_DESTROY)"
        f"{where(event)}ss -K -t -n {ends}"
    ]


def connect_again(context: AdviceContext, then: str) -> list[str]:
    """A test with a new connection, while the stall goes on and where the service is at the other end."""
    peer, port = address(context.event.raddr), context.event.rport
    if context.over or peer is None or port is None or service_port(context.event)[1]:
        return []
    return [f"Try a new connection to {f'[{peer}]' if ':' in peer else peer}:{port}; {then}."]


def look_at_the_peer(event: Event) -> list[str]:
    """The command that shows this connection on the peer, and what its columns mean."""
    local = address(event.laddr)
    if local is None or event.lport is None or event.rport is None:
        return []
    return [
        "Look at this connection on the peer. With Recv-Q above 0, its application does not read. With "
        "timer:(on,...), the path drops its reply. With neither, it is still working on the request. "
        f"There: ss -tno sport = :{event.rport} dst {quoted(local)} dport = :{event.lport}"
    ]
