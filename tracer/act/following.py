"""Find connections as they are opened, each one once.

An event reports that a connection was opened. A walk over the open files of all processes finds its socket as soon as
a process has it. No process has a connection that a server has not accepted yet.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Optional

from tracer.act.protection import may_be_idle
from tracer.model.events import Batch, Event
from tracer.model.kinds import Kind
from tracer.model.sockets import Socket

PAUSE_SHARE = 10
"""A walk comes no earlier than after this many times the duration of the one before."""
MIN_PAUSE_S, MAX_PAUSE_S = 0.1, 5.0
"""Between two walks. The pause is doubled while an opened connection is in no process."""
MAX_AWAITED = 65536
"""Opened connections that are waited for. Beyond that all are found by a walk every MAX_PAUSE_S."""
_ESTABLISHED = "ESTABLISHED"

_Ends = tuple[Optional[int], Optional[str], Optional[int], Optional[str], Optional[int]]


class Opened:
    """Connections that are opened, as far as no walk has found their sockets.

    read: walks. chooses: whether a socket is wanted now; another process may hold it at the next walk. clock_s:
    monotonic.
    """

    def __init__(
        self,
        read: Callable[[], list[Socket]],
        chooses: Callable[[Socket], bool] = lambda _: True,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read
        self._chooses = chooses
        self._clock_s = clock_s
        self._awaited: dict[str, _Ends] = {}  # by Event.sock
        self._seen: set[int | None] = set()
        self._is_due = True
        self._next_s = float("-inf")
        self._pause_s = MIN_PAUSE_S

    def follow(self, batches: Iterable[Batch]) -> Iterator[list[Socket]]:
        """What has been opened since the last time. First, all connections that are open."""
        yield self.found()
        for batch in batches:
            for event in batch.events:
                self.add(event)
            yield self.found()

    def add(self, event: Event) -> None:
        """Take an event of any kind."""
        if event.event == Kind.LOST:
            self._is_due = True
        elif event.event == Kind.STATE and event.sock is not None:
            if event.new_state != _ESTABLISHED:
                self._awaited.pop(event.sock, None)
            elif len(self._awaited) < MAX_AWAITED:
                self._awaited[event.sock] = (event.netns, event.laddr, event.lport, event.raddr, event.rport)
                self._is_due, self._pause_s = True, MIN_PAUSE_S

    def found(self) -> list[Socket]:
        """The sockets that the next walk finds, if it is due; else none."""
        now_s = self._clock_s()
        if now_s < self._next_s or not (self._is_due or self._awaited):
            return []
        sockets = self._read()
        took_s = self._clock_s() - now_s
        self._next_s = now_s + took_s + max(self._pause_s, PAUSE_SHARE * took_s)
        self._pause_s = min(2 * self._pause_s, MAX_PAUSE_S)
        self._is_due = False
        self._forget({_ends_of(socket) for socket in sockets})
        chosen = {socket.inode: socket for socket in sockets if self._is_wanted(socket)}
        fresh = [socket for inode, socket in chosen.items() if inode not in self._seen]
        self._seen = set(chosen)
        return fresh

    def _is_wanted(self, socket: Socket) -> bool:
        """False for one that still connects. A later walk finds it."""
        return socket.inode is not None and may_be_idle(socket) and self._chooses(socket)

    def _forget(self, walked: set[_Ends]) -> None:
        self._awaited = {sock: ends for sock, ends in self._awaited.items() if ends not in walked}


def _ends_of(socket: Socket) -> _Ends:
    return socket.netns, socket.laddr, socket.lport, socket.raddr, socket.rport
