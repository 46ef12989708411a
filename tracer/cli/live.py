"""`tcpwatch` and `tcpwatch record`: live tracing."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tracer.cli import types
from tracer.cli.metrics import metrics_options, wanted_metrics
from tracer.cli.options import (
    Command,
    all_option,
    buffer_option,
    duration_option,
    filter_options,
    format_options,
    make_live_filter,
    resume_option,
    verbose_option,
)
from tracer.cli.screen import page
from tracer.model.errors import UsageError
from tracer.model.filters import Filter
from tracer.output.formats import EVENT_FORMATS
from tracer.recordings.targets import STANDARD_OUTPUT
from tracer.run.stopping import Stop

if TYPE_CHECKING:
    from tracer.recordings.rotation import Rotation


_compact_option = click.option(
    "--compact",
    "is_compact",
    is_flag=True,
    help="Record only what a report needs: stalls, waits, survived silences, actions, counters. Leave out the events "
    "that they follow from, and healthy connections.",
)


def live_options(command: Command) -> Command:
    """Add the options of `tcpwatch` without a command; `trace` takes them."""
    for option in (
        buffer_option,
        resume_option,
        duration_option,
        metrics_options,
        click.option(
            "-w",
            "--write",
            "recording",
            type=types.RECORDING_BESIDE_OUTPUT,
            metavar="FILE",
            help="Also record to FILE.",
        ),
        _compact_option,
        format_options(EVENT_FORMATS),
        verbose_option,
        all_option,
        filter_options,
    ):
        command = option(command)
    return command


def trace(
    output_format: str,
    recording: Path | None,
    duration: float | None,
    resume: bool,
    ring_bytes: int,
    shows_all: bool,
    is_verbose: bool,
    is_compact: bool,
    **filters: Any,
) -> None:
    """Trace, and show events on standard output."""
    if is_compact and recording is None:
        raise UsageError("--compact needs a recording", hint="tcpwatch -w FILE.tw --compact")
    _require_all_kinds(filters, is_compact=is_compact)
    metrics = wanted_metrics(filters)
    stop = Stop(duration, sys.stdout)
    wanted = make_live_filter(filters, resume=resume)
    from tracer.kernel.processes import command_line
    from tracer.run.live import Tracing, watch
    from tracer.run.recording import Recording

    events = EVENT_FORMATS[output_format]
    layout = page(
        shows_all=shows_all or bool(wanted.events - {"stall"}), is_verbose=is_verbose, command_line=command_line
    )
    leaves_out = layout.folded and not layout.shows_all and not events.is_data
    watch(
        wanted,
        stop,
        Tracing(resume, ring_bytes, is_verbose),
        show=lambda stream: events.open(stream, layout),
        sheds=not events.is_data,
        recording=Recording(recording, is_compact=is_compact) if recording is not None else None,
        metrics=metrics,
        remark="-a also shows healthy connections opening and closing" if leaves_out else "",
    )


@click.command()
@click.option(
    "-o", "--output", "recording", required=True, type=types.RECORDING, metavar="FILE", help="Record to FILE."
)
@click.option("--rotate-size", metavar="SIZE", type=types.SIZE, help="Start a new file at SIZE (100M, 1G) on disk.")
@click.option(
    "--rotate-every", metavar="DURATION", type=types.DURATION_WITH_UNIT, help="Start a new file after 1h, 24h."
)
@click.option("--keep", type=click.IntRange(1), metavar="N", help="Keep only the newest N files that hold events.")
@click.option(
    "--keep-size", metavar="SIZE", type=types.SIZE, help="Keep only the newest files, at most SIZE in total."
)
@_compact_option
@filter_options
@metrics_options
@duration_option
@resume_option
@buffer_option
def record(
    recording: Path,
    rotate_size: int | None,
    rotate_every: float | None,
    keep: int | None,
    keep_size: int | None,
    is_compact: bool,
    duration: float | None,
    resume: bool,
    ring_bytes: int,
    **filters: Any,
) -> None:
    """Record events to a file and print none. Requires root.

    The recording is JSON lines after a header (docs/recording-format.md). Only its owner can read it, also while it
    grows. It is compressed if FILE ends in .gz or .zst. FILE may be a FIFO, or - for standard output. An
    existing file is not overwritten.

    With --rotate-size, --rotate-every or --keep-size tcpwatch records a series of files and adds to each name the
    time at which the file was started: x.tw.gz becomes x-20261125T020000.123Z.tw.gz. --keep-size alone starts a new
    file at an eighth of SIZE. When the disk is full, the oldest file of the series is removed. SIGHUP starts a new
    file; without rotation only if FILE was moved away.

    With --compact the recording is small enough to ship from a fleet. tcpwatch report says the same about stalls,
    services and idle timeouts, and names what it cannot know.

    \b
    Examples:
      sudo tcpwatch record -o night.tw.gz --duration 12h
      sudo tcpwatch record -o /var/log/tcpwatch/x.tw.zst --keep-size 10G
      sudo tcpwatch record --compact -o stalls.tw.gz --keep-size 500M
      ssh db1 sudo tcpwatch record -o - | tcpwatch replay -
    """
    _require_all_kinds(filters, is_compact=is_compact)
    metrics = wanted_metrics(filters)
    rotation = rotation_of(rotate_size, rotate_every, keep, keep_size)
    if rotation.is_wanted and recording == STANDARD_OUTPUT:
        raise UsageError(
            "a recording on standard output cannot continue in another file",
            hint="tcpwatch record -o now.tw --rotate-size 100M",
        )
    wanted = make_live_filter(filters, resume=resume)
    _require_room_for_header(rotation, wanted)
    stop = Stop(duration, reopens=True)
    from tracer.run.live import Tracing, watch
    from tracer.run.recording import Recording

    watch(
        wanted,
        stop,
        Tracing(resume, ring_bytes),
        recording=Recording(recording, rotation, reopens=True, is_compact=is_compact),
        metrics=metrics,
    )


def _require_all_kinds(filters: dict[str, Any], *, is_compact: bool) -> None:
    """Raises UsageError for --compact with --event, which would take away what a report needs."""
    if is_compact and filters["events"]:
        raise UsageError("--compact and --event are mutually exclusive", hint="leave --event out")


def rotation_of(size: int | None, every_s: float | None, keep: int | None, keep_size: int | None) -> Rotation:
    """Raises UsageError for options that contradict each other."""
    from tracer.recordings.rotation import MIN_FILE_SIZE, Rotation

    rotation = Rotation(size, every_s, keep, keep_size)
    if keep is not None and not rotation.is_wanted:
        raise UsageError(
            "--keep needs --rotate-size, --rotate-every or --keep-size",
            hint="tcpwatch record -o FILE --rotate-size 100M --keep 10",
        )
    file_size = rotation.file_size
    if keep_size is not None and file_size is not None and 2 * file_size > keep_size:
        if keep_size < 2 * MIN_FILE_SIZE:
            raise UsageError("--keep-size must be at least 8k", hint="--keep-size 10G")
        hint = f"--rotate-size {max(MIN_FILE_SIZE, keep_size // 8)}"
        raise UsageError("--keep-size must be at least twice --rotate-size", hint=hint)
    return rotation


def _require_room_for_header(rotation: Rotation, wanted: Filter) -> None:
    """Raises UsageError if a file would be full before its first event: each header has the filters."""
    from tracer.recordings.header import describe_filter
    from tracer.recordings.rotation import FILES_PER_KEEP_SIZE

    least = 4 * len(json.dumps(describe_filter(wanted)))
    if rotation.file_size is not None and rotation.file_size < least:
        option = "--rotate-size" if rotation.size is not None else "--keep-size"
        least_kb = -(-least * (1 if rotation.size is not None else FILES_PER_KEEP_SIZE) // 1024)
        raise UsageError(
            f"{option} is too small for a header with these filters (expected at least {least_kb}k)",
            hint=f"{option} 100M",
        )
