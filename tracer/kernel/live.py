"""The running kernel as a source of events."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from tracer.kernel import clocks, host, privileges, probes, resets
from tracer.kernel.counters import KernelCounters
from tracer.kernel.holders import HolderFinder, holder_finder
from tracer.kernel.namespaces import NamespaceFinder, namespace_finder
from tracer.kernel.owners import Owners
from tracer.kernel.presence import absent
from tracer.kernel.program.btf import KernelTypes
from tracer.kernel.program.filter_maps import mapped_address
from tracer.kernel.program.loading import load
from tracer.kernel.program.losses import Loss
from tracer.kernel.program.program import RESUME_AFTER_S, RING_BYTES, WAITING_AFTER_S, Program
from tracer.kernel.program.requests import IdleService
from tracer.kernel.program.ring import Ring
from tracer.kernel.program.source import TRACER, source_for
from tracer.kernel.suspends import Suspend, Suspends
from tracer.kernel.walks import Walks
from tracer.kernel.wire import Decoder
from tracer.model.counts import Counts
from tracer.model.errors import TcpwatchError
from tracer.model.events import SUSPEND, Batch, Event
from tracer.model.filters import Filter
from tracer.model.threads import cannot_start

IDLE_MS, BUSY_MS = 250, 100
"""Timeouts of a poll. IDLE_MS: how late ^C or --duration may be noticed. BUSY_MS, after a poll with events: how late
a state change may be shown. Other events wake the reader at once (bpf/submit.h)."""
MAX_BATCH = 128
"""Events that are handed on at once: few enough for the CPU caches, and for ^C in a storm of events."""
CALM_SHARE = 0.01
"""The used share of the ring buffer below which an event may wait some milliseconds for the next."""
LOST_EVERY_S = 1.0
COUNTERS_EVERY_S = 60.0
COUNTING_MS = 10
"""Timeout of a poll while the end of the run waits for the counters."""
OWNERS_WAIT_S = 1.0
"""How long the start waits for the owners of all sockets."""
SETTLED_NS = 50_000_000
"""Every older event is in the ring buffer, whichever CPU it happened on."""
CLOCK_STEP_NS = 1_000_000
"""A step of the wall clock against CLOCK_BOOTTIME; a smaller difference is measurement noise."""


class LiveSource:
    """Events from the kernel as they happen, by time within each batch.

    The constructor compiles, loads and attaches: when it returns, every hook is in place. Iterate until `stop()`
    returns true. Close it, or use it as a context manager.

    wanted: filters connections; the caller filters events by kind. stop: called between polls, at most IDLE_MS apart.
    resume: whether received segments are traced. resume_after_s: the silence after which a segment is an event.
    waiting_after_s: the silence after which waiting for a response is an event. say: takes a line for the user.
    complain: takes what the run goes on without. The constructor raises TcpwatchError for whatever is missing on this
    host.
    """

    def __init__(
        self,
        wanted: Filter,
        stop: Callable[[], bool],
        *,
        resume: bool = True,
        resume_after_s: float = RESUME_AFTER_S,
        waiting_after_s: float = WAITING_AFTER_S,
        ring_bytes: int = RING_BYTES,
        say: Callable[[str], None] = lambda _: None,
        complain: Callable[[TcpwatchError], None] = lambda _: None,
    ) -> None:
        host.require_privilege()
        hz = host.hz()
        timers = probes.timer_functions()
        with KernelTypes() as types:
            chosen = probes.choose(types, kprobes=probes.kprobes_available(), timers=timers, resume=resume)
            probes.require(chosen)
            reasons = {
                value: name.removeprefix("SK_RST_REASON_")
                for name, value in types.enumerators("sk_rst_reason").items()
            }
            source = source_for(TRACER, types, hz=hz)
            task_file, task = types.function("bpf_iter_task_file"), types.function("bpf_iter_task")

        def prepare(program: Program) -> tuple[Ring, HolderFinder, NamespaceFinder]:
            ring = program.open_events()
            program.configure(wanted)
            program.attach(chosen)
            return ring, holder_finder(program, task_file), namespace_finder(program, task)

        make = partial(
            Program,
            timers=timers,
            resume_jiffies=round(resume_after_s * hz),
            waiting_jiffies=round(waiting_after_s * hz),
            ring_bytes=ring_bytes,
        )
        self._program, (self._ring, holders, members) = load(source, make, prepare, say)
        for line in absent(wanted, waits=True):
            say(line)
        try:
            self._decoder = Decoder(hz=hz, reasons=reasons, key=os.urandom(16))
            self._wanted = wanted
            self._stop = stop
            self._clock_offset_ns = clocks.offset_ns()
            self._suspends = Suspends(clocks.boottime_ns(), time.monotonic_ns())
            self._until_ns = 0  # of the latest poll: our own events in between do not advance it
            self._lost: dict[Loss, int] = {}
            self._lost_checked = self._counters_checked = time.monotonic()
            self._polled_ns = self._lost_checked_ns = clocks.boottime_ns()
            self._max_unread_ns, self._max_used = 0, 0.0  # since lost events were last checked
            self._complain = complain
            self._lacks_thread: bool | None = None  # False once that has been reported
            self._owners = Owners(holders, lacks_thread=self._without_thread)
            self._owners.search_all(OWNERS_WAIT_S)
            self._sees_answers = resume
            self._walks = None
            if self._program.iterator is not None:
                self._walks = Walks(
                    self._program, self._program.iterator, self._decoder, self._owners, self._without_thread
                )
            self.counters = KernelCounters(members)
        except BaseException:
            self._program.close()
            raise

    def __enter__(self) -> LiveSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Detach every hook."""
        if self._walks is not None:
            self._walks.close()
        self._owners.close()
        self.counters.close()
        self._program.close()

    @property
    def attached(self) -> list[probes.Probe]:
        """The hook in use for each kind of event."""
        return self._program.attached

    @property
    def capabilities(self) -> Sequence[str]:
        """The capabilities that are still used after the constructor has returned."""
        return (*privileges.TO_NAME_OWNERS, *self._program.capabilities)

    def look_for_others(self, raddr: str, port: int, *, is_local: bool, silent_ms: int) -> None:
        """Find connections to a service with at least this silence: `found` events of kind `idle`.

        port: remote, or local with is_local, where this host is the server.
        """
        if self._walks is not None:
            silent_jiffies = silent_ms * self._decoder.hz // 1000
            self._walks.search_service(IdleService(silent_jiffies, mapped_address(raddr), port, is_local))

    def look_again(self) -> None:
        """Find connections in trouble soon: `found` events.

        Does nothing where received segments are not traced: each answer would need a walk.
        """
        if self._walks is not None and self._sees_answers:
            self._walks.look_again()

    def is_behind(self) -> bool:
        """Whether more than half of the ring buffer is in use."""
        return self._ring.used > 0.5

    def _without_thread(self) -> None:
        """Have the run say once that a part of it was left out. Later attempts may succeed."""
        if self._lacks_thread is None:
            self._lacks_thread = True

    def _say_what_lacks(self) -> None:
        if self._lacks_thread:
            self._lacks_thread = False
            self._complain(cannot_start("owners, or connections that wait while nothing happens, may be missing"))

    def __iter__(self) -> Iterator[Batch]:
        timeout_ms = 0  # the events of the first walk are there
        while not self._stop():
            self._say_what_lacks()
            batch = self._poll(timeout_ms)
            timeout_ms = self._next_timeout_ms(batch)
            yield batch
            now = time.monotonic()
            if now - self._lost_checked >= LOST_EVERY_S:
                yield self._newly_lost()
            if now - self._counters_checked >= COUNTERS_EVERY_S and not self.counters.is_counting:
                self._counters_checked = now
                self.counters.begin()
            if counted := self.counters.take(MAX_BATCH):
                yield self._counted(counted)
        yield from self._polls_while_counting()
        # Before the last poll, so that each counted event is also seen.
        self.counters.begin()
        yield from self._polls_while_counting()
        # Events from before the end belong to the run, later ones do not: they may never cease.
        ended_ns = clocks.boottime_ns()
        more = True
        while more:
            batch = self._poll(0)
            more = len(batch.events) >= MAX_BATCH and batch.events[-1].ktime_ns < ended_ns
            yield batch
        yield self._newly_lost()
        while counted := self.counters.take(MAX_BATCH):
            yield self._counted(counted)

    def _polls_while_counting(self) -> Iterator[Batch]:
        while self.counters.is_counting:
            yield self._poll(COUNTING_MS)

    def _next_timeout_ms(self, batch: Batch) -> int:
        if self._walks is not None and self._walks.has_more:
            return 0
        return BUSY_MS if batch.events or self.counters.is_counting else IDLE_MS

    def _poll(self, timeout_ms: int) -> Batch:
        began_ns = clocks.boottime_ns()
        self._ring.wait(timeout_ms)
        suspend = self._suspends.check(clocks.boottime_ns(), time.monotonic_ns())
        now_ns = clocks.boottime_ns()
        self._max_unread_ns, self._polled_ns = max(self._max_unread_ns, now_ns - self._polled_ns), now_ns
        self._max_used = max(self._max_used, self._ring.used)
        events = self._take()
        # A full batch leaves events behind, but none from before its last one.
        is_drained = len(events) < MAX_BATCH
        until_ns = began_ns if is_drained else events[-1].ktime_ns
        if self._walks is not None:
            if suspend is not None:
                self._walks.restart()
            events, found = self._walks.merge(events, now_ns, self._clock_offset_ns, is_drained=is_drained)
            self._suspends.add_to(found)
        if suspend is not None:
            # First, because the predictions from kernel timers depend on it.
            events.insert(0, self._own_event(suspend.before_ns, _suspended(suspend)))
        self._until_ns = until_ns - SETTLED_NS
        return Batch(events, self._until_ns)

    def _take(self) -> list[Event]:
        """Take the events that are there, by time, about MAX_BATCH at most."""
        taken = self._ring.take(MAX_BATCH)
        if not taken:
            return []
        self._follow_clock()
        decoded = self._decoder.decode_all(taken, self._clock_offset_ns)
        while self._ring.used < CALM_SHARE and resets.is_open([event for event, _ in decoded], clocks.boottime_ns()):
            time.sleep(0.001)
            taken += self._ring.take(MAX_BATCH)
            decoded = self._decoder.decode_all(taken, self._clock_offset_ns)
        # After a full batch more events wait, so that this one does not wait for a search.
        events = resets.without_false(self._owners.complete(*decoded, may_wait=len(decoded) < MAX_BATCH))
        self._suspends.add_to_taken(events, taken, self._decoder.hz)
        return events

    def lost_since(self) -> int:
        """The number of lost events that no `lost` event has reported yet, for a run that ends with an error."""
        return sum(self._program.lost().values()) - sum(self._lost.values())

    def _newly_lost(self) -> Batch:
        self._lost_checked = time.monotonic()
        before, self._lost = self._lost, self._program.lost()
        before_ns, self._lost_checked_ns = self._lost_checked_ns, clocks.boottime_ns()
        if self._walks is not None and self._lost != before:
            self._walks.search_trouble()
        # Only the reader makes room, so it has seen the ring buffer at its fullest.
        used = self._ring.used
        circumstances = {
            "ring_percent": round(100 * used),
            "ring_peak_percent": round(100 * max(self._max_used, used)),
            "unread_ms": max(self._max_unread_ns, self._lost_checked_ns - self._polled_ns) // 1_000_000,
        }
        self._max_unread_ns, self._max_used = 0, 0.0
        return self._own_batch(
            {
                "event": "lost",
                "cause": loss.cause,
                "duration_ms": (self._lost_checked_ns - before_ns) // 1_000_000,
                "count": count - before.get(loss, 0),
                "hook": loss.hook,
                **circumstances,
            }
            for loss, count in self._lost.items()
            if count > before.get(loss, 0)
        )

    def _counted(self, counted: Iterable[tuple[int, Counts]]) -> Batch:
        batch = self._own_batch(
            {
                "event": "counters",
                "netns": netns,
                "retrans_segs": counts.segments,
                "keepalives": counts.keepalives,
                "timeouts": counts.timeouts,
                **({} if self.counters.is_from_start(netns) else {"late": True}),
            }
            for netns, counts in counted
        )
        return batch._replace(events=self._wanted.followed(batch.events))

    def _own_batch(self, fields: Iterable[dict[str, Any]]) -> Batch:
        """A batch of our own events. It does not advance `until`: older events may wait in the ring buffer."""
        ktime_ns = clocks.boottime_ns()
        return Batch([self._own_event(ktime_ns, each) for each in fields], self._until_ns)

    def _own_event(self, ktime_ns: int, fields: dict[str, Any]) -> Event:
        time_ns = (ktime_ns + self._clock_offset_ns) // 1000 * 1000
        return Event.of({"time_ns": time_ns, "ktime_ns": ktime_ns, **fields})

    def _follow_clock(self) -> None:
        offset = clocks.offset_ns()
        if abs(offset - self._clock_offset_ns) > CLOCK_STEP_NS:
            self._clock_offset_ns = offset


def _suspended(suspend: Suspend) -> dict[str, Any]:
    return {"event": "lost", "duration_ms": suspend.slept_ns // 1_000_000, "count": 0, "hook": SUSPEND}
