"""Which connections an action may touch. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import field

from tracer.analysis.stuck import Stuck, stuck
from tracer.model.actions import Left
from tracer.model.dataclass import dataclass
from tracer.model.errors import UsageError
from tracer.model.filters import Filter
from tracer.model.sockets import Socket, longest_silence_first

HOPELESS = frozenset({Stuck.RETRANSMITTING, Stuck.PROBING, Stuck.UNSENT, Stuck.SYN})
"""The reasons to hang that --stuck ends: no answer comes, or nothing leaves this host. With the others the peer may
be slow."""

_MAX_PORT = 65535
_LEFT = {Stuck.REPLY: Left.REPLY, Stuck.WINDOW: Left.WINDOW}


@dataclass(slots=True)
class Selection:
    """The connections to end, each with the reason why it hangs (None: the filters name it), and those left alone."""

    chosen: list[tuple[Stuck | None, Socket]] = field(default_factory=list)
    left: list[tuple[Left, Socket]] = field(default_factory=list)


def names_connections(wanted: Filter) -> bool:
    """Whether the filters name something: a port, an address, an owner, a namespace, a silence.

    An address family, every address or port, or the pattern `*` names nothing.
    """
    patterns = any(pattern.strip("*?/") for pattern in wanted.containers | wanted.pods | wanted.units)
    hosts = any(host.prefixlen for host in wanted.hosts)
    ports = any(0 < len(each) < _MAX_PORT for each in (wanted.ports, wanted.lports, wanted.rports))
    return hosts or patterns or ports or any((wanted.netns, wanted.pids, wanted.comms, wanted.min_idle_ms))


def require_names(wanted: Filter, *, only_stuck: bool) -> None:
    """Raise UsageError unless the filters name something, or --stuck chooses."""
    if not (only_stuck or names_connections(wanted)):
        raise UsageError(
            "end needs a filter that names connections, or --stuck", hint="tcpwatch end --stuck --dry-run"
        )


def without_closed(found: Sequence[Socket], read_again: Callable[[], Iterable[Socket]]) -> list[Socket]:
    """Drop connections that were closed while their processes were looked for, so that these were not found.

    read_again: reads the sockets once more; called only if a process is unknown. A connection that has its process by
    then is returned as it is now.
    """
    if all(map(_is_settled, found)):
        return list(found)
    now = {socket.inode: socket for socket in read_again()}
    looked_at = [each if _is_settled(each) else now.get(each.inode) for each in found]
    return [each for each in looked_at if each is not None]


def without_process(socket: Socket) -> str | None:
    """Why the socket cannot be reached through a process; None if one is known that has it open.

    Only sockets of files are seen: not what io_uring has registered, nor what is on its way in a Unix socket.
    """
    if not socket.inode:
        return "no process holds it"
    if socket.pids:
        return None
    if socket.comm:
        return "its process is in another PID namespace than tcpwatch"
    return "no process that tcpwatch sees has it open"


def _is_settled(socket: Socket) -> bool:
    """Whether its process is known; or none can have it: it is closed already, or not accepted yet."""
    return bool(socket.pids or socket.comm or socket.orphan) or not socket.inode


def select(sockets: Sequence[Socket], *, only_stuck: bool, ancestors: Set[int] = frozenset()) -> Selection:
    """Choose among sockets that the filters accept. ancestors: the processes that this command descends from."""
    selection = Selection()
    for socket in longest_silence_first(sockets):
        reason = stuck(socket)
        if only_stuck and reason is None:
            continue
        why_left = _why_left(socket, reason, only_stuck=only_stuck, ancestors=ancestors)
        if why_left is None:
            selection.chosen.append((reason if only_stuck else None, socket))
        else:
            selection.left.append((why_left, socket))
    return selection


def _why_left(socket: Socket, reason: Stuck | None, *, only_stuck: bool, ancestors: Set[int]) -> Left | None:
    """None for a connection to end.

    An orphan keeps nobody waiting, and before Linux 6.11 tcp_abort() (net/ipv4/tcp.c) discards its data and its timer
    then never ends it. Without its last subflow a Multipath TCP connection stays open, and its calls wait on.
    """
    if socket.orphan:
        return Left.ORPHAN
    if socket.mptcp:
        return Left.MPTCP
    if only_stuck:
        return None if reason is None else _LEFT.get(reason)
    return Left.SESSION if socket.accepted and not ancestors.isdisjoint(socket.pids or ()) else None
