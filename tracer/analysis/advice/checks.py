"""What proves or disproves a verdict now, what its results mean, and the lines that belong to every verdict."""

from __future__ import annotations

from tracer.analysis.advice.commands import ON_THE_PEER, connect_again, end_with_ss, enter, peers_socket, probe_all
from tracer.analysis.advice.context import AdviceContext, service_port
from tracer.analysis.clients import MYSQL, POSTGRESQL, REDIS

_IDLE_LIMITS = {
    MYSQL: (
        "MySQL and MariaDB close a connection after wait_timeout of silence (8h by default). MySQL's program for the "
        "check is named mysql.",
        """sudo mariadb -e "SHOW GLOBAL VARIABLES LIKE 'wait_timeout'\"""",
    ),
    POSTGRESQL: (
        "PostgreSQL closes a connection after idle_session_timeout of silence, if that is set.",
        "sudo -u postgres psql -c 'SHOW idle_session_timeout'",
    ),
    REDIS: (
        "Redis closes a connection after `timeout` seconds of silence, if that is not 0.",
        "redis-cli CONFIG GET timeout",
    ),
}
BEHIND_NAT = "Behind a NAT, the peer lists another address and port for this host."
_OTHERWISE = "If it times out, the path or the peer is down. If it is refused, the service does not listen."
_DEAD_TOO = "The result no-answer marks connections that are dead already. Their next query would hang."
_BUSY = "This connection itself is busy, because its data is in flight."


def new_connection(context: AdviceContext, if_it_connects: str) -> tuple[str, list[str]]:
    """A check, and what its result means: a new connection, or where that is not possible the peer's socket."""
    check = connect_again(context)
    if check:
        return check, [f"{if_it_connects} {_OTHERWISE}"]
    check = "" if context.over else peers_socket(context.event)
    meaning = (
        "If the peer lists the connection, the path loses its packets. If not, the peer has closed it or restarted."
    )
    return check, [meaning, BEHIND_NAT] if check else []


def others(context: AdviceContext, if_it_opens: str, *, in_flight: bool = True) -> tuple[str, list[str]]:
    """A check, and what its results mean: a probe of every connection to the service, at the client with a new one.

    if_it_opens: what a new connection shows. in_flight: this connection has data in flight, so it cannot be probed
    itself. For a connection without a process, which nobody waits for, a new one alone.
    """
    if context.event.orphan:
        return new_connection(context, if_it_opens)
    check = probe_all(context)
    if not check:
        return "", []
    if context.over:
        return check, [_DEAD_TOO]
    busy = f"{_BUSY} " if in_flight else ""
    if not service_port(context.event)[1]:
        return check, [f"{if_it_opens} {_OTHERWISE}", f"{busy}{_DEAD_TOO}"]
    there = peers_socket(context.event)
    return check, [
        "If others from this client are alive, its host and the path work, and this session is probably forgotten.",
        f"{busy}{_DEAD_TOO}",
        *([f"What the client's kernel knows of this one, {there}", BEHIND_NAT] if there else []),
    ]


def idle_limit(context: AdviceContext) -> tuple[str, list[str]]:
    """A check, and what it is about: how long the peer's own program lets a connection be silent."""
    port, is_local = service_port(context.event)
    limit = None if port is None or is_local else _IDLE_LIMITS.get(port)
    return (f"its idle limit, {ON_THE_PEER}: {limit[1]}", [limit[0]]) if limit else ("", [])


def ends(context: AdviceContext) -> list[str]:
    """How to end this connection without tcpwatch, and how to get to the network namespace of the commands."""
    return [*end_with_ss(context), *enter(context)]


def orphan(context: AdviceContext) -> list[str]:
    """That the kernel alone waits."""
    return ["No process holds this socket any more, so nobody waits for it."] if context.event.orphan else []
