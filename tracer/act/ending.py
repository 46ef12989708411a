"""End connections, and no others: find each socket's identity, see whether it still hangs, have the kernel end it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field, replace

from tracer.act.selection import HOPELESS, Selection
from tracer.analysis.stuck import Stuck, stuck
from tracer.analysis.timer_wheel import lateness
from tracer.kernel.sock_diag import Look, Named, SockDiag, explained, named_of, open_each
from tracer.model.actions import Left, Outcome, Result
from tracer.model.dataclass import dataclass
from tracer.model.errors import TcpwatchError
from tracer.model.sockets import Socket

MIN_PAUSE_S, MAX_PAUSE_S = 0.2, 3.0
"""Between two looks at connections that hang. A timer that expires within the longer time is waited for."""
_ROUND_TRIP_S = 0.2
"""Time for an answer from a peer with an unknown round-trip time."""

_Open = Callable[[Iterable[int]], Mapping[int, SockDiag]]


@dataclass(frozen=True, slots=True)
class Target:
    """A connection to end. reason: why it hangs; None: the filters name it, and it may be in any state."""

    socket: Socket
    reason: Stuck | None
    diag: SockDiag
    look: Look


@dataclass(slots=True)
class Plan:
    """The connections to end, as they are shown, and those left alone."""

    targets: list[Target] = field(default_factory=list)
    left: list[tuple[Left, Socket]] = field(default_factory=list)


def plan(selection: Selection, open_each: _Open = open_each) -> Plan:
    """Find the identity of each chosen connection. One that has ended since is dropped.

    Raises TcpwatchError if the kernel cannot end connections, or a network namespace cannot be entered.
    """
    made = Plan(left=list(selection.left))
    diags = open_each({socket.netns for _, socket in selection.chosen if socket.netns is not None})
    with explained():
        _find(made, selection, diags)
    return made


def _find(made: Plan, selection: Selection, diags: Mapping[int, SockDiag]) -> None:
    if not all(diag.can_destroy() for diag in diags.values()):
        raise TcpwatchError(
            "this kernel cannot end connections: it was built without CONFIG_INET_DIAG_DESTROY",
            hint="grep INET_DIAG_DESTROY /boot/config-$(uname -r); restart the process that hangs",
        )
    names: dict[int, list[Named]] = {}
    for _, socket in selection.chosen:
        if socket.netns is not None and (named := named_of(socket)) is not None:
            names.setdefault(socket.netns, []).append(named)
    looks = {netns: diag.find(names.get(netns, ())) for netns, diag in diags.items()}
    for reason, socket in selection.chosen:
        if socket.netns in looks and (named := named_of(socket)) is not None:
            look = looks[socket.netns].get(named)
            if look is not None and not look.is_closed:
                made.targets.append(Target(socket, reason, diags[socket.netns], look))


def pause_s(targets: Sequence[Target], hz: int) -> float:
    """How long to wait until the second look, seconds. hz: jiffies per second.

    Long enough for an answer to the next retransmission or probe of each connection, where that is due soon. A short
    outage makes many connections hang at once, and their next retransmission ends that.
    """
    pauses = [MIN_PAUSE_S]
    for target in targets:
        due_ms = target.look.timer_ms
        if due_ms is not None:
            srtt_ms = target.socket.srtt_ms
            answer_s = _ROUND_TRIP_S if srtt_ms is None else max(_ROUND_TRIP_S, 2 * srtt_ms / 1000)
            pauses.append(due_ms / 1000 + lateness(due_ms / 1000, hz) + answer_s)
    return max(pause for pause in pauses if pause <= MAX_PAUSE_S)


def look_again(before: Plan) -> Plan:
    """Keep the connections that still hang. Those that do not go among the ones left alone."""
    after = Plan(left=list(before.left))
    for target in before.targets:
        try:
            now = target.diag.look(target.look.identity)
        except OSError:  # `end` meets it again, and reports it
            after.targets.append(target)
            continue
        if now is None or now.is_closed:
            continue
        if hangs(target, now):
            after.targets.append(replace(target, look=now))
        else:
            after.left.append((Left.RECOVERED, target.socket))
    return after


def hangs(target: Target, now: Look) -> bool:
    """Whether the peer of this socket still answers nothing."""
    socket = replace(
        target.socket, state=now.state, timer=now.timer, timer_ms=now.timer_ms, attempt=now.attempt, waiting=False,
        silent_ms=now.silent_ms, snd_wnd=now.snd_wnd,
    )  # fmt: skip
    return stuck(socket) in HOPELESS


def end(target: Target) -> Outcome:
    """End one connection, if it is still the one that was found, and still hangs if that was the reason.

    Between the question and the answer a person may take minutes, so the last look is taken here.
    """
    try:
        return _end(target)
    except OSError as error:
        return Outcome(target.socket, Result.UNREACHABLE, error.strerror or str(error))


def _end(target: Target) -> Outcome:
    identity = target.look.identity
    now = target.diag.look(identity)
    if now is None or now.is_closed:
        return Outcome(target.socket, Result.GONE)
    if target.reason is not None and not hangs(target, now):
        return Outcome(target.socket, Result.RECOVERED)
    if not target.diag.destroy(identity):
        return Outcome(target.socket, Result.GONE)
    if target.diag.look(identity) is not None:
        return Outcome(target.socket, Result.UNREACHABLE, "the kernel reported success and kept the connection")
    return Outcome(target.socket, Result.ENDED)
