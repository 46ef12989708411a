"""Walks over all sockets, for the `found` and `waiting` events: what no hook traces, because nothing happens.

An iterator in the kernel reaches the sockets of every namespace through the open files of every process, selects and
fills the events, and reports the process too (bpf/walk.h). The first walk ends before the first event is handed over.
Later walks run in threads of their own, so that the reader of the ring buffer never waits for one. Their events are
handed over in slices.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from tracer.kernel.layout import SIZE
from tracer.kernel.owners import Owners
from tracer.kernel.processes import Process
from tracer.kernel.program import syscalls
from tracer.kernel.program.program import Program
from tracer.kernel.program.requests import IdleService
from tracer.kernel.wire import Decoder, Owner
from tracer.model.events import Event
from tracer.model.threads import can_start

WALK_EVERY_S = 30.0
"""From the beginning of one walk to that of the next."""
AGAIN_EVERY_S = 2.0
"""From the beginning of one walk to that of the next, where that is urgent and the last one found little."""
FOUND_PER_S = 100
"""Events a second of urgent walks. After one that found many the next one waits longer, up to WALK_EVERY_S."""
SERVICE_EVERY_S = 300.0
"""From one search for the idle connections of a service to the next."""
MAX_SLICE = 128
"""Events of a later walk that are handed over at once: those of the ring buffer wait meanwhile."""
MAX_SERVICES = 1024
"""Services with a remembered search."""


class _Found(NamedTuple):
    """One socket that a walk reports, with the processes that hold it. The event has no wall-clock time yet."""

    event: Event
    owner: Owner
    processes: tuple[Process, ...]


class Walks:
    """The walks of one run. The first one has ended when the constructor returns.

    program: with its iterator attached; link: that iterator. lacks_thread: called where no thread can be started for
    a walk. Use it in the thread that reads the ring buffer, and close it before the program.
    """

    def __init__(
        self,
        program: Program,
        link: int,
        decoder: Decoder,
        owners: Owners,
        lacks_thread: Callable[[], None] = lambda: None,
    ) -> None:
        self._program = program
        self._link = link
        self._decoder = decoder
        self._owners = owners
        self._lacks_thread = lacks_thread
        self._thread: threading.Thread | None = None
        self._found: deque[_Found] | None = None  # not handed over yet; None until the walk has succeeded
        self._handed_over: set[str | None] = set()  # sockets, since that walk began
        self._is_outdated = False  # its result no longer holds
        self._wants_trouble = True
        self._wants_all = True
        self._is_urgent = False
        self._count = 0  # events of the latest walk
        self._services: deque[IdleService] = deque()  # to be searched
        self._searched: OrderedDict[tuple[bytes, int, bool], float] = OrderedDict()  # time.monotonic(), by service
        self._begin()
        self._run()
        self._wants_trouble = self._wants_all = self._found is None
        self._first: deque[_Found] = deque() if self._found is None else self._found

    def close(self) -> None:
        """Wait for the walk that is running."""
        if self._thread is not None:
            self._thread.join()

    def search_trouble(self) -> None:
        """Have the next walk report all connections in trouble, because events were lost."""
        self._wants_trouble = True

    def look_again(self) -> None:
        """Have a walk report all connections in trouble soon: the next sign of one did not come."""
        self._wants_trouble = self._is_urgent = True

    def search_service(self, service: IdleService) -> None:
        """Have a walk report the idle connections of a service at once, unless one did within SERVICE_EVERY_S."""
        key, now = service[1:], time.monotonic()
        if now - self._searched.get(key, -SERVICE_EVERY_S) < SERVICE_EVERY_S:
            return
        self._searched[key] = now
        self._searched.move_to_end(key)
        if len(self._searched) > MAX_SERVICES:
            self._searched.popitem(last=False)
        self._services.append(service)

    def restart(self) -> None:
        """Have the next walk report everything, and ignore the running one: the host was suspended."""
        self._is_outdated = self._wants_all = self._wants_trouble = True

    def merge(
        self, events: list[Event], now_ns: int, clock_offset_ns: int, *, is_drained: bool
    ) -> tuple[list[Event], list[Event]]:
        """Merge events of the ring buffer, by time, with those of a walk that has ended.

        Returns all, and those of the walk alone. Begins the next walk when it is due. events: taken from the ring
        buffer at once. now_ns: CLOCK_BOOTTIME before that. is_drained: whether that emptied it.
        """
        found: list[Event] = []
        if self._first:
            found = self._take_first(None if is_drained else events[-1].ktime_ns, clock_offset_ns)
        elif self._thread is not None:
            self._handed_over.update(event.sock for event in events)
            if not self._thread.is_alive() and is_drained:
                found = self._take_later(now_ns, clock_offset_ns)
        elif self._services or self._is_due():
            self._begin()
            self._start_thread()
        if found:
            events = sorted([*events, *found], key=lambda event: event.ktime_ns)
        return events, found

    @property
    def has_more(self) -> bool:
        """Whether a walk has ended, and some of its events are not handed over yet."""
        return self._thread is not None and not self._thread.is_alive()

    def _is_due(self) -> bool:
        every_s = WALK_EVERY_S
        if self._is_urgent:
            every_s = min(every_s, max(AGAIN_EVERY_S, self._count / FOUND_PER_S))
        return time.monotonic() - self._began >= every_s

    def _begin(self) -> None:
        self._began = time.monotonic()
        self._handed_over.clear()
        self._is_outdated = False
        self._found = None
        service = self._services.popleft() if self._services else None
        self._program.request_walk(trouble=self._wants_trouble, all_waiting=self._wants_all, service=service)
        self._wants_trouble = self._wants_all = self._is_urgent = False

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._run, name="walk", daemon=True)
        if can_start(thread):
            self._thread = thread
        else:  # the next walk tries again
            self._wants_trouble = self._wants_all = True
            self._lacks_thread()

    def _run(self) -> None:
        with suppress(OSError, MemoryError):  # out of memory: a later walk may succeed
            self._found = deque(self._decoded(syscalls.read_iterator(self._link)))
            self._count = len(self._found)

    def _decoded(self, records: bytes) -> list[_Found]:
        """One for each socket in the records, with all of its holders, by time."""
        folded: dict[str | None, tuple[Event, Owner, dict[int, bytes]]] = {}
        for start in range(0, len(records), SIZE):
            event, owner = self._decoder.decode(records[start : start + SIZE], 0)
            folded.setdefault(event.sock, (event, owner, {}))[2][owner.pid] = owner.comm
        found = [
            _Found(event, owner, self._owners.processes_of(names, owner.cgroup))
            for event, owner, names in folded.values()
        ]
        return sorted(found, key=lambda each: each.event.ktime_ns)

    def _take_first(self, until_ns: int | None, clock_offset_ns: int) -> list[Event]:
        """Take events of the first walk up to a time, because the ring buffer may hold older ones than the rest."""
        due: list[Event] = []
        while self._first and (until_ns is None or self._first[0].event.ktime_ns <= until_ns):
            due.append(self._with_owner(self._first.popleft(), clock_offset_ns))
        return due

    def _take_later(self, now_ns: int, clock_offset_ns: int) -> list[Event]:
        """Take events of a later walk, moved to the present.

        A socket with an event in the ring buffer since the walk began is left out, because the walk may be older.
        Nothing has happened to the others since.
        """
        if self._found is None or self._is_outdated:
            self._wants_all = self._wants_trouble = True
            self._thread = None
            return []
        events: list[Event] = []
        while self._found and len(events) < MAX_SLICE:
            each = self._found.popleft()
            if each.event.sock not in self._handed_over:
                move_to_later(each.event, max(0, now_ns - each.event.ktime_ns), self._decoder.hz)
                events.append(self._with_owner(each, clock_offset_ns))
        if not self._found:
            self._thread = None
        return events

    def _with_owner(self, found: _Found, clock_offset_ns: int) -> Event:
        event = found.event
        self._owners.fill_from_walk(event, found.owner, found.processes)
        event.time_ns = (event.ktime_ns + clock_offset_ns) // 1000 * 1000
        return event


def move_to_later(event: Event, by_ns: int, hz: int) -> None:
    """Move an event of a walk to a later time, up to which nothing happened to its socket. time_ns stays as it is."""
    by_ms = by_ns // 1_000_000
    event.ktime_ns += by_ns
    for name in ("silent_ms", "retrying_ms", "stuck_ms", "asked_ms"):
        if (duration_ms := getattr(event, name)) is not None:
            setattr(event, name, duration_ms + by_ms)
    if event.jiffies is not None:
        event.jiffies = (event.jiffies + by_ms * hz // 1000) % (1 << 32)
    if event.timer_ms is not None:
        event.timer_ms = max(0, event.timer_ms - by_ms)
