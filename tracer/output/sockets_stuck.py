"""The output of `tcpwatch sockets --stuck`: what hangs now, the worst first, and the command that ends it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from tracer.analysis.probe_timer import MIN_UNANSWERED
from tracer.analysis.socket_groups import Group, GroupKey, grouped
from tracer.analysis.stuck import REASONS, Stuck
from tracer.model.sockets import Socket
from tracer.model.times import parse_time
from tracer.output.format import duration, endpoint, local_time, owner, plural, safe
from tracer.output.rows import columns_of, shortened, wrapped
from tracer.output.sockets import View
from tracer.output.sockets_words import bytes_in_words, keepalive_of_group, title

_DAY_MS = 86_400_000
_INDENT, _DEEPER = " " * 2, " " * 6
_MAX_PORTS = 8
_SENTENCES = {
    Stuck.RETRANSMITTING: "Retransmitting: the peer acknowledges nothing.",
    Stuck.PROBING: "Probing in vain: the peer answers no probe.",
    Stuck.UNSENT: "Cannot send: this host does not let the data out. Look at its firewall, queues and routes.",
    Stuck.WINDOW: "Closed window: the peer's application does not read.",
    Stuck.SYN: "SYN unanswered: the connection cannot be opened.",
    Stuck.REPLY: (
        "Waiting for a reply: the peer has the request and is silent. A slow reply looks the same, and so does a "
        "message that needs none."
    ),
}
_ANSWERS_NOTHING = (Stuck.RETRANSMITTING, Stuck.PROBING, Stuck.SYN)
"""What `end --stuck` ends; the peers of the others may be slow."""


def stuck_as_text(sockets: Sequence[Socket], view: View) -> Iterator[str]:
    """A sentence for each reason, then its groups, or with `each` its sockets.

    sockets: those that hang, the worst first, as :func:`tracer.analysis.stuck.mark` leaves them.
    """
    is_first = True
    for slug, found in groupby(sockets, key=lambda socket: socket.stuck or ""):
        reason = REASONS[slug]
        yield "" if is_first else "\n"
        yield from (f"{line}\n" for line in wrapped(_SENTENCES[reason], view.width, indent=""))
        is_first = False
        of_reason = list(found)
        groups = [Group(_key(socket), [socket]) for socket in of_reason] if view.each else grouped(of_reason)
        for group in groups:
            yield from (f"{line}\n" for line in _account(reason, group, view))


def _key(socket: Socket) -> GroupKey:
    return GroupKey(socket.comm, socket.raddr or "", socket.rport, False, None)


def _account(reason: Stuck, group: Group, view: View) -> Iterator[str]:
    limit = None if view.limit is None else view.limit - len(_INDENT)
    if view.each:
        (socket,) = group.sockets
        pair = f"{endpoint(socket.laddr, socket.lport)} → {endpoint(socket.raddr, socket.rport)}"
        who = owner(socket)
        if columns_of(who) + 2 + columns_of(pair) > view.width - len(_INDENT):
            yield _INDENT + shortened(who, limit)
            who = ""
        yield f"{_INDENT}{who}  {pair}" if who else f"{_INDENT}{pair}"
    else:
        yield _INDENT + title(group, limit)
    yield from wrapped(", ".join(_facts(reason, group, view)), view.width, _DEEPER)
    command = _release(reason, group, is_one=view.each)
    if command is not None:
        yield _DEEPER + command


def _facts(reason: Stuck, group: Group, view: View) -> Iterator[str]:
    yield from _since(group, view)
    yield from _unanswered(reason, group)
    states = {socket.state for socket in group.sockets} - {"ESTABLISHED", "SYN_SENT"}
    if states:
        yield "/".join(sorted(safe(state or "?") for state in states))
    if reason is not Stuck.REPLY:
        silent_ms = group.silent_ms()
        if silent_ms is not None:
            yield f"silent for {_longest(silent_ms)}"
    for name, what in (("unacked_bytes", "unacked"), ("unsent_bytes", "unsent")):
        count = sum(getattr(socket, name) or 0 for socket in group.sockets)
        if count:
            yield f"{bytes_in_words(count)} {what}"
    errors = {safe(socket.soft_error) for socket in group.sockets if socket.soft_error}
    yield from sorted(errors)
    yield from _until(reason, group, view)
    if any(socket.orphan for socket in group.sockets):
        yield "closed by its process"
    if any(socket.mptcp for socket in group.sockets):
        yield "subflow of Multipath TCP"


def _since(group: Group, view: View) -> Iterator[str]:
    """`since 14:03:37 (1m47s)`, of the one that has hung longest."""
    began = [(parse_time(socket.since), socket.time_ns) for socket in group.sockets if socket.since is not None]
    if began:
        since_ns, now_ns = min(began)
        ms = (now_ns - since_ns) // 1_000_000
        yield f"since {_clock(since_ns, now_ns, view)} ({duration(ms)})"


def _unanswered(reason: Stuck, group: Group) -> Iterator[str]:
    most = max((socket.attempt or 0 for socket in group.sockets), default=0)
    up_to = "up to " if len({socket.attempt for socket in group.sockets}) > 1 else ""
    if reason is Stuck.RETRANSMITTING:
        yield f"{up_to}{plural(most, 'retransmission')}"
    elif reason is Stuck.SYN:
        yield f"{up_to}{plural(most + 1, 'SYN')}"
    elif reason is Stuck.PROBING and most:
        is_keepalive = all(socket.timer == "keepalive" for socket in group.sockets)
        yield f"{up_to}{plural(most, 'keepalive probe' if is_keepalive else 'probe')} unanswered"
    elif reason is Stuck.WINDOW and most >= MIN_UNANSWERED:
        yield f"{up_to}{plural(most, 'probe')} unanswered"
    elif reason is Stuck.UNSENT:
        yield f"{up_to}{plural(most, 'failed attempt')}"


def _until(reason: Stuck, group: Group, view: View) -> Iterator[str]:
    """When the kernel gives up, if one look tells that of every socket."""
    if reason is Stuck.REPLY:
        keepalive = keepalive_of_group(group)
        yield "keepalive off: no time limit" if keepalive == "off" else f"keepalive {keepalive}"
        return
    ends = []
    for socket in group.sockets:
        if socket.gives_up_in_ms is None:
            return
        earliest_ns = socket.time_ns + socket.gives_up_in_ms * 1_000_000
        ends += [earliest_ns, earliest_ns + (socket.gives_up_window_ms or 0) * 1_000_000]
    now_ns = group.sockets[0].time_ns
    first, last = _clock(min(ends), now_ns, view), _clock(max(ends), now_ns, view)
    in_words = duration(max(0, min(ends) - now_ns) // 1_000_000)
    yield f"gives up at {first} (in {in_words})" if first == last else f"gives up between {first} and {last}"


def _clock(time_ns: int, now_ns: int, view: View) -> str:
    """Local time of day, with the date if that is not today's."""
    date, clock = local_time(time_ns, view.utc_offset_s)
    return clock[:8] if date == local_time(now_ns, view.utc_offset_s)[0] else f"{date} {clock[:8]}"


def _longest(least_and_greatest_ms: tuple[int, int]) -> str:
    least, greatest = map(duration, least_and_greatest_ms)
    return least if least == greatest else f"{least} to {greatest}"


def _release(reason: Stuck, group: Group, *, is_one: bool) -> str | None:
    """The command that ends the calls that hang in these connections, and no others.

    None where ending helps nobody (`end` leaves such connections alone), or where it would take too many ports to
    name: the peers of these connections may be slow, and `end --stuck` leaves those alone.
    """
    sockets = [socket for socket in group.sockets if not socket.orphan and not socket.mptcp]
    if not sockets:
        return None
    hosts = {socket.raddr for socket in sockets if socket.raddr is not None}
    host = f" --host {safe(next(iter(hosts)))}" if len(hosts) == 1 else ""
    is_local = bool(sockets[0].accepted)
    if reason in _ANSWERS_NOTHING and not is_one:
        port = f"--lport {sockets[0].lport}" if is_local else f"--rport {sockets[0].rport}"
        return f"sudo tcpwatch end --stuck{host} {port}"
    lports, rports = ({port for socket in sockets if (port := getattr(socket, name))} for name in ("lport", "rport"))
    if max(len(lports), len(rports)) > _MAX_PORTS:
        return None
    ports = f"--lport {_listed(lports)} --rport {_listed(rports)}"
    stuck = " --stuck" if reason in _ANSWERS_NOTHING else ""
    return f"sudo tcpwatch end{stuck}{host} {ports}"


def _listed(ports: set[int]) -> str:
    return ",".join(map(str, sorted(ports)))
