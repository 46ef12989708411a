"""`tcpwatch replay` and `tcpwatch report`: what is made of recordings."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tracer.cli import types
from tracer.cli.options import filter_options, format_options, make_filter
from tracer.cli.screen import page
from tracer.model.errors import TcpwatchError, UsageError
from tracer.model.filters import Filter
from tracer.output.formats import EVENT_FORMATS, REPORT_FORMATS
from tracer.output.messages import complain, say

if TYPE_CHECKING:
    from tracer.output.sink import Sink
    from tracer.run.replay import Missing

_files_argument = click.argument("files", nargs=-1, required=True, type=types.RECORDED, metavar="FILE…")


@click.command()
@_files_argument
@filter_options
@format_options(EVENT_FORMATS)
def replay(files: tuple[Path, ...], output_format: str, **filters: Any) -> None:
    """Print a recording as live tracing printed it. FILE may be - for standard input.

    Needs neither root nor the kernel on which the recording was made. Times are in the time zone of the recorded
    host. A FILE that cannot be read is skipped with a warning, and the exit status is 1.

    \b
    Examples:
      tcpwatch replay night.tw.gz --rport 3306
      tcpwatch replay night.tw.gz -e stall --json
      zstdcat night.tw.zst | tcpwatch replay -
    """
    wanted = make_filter(filters)
    _play("replay", files, wanted, EVENT_FORMATS[output_format].open(sys.stdout, page()))


@click.command()
@_files_argument
@filter_options
@format_options(REPORT_FORMATS)
def report(files: tuple[Path, ...], output_format: str, **filters: Any) -> None:
    """Report which connections stalled, why, and what to change. FILE may be - for standard input.

    The report lists the stalls, the longest last. For each service it compares the longest idle period that a
    connection survived with the shortest that was fatal, and gives advice. Several FILEs make one report. Memory use
    does not grow with the length of a recording. A FILE that cannot be read is skipped with a warning; the report
    begins with what is missing, and the exit status is 1.

    \b
    Examples:
      tcpwatch report night.tw.gz
      tcpwatch report /var/log/tcpwatch/*.tw.zst --rport 3306
    """
    from tracer.analysis.idle_timeouts import IdleTimeouts
    from tracer.run.pipeline import Totals

    wanted = make_filter(filters)
    idle_timeouts, totals = IdleTimeouts(), Totals()
    sink = REPORT_FORMATS[output_format](
        sys.stdout,
        idle_timeouts=idle_timeouts,
        width=page().width,
        here=platform.node(),
        unfollowed=lambda: totals.unfollowed,
        is_filtered=not wanted.keeps_counts,
    )

    def noted(missing: Missing) -> None:
        sink.missing(missing.file, missing.reason, missing.until_ns, is_failure=missing.is_failure)

    _play("report", files, wanted, sink, noted=noted, idle_timeouts=idle_timeouts, totals=totals, ends_only=True)


def _play(
    command: str,
    files: tuple[Path, ...],
    wanted: Filter,
    sink: Sink,
    *,
    noted: Callable[[Missing], None] = lambda missing: None,
    **options: Any,
) -> None:
    """Play the files to the sink. Warn about each that cannot be read, and end with status 1 if there was one."""
    from tracer.run.replay import play

    if sum(str(file) == "-" for file in files) > 1:
        raise UsageError("standard input (-) can be read only once", hint=f"tcpwatch {command} FILE -")
    has_failed = False

    def missing(what: Missing) -> None:
        nonlocal has_failed
        has_failed = has_failed or what.is_failure
        noted(what)
        if what.is_failure:
            skipped = "; skipped" if what.is_all and len(files) > 1 else ""
            complain(TcpwatchError(f"{what.file}: {what.reason}{skipped}", hint=what.hint))

    play(files, wanted, [sink], warn=say, missing=missing, command=command, **options)
    if has_failed:
        click.get_current_context().exit(1)
