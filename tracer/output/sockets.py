"""The output of `tcpwatch sockets`: a row for each group of connections, or for each connection."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from tracer.analysis.socket_groups import Group, grouped
from tracer.analysis.stuck import worst_first
from tracer.model.dataclass import dataclass
from tracer.model.durations import setting
from tracer.model.sockets import Socket
from tracer.output.format import endpoint, owner, plural
from tracer.output.rows import Row, table
from tracer.output.sockets_words import (
    keepalive,
    keepalive_of_group,
    notes,
    notes_of_group,
    range_in_words,
    time_of,
    title,
)
from tracer.recordings.encoding import socket_to_line

_PAIR = "%-17s  %s"
LOCAL_REMOTE = _PAIR % ("LOCAL", "REMOTE")
GROUPS = "OWNER → SERVICE × CONNECTIONS"
COLUMNS = ("SILENT", "WAITING", "KEEPALIVE")
_HEDGE = (
    "not visible from this host: whether such a firewall is on the path, keepalive probes of the peer, "
    "timeouts and heartbeats of the application"
)


@dataclass(frozen=True, slots=True)
class View:
    """How text lists sockets.

    hz: the kernel's jiffies per second. ttl_s: what would be at risk with an idle timeout of this many seconds.
    stuck: what hangs. each: a row for each connection, not for each group. width: columns. is_terminal: shorten what
    is longer than them. utc_offset_s: of local time, seconds east of UTC. own_netns: the network namespace of who
    reads it, where commands need no nsenter.
    """

    hz: int
    ttl_s: float | None = None
    stuck: bool = False
    each: bool = False
    width: int = 80
    is_terminal: bool = False
    utc_offset_s: int = 0
    own_netns: int | None = None

    @property
    def limit(self) -> int | None:
        """The columns that names are shortened to; None for any length."""
        return self.width if self.is_terminal else None


def sockets_as_json(sockets: Iterable[Socket]) -> Iterator[str]:
    """A line for each socket. Everything outside ASCII is escaped, so that no terminal interprets it."""
    for socket in sockets:
        yield socket_to_line(socket)


def sockets_as_text(sockets: Sequence[Socket], view: View) -> Iterator[str]:
    """Lines of a table, what hangs first: groups, or with `each` the sockets, the others in their order."""
    if view.each:
        headings = Row(LOCAL_REMOTE, COLUMNS, "OWNER")
        rows = [_row(socket) for socket in _hanging_first(sockets)]
    else:
        headings = Row(GROUPS, COLUMNS)
        rows = [_group_row(group, view) for group in grouped(sockets)]
    if rows:
        yield from table(headings, rows, view.width, truncated=view.is_terminal)


def _hanging_first(sockets: Sequence[Socket]) -> list[Socket]:
    hanging = [socket for _, socket in worst_first(sockets)]
    known = set(map(id, hanging))
    return hanging + [socket for socket in sockets if id(socket) not in known]


def pair(socket: Socket) -> str:
    """Both ends, in columns that are wide enough for IPv4 as most networks have it."""
    return _PAIR % (endpoint(socket.laddr, socket.lport), endpoint(socket.raddr, socket.rport))


def _row(socket: Socket) -> Row:
    return Row(
        pair(socket),
        (time_of(socket.silent_ms), time_of(socket.waiting_ms), keepalive(socket)),
        owner(socket),
        notes(socket),
    )


def _group_row(group: Group, view: View) -> Row:
    waiting_ms = group.range_of(lambda socket: socket.waiting_ms)
    return Row(
        title(group, view.limit),
        (
            range_in_words(group.silent_ms()),
            time_of(waiting_ms[1] if waiting_ms is not None else None),
            keepalive_of_group(group),
        ),
        note=notes_of_group(group),
    )


def about_sockets(found: Sequence[Socket], shown: Sequence[Socket], view: View) -> Iterator[str]:
    """Lines for stderr: the number of connections, and with ttl_s what tcpwatch cannot know."""
    namespaces = plural(len({socket.netns for socket in found}), "network namespace")
    if view.stuck:
        if not shown:
            yield f"nothing hangs: {plural(len(found), 'connection')} in {namespaces}"
        else:
            yield f"{len(shown):,} of {plural(len(found), 'connection')} in {namespaces} hang now"
    elif view.ttl_s is None:
        yield f"{plural(len(shown), 'connection')} in {namespaces}"
    else:
        yield (
            f"{len(shown):,} of {plural(len(found), 'connection')} in {namespaces} would be dropped by a firewall "
            f"with an idle timeout of {ttl_in_words(view.ttl_s)}"
        )
        yield _HEDGE


def ttl_in_words(seconds: float) -> str:
    """An idle timeout, exactly."""
    return setting(int(seconds)) if seconds == int(seconds) else f"{seconds:g}s"
