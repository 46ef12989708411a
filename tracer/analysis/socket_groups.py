"""Groups of sockets: those of one program and service. A pool of 500 connections is one group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import field
from typing import NamedTuple

from tracer.analysis.risk import is_local
from tracer.analysis.stuck import Stuck, stuck
from tracer.model.dataclass import dataclass
from tracer.model.sockets import Socket

MAX_HOSTS = 8
"""Servers that one program is connected to on one port: beyond it they are one group."""


class GroupKey(NamedTuple):
    """What the sockets of a group have in common.

    owner: the name of the program; None if unknown. host: the remote address; empty of several servers and of the
    clients of a local service. port: the service's port, at whichever end it is. netns: the network namespace of a
    service on this host, which is another one in each namespace; else None.
    """

    owner: str | None
    host: str
    port: int | None
    is_local: bool
    netns: int | None


@dataclass(slots=True)
class Group:
    """Sockets of one key, at least one. reasons: why some hang, and their numbers."""

    key: GroupKey
    sockets: list[Socket] = field(default_factory=list)
    reasons: Counter[Stuck] = field(default_factory=Counter)

    @property
    def worst(self) -> int:
        """The place of the worst reason in the order of reasons, beyond the last one without any."""
        return min((_ORDER[reason] for reason in self.reasons), default=len(_ORDER))

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


def _key_of(socket: Socket) -> GroupKey:
    owner = socket.comm or socket.exe
    if socket.accepted:
        return GroupKey(owner, "", socket.lport, True, socket.netns)
    netns = socket.netns if is_local(socket.laddr, socket.raddr) else None
    return GroupKey(owner, socket.raddr or "", socket.rport, False, netns)


def grouped(sockets: Iterable[Socket]) -> list[Group]:
    """The groups, those that hang first by the worst reason of their sockets, then the longest silence first."""
    groups: dict[GroupKey, Group] = {}
    for socket in sockets:
        key = _key_of(socket)
        group = groups.get(key)
        if group is None:
            group = groups[key] = Group(key)
        group.sockets.append(socket)
        reason = stuck(socket)
        if reason is not None:
            group.reasons[reason] += 1
    return sorted(_merged(groups), key=lambda group: (group.worst, -_longest_silence(group)))


def _merged(groups: dict[GroupKey, Group]) -> Iterable[Group]:
    """One group in place of those of a program that is connected to more than MAX_HOSTS servers on one port."""
    hosts = Counter(key._replace(host="") for key in groups)
    merged: dict[GroupKey, Group] = {}
    for key, group in groups.items():
        wide = key._replace(host="")
        if hosts[wide] <= MAX_HOSTS:
            merged[key] = group
            continue
        together = merged.setdefault(wide, Group(wide))
        together.sockets += group.sockets
        together.reasons += group.reasons
    return merged.values()


def _longest_silence(group: Group) -> int:
    silent_ms = group.silent_ms()
    return -1 if silent_ms is None else silent_ms[1]


_ORDER = {reason: number for number, reason in enumerate(Stuck)}
