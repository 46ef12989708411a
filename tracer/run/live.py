"""A live run from its start to its summary: `tcpwatch` and `tcpwatch record`."""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

import tracer
from tracer.analysis.stalls import MIN_IDLE_MS, StallTracker
from tracer.kernel import clocks, host, privileges
from tracer.kernel.action_sockets import DIRECTORY, Inbox, Unusable
from tracer.kernel.live import LiveSource
from tracer.kernel.probes import attached_hooks
from tracer.kernel.program.program import RESUME_AFTER_S, RING_BYTES, WAITING_AFTER_S
from tracer.model.dataclass import dataclass
from tracer.model.errors import TcpwatchError
from tracer.model.events import Batch
from tracer.model.filters import Filter
from tracer.model.kinds import Kind
from tracer.model.times import format_time
from tracer.output.background_writer import BackgroundWriter, Stream
from tracer.output.messages import complain, say
from tracer.output.sink import Sink
from tracer.recordings.header import Header, describe_filter
from tracer.run import summary, systemd
from tracer.run.actions import Actions
from tracer.run.compact import Compact
from tracer.run.isolated import IsolatedSink
from tracer.run.pipeline import Totals, finish, run
from tracer.run.recording import Destination, Recording, Writer
from tracer.run.shedding import Shedding
from tracer.run.stopping import Stop, discard

if TYPE_CHECKING:
    from tracer.run.metrics import Metrics, WantedMetrics

MAX_WAITING_TEXT, MAX_WAITING_DATA = 1 << 20, 32 << 20
"""Characters that wait for a slow reader: some screens of lines, half a second of a storm as JSON."""


@dataclass(frozen=True, slots=True)
class Tracing:
    """How to trace.

    resume: trace received segments, to see recoveries. ring_bytes: size of the kernel's buffer. is_verbose: explain
    what is left out.
    """

    resume: bool = True
    ring_bytes: int = RING_BYTES
    is_verbose: bool = False


def watch(
    wanted: Filter,
    stop: Stop,
    tracing: Tracing,
    *,
    show: Callable[[Stream], Sink] | None = None,
    sheds: bool = False,
    recording: Recording | None = None,
    metrics: WantedMetrics | None = None,
    remark: str = "",
) -> None:
    """Trace until `stop`, and print a summary. Raises TcpwatchError. No hook stays attached, whatever happens.

    show: makes the sink that writes to standard output. sheds: that sink drops lines under load, before the kernel
    has to drop events. remark: a line for stderr at the start.
    """
    host.require_privilege()
    with ExitStack() as stack:
        destination = None
        counted = stack.enter_context(_metrics(metrics)) if metrics is not None else None
        if recording is not None:
            stop.start_clock()
            destination = stack.enter_context(
                Destination(recording, stop, host.name(), shows=show is not None, say=say)
            )
            if not destination.is_ready:
                return
        _trace(wanted, stop, tracing, show, sheds, recording, destination, counted, remark)


def _trace(
    wanted: Filter,
    stop: Stop,
    tracing: Tracing,
    show: Callable[[Stream], Sink] | None,
    sheds: bool,
    recording: Recording | None,
    destination: Destination | None,
    metrics: Metrics | None,
    remark: str,
) -> None:
    totals = Totals()
    min_idle_ms = MIN_IDLE_MS if wanted.min_idle_ms is None else wanted.min_idle_ms
    tracker = StallTracker(
        hz=host.hz(),
        min_idle_ms=min_idle_ms,
        idle_timeouts=metrics.silences if metrics is not None else None,
        own_netns=host.own_netns(),
    )
    with (
        ExitStack() as stack,
        LiveSource(
            wanted,
            stop,
            resume=tracing.resume,
            resume_after_s=resume_after_s(wanted),
            waiting_after_s=waiting_after_s(wanted),
            ring_bytes=tracing.ring_bytes,
            say=say,
            complain=complain,
        ) as source,
    ):
        is_compact = recording is not None and recording.is_compact
        header = make_header(wanted, secrets.token_hex(4), is_compact=is_compact)
        writer = None
        if destination is not None:
            writer = destination.begin(lambda: make_header(wanted, header.run, is_compact=is_compact))
        observers: list[Sink] = []
        if metrics is not None:
            hooks = attached_hooks(source.attached)
            observers.append(metrics.count(hooks=hooks, min_idle_ms=min_idle_ms, sees_resumes=tracing.resume))
        _drop_privileges(source, recording, metrics)
        shown = _shown(show, source.is_behind if sheds else None)  # before threads that the run can do without
        actions = _actions(stack, tracing)
        if metrics is not None:
            metrics.start()
        began, used = time.monotonic(), host.cpu_seconds()
        output = _isolated_output(shown, stop) if shown is not None else None
        # Beside live output, a recording that fails ends alone. Without, its failure ends the run.
        isolated = _isolated_recording(writer) if writer is not None and output is not None else None
        recorder: Sink | None = isolated if isolated is not None else writer
        if recorder is not None and is_compact:
            recorder = Compact(recorder, min_idle_ms)
        exported = metrics.sinks if metrics is not None else ()
        sinks: list[Sink] = [sink for sink in (recorder, *exported, output) if sink is not None]
        is_complete = False
        try:
            stop.start_clock()
            kept = f", recording to {writer.path}" if writer else ""
            say(f"tracing {summary.opening(wanted, source.counters.established)}{kept}")
            if remark:
                say(remark)
            systemd.ready()
            try:
                _run(source, actions, wanted, tracker, header, sinks, totals, observers)
                is_complete = True
            finally:
                for observer in observers:
                    observer.close()
                if recorder is not None:  # before the wait for a reader of standard output
                    recorder.close()
                if metrics is not None:
                    metrics.end()
            if output is not None:
                output.close()
        finally:
            left_out = shown.left_out if shown is not None else 0
            _say_summary(source, wanted, totals, time.monotonic() - began, left_out, is_complete=is_complete)
            for line in metrics.summary() if metrics is not None else ():
                say(line)
            say(summary.cost(host.cpu_seconds() - used, time.monotonic() - began, host.memory_bytes()))
    for probe in source.attached:
        if probe.status == "missing":
            say(f"not available on this kernel: {probe.event} ({probe.note})")
    if metrics is not None:
        metrics.close()
    if isolated is not None and isolated.error is not None:
        raise TcpwatchError(f"the recording is incomplete: {isolated.error}", hint=isolated.error.hint)
    if output is not None and output.error is not None and not stop.terminal_is_gone:
        raise output.error
    if metrics is not None and metrics.error is not None:
        raise TcpwatchError(f"the metrics are out of date: {metrics.error}", hint=metrics.error.hint)


def _metrics(wanted: WantedMetrics) -> Metrics:
    """The metrics, with the libraries that only they need. Raises TcpwatchError."""
    from tracer.run.metrics import Metrics

    return Metrics(wanted, say, complain)


def _actions(stack: ExitStack, tracing: Tracing) -> Actions | None:
    """The messages of acting commands; None if this run cannot receive them."""
    try:
        inbox = Inbox()
    except (OSError, Unusable) as error:
        if tracing.is_verbose:
            say(f"actions of other tcpwatch commands are not shown: {DIRECTORY}: {getattr(error, 'strerror', error)}")
        return None
    try:
        return stack.enter_context(closing(Actions(inbox)))
    except TcpwatchError as error:
        complain(error)
        return None


def _run(
    source: LiveSource,
    actions: Actions | None,
    wanted: Filter,
    tracker: StallTracker,
    header: Header,
    sinks: list[Sink],
    totals: Totals,
    observers: list[Sink],
) -> None:
    """Carry the events of the source to the sinks: the recording first, so that what is printed is also kept."""
    for sink in sinks:
        sink.opened(header)
    of_traced = wanted.of_any_connection()  # the kernel has filtered the connections
    batches = with_lookups(source, tracker)
    seen = batches if actions is None else _wanted(actions.among(batches), wanted)
    run(seen, of_traced, tracker, sinks, totals, observers=observers)
    finish(tracker, of_traced, sinks, totals, observers=observers)


def _wanted(batches: Iterable[Batch], wanted: Filter) -> Iterator[Batch]:
    """Without the actions on connections that the filters reject, which the kernel side does not see."""
    for batch in batches:
        if any(event.event == Kind.ACTION for event in batch.events):
            kept = [event for event in batch.events if event.event != Kind.ACTION or wanted.follows(event)]
            batch = batch._replace(events=kept)
        yield batch


def with_lookups(source: LiveSource, tracker: StallTracker) -> Iterator[Batch]:
    """The source's batches. After each one, look for what its events do not show.

    That is: connections as silent as one that was just found dead, and a stalled one without its next sign.
    """
    for batch in source:
        yield batch
        for service, idle_ms in tracker.confirmed():
            source.look_for_others(service.host, service.port, is_local=service.is_local, silent_ms=idle_ms)
        if tracker.take_overdue():
            source.look_again()


def _say_summary(
    source: LiveSource, wanted: Filter, totals: Totals, seconds: float, left_out: int, *, is_complete: bool
) -> None:
    """Print the counts. is_complete: every event was read. After an error some were not."""
    if not is_complete:
        totals.lost += source.lost_since()
    say(summary.counts(totals, seconds, left_out))
    if wanted.keeps_counts and is_complete:
        say(summary.kernel_counts(totals, source.counters.since_start, wanted.netns))
        if missed := summary.missed(totals, source.counters, wanted.netns):
            say(missed)


def _drop_privileges(source: LiveSource, recording: Recording | None, metrics: Metrics | None) -> None:
    """Keep the capabilities that the source needs, and those to write further files."""
    starts_files = recording is not None and (recording.reopens or recording.rotation.is_wanted)
    for_files = privileges.TO_BEGIN_FILES if starts_files else metrics.capabilities if metrics is not None else ()
    try:
        privileges.keep_only((*source.capabilities, *for_files))
    except OSError as error:  # forbidden in some sandboxes; tracing works all the same
        say(f"cannot drop unneeded capabilities: {error.strerror}")


def _shown(show: Callable[[Stream], Sink] | None, is_behind: Callable[[], bool] | None) -> Shedding | None:
    if show is None:
        return None
    stream = BackgroundWriter(sys.stdout, MAX_WAITING_DATA if is_behind is None else MAX_WAITING_TEXT)
    return Shedding(show(stream), stream, is_behind)


def _isolated_output(shown: Shedding, stop: Stop) -> IsolatedSink[OSError | ValueError]:
    """When standard output fails, the run ends in order and the recording gets everything."""

    def end(_error: OSError | ValueError) -> None:
        stop.request()
        discard(sys.stdout)

    return IsolatedSink(shown, (OSError, ValueError), end)


def _isolated_recording(writer: Writer) -> IsolatedSink[TcpwatchError]:
    """When the recording fails, the run continues without it."""
    return IsolatedSink(writer, (TcpwatchError,), lambda error: say(f"the recording ends here: {error}"))


def resume_after_s(wanted: Filter) -> float:
    """Seconds of silence after which the next segment is an event: --min-idle, but from one second to the default."""
    return RESUME_AFTER_S if wanted.min_idle_ms is None else min(RESUME_AFTER_S, max(1.0, wanted.min_idle_ms / 1000))


def waiting_after_s(wanted: Filter) -> float:
    """Seconds after which a missing reply is an event: --min-idle, but at least one second."""
    return WAITING_AFTER_S if wanted.min_idle_ms is None else max(1.0, wanted.min_idle_ms / 1000)


def make_header(wanted: Filter, run: str, *, is_compact: bool = False) -> Header:
    """The header of a recording that begins now on this host. run: an id that all files of one run share."""
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
        filters=describe_filter(wanted, is_compact=is_compact),
        sysctls=host.tcp_sysctls(),
        netns=host.own_netns(),
        compact=is_compact,
    )


def utc_offset_now_s() -> int:
    """The offset of the local time zone, seconds east of UTC."""
    return time.localtime().tm_gmtoff
