"""Commands within advice: where a line has one, where it runs, and addresses as each program takes them.

A recording may hold any text, and a user pastes these commands into a root shell. So no text of an event is in a
command unless it was parsed as a number or an address.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache

from tracer.analysis.advice.context import AdviceContext, service_port
from tracer.model.durations import setting
from tracer.model.events import Event

COMMANDS = ("sudo ", "tcpwatch ", "nsenter ", "ss ", "ip ", "nft ", "tc ", "nc ", "lsns ", "sysctl ", "echo ",
            "printf ", "psql ", "mariadb ", "redis-cli ")  # fmt: skip
"""What a command of advice begins with."""
_BEGINNING = re.compile(rf"(?:^|: )(?={'|'.join(COMMANDS)})")
ON_THE_PEER = "on the peer"
"""The end of a text before a command that has to run on the other host."""


def split(line: str) -> tuple[str, str]:
    """A line of advice as text and command, without the colon between them. Either may be empty."""
    found = _BEGINNING.search(line)
    return (line, "") if found is None else (line[: found.start()], line[found.end() :])


_HOST = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)


def on_host(line: str, host: str) -> str:
    """The line with the host where its command has to run, unless it has none or runs on the peer.

    host: as a recording has it. Its name must not look like a command.
    """
    host = host if _HOST.fullmatch(host) else "the recorded host"
    text, command = split(line)
    if not command or text.lower().endswith(ON_THE_PEER):
        return line
    between = "" if not text else ", " if " " in text else ": "  # a step's name has no blank
    return f"{text}{between}on {host}: {command}"


def place_of(text: str) -> str:
    """The end of a text that names where its command has to run: `on the peer`, `on db1`, `in netns 4026532000`."""
    last = text.rpartition(", ")[2]
    return last if last.startswith(("on ", "in netns ")) or last == ON_THE_PEER else ""


def here(context: AdviceContext, command: str, *, root: bool = False) -> str:
    """The command as it is typed on the host of the connection. root: it needs root, or lives in /usr/sbin."""
    event = context.event
    if is_own_namespace(context) or not _pid(event):
        return f"sudo {command}" if root else command
    return f"sudo nsenter -t {_pid(event)} -n {command}"


def with_place(context: AdviceContext, text: str, command: str) -> str:
    """`TEXT: COMMAND`, with the network namespace in the text where the command itself does not enter it."""
    texts = [text] if text else []
    if is_elsewhere(context):
        texts.append(f"in netns {context.event.netns}")
    return f"{', '.join(texts)}: {command}" if texts else command


def is_own_namespace(context: AdviceContext) -> bool:
    """Whether the connection is known to be in the network namespace that tcpwatch ran in."""
    return context.own_netns > 0 and context.event.netns == context.own_netns


def is_elsewhere(context: AdviceContext) -> bool:
    """Whether the connection is in another network namespace, and no process leads there."""
    return context.event.netns is not None and not is_own_namespace(context) and not _pid(context.event)


def enter(context: AdviceContext) -> list[str]:
    """How to get into that namespace."""
    if not is_elsewhere(context):
        return []
    before = f"To run a command in netns {context.event.netns}, put sudo nsenter -t PID -n before it"
    return [f"{before}, with a process of this list: sudo lsns -t net"]


def _pid(event: Event) -> int:
    """A process that holds the socket; 0 without one. After its end, its pid may belong to another process."""
    pid = event.pids[0] if event.pids and not event.orphan else 0
    return max(0, pid)


@lru_cache(maxsize=1024)
def address(text: str | None) -> str | None:
    """An address as commands take it, a v4-mapped one as IPv4; None for any other text."""
    try:
        parsed = ipaddress.ip_address(text or "")
    except ValueError:
        return None
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.scope_id:
            return None
        parsed = parsed.ipv4_mapped or parsed
    return None if parsed.is_unspecified else str(parsed)


def routed(text: str | None) -> str | None:
    """An address that leads to its host without an interface. A link-local IPv6 address does not."""
    known = address(text)
    return None if known is None or (":" in known and ipaddress.ip_address(known).is_link_local) else known


def _quoted(address: str) -> str:
    """An IPv6 address in brackets, as ss takes it, and quoted for the shell; an IPv4 address as it is."""
    return f"'[{address}]'" if ":" in address else address


def _to_this_service(context: AdviceContext) -> str:
    """Filters for the connections between this host and the peer that belong to the service, in every namespace."""
    peer, (port, is_local) = address(context.event.raddr), service_port(context.event)
    return f"--host {peer} --{'lport' if is_local else 'rport'} {port}" if peer and port else ""


def _this_connection(context: AdviceContext) -> str:
    """Filters for the connection alone."""
    event = context.event
    peer = address(event.raddr)
    if not (peer and event.lport and event.rport):
        return ""
    return f"--lport {event.lport} --host {peer} --rport {event.rport}"


def release_all(context: AdviceContext) -> str:
    """The command that ends all connections to this service that hang, and none that does not."""
    filters = _to_this_service(context)
    return f"sudo tcpwatch end --stuck {filters}" if _waits(context) and filters else ""


def release_this(context: AdviceContext) -> str:
    """The command that ends this connection. The kernel's state does not show that it hangs."""
    filters = _this_connection(context)
    return f"sudo tcpwatch end {filters}" if _waits(context) and filters else ""


def probe_all(context: AdviceContext) -> str:
    """The command that shows which connections to this service are dead, and whether a client can open a new one."""
    return _probe(context, _to_this_service(context))


def probe_this(context: AdviceContext) -> str:
    """The command that shows whether the path still knows this connection, which has no data in flight.

    tcp_send_window_probe() (net/ipv4/tcp_output.c) only sends in ESTABLISHED.
    """
    if not _waits(context) or context.event.state not in (None, "ESTABLISHED"):
        return ""
    event = context.event
    return _probe(context, f"--lport {event.lport} --rport {event.rport}" if event.lport and event.rport else "")


def _probe(context: AdviceContext, filters: str) -> str:
    connect = "" if service_port(context.event)[1] else " --connect"
    return f"sudo tcpwatch probe {filters}{connect}" if filters else ""


def protect_all(context: AdviceContext, seconds: int, more: str = "") -> str:
    """The command that sets keepalive on the open connections to this service. more: further options."""
    filters = _to_this_service(context)
    options = f"{filters} --idle {setting(seconds)}{f' {more}' if more else ''}"
    return f"sudo tcpwatch protect {options}" if filters else ""


_INSTALL = "sudo install -D -m 644 /dev/stdin /etc/tcpwatch"
"""Writes a file for tcpwatch-protect@.service, and makes the directory where there is none."""


def protect_service(context: AdviceContext, seconds: int) -> list[str]:
    """How a service of this host protects each connection that is opened: its file, and its start."""
    filters, port = _to_this_service(context), service_port(context.event)[0]
    if not filters:
        return []
    options = f"OPTIONS={filters} --idle {setting(seconds)}"
    return [
        f"As a service, which outlasts a restart: echo {options} | {_INSTALL}/port-{port}.conf",
        f"Then start that service: sudo systemctl enable --now tcpwatch-protect@port-{port}",
    ]


def end_with_ss(context: AdviceContext) -> list[str]:
    """The same without tcpwatch: tcp_abort() (net/ipv4/tcp.c) makes the waiting call fail."""
    event = context.event
    local, remote = address(event.laddr), address(event.raddr)
    if not _waits(context) or not (local and remote and event.lport and event.rport):
        return []
    ends = f"src {_quoted(local)} sport = :{event.lport} dst {_quoted(remote)} dport = :{event.rport}"
    text = (
        "To end this connection alone without tcpwatch, with ECONNABORTED for the application "
        "(CONFIG_INET_DIAG_DESTROY)"
    )
    return [with_place(context, text, here(context, f"ss -K -t -n {ends}", root=True))]


def _waits(context: AdviceContext) -> bool:
    return not context.over and not context.event.orphan


def connect_again(context: AdviceContext) -> str:
    """A test with a new connection, while the stall goes on and where the service is at the other end."""
    event = context.event
    peer, (_, is_local) = routed(event.raddr), service_port(event)
    if context.over or peer is None or not event.rport or is_local:
        return ""
    return with_place(context, "", here(context, f"nc -zvw5 {peer} {event.rport}"))


def route(context: AdviceContext, text: str) -> str:
    """The route to the peer; empty without one."""
    peer = routed(context.event.raddr)
    return with_place(context, text, here(context, f"ip route get {peer}")) if peer else ""


def peers_socket(event: Event) -> str:
    """The command that shows this connection on the peer."""
    local = address(event.laddr)
    if local is None or not event.lport or not event.rport:
        return ""
    return f"{ON_THE_PEER}: ss -tno sport = :{event.rport} dst {_quoted(local)} dport = :{event.lport}"
