"""A live run from its first line to its summary: what `tcpwatch` and `tcpwatch record` share."""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import tracer
from tracer.analysis.stalls import MIN_IDLE_MS, StallTracker
from tracer.kernel import clocks, host, privileges
from tracer.kernel.counters import KernelCounters
from tracer.kernel.live import LiveSource
from tracer.kernel.program.program import RESUME_AFTER_S, RING_BYTES, WAITING_AFTER_S
from tracer.model.counts import Counts, Tally
from tracer.model.errors import TcpwatchError
from tracer.model.events import Batch, Event
from tracer.model.filters import Filter
from tracer.model.times import format_time
from tracer.output.background_writer import Outlet, Stream
from tracer.output.crosscheck import beside_the_kernel, what_was_missed
from tracer.output.format import duration, plural
from tracer.output.messages import say
from tracer.recordings.header import Header, describe_filter
from tracer.run import systemd
from tracer.run.pipeline import Sink, Totals, finish, run
from tracer.run.recording import Destination, Recording, Writer
from tracer.run.shedding import Shedding
from tracer.run.stopping import Stop, discard

MAX_VALUES = 12
"""Values of one filter that are named at the start."""
ROOM_FOR_TEXT, ROOM_FOR_DATA = 1 << 20, 32 << 20
"""Characters that wait for a slow reader, at most: some screens of lines, half a second of a storm as JSON."""


@dataclass(frozen=True, slots=True)
class Tracing:
    """How to trace. resume: look at received segments, to see peers heard again. ring_bytes: the kernel's buffer."""

    resume: bool = True
    ring_bytes: int = RING_BYTES


def watch(
    wanted: Filter,
    stop: Stop,
    tracing: Tracing,
    *,
    show: Callable[[Stream], Sink] | None = None,
    sheds: bool = False,
    recording: Recording | None = None,
) -> None:
    """Trace until `stop`, and end with a summary. Raises TcpwatchError; whatever happens nothing stays attached.

    show: makes what writes to standard output. sheds: where there is too much, it leaves lines out before the kernel
    has to lose events.
    """
    host.require_privilege()
    with ExitStack() as stack:
        destination = None
        if recording is not None:
            stop.start_clock()
            destination = stack.enter_context(
                Destination(recording, stop, host.name(), shows=show is not None, say=say)
            )
            if not destination.is_ready:
                return
        _trace(wanted, stop, tracing, show, sheds, recording, destination)


def _trace(
    wanted: Filter,
    stop: Stop,
    tracing: Tracing,
    show: Callable[[Stream], Sink] | None,
    sheds: bool,
    recording: Recording | None,
    destination: Destination | None,
) -> None:
    totals = Totals()
    tracker = StallTracker(hz=host.hz(), min_idle_ms=wanted.min_idle_ms or MIN_IDLE_MS)
    with LiveSource(
        wanted,
        stop,
        resume=tracing.resume,
        resume_after_s=resume_after_s(wanted),
        waiting_after_s=waiting_after_s(wanted),
        ring_bytes=tracing.ring_bytes,
        say=say,
    ) as source:
        run_id = secrets.token_hex(4)
        writer = destination.begin(lambda: make_header(wanted, run_id)) if destination is not None else None
        try:
            privileges.keep_only((*source.capabilities, *_needed(recording)))
        except OSError as error:  # a sandbox may forbid even that, and is no reason not to trace
            say(f"the capabilities that are not needed any more could not be dropped: {error.strerror}")
        began, used = time.monotonic(), host.cpu_seconds()
        has_seen_all = False
        shown = _shown(show, source.is_behind if sheds else None)
        kept = _Kept(writer, beside=shown is not None) if writer is not None else None
        seen = _Seen(shown, stop) if shown is not None else None
        try:
            stop.start_clock()
            say(f"tracing {describe(wanted)}" + (f", recording to {writer.path}" if writer else ""))
            systemd.ready()
            # The recording first: what is shown has been kept.
            sinks: list[Sink] = [sink for sink in (kept, seen) if sink is not None]
            try:
                of_events = wanted.of_any_connection()
                run(_asking(source, tracker), of_events, tracker, sinks, totals)
                has_seen_all = True
                finish(tracker, of_events, sinks, totals)
            finally:
                # Before anybody waits for a reader of standard output.
                if kept is not None:
                    kept.close()
            if seen is not None:
                seen.close()
        finally:
            seconds = time.monotonic() - began
            if not has_seen_all:
                totals.lost += source.lost_since()
            say(summary(totals, seconds, shown.left_out if shown is not None else 0))
            # After an error events are left in the ring buffer that the kernel has counted.
            if wanted.keeps_counts and has_seen_all:
                say(truth(totals, source.counters.since_start, wanted.netns))
                if missed := missing(totals, source.counters, wanted.netns):
                    say(missed)
            say(cost(host.cpu_seconds() - used, seconds, host.memory_bytes()))
    for probe in source.attached:
        if probe.status == "missing":
            say(f"not seen on this kernel: {probe.event} ({probe.note})")
    if kept is not None and kept.error is not None:
        raise TcpwatchError(f"the recording is incomplete: {kept.error}", hint=kept.error.hint)
    if seen is not None and seen.error is not None and not stop.terminal_is_gone:
        raise seen.error


class _Kept:
    """A recording. Beside a live view its failure ends the recording, and not the run."""

    def __init__(self, writer: Writer, *, beside: bool) -> None:
        self.error: TcpwatchError | None = None
        self._writer = writer
        self._beside = beside

    def write(self, *events: Event) -> None:
        """Take some events."""
        self._do(lambda: self._writer.write(*events))

    def flush(self, until_ns: int) -> None:
        """Hand everything over."""
        self._do(lambda: self._writer.flush(until_ns))

    def close(self) -> None:
        """Nothing comes any more."""
        self._do(self._writer.close)

    def _do(self, action: Callable[[], None]) -> None:
        if self.error is not None:
            return
        try:
            action()
        except TcpwatchError as error:
            if not self._beside:
                raise
            self.error = error
            say(f"the recording ends here: {error}")


class _Seen:
    """What is shown. Once standard output is broken, the run ends in order: the recording gets everything."""

    def __init__(self, shown: Sink, stop: Stop) -> None:
        self.error: Exception | None = None
        self._shown = shown
        self._stop = stop

    def write(self, *events: Event) -> None:
        """Take some events."""
        self._do(lambda: self._shown.write(*events))

    def flush(self, until_ns: int) -> None:
        """Let everything be seen."""
        self._do(lambda: self._shown.flush(until_ns))

    def close(self) -> None:
        """Nothing comes any more."""
        self._do(self._shown.close)

    def _do(self, action: Callable[[], None]) -> None:
        if self.error is not None:
            return
        try:
            action()
        except (OSError, ValueError) as error:
            self.error = error
            self._stop.request()
            discard(sys.stdout)


def _asking(source: LiveSource, tracker: StallTracker) -> Iterator[Batch]:
    """The source's batches. What the tracker has confirmed by one decides what the source looks for with the next."""
    for batch in source:
        yield batch
        for service, idle_ms in tracker.confirmed():
            source.look_for_others(service.host, service.port, is_local=service.is_local, silent_ms=idle_ms)


def _needed(recording: Recording | None) -> tuple[str, ...]:
    """The capabilities that a recording still needs once its first file is open."""
    begins_files = recording is not None and (recording.reopens or recording.rotation.is_wanted)
    return privileges.TO_BEGIN_FILES if begins_files else ()


def _shown(show: Callable[[Stream], Sink] | None, is_behind: Callable[[], bool] | None) -> Shedding | None:
    if show is None:
        return None
    outlet = Outlet(sys.stdout, ROOM_FOR_DATA if is_behind is None else ROOM_FOR_TEXT)
    return Shedding(show(outlet), outlet, is_behind)


def resume_after_s(wanted: Filter) -> float:
    """A silence is worth an event when it is over, from what is under suspicion on; never later than usual, and never
    at every pause of a connection in use."""
    return RESUME_AFTER_S if wanted.min_idle_ms is None else min(RESUME_AFTER_S, max(1.0, wanted.min_idle_ms / 1000))


def waiting_after_s(wanted: Filter) -> float:
    """An answer is missed from what is under suspicion on, and never at every pause of a connection in use."""
    return WAITING_AFTER_S if wanted.min_idle_ms is None else max(1.0, wanted.min_idle_ms / 1000)


def summary(totals: Totals, seconds: float, left_out: int) -> str:
    """What was seen and lost; left_out: events that were seen and not shown."""
    shed = f" ({left_out:,} not shown)" if left_out else ""
    return (
        f"{plural(totals.events, 'event')}{shed}, {totals.lost:,} lost, {plural(totals.connections, 'connection')} "
        f"in {duration(seconds * 1000)}{_stalls(totals)}"
    )


def truth(totals: Totals, counted: Mapping[int, Counts], wanted: Collection[int] = ()) -> str:
    """What the kernel itself counted over the same time, in the namespaces that a process lives in at the end.

    wanted: only these, and only theirs was seen; empty: all.
    """
    every = Tally()
    for netns, counts in counted.items():
        if not wanted or netns in wanted:
            every.add(netns, counts)
    said = beside_the_kernel(totals.seen.total(), every.total(), totals.seen.total(without=counted.keys()))
    return f"{said}, of all connections" + (f" of {plural(len(wanted), 'network namespace')}" if wanted else "")


def missing(totals: Totals, counters: KernelCounters, wanted: Collection[int] = ()) -> str:
    """What the kernel counted over the same time and we did not see; nothing where that is nothing."""
    every, seen = Tally(), Tally()
    for netns, counts in counters.since_start.items():
        if netns in counters.from_start and (not wanted or netns in wanted):
            every.add(netns, counts)
            seen.add(netns, totals.seen.of(netns))
    return what_was_missed(seen.total(), every.total())


def cost(cpu_seconds: float, seconds: float, memory_bytes: int) -> str:
    """What tcpwatch itself took, from its first event on; memory at its most."""
    share = 100 * cpu_seconds / max(seconds, 0.001)
    return f"it took {cpu_seconds:.1f} s of CPU, {share:.1f}% of one core, and {memory_bytes >> 20} MB of memory"


def _stalls(totals: Totals) -> str:
    if not totals.stalls:
        return ""
    outcomes = ", ".join(f"{count:,} {outcome}" for outcome, count in totals.stalls.most_common())
    return f"; {plural(totals.stalls.total(), 'stall')}: {outcomes}"


def describe(wanted: Filter) -> str:
    """The filter in words."""
    words = {
        "ports": "port", "lports": "local port", "rports": "remote port", "hosts": "host", "family": "IPv",
        "netns": "netns", "pids": "pid", "comms": "process", "events": "event", "min_idle_ms": "idle for",
    }  # fmt: skip
    parts = []
    for name, value in describe_filter(wanted).items():
        if name == "family":
            parts.append(f"IPv{value} only")
        elif name == "min_idle_ms":
            parts.append(f"idle for {duration(value)}")
        else:
            more = f",… ({len(value):,})" if len(value) > MAX_VALUES else ""
            parts.append(f"{words[name]} {','.join(map(str, value[:MAX_VALUES]))}{more}")
    return " and ".join(parts) if parts else "every TCP connection"


def make_header(wanted: Filter, run: str) -> Header:
    """The header of a recording that begins now on this host. run: what the files of one run have in common."""
    now = time.time_ns()
    return Header(
        tool=tracer.__version__,
        kernel=host.kernel_release(),
        host=host.name(),
        started=format_time(now),
        clock_offset_ns=clocks.offset_ns(),
        utc_offset_s=utc_offset_now_s(),
        hz=host.hz(),
        run=run,
        filters=describe_filter(wanted),
        sysctls=host.tcp_sysctls(),
    )


def utc_offset_now_s() -> int:
    """Of the local zone, seconds east of UTC."""
    return time.localtime().tm_gmtoff
