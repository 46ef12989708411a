"""A live run from its first line to its summary: what `tcpwatch` and `tcpwatch record` share."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import tracer
from tracer import notify
from tracer.analysis.stalls import MIN_IDLE_MS, StallTracker
from tracer.events import format_time
from tracer.filters import Filter
from tracer.kernel import host
from tracer.kernel.live import LiveSource
from tracer.kernel.program import RESUME_AFTER_S
from tracer.output.talk import say
from tracer.output.words import duration, plural
from tracer.pipeline import Sink, Totals, finish, run
from tracer.stopping import Stop, discard
from tracer.storage.header import Header, describe_filter
from tracer.storage.rotation import RotatingWriter, Rotation


def watch(
    wanted: Filter,
    sinks: Sequence[Sink],
    stop: Stop,
    *,
    recording: Path | None,
    rotation: Rotation = Rotation(),  # noqa: B008  frozen
    reopens: bool = False,
    resume: bool = True,
) -> None:
    """Trace until `stop`, and end with a summary. Raises TcpwatchError; whatever happens nothing stays attached.

    rotation: when the recording goes on in another file. reopens: SIGHUP asks for one. resume: whether received
    segments are looked at, to see peers heard again.
    """
    totals = Totals()
    writer: RotatingWriter | None = None
    tracker = StallTracker(hz=host.hz(), min_idle_ms=wanted.min_idle_ms or MIN_IDLE_MS)
    with LiveSource(wanted, stop, resume=resume, resume_after_s=resume_after_s(wanted)) as source:
        try:
            if recording is not None:
                writer = _record(recording, wanted, rotation, reopens=reopens)
            counter = host.RetransmitCounter()
            began = time.monotonic()
            stop.start_clock()
            say(f"tracing {describe(wanted)}" + (f", recording to {writer.path}" if writer else ""))
            notify.ready()
            try:
                # The recording first: what is shown has been kept.
                outputs = [writer, *sinks] if writer else sinks
                run(source, wanted, tracker, outputs, totals)
                finish(tracker, wanted, outputs, totals)
                for sink in sinks:
                    sink.close()
            except BrokenPipeError:
                discard(sys.stdout)
            finally:
                say(summary(totals, time.monotonic() - began, counter.since_start()))
        finally:
            if writer is not None:
                writer.close()
    for probe in source.attached:
        if probe.status == "missing":
            say(f"not seen on this kernel: {probe.event} ({probe.note})")


def _record(path: Path, wanted: Filter, rotation: Rotation, *, reopens: bool) -> RotatingWriter:
    writer = RotatingWriter(path, lambda: make_header(wanted), rotation, say=say)
    if reopens:
        signal.signal(signal.SIGHUP, lambda _number, _frame: writer.hang_up())
    return writer


def resume_after_s(wanted: Filter) -> float:
    """A silence is worth an event when it is over, from what is under suspicion on; never later than usual, and never
    at every pause of a connection in use."""
    return RESUME_AFTER_S if wanted.min_idle_ms is None else min(RESUME_AFTER_S, max(1.0, wanted.min_idle_ms / 1000))


def summary(totals: Totals, seconds: float, counted: Mapping[int, int]) -> str:
    """The last word: what was seen and lost, and what the kernel itself counted over the same time.

    counted: the kernel's TcpRetransSegs by network namespace, of those that are still there.
    """
    shown = plural(totals.retransmits.total(), "retransmission")
    gone = sum(count for netns, count in totals.retransmits.items() if netns not in counted)
    if gone:
        shown += f" ({gone:,} of network namespaces that are gone)"
    return (
        f"{plural(totals.events, 'event')}, {totals.lost:,} lost, {plural(totals.connections, 'connection')} "
        f"in {duration(seconds * 1000)}; {shown} shown, "
        f"the kernel counted {sum(counted.values()):,} (TcpRetransSegs, all connections){_stalls(totals)}"
    )


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
            parts.append(f"{words[name]} {','.join(map(str, value))}")
    return " and ".join(parts) if parts else "every TCP connection"


def make_header(wanted: Filter) -> Header:
    """The header of a recording that begins now on this host."""
    now = time.time_ns()
    return Header(
        tool=tracer.__version__,
        kernel=host.kernel_release(),
        host=host.name(),
        started=format_time(now),
        clock_offset_ns=host.clock_offset_ns(),
        utc_offset_s=utc_offset_now_s(),
        hz=host.hz(),
        filters=describe_filter(wanted),
        sysctls=host.tcp_sysctls(),
    )


def utc_offset_now_s() -> int:
    """Of the local zone, seconds east of UTC."""
    return time.localtime().tm_gmtoff
