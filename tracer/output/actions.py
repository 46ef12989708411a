"""What an action will do and what it did, as text and as JSON lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Optional

from tracer.analysis.stuck import Stuck
from tracer.model.actions import Left, Outcome, Result
from tracer.model.json_members import encode
from tracer.model.sockets import Socket, to_json
from tracer.output.format import duration, endpoint, owner, owner_of_all, plural, program, safe

MAX_SINGLE = 12
"""Connections that are listed one by one before the question; more are grouped."""
_INDENT = 6

Chosen = tuple[Optional[Stuck], Socket]


def plan_as_text(chosen: Sequence[Chosen], width: float, *, grouped: bool) -> Iterator[str]:
    """Lines for each connection to end, or for each group of similar ones. width: columns, infinite for one line."""
    if not grouped or len(chosen) <= MAX_SINGLE:
        for reason, socket in chosen:
            yield from fitting(f"  {connection(socket)}", _state(reason, [socket]), width)
        return
    groups: dict[tuple[str, str, Stuck | None, str | None], list[Socket]] = {}
    for reason, socket in chosen:
        groups.setdefault((program(socket), service(socket), reason, socket.state), []).append(socket)
    for (_, which, reason, _), sockets in sorted(groups.items(), key=lambda item: -len(item[1])):
        who = connection(sockets[0]) if len(sockets) == 1 else f"{len(sockets):,} × {owner_of_all(sockets)} {which}"
        yield from fitting(f"  {who}", _state(reason, sockets), width)


def fitting(who: str, what: str, width: float) -> Iterator[str]:
    """One line, or two where that is wider than width."""
    line = f"{who}  {what}"
    if len(line) <= width:
        yield line
    else:
        yield who
        yield " " * _INDENT + what


def connection(socket: Socket) -> str:
    """The owner and both ends."""
    return f"{owner(socket)}  {endpoint(socket.laddr, socket.lport)} → {endpoint(socket.raddr, socket.rport)}"


def service(socket: Socket) -> str:
    """The end that many connections have in common."""
    if socket.accepted:
        return f"at {endpoint(socket.laddr, socket.lport)}"
    return f"→ {endpoint(socket.raddr, socket.rport)}"


def _state(reason: Stuck | None, sockets: Sequence[Socket]) -> str:
    """`ESTABLISHED, retransmitting, silent for 1m47s`."""
    words = [safe(sockets[0].state or "-")]
    if reason is not None:
        words.append(reason.value)
    silences = [socket.silent_ms for socket in sockets if socket.silent_ms is not None]
    if silences:
        shortest, longest = duration(min(silences)), duration(max(silences))
        words.append(f"silent for {longest}" if shortest == longest else f"silent for {shortest} to {longest}")
    return ", ".join(words)


def question(count: int) -> str:
    """The question before anything is ended."""
    return f"End {'this connection' if count == 1 else f'these {count:,} connections'}? [y/N] "


_WHY_LEFT = {
    Left.REPLY: "waiting for a reply; a slow one looks the same",
    Left.WINDOW: "the peer answers with a closed window; its application does not read",
    Left.RECOVERED: "the peer answers again",
    Left.ORPHAN: "closed by the application already; the kernel completes that alone",
    Left.MPTCP: "a subflow of Multipath TCP; the blocked call would go on without it",
    Left.SESSION: "the session of this command uses it",
}
_CAN_BE_NAMED = (Left.REPLY, Left.WINDOW)


def about_left(left: Iterable[tuple[Left, Socket]]) -> Iterator[str]:
    """A line for each reason to leave connections alone, with how to name one."""
    by_reason: dict[Left, list[Socket]] = {}
    for why, socket in left:
        by_reason.setdefault(why, []).append(socket)
    for why in Left:
        sockets = by_reason.get(why)
        if sockets:
            line = f"left {plural(len(sockets), 'connection')} ({_WHY_LEFT[why]})"
            yield f"{line}. To end one: {_naming(sockets[0])}" if why in _CAN_BE_NAMED else line


def _naming(socket: Socket) -> str:
    """The command that ends this connection, whatever its state."""
    peer = f" --host {safe(socket.raddr)}" if socket.raddr is not None else ""
    return f"sudo tcpwatch end --lport {socket.lport}{peer} --rport {socket.rport}"


def outcome_as_text(outcome: Outcome) -> str:
    """A line: the result and the connection."""
    detail = f"  ({safe(outcome.detail)})" if outcome.detail else ""
    return f"{outcome.result.value:<11}  {connection(outcome.socket)}{detail}\n"


def outcome_as_json(outcome: Outcome) -> str:
    """A line: the fields of the socket, `action`, `result`, and `detail` where the kernel refused."""
    return action_as_json(outcome.socket, "end", outcome.result.value, outcome.detail)


def action_as_json(socket: Socket, action: str, result: str, detail: str = "", **more: Any) -> str:
    """A line: the fields of the socket, `action`, `result`, those of `more` that are known, and `detail`."""
    known = {name: value for name, value in more.items() if value is not None}
    fields = {**to_json(socket), "action": action, "result": result, **known}
    if detail:
        fields["detail"] = detail
    return encode(fields) + "\n"


_SUMMARY = {
    Result.GONE: "already gone",
    Result.RECOVERED: "recovered and left",
    Result.UNREACHABLE: "not ended",
}


def summary(outcomes: Sequence[Outcome]) -> str:
    """The numbers, for stderr: `ended 3 connections, 1 already gone`."""
    counts = Counter(outcome.result for outcome in outcomes)
    if counts[Result.WOULD_END]:
        return f"would end {plural(counts[Result.WOULD_END], 'connection')}; nothing was done"
    parts = [f"ended {plural(counts[Result.ENDED], 'connection')}"]
    parts += [f"{counts[result]:,} {words}" for result, words in _SUMMARY.items() if counts[result]]
    return ", ".join(parts)
