"""`tcpwatch replay` and `tcpwatch report`: what is made of recordings."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tracer.cli import types
from tracer.cli.options import all_option, filter_options, format_options, html_option, make_filter, verbose_option
from tracer.cli.screen import as_called, page, program
from tracer.cli.time_option import Moment, make_window, window_options
from tracer.model.errors import TcpwatchError, UsageError
from tracer.model.filters import Filter
from tracer.output.formats import EVENT_FORMATS, REPORT_FORMATS
from tracer.output.messages import complain, say

if TYPE_CHECKING:
    from tracer.model.window import Window
    from tracer.output.html.report import HtmlReport
    from tracer.output.report import Report
    from tracer.output.sink import Sink
    from tracer.run.pipeline import Totals
    from tracer.run.replay import Missing
    from tracer.run.report import Reading

_files_argument = click.argument("files", nargs=-1, required=True, type=types.RECORDED, metavar="FILE…")


@click.command()
@_files_argument
@window_options
@filter_options
@all_option
@verbose_option
@format_options(EVENT_FORMATS)
def replay(
    files: tuple[Path, ...],
    output_format: str,
    shows_all: bool,
    is_verbose: bool,
    since: Moment | None,
    until: Moment | None,
    **filters: Any,
) -> None:
    """Print a recording as live tracing printed it. FILE may be - for standard input.

    Needs neither root nor the kernel on which the recording was made. Times are in the time zone of the recorded
    host. A FILE that cannot be read is skipped with a warning, and the exit status is 1.

    A TIME without a zone is in the time zone of the recorded host. 14:02 is the last one within the FILEs; for
    --until, the first one after --since. -10m is ten minutes before the last event of all FILEs.

    \b
    Examples:
      tcpwatch replay night.tw.gz --rport 3306
      tcpwatch replay night.tw.gz -e stall --json
      tcpwatch replay night.tw.gz --since 03:10 --until 03:25
      zstdcat night.tw.zst | tcpwatch replay -
    """
    from tracer.output.format import plural
    from tracer.output.text import TextSink
    from tracer.run.pipeline import Totals

    wanted = make_filter(filters)
    window = make_window(since, until, files, command="replay")
    layout = page(shows_all=shows_all or bool(wanted.events - {"stall"}), is_verbose=is_verbose)
    sink = EVENT_FORMATS[output_format].open(sys.stdout, layout)
    totals = Totals()
    _play("replay", files, wanted, sink, window, totals)
    if isinstance(sink, TextSink) and sink.is_empty:
        events = plural(totals.events, "event")
        hidden = f"no line to show of {events}: -a also shows healthy connections opening and closing"
        say(hidden if totals.events else "no event to show")


@click.command()
@_files_argument
@click.option(
    "--evidence", is_flag=True, help="Add, for the network team, what each stalled connection sent and when."
)
@window_options
@filter_options
@format_options(REPORT_FORMATS)
@html_option
def report(
    files: tuple[Path, ...],
    output_format: str,
    evidence: bool,
    html: Path | None,
    since: Moment | None,
    until: Moment | None,
    **filters: Any,
) -> None:
    """Report which connections stalled, why, and what to change. FILE may be - for standard input.

    The report begins with a summary, what is missing, and the diagnosis. Then come the incidents: stalls of one
    owner, service and verdict that begin together. For each service it compares the longest idle period that a
    connection survived with the shortest that was fatal, and gives advice. Several FILEs make one report; those of
    different hosts are read on all cores. A FILE may also be the output of report --json. Where the hosts of both
    ends of a connection were recorded, the report shows what the other end saw. Memory use does not grow with the
    length of a recording. A FILE that cannot be read is skipped with a warning, and the exit status is 1.

    A TIME without a zone is in the time zone of the recorded host. 14:02 is the last one within the FILEs; for
    --until, the first one after --since. -10m is ten minutes before the last event of all FILEs.

    \b
    Examples:
      tcpwatch report night.tw.gz
      tcpwatch report /var/log/tcpwatch/*.tw.gz --rport 3306
      tcpwatch report night.tw.gz --since 03:10 --until 04:00 --markdown
      tcpwatch report night.tw.gz --html night.html
    """
    from tracer.analysis.idle_timeouts import IdleTimeouts
    from tracer.analysis.silence_marks import SilenceMarks
    from tracer.run.report import Reading

    wanted = make_filter(filters)
    if evidence and output_format == "json":
        raise UsageError(
            "--evidence and --json are mutually exclusive", hint="tcpwatch replay FILE --json has every event"
        )
    if evidence and html is not None:
        raise UsageError(
            "--evidence and --html are mutually exclusive: the page has the evidence", hint="--html FILE"
        )
    if html is not None:
        _require_page(html, files, output_format)
    window = make_window(since, until, files, command="report")
    if html is not None:
        _report_as_page(files, wanted, html, window)
        return
    sink = REPORT_FORMATS[output_format](
        sys.stdout,
        idle_timeouts=IdleTimeouts() if output_format != "json" else SilenceMarks(),
        width=page().width,
        here=platform.node(),
        program=program() if output_format == "text" else "tcpwatch",  # others are read elsewhere
        is_filtered=not wanted.keeps_counts,
        has_evidence=evidence,
        window=window,
    )
    reading = Reading(wanted, window, platform.node(), has_evidence=evidence, has_lines=output_format == "json")
    _read("report", files, reading, sink)


def _require_page(path: Path, files: tuple[Path, ...], output_format: str) -> None:
    """Raise an error if the page cannot be written, before anything is read."""
    from tracer.output.html.file import require_writable

    if output_format != "text":
        raise UsageError(f"--html and --{output_format} are mutually exclusive", hint="run tcpwatch report twice")
    require_writable(path, files)


def _report_as_page(files: tuple[Path, ...], wanted: Filter, path: Path, window: Window) -> None:
    """Write the report as an HTML page, and its name to stderr."""
    from tracer.analysis.silence_marks import SilenceMarks
    from tracer.output.html.file import STANDARD_OUTPUT, write_page
    from tracer.output.html.report import HtmlReport
    from tracer.run.report import Reading

    def finished(page: str) -> None:
        write_page(path, page)
        if path != STANDARD_OUTPUT:
            say(f"wrote {path} ({max(1, len(page.encode()) // 1000):,} KB)")

    sink = HtmlReport(
        finished, SilenceMarks(), here=platform.node(), is_filtered=not wanted.keeps_counts, window=window
    )
    _read("report", files, Reading(wanted, window, platform.node(), has_timeline=True), sink)


def _play(command: str, files: tuple[Path, ...], wanted: Filter, sink: Sink, window: Window, totals: Totals) -> None:
    """Play the files to the sink. Warn about each that cannot be read, and end with status 1 if there was one."""
    from tracer.run.replay import play

    with _failures(command, files) as missing:
        play(files, wanted, [sink], warn=say, missing=missing, command=command, window=window, totals=totals)


def _read(command: str, files: tuple[Path, ...], reading: Reading, report: Report | HtmlReport) -> None:
    """Read the files into the report. Warn about each that cannot be read, and end with status 1 if there was one."""
    from tracer.run.report import read

    with _failures(command, files) as missing:
        read(files, reading, report, warn=say, missing=missing)


@contextmanager
def _failures(command: str, files: tuple[Path, ...]) -> Iterator[Callable[[Missing], None]]:
    """A function that takes each file that cannot be read completely. Afterwards they decide the exit status."""
    if sum(str(file) == "-" for file in files) > 1:
        raise UsageError("standard input (-) can be read only once", hint=f"tcpwatch {command} FILE -")
    has_failed = False

    def missing(what: Missing) -> None:
        nonlocal has_failed
        has_failed = has_failed or what.is_failure
        if what.is_failure:
            skipped = "; skipped" if what.is_all and len(files) > 1 else ""
            complain(TcpwatchError(f"{what.file}: {what.reason}{skipped}", hint=as_called(what.hint)))

    yield missing
    if has_failed:
        click.get_current_context().exit(1)
