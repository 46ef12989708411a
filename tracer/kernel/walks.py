"""Walks over all sockets, for what no hook sees because nothing happens: the `found` and `waiting` events.

An iterator in the kernel reaches the sockets of every namespace by the open files of every process, chooses and fills
the events, and says who holds the socket (bpf/walk.h). The first walk is made before the first event is handed over.
Those after it run in threads of their own, so that the reader of the ring never waits for one. It hands over their
events in slices.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from contextlib import suppress
from typing import NamedTuple

from tracer.kernel.holders import Process
from tracer.kernel.layout import SIZE
from tracer.kernel.owners import Owners
from tracer.kernel.program import syscalls
from tracer.kernel.program.program import Program, Suspects
from tracer.kernel.wire import Decoder, Owner
from tracer.model.events import Event

WALK_EVERY_S = 30.0
"""From the beginning of one walk to that of the next."""
ASK_EVERY_S = 300.0
"""How long a service is not asked about again."""
SLICE = 128
"""Events of a later walk that are handed over at once, at most: those of the ring wait meanwhile."""
MOST_ASKED = 1024
"""Services that are remembered to have been asked about."""


class _Found(NamedTuple):
    """What a walk says of a socket, and who holds it. The event's wall clock is not set yet."""

    event: Event
    owner: Owner
    processes: tuple[Process, ...]


class Walks:
    """The walks of one run. The first one has been made when the constructor returns.

    program: with its iterator attached; link: that iterator. Use it in the thread that reads the ring, and close it
    before the program.
    """

    def __init__(self, program: Program, link: int, decoder: Decoder, owners: Owners) -> None:
        self._program = program
        self._link = link
        self._decoder = decoder
        self._owners = owners
        self._thread: threading.Thread | None = None
        self._found: deque[_Found] | None = None  # and not handed over; None until the walk has ended well
        self._handed_over: set[str | None] = set()  # sockets, since that walk began
        self._outdated = False  # what that walk sees is no longer so
        self._wants_trouble = True
        self._wants_all = True
        self._suspects: deque[Suspects] = deque()
        self._asked: OrderedDict[tuple[bytes, int, bool], float] = OrderedDict()  # when, by service
        self._begin()
        self._run()
        self._wants_trouble = self._wants_all = self._found is None
        self._first: deque[_Found] = self._found or deque()

    def close(self) -> None:
        """Wait for the walk that is under way."""
        if self._thread is not None:
            self._thread.join()

    def look_for_trouble(self) -> None:
        """Have the next walk look for trouble again: events that told of it were lost."""
        self._wants_trouble = True

    def look_for(self, suspects: Suspects) -> None:
        """Have a walk tell of the connections to a service, at once, but not oftener than each ASK_EVERY_S."""
        service, now = suspects[1:], time.monotonic()
        if now - self._asked.get(service, -ASK_EVERY_S) < ASK_EVERY_S:
            return
        self._asked[service] = now
        self._asked.move_to_end(service)
        if len(self._asked) > MOST_ASKED:
            self._asked.popitem(last=False)
        self._suspects.append(suspects)

    def begin_again(self) -> None:
        """Have the next walk tell everything, and ignore the one that is under way: this host was suspended."""
        self._outdated = self._wants_all = self._wants_trouble = True

    def joined(
        self, events: list[Event], now_ns: int, clock_offset_ns: int, *, is_drained: bool
    ) -> tuple[list[Event], list[Event]]:
        """Events of the ring with those of a walk that has ended, in the order of their time; and the latter alone.

        events: what was taken from the ring at once. now_ns: CLOCK_BOOTTIME before that. is_drained: whether all was
        taken. Begins the next walk when it is due.
        """
        found: list[Event] = []
        if self._first:
            found = self._of_the_first(None if is_drained else events[-1].ktime_ns, clock_offset_ns)
        elif self._thread is not None:
            self._handed_over.update(event.sock for event in events)
            if not self._thread.is_alive() and is_drained:
                found = self._of_a_moment(now_ns, clock_offset_ns)
        elif self._suspects or time.monotonic() - self._began >= WALK_EVERY_S:
            self._begin()
            self._start_thread()
        if found:
            events = sorted([*events, *found], key=lambda event: event.ktime_ns)
        return events, found

    @property
    def has_more(self) -> bool:
        """Whether a walk has ended whose events are not all handed over."""
        return self._thread is not None and not self._thread.is_alive()

    def _begin(self) -> None:
        self._began = time.monotonic()
        self._handed_over.clear()
        self._outdated = False
        self._found = None
        suspects = self._suspects.popleft() if self._suspects else None
        self._program.prepare_walk(trouble=self._wants_trouble, all_waiting=self._wants_all, suspects=suspects)
        self._wants_trouble = self._wants_all = False

    def _start_thread(self) -> None:
        """After the privileges were dropped: a thread has those of the one that starts it."""
        thread = threading.Thread(target=self._run, name="walk", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # as many threads as this process may have: it is tried again when the next walk is due
            self._wants_trouble = self._wants_all = True
        else:
            self._thread = thread

    def _run(self) -> None:
        with suppress(OSError, MemoryError):  # no memory: the next one may have more
            self._found = deque(self._decoded(syscalls.read_iterator(self._link)))

    def _decoded(self, records: bytes) -> list[_Found]:
        """What the records say, one for each socket, with all of its holders, in the order of time."""
        folded: dict[str | None, tuple[Event, Owner, dict[int, bytes]]] = {}
        for start in range(0, len(records), SIZE):
            event, owner = self._decoder.decode(records[start : start + SIZE], 0)
            folded.setdefault(event.sock, (event, owner, {}))[2][owner.pid] = owner.comm
        found = [_Found(event, owner, self._owners.processes_of(names)) for event, owner, names in folded.values()]
        return sorted(found, key=lambda each: each.event.ktime_ns)

    def _of_the_first(self, until_ns: int | None, clock_offset_ns: int) -> list[Event]:
        """Events of the first walk, up to a time: there may be older ones of the ring than the rest."""
        due: list[Event] = []
        while self._first and (until_ns is None or self._first[0].event.ktime_ns <= until_ns):
            due.append(self._named(self._first.popleft(), clock_offset_ns))
        return due

    def _of_a_moment(self, now_ns: int, clock_offset_ns: int) -> list[Event]:
        """Events of a walk that a thread has made, as of now.

        What the ring gave meanwhile has been handed over, and of its sockets nothing is told that may be older. The
        others are as they were, and their clocks have gone on.
        """
        if self._found is None or self._outdated:
            self._wants_all = self._wants_trouble = True
            self._thread = None
            return []
        events: list[Event] = []
        while self._found and len(events) < SLICE:
            each = self._found.popleft()
            if each.event.sock not in self._handed_over:
                move(each.event, max(0, now_ns - each.event.ktime_ns), self._decoder.hz)
                events.append(self._named(each, clock_offset_ns))
        if not self._found:
            self._thread = None
        return events

    def _named(self, found: _Found, clock_offset_ns: int) -> Event:
        event = found.event
        self._owners.name(event, found.owner, found.processes)
        event.time_ns = (event.ktime_ns + clock_offset_ns) // 1000 * 1000
        return event


def move(event: Event, by_ns: int, hz: int) -> None:
    """Have an event of a walk tell of a later moment, up to which nothing happened to its socket.

    Its wall clock stays as it is.
    """
    known = event.known()
    by_ms = by_ns // 1_000_000
    known["ktime_ns"] += by_ns
    for name in ("silent_ms", "retrying_ms", "stuck_ms", "asked_ms"):
        if name in known:
            known[name] += by_ms
    if "jiffies" in known:
        known["jiffies"] = (known["jiffies"] + by_ms * hz // 1000) % (1 << 32)
    if "timer_ms" in known:
        known["timer_ms"] = max(0, known["timer_ms"] - by_ms)
