"""Searches for the holders of sockets: each in a thread of its own, all together within a share of one core."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Generic, TypeVar

from tracer.kernel.holders import Held, HolderFinder
from tracer.model.threads import can_start

MAX_CPU_SHARE, BURST_S = 0.05, 0.2
"""The share of one core that searches may use; and the CPU time that they may use at once after a pause."""
RENEW_NS = 1_000_000_000
"""The shortest time between searches that only renew what is known."""

NOTHING, RENEWAL, STATE_CHANGE, TROUBLE = range(4)
"""What events need a search for, in the order of its priority."""

Found = TypeVar("Found")


class Search(threading.Thread, Generic[Found]):
    """One search.

    inodes: the sockets to look for; None: all. After its end: found, what `sort` made of the holders, None where it
    failed; ended_ns, when they were found; used_s, CPU time of the thread; took_s, elapsed time.
    """

    def __init__(
        self,
        find: HolderFinder,
        inodes: Collection[int] | None,
        sort: Callable[[Held, int], Found],
        clock_ns: Callable[[], int],
    ) -> None:
        super().__init__(name="owners", daemon=True)
        self._find = find
        self._sort = sort
        self._clock_ns = clock_ns
        self.inodes = inodes
        self.found: Found | None = None
        self.ended_ns = 0
        self.used_s = self.took_s = 0.0

    def run(self) -> None:
        """Search, and sort what was found: whatever takes longer with more sockets."""
        began = time.monotonic()
        with suppress(OSError, MemoryError):  # out of memory: a later search may succeed
            held = self._find(self.inodes)
            self.ended_ns = self._clock_ns()
            self.found = self._sort(held, self.ended_ns)
        self.used_s = time.thread_time()
        self.took_s = time.monotonic() - began


class Searches(Generic[Found]):
    """One search at a time, as often as the CPU share permits.

    find: called in the thread of a search, as is sort, with the holders and the time at which they were found
    (clock_ns). lacks_thread: called where no thread can be started. Use everything else in one thread.
    """

    def __init__(
        self,
        find: HolderFinder,
        sort: Callable[[Held, int], Found],
        clock_ns: Callable[[], int],
        lacks_thread: Callable[[], None] = lambda: None,
    ) -> None:
        self._lacks_thread = lacks_thread
        self._find = find
        self._sort = sort
        self._clock_ns = clock_ns
        self.running: Search[Found] | None = None
        self.took_s = 0.0
        """Elapsed time of the latest search."""
        self.allowance_s = BURST_S
        """CPU time that searches may use now."""
        self._began_ns = 0
        self._allowance_ns = clock_ns()  # when the allowance was last increased

    def may_begin(self, priority: int, now_ns: int) -> bool:
        """Whether the share of the core permits a search. Half of the burst is reserved for TROUBLE."""
        earned_s = (now_ns - self._allowance_ns) / 1e9 * MAX_CPU_SHARE
        self.allowance_s, self._allowance_ns = min(BURST_S, self.allowance_s + earned_s), now_ns
        if priority == TROUBLE:
            return self.allowance_s > 0
        if priority == RENEWAL and now_ns - self._began_ns < RENEW_NS:
            return False
        return priority != NOTHING and self.allowance_s > BURST_S / 2

    def begin(self, inodes: Collection[int] | None) -> None:
        """Begin a search for these sockets, or for all. Does nothing where no thread can be started."""
        search = Search(self._find, None if inodes is None else frozenset(inodes), self._sort, self._clock_ns)
        if not can_start(search):
            self._lacks_thread()
            return
        self.running = search
        self._began_ns = self._clock_ns()

    def ended(self, wait_s: float | None) -> Search[Found] | None:
        """The search, once, if it ends within wait_s (None: however long it takes)."""
        search = self.running
        if search is None:
            return None
        if wait_s != 0:
            search.join(wait_s)
        if search.is_alive():
            return None
        self.running = None
        self.allowance_s -= search.used_s
        self.took_s = search.took_s
        return search

    def close(self) -> None:
        """Wait for the search that is running."""
        if self.running is not None:
            self.running.join()
