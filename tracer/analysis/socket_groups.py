"""Groups of sockets: those of one program and service. A pool of 500 connections is one group."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from tracer.analysis.risk import is_local
from tracer.analysis.stuck import Stuck, stuck
from tracer.model.sockets import Socket

MAX_HOSTS = 8
"""Servers that one program is connected to on one port: beyond it they are one group."""
Key = TypeVar("Key")


class GroupKey(NamedTuple):
    """What the sockets of a group have in common.

    owner: the name of the program; None if unknown. host: the remote address; empty of several servers and of the
    clients of a local service. port: the service's port, at whichever end it is. netns: the network namespace of a
    service on this host, which is another one in each namespace; else None. reason: why they hang.
    """

    owner: str | None
    host: str
    port: int | None
    is_local: bool
    netns: int | None
    reason: Stuck | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """Sockets of one key, never none."""

    key: GroupKey
    sockets: Sequence[Socket]

    @property
    def pids(self) -> set[int]:
        """The processes that own them, the first of each."""
        return {socket.pid for socket in self.sockets if socket.pid is not None}

    @property
    def peers(self) -> set[str | None]:
        """The remote addresses."""
        return {socket.raddr for socket in self.sockets}

    def range_of(self, number: Callable[[Socket], int | None]) -> tuple[int, int] | None:
        """The least and the greatest of a number of the sockets; None if none of them has it."""
        known = [value for socket in self.sockets if (value := number(socket)) is not None]
        return (min(known), max(known)) if known else None

    def silent_ms(self) -> tuple[int, int] | None:
        """The shortest and the longest silence."""
        return self.range_of(lambda socket: socket.silent_ms)


def _key_of(socket: Socket, reason: Stuck | None) -> GroupKey:
    owner = socket.comm or socket.exe
    if socket.accepted:
        return GroupKey(owner, "", socket.lport, True, socket.netns, reason)
    netns = socket.netns if is_local(socket.laddr, socket.raddr) else None
    return GroupKey(owner, socket.raddr or "", socket.rport, False, netns, reason)


def grouped(sockets: Iterable[Socket], *, by_reason: bool = False) -> list[Group]:
    """The groups, those that hang first by the reason of their worst socket, then the longest silence first.

    by_reason: sockets that hang for another reason are in a group of their own.
    """
    members: dict[GroupKey, list[Socket]] = defaultdict(list)
    worst: dict[GroupKey, int] = {}
    for socket in sockets:
        reason = stuck(socket)
        key = _key_of(socket, reason if by_reason else None)
        members[key].append(socket)
        if reason is not None:
            worst[key] = min(worst.get(key, _HEALTHY), _ORDER[reason])
    merged, worst = _merged(members, worst)
    groups = [Group(key, each) for key, each in merged.items()]
    return sorted(groups, key=lambda group: (worst.get(group.key, _HEALTHY), -_longest_silence(group)))


def _merged(
    members: dict[GroupKey, list[Socket]], worst: dict[GroupKey, int]
) -> tuple[dict[GroupKey, list[Socket]], dict[GroupKey, int]]:
    """With one group in place of those of a program that is connected to more than MAX_HOSTS servers on one port."""
    hosts: dict[GroupKey, int] = defaultdict(int)
    for key in members:
        hosts[key._replace(host="")] += 1
    merged: dict[GroupKey, list[Socket]] = {}
    worst_of_merged: dict[GroupKey, int] = {}
    for key, sockets in members.items():
        wide = key._replace(host="")
        key_now = wide if hosts[wide] > MAX_HOSTS else key
        merged.setdefault(key_now, []).extend(sockets)
        if key in worst:
            worst_of_merged[key_now] = min(worst_of_merged.get(key_now, _HEALTHY), worst[key])
    return merged, worst_of_merged


def _longest_silence(group: Group) -> int:
    silent_ms = group.silent_ms()
    return -1 if silent_ms is None else silent_ms[1]


_ORDER = {reason: number for number, reason in enumerate(Stuck)}
_HEALTHY = len(Stuck)
