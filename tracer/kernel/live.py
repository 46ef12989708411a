"""LiveSource: the running kernel as a stream of events."""

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
from tracer.kernel.program.loading import load
from tracer.kernel.program.program import RESUME_AFTER_S, RING_BYTES, WAITING_AFTER_S, Loss, Program, Suspects, mapped
from tracer.kernel.program.ring import Ring
from tracer.kernel.program.source import TRACER, source_for
from tracer.kernel.suspends import Suspend, Suspends
from tracer.kernel.walks import Walks
from tracer.kernel.wire import Decoder
from tracer.model.counts import Counts
from tracer.model.events import SUSPEND, Batch, Event
from tracer.model.filters import Filter

IDLE_MS, BUSY_MS = 250, 100
"""Longest wait for an event: how late ^C or --duration may be noticed. Where one has just come, how late a change of
state may be told; others wake us at once (bpf/submit.h)."""
BATCH = 128
"""Most events taken before they are handed on: so a storm does not hold us, and they fit into the CPU's own cache."""
CALM = 0.01
"""Of the ring in use: while there is less, an event may wait some milliseconds for the next."""
LOST_EVERY_S = 1.0
COUNTERS_EVERY_S = 60.0
COUNTING_MS = 10
"""Longest wait for an event while the end waits for the counters."""
OWNERS_WAIT_S = 1.0
"""Longest time that the start waits for the owners of all sockets, of which a host may have very many."""
SETTLED_NS = 50_000_000
"""An event older than this has been handed over, whichever CPU it happened on."""
CLOCK_STEP_NS = 1_000_000
"""The wall clock is followed when it has moved this far from CLOCK_BOOTTIME; less is measuring noise."""


class LiveSource:
    """Events from the kernel, as they happen, in the order of their time within each look.

    Construct it to compile, load and attach: when the constructor returns, every hook is in place.
    Iterate until `stop()` says to end. Close it, or use it as a context manager.

    wanted: of which connections; what events say is for others to choose by.
    stop: asked between looks, at most IDLE_MS apart. resume: whether each received segment is looked at, to see
    peers heard again; resume_after_s: after which silence that is an event of its own. waiting_after_s: after which
    silence it is one that an answer is outstanding. say: takes a line for the user. Raises TcpwatchError from the
    constructor for whatever is missing on this host.
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
        for line in absent(wanted):
            say(line)
        try:
            self._decoder = Decoder(hz=hz, reasons=reasons, key=os.urandom(16))
            self._wanted = wanted
            self._stop = stop
            self._clock_offset_ns = clocks.offset_ns()
            self._suspends = Suspends(clocks.boottime_ns(), time.monotonic_ns())
            self._until_ns = 0  # of the last look: what is said of our own in between brings nobody further
            self._lost: dict[Loss, int] = {}
            self._lost_checked = self._counters_checked = time.monotonic()
            self._looked_ns = self._lost_checked_ns = clocks.boottime_ns()
            self._unread_ns, self._most_used = 0, 0.0  # since the last look at what was lost
            self._owners = Owners(holders)
            self._owners.search_all(OWNERS_WAIT_S)
            self._walks = None
            if self._program.iterator is not None:
                self._walks = Walks(self._program, self._program.iterator, self._decoder, self._owners)
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
        """What serves each kind of event."""
        return self._program.attached

    @property
    def capabilities(self) -> Sequence[str]:
        """Those that are of use after the constructor has returned."""
        return (*privileges.TO_NAME_OWNERS, *self._program.capabilities)

    def look_for_others(self, raddr: str, port: int, *, is_local: bool, silent_ms: int) -> None:
        """Find the connections to a service that have been silent for so long: `found` events of kind `idle`.

        port: the remote one, or the local one where is_local says that the service is this host's.
        """
        if self._walks is not None:
            self._walks.look_for(Suspects(silent_ms * self._decoder.hz // 1000, mapped(raddr), port, is_local))

    def is_behind(self) -> bool:
        """Whether more events wait than half of the ring holds: we are too slow for them."""
        return self._ring.used > 0.5

    def __iter__(self) -> Iterator[Batch]:
        patience_ms = 0  # what the first walk has found waits for nothing
        while not self._stop():
            batch = self._look(patience_ms)
            patience_ms = self._patience_ms(batch)
            yield batch
            now = time.monotonic()
            if now - self._lost_checked >= LOST_EVERY_S:
                yield self._newly_lost()
            if now - self._counters_checked >= COUNTERS_EVERY_S and not self.counters.is_counting:
                self._counters_checked = now
                self.counters.begin()
            if counted := self.counters.take(BATCH):
                yield self._counted(counted)
        yield from self._looks_while_counting()
        # Before the last events, so that none of them is counted and not seen.
        self.counters.begin()
        yield from self._looks_while_counting()
        # What the kernel had seen before the end was asked for belongs to the run. A storm goes on, and we do not.
        ended_ns = clocks.boottime_ns()
        more = True
        while more:
            batch = self._look(0)
            more = len(batch.events) >= BATCH and batch.events[-1].ktime_ns < ended_ns
            yield batch
        yield self._newly_lost()
        while counted := self.counters.take(BATCH):
            yield self._counted(counted)

    def _looks_while_counting(self) -> Iterator[Batch]:
        while self.counters.is_counting:
            yield self._look(COUNTING_MS)

    def _patience_ms(self, batch: Batch) -> int:
        """How long the next look may wait."""
        if self._walks is not None and self._walks.has_more:
            return 0
        return BUSY_MS if batch.events or self.counters.is_counting else IDLE_MS

    def _look(self, timeout_ms: int) -> Batch:
        began_ns = clocks.boottime_ns()
        self._ring.wait(timeout_ms)
        suspend = self._suspends.check(clocks.boottime_ns(), time.monotonic_ns())
        now_ns = clocks.boottime_ns()
        self._unread_ns, self._looked_ns = max(self._unread_ns, now_ns - self._looked_ns), now_ns
        self._most_used = max(self._most_used, self._ring.used)
        events = self._take()
        # A full batch left something behind, but nothing from before its last event.
        is_drained = len(events) < BATCH
        until_ns = began_ns if is_drained else events[-1].ktime_ns
        if self._walks is not None:
            if suspend is not None:
                self._walks.begin_again()
            events, found = self._walks.joined(events, now_ns, self._clock_offset_ns, is_drained=is_drained)
            self._suspends.add_to(found)
        if suspend is not None:
            # First of all, so that who waits for a kernel timer knows that it stopped.
            events.insert(0, self._said_at(suspend.before_ns, _suspended(suspend)))
        self._until_ns = until_ns - SETTLED_NS
        return Batch(events, self._until_ns)

    def _take(self) -> list[Event]:
        """The events that are there, in the order of their time, about BATCH at most."""
        taken = self._ring.take(BATCH)
        if not taken:
            return []
        self._follow_clock()
        decoded = self._decoder.decode_all(taken, self._clock_offset_ns)
        while self._ring.used < CALM and resets.is_open([event for event, _ in decoded], clocks.boottime_ns()):
            time.sleep(0.001)
            taken += self._ring.take(BATCH)
            decoded = self._decoder.decode_all(taken, self._clock_offset_ns)
        # Where a full batch was there to take, more wait in the ring.
        events = resets.without_false(self._owners.complete(*decoded, may_wait=len(decoded) < BATCH))
        self._suspends.add_to_taken(events, taken, self._decoder.hz)
        return events

    def lost_since(self) -> int:
        """The number of lost events that no `lost` event has reported: for a run that ends with an error."""
        return sum(self._program.lost().values()) - sum(self._lost.values())

    def _newly_lost(self) -> Batch:
        self._lost_checked = time.monotonic()
        before, self._lost = self._lost, self._program.lost()
        before_ns, self._lost_checked_ns = self._lost_checked_ns, clocks.boottime_ns()
        if self._walks is not None and self._lost != before:
            self._walks.look_for_trouble()
        # Only the reader makes room, so that it sees the ring as full as it ever was.
        used = self._ring.used
        circumstances = {
            "ring_percent": round(100 * used),
            "ring_peak_percent": round(100 * max(self._most_used, used)),
            "unread_ms": max(self._unread_ns, self._lost_checked_ns - self._looked_ns) // 1_000_000,
        }
        self._unread_ns, self._most_used = 0, 0.0
        return self._said_now(
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
        batch = self._said_now(
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

    def _said_now(self, fields: Iterable[dict[str, Any]]) -> Batch:
        """Events of our own.

        Others may wait in the ring since long: whoever took the last batch may have been held up with it.
        """
        ktime_ns = clocks.boottime_ns()
        return Batch([self._said_at(ktime_ns, each) for each in fields], self._until_ns)

    def _said_at(self, ktime_ns: int, fields: dict[str, Any]) -> Event:
        time_ns = (ktime_ns + self._clock_offset_ns) // 1000 * 1000
        return Event.of({"time_ns": time_ns, "ktime_ns": ktime_ns, **fields})

    def _follow_clock(self) -> None:
        offset = clocks.offset_ns()
        if abs(offset - self._clock_offset_ns) > CLOCK_STEP_NS:
            self._clock_offset_ns = offset


def _suspended(suspend: Suspend) -> dict[str, Any]:
    return {"event": "lost", "duration_ms": suspend.slept_ns // 1_000_000, "count": 0, "hook": SUSPEND}
