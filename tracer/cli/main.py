"""The commands: wiring and help text only. What one of them alone needs it imports itself: live starts sooner."""

from __future__ import annotations

import gc
import json
import platform
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from tracer import __version__
from tracer.cli.failures import explain, print_traceback, thread_failed
from tracer.cli.options import (
    filter_options,
    make_filter,
    parse_buffer_size,
    parse_size,
    positive_duration,
    recording_path,
    wants_colour,
)
from tracer.cli.usage import usage_error
from tracer.model.checks import can_trace
from tracer.model.errors import TcpwatchError, UsageError
from tracer.model.filters import Filter
from tracer.output.background_writer import Stream
from tracer.output.format import PLAIN, plural
from tracer.output.jsonlines import JsonSink
from tracer.output.messages import complain, say
from tracer.output.stdout import OutputError, describe, occupy_standard_descriptors, open_stdout
from tracer.output.text import WIDTH, TextSink
from tracer.recordings.header import Header, describe_filter
from tracer.recordings.rotation import PARTS, Rotation
from tracer.run.pipeline import Sink, Totals
from tracer.run.stopping import Stop, discard

if TYPE_CHECKING:
    from tracer.run.replay import Missing

_EPILOG = """\b
Examples:
  sudo tcpwatch --port 3306               everything about MySQL connections
  sudo tcpwatch -p 3306,11300 -w now.tw   the same, and record it
  sudo tcpwatch --min-idle 10m            what follows ten minutes of silence
  sudo tcpwatch -e stall                  only connections that wait in vain
  tcpwatch report now.tw                  what stalled, why, what to change
  tcpwatch replay now.tw --rport 3306     look at it later, on any machine
  sudo tcpwatch sockets --at-risk 1h      what an idle timeout would strand
  sudo tcpwatch demo                      see the incident in half a minute

\b
What the columns say:
  EVENT   STALL: a connection waits for an answer; what that is consistent
          with, and below it when the kernel gives up and what to change
          tlp: a tail loss probe; rto N: the Nth retransmission by the timer;
          fast, syn N, synack N, fin N: other retransmissions; keepalive N: a
          probe (1: the one before was answered); window? N: a probe of a
          closed window; the same (found): in trouble when tcpwatch started;
          waiting: acknowledged, and no reply for a minute; idle: silent for
          longer than another one that was found dead; heard again: after
          long silence, or at last; RST
          received, sent or refused; an errno: what the application's next
          call returns; or a change of state
  SILENT  time since the peer was last heard
  UNACK   bytes sent and not acknowledged
  OWNER   the processes that hold the socket
"""


def _size(_context: click.Context, _option: click.Parameter, value: str | None) -> int | None:
    return None if value is None else parse_size(value)


def _ring_bytes(_context: click.Context, _option: click.Parameter, value: str) -> int:
    return parse_buffer_size(value)


_json_option = click.option("--json", "as_json", is_flag=True, help="JSON, one event a line (docs/events.md).")
_resume_option = click.option(
    "--resume/--no-resume",
    default=True,
    show_default=True,
    help="Trace received segments, to report recoveries at once and idle periods that were survived.",
)
_buffer_option = click.option(
    "--buffer-size",
    "ring_bytes",
    metavar="SIZE",
    default="8M",
    show_default=True,
    callback=_ring_bytes,
    help="Kernel memory for events that wait: 64k to 1G.",
)
_duration_option = click.option(
    "--duration", metavar="DURATION", callback=positive_duration, help="End after 90s, 10m, 1h30m."
)


class _Commands(click.Group):
    """Keeps errors from click that it would explain away: EOFError as ^D, a closed pipe as a failure."""

    def make_context(self, *args: Any, **options: Any) -> click.Context:
        """Read the options; `--help` is printed here."""
        with _own_errors():
            return super().make_context(*args, **options)

    def invoke(self, context: click.Context) -> Any:
        """Run the command."""
        with _own_errors():
            return super().invoke(context)


@contextmanager
def _own_errors() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:  # a reader that has seen enough (`| head`) is no failure
        discard(sys.stdout)
        raise click.exceptions.Exit(0) from None
    except EOFError as error:
        raise explain(error, sys.argv[1:]) from error


@click.group(
    cls=_Commands,
    invoke_without_command=True,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@filter_options
@_json_option
@click.option("-w", "--write", "recording", callback=recording_path, metavar="FILE", help="Record to FILE as well.")
@_duration_option
@_resume_option
@_buffer_option
@click.version_option(__version__, prog_name="tcpwatch")
@click.pass_context
def cli(
    context: click.Context,
    /,
    as_json: bool,
    recording: Path | None,
    duration: float | None,
    resume: bool,
    ring_bytes: int,
    **filters: Any,
) -> None:
    """Find TCP connections that died while nobody was talking.

    Without a command: show retransmissions, keepalive probes, resets, errors and changes of state of every
    TCP connection of this host as they happen, with the time since the peer was last heard and the processes
    that own the socket; and what they amount to: which connection stalls, what that is consistent with, when
    the kernel gives up, and what to change. ^C ends it with a summary. Needs root.
    """
    if context.invoked_subcommand is not None:
        for name, _ in context.params.items():
            if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
                command = context.invoked_subcommand
                raise UsageError(f"options of {command} must follow its name", hint=f"tcpwatch {command} [OPTIONS]")
        return
    stop = Stop(duration, sys.stdout)
    wanted = _traced(filters, resume=resume)
    from tracer.run.live import Tracing, utc_offset_now_s, watch
    from tracer.run.recording import Recording

    watch(
        wanted,
        stop,
        Tracing(resume, ring_bytes),
        show=partial(_sink, as_json=as_json, utc_offset_s=utc_offset_now_s()),
        sheds=not as_json,
        recording=Recording(recording) if recording is not None else None,
    )


@cli.command()
@click.option("-o", "--output", "recording", required=True, callback=recording_path, metavar="FILE")
@click.option("--rotate-size", metavar="SIZE", callback=_size, help="Start a new file at SIZE (100M, 1G) on disk.")
@click.option(
    "--rotate-every", metavar="DURATION", callback=positive_duration, help="Start a new file after 1h, 24h."
)
@click.option("--keep", type=click.IntRange(1), metavar="N", help="Keep only the newest N files that hold events.")
@click.option("--keep-size", metavar="SIZE", callback=_size, help="Keep only the newest files, of SIZE together.")
@filter_options
@_duration_option
@_resume_option
@_buffer_option
def record(
    recording: Path,
    rotate_size: int | None,
    rotate_every: float | None,
    keep: int | None,
    keep_size: int | None,
    duration: float | None,
    resume: bool,
    ring_bytes: int,
    **filters: Any,
) -> None:
    """Record events to a file and show nothing. Needs root.

    The file is JSON lines behind a header (docs/recording-format.md), readable while it grows and by its owner
    only; compressed where FILE ends in .gz or .zst. FILE may be a FIFO.

    With --rotate-size, --rotate-every or --keep-size each file has the time of its beginning in its name: x.tw.gz
    becomes x-20261125T020000.123Z.tw.gz. --keep-size alone starts a new file at an eighth of SIZE. A full disk costs
    the oldest of these files, and the run goes on. SIGHUP starts a new file at once or, without a rotation, when
    FILE was moved away.
    """
    rotation = _rotation(rotate_size, rotate_every, keep, keep_size)
    wanted = _traced(filters, resume=resume)
    _require_room_for_header(rotation, wanted)
    stop = Stop(duration, reopens=True)
    from tracer.run.live import Tracing, watch
    from tracer.run.recording import Recording

    watch(
        wanted,
        stop,
        Tracing(resume, ring_bytes),
        recording=Recording(recording, rotation, reopens=True),
    )


def _rotation(size: int | None, every_s: float | None, keep: int | None, keep_size: int | None) -> Rotation:
    """Raises UsageError for options that contradict each other."""
    rotation = Rotation(size, every_s, keep, keep_size)
    if keep is not None and not rotation.is_wanted:
        raise UsageError(
            "--keep needs --rotate-size, --rotate-every or --keep-size",
            hint="tcpwatch record -o FILE --rotate-size 100M --keep 10",
        )
    if keep_size is not None and 2 * (rotation.file_size or 0) > keep_size:
        if size is None:
            raise UsageError("--keep-size must be at least 8k", hint="--keep-size 10G")
        raise UsageError("--keep-size must be at least twice --rotate-size", hint=f"--rotate-size {keep_size // 8}")
    return rotation


def _require_room_for_header(rotation: Rotation, wanted: Filter) -> None:
    """Raises UsageError for files that are full before the first event: each header has the filter."""
    least = 4 * len(json.dumps(describe_filter(wanted)))
    if rotation.file_size is not None and rotation.file_size < least:
        option = "--rotate-size" if rotation.size is not None else "--keep-size"
        least_kb = -(-least * (1 if rotation.size is not None else PARTS) // 1024)
        raise UsageError(
            f"{option} is too small for a header with these filters (expected at least {least_kb}k)",
            hint=f"{option} 100M",
        )


@cli.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, readable=False), metavar="FILE…")
@filter_options
@_json_option
def replay(files: tuple[Path, ...], as_json: bool, **filters: Any) -> None:
    """Show a recording as live tracing showed it. FILE may be - for standard input.

    Needs neither root nor the kernel that it was made on. Times are in the time zone of the recording. A FILE
    that cannot be read is skipped with a warning, and the exit status is 1.
    """
    wanted = make_filter(filters)
    sink = _sink(sys.stdout, as_json=as_json, utc_offset_s=0)

    def opened(header: Header) -> None:
        if isinstance(sink, TextSink):
            sink.utc_offset_s = header.utc_offset_s

    _play("replay", files, wanted, sink, opened=opened)


@cli.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, readable=False), metavar="FILE…")
@filter_options
@_json_option
def report(files: tuple[Path, ...], as_json: bool, **filters: Any) -> None:
    """Say what stalled in a recording, why, and what to change. FILE may be - for standard input.

    Stalls, longest last; for each service the longest silence that a connection survived against the shortest
    that was fatal; the advice. Several files are one report. Takes as much memory for a long recording as for
    a short one. A FILE that cannot be read is skipped with a warning, the report begins with what is missing,
    and the exit status is 1.
    """
    from tracer.analysis.idle_timeouts import IdleTimeouts
    from tracer.output.report import Report

    wanted = make_filter(filters)
    idle_timeouts, totals = IdleTimeouts(), Totals()
    sink = Report(
        sys.stdout,
        idle_timeouts,
        as_json=as_json,
        width=_width(),
        here=platform.node(),
        unfollowed=lambda: totals.unfollowed,
    )

    def opened(header: Header) -> None:
        sink.opened(
            header.host, header.utc_offset_s, header.run, filtered=not (header.keeps_counts and wanted.keeps_counts)
        )

    _play(
        "report",
        files,
        wanted,
        sink,
        opened=opened,
        noted=sink.missing,
        idle_timeouts=idle_timeouts,
        totals=totals,
        ends_only=True,
    )


def _play(
    command: str,
    files: tuple[Path, ...],
    wanted: Filter,
    sink: Sink,
    *,
    noted: Callable[..., None] = lambda *_, **__: None,
    **options: Any,
) -> None:
    """Play the files to the sink, with a warning for each that cannot be read, and end with 1 if there was one."""
    from tracer.run.replay import play

    if sum(str(file) == "-" for file in files) > 1:
        raise UsageError("standard input (-) can be read only once", hint=f"tcpwatch {command} FILE -")
    has_failed = False

    def missing(what: Missing) -> None:
        nonlocal has_failed
        has_failed = has_failed or what.is_failure
        noted(what.file, what.reason, what.until_ns, is_failure=what.is_failure)
        if what.is_failure:
            skipped = "; skipped" if what.is_all and len(files) > 1 else ""
            complain(TcpwatchError(f"{what.file}: {what.reason}{skipped}", hint=what.hint))

    play(files, wanted, [sink], warn=say, missing=missing, command=command, **options)
    if has_failed:
        click.get_current_context().exit(1)


@cli.command()
@filter_options
@_json_option
@click.option(
    "--at-risk",
    "ttl",
    metavar="TTL",
    callback=positive_duration,
    help="Only connections that a firewall with this idle timeout would drop: 1h.",
)
def sockets(as_json: bool, ttl: float | None, **filters: Any) -> None:
    """Show every TCP connection as it is now, in every network namespace. Needs root.

    What `ss -o` shows, and how long the peer has been silent, longest first. Listeners and TIME_WAIT are left out.
    With --at-risk: before anything breaks, who would hang or freeze behind such a firewall, the worst first, and
    what to change. Connections that seem to wait for an answer are looked at again after 3s.

    \b
    Examples:
      sudo tcpwatch sockets --rport 3306     the connections to MySQL
      sudo tcpwatch sockets --min-idle 10m   peers not heard for ten minutes
      sudo tcpwatch sockets --at-risk 1h     what a session-ttl of 1h would strand

    \b
    What the columns say:
      SILENT     time since the peer was last heard
      TIMER      a time alone: until the keepalive timer looks again
                 on: until data is sent again, #N: the Nth time was the last
                 persist: the peer's window is closed
      KEEPALIVE  2h+9x75s: the first probe after 2h of silence, then 9 x 75s
      OWNER      the processes that hold the socket (and what is going on;
                 waiting: it asked, all was acknowledged, no answer yet)
    """
    wanted = make_filter(filters)
    if wanted.events:
        raise UsageError("--event cannot be used with sockets", hint="tcpwatch sockets, without -e")
    from tracer.analysis.risk import LOOK_AGAIN_S, WAITING, at_risk
    from tracer.kernel import host
    from tracer.kernel.presence import absent
    from tracer.kernel.sockets import read_sockets
    from tracer.model.sockets import longest_silence_first
    from tracer.output.sockets import about_sockets, risks_as_text, sockets_as_json, sockets_as_text

    found = read_sockets(wanted, say)
    hz = host.hz()
    shown = longest_silence_first(found) if ttl is None else at_risk(found, ttl, hz)
    waits = sum(WAITING in (each.at_risk or ()) for each in found)
    if ttl is not None and waits:
        say(f"{plural(waits, 'connection')} may wait for an answer: looking again in {LOOK_AGAIN_S}s")
        time.sleep(LOOK_AGAIN_S)
        before, found = found, read_sockets(wanted)
        shown = at_risk(found, ttl, hz, before)
    if as_json:
        sys.stdout.writelines(sockets_as_json(shown))
    else:
        sys.stdout.write(sockets_as_text(shown) if ttl is None else risks_as_text(shown, ttl, hz))
    sys.stdout.flush()
    for line in (*about_sockets(found, shown, ttl), *absent(wanted)):
        say(line)


@cli.command()
@_json_option
@click.pass_context
def check(context: click.Context, /, as_json: bool) -> None:
    """Say what this host can do: each hook ok, by fallback, or missing.

    Every hook is attached for a moment. Exits with 1 where live tracing is not possible.
    """
    from tracer.kernel.check import check_host
    from tracer.output.checks import findings_as_json, findings_as_text

    findings = check_host()
    print(
        json.dumps(findings_as_json(findings)) if as_json else findings_as_text(findings),
        end="\n" if as_json else "",
    )
    if not can_trace(findings):
        context.exit(1)


@cli.command()
@click.option(
    "--server",
    type=click.Choice(["embedded", "mariadb"]),
    default="embedded",
    show_default=True,
    help="Who is asked: a few lines of Python, or a real MariaDB through PyMySQL.",
)
@click.option(
    "--fix",
    type=click.Choice(["keepalive", "ttl", "reset", "ping"]),
    help="The same with something changed, so that the worker does not freeze.",
)
def demo(server: str, fix: str | None) -> None:
    """Let the incident happen, in half a minute: a firewall forgets a connection that both ends believe in.

    Client, firewall (nftables and conntrack) and server live in network namespaces of their own; nothing of this
    host is touched, and nothing is left behind. Needs root.
    """
    stop = Stop(at_once=False)
    from tracer.kernel import host
    from tracer.lab.demo import demo as show
    from tracer.run.live import utc_offset_now_s

    host.require_privilege()
    show(server, fix, stop, colour=wants_colour(sys.stdout), utc_offset_s=utc_offset_now_s())


def _traced(filters: dict[str, Any], *, resume: bool) -> Filter:
    """The filter of a live run."""
    wanted = make_filter(filters)
    if not resume and "resume" in wanted.events:
        raise UsageError("--event resume and --no-resume are mutually exclusive", hint="leave --no-resume out")
    return wanted


def _sink(stream: Stream, *, as_json: bool, utc_offset_s: int) -> Sink:
    if as_json:
        return JsonSink(stream)
    return TextSink(
        stream,
        colour=wants_colour(sys.stdout),
        utc_offset_s=utc_offset_s,
        width=_width(),
        folded=sys.stdout.isatty(),
    )


def _width() -> int:
    """Columns for sentences: those of the terminal, as far as a person likes to read across."""
    return max(60, min(120, shutil.get_terminal_size().columns)) if sys.stdout.isatty() else WIDTH


def main() -> None:
    """Run a command and end with its exit status: 0 fine, 1 failed, 2 wrong usage."""
    # Events come and go by the hundred thousand, and in no circles: Python need not look for those all the time.
    gc.set_threshold(20_000)
    occupy_standard_descriptors()
    sys.stdout = open_stdout(errors=PLAIN)
    threading.excepthook = _complain_of_thread
    status = _run(sys.argv[1:])
    _forget_unwritten()
    sys.exit(status)


def _run(arguments: list[str]) -> int:
    try:
        status = cli.main(args=arguments, prog_name="tcpwatch", standalone_mode=False)
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except TcpwatchError as error:
        print_traceback(error)
        complain(error)
        return error.exit_status
    except click.ClickException as error:
        complain(usage_error(error))
        return 2
    except (click.Abort, KeyboardInterrupt):
        return 0
    except BrokenPipeError:
        discard(sys.stdout)
        return 0
    except OutputError as error:
        complain(describe(error))
        discard(sys.stdout)
        return 1
    except Exception as error:
        print_traceback(error)
        complain(explain(error, arguments))
        return 1


def _forget_unwritten() -> None:
    """Python tries again at exit to write what it could not, and ends with status 120 where that fails."""
    for stream in (sys.stdout, sys.stderr):
        if stream is None:
            continue
        try:
            stream.flush()
        except (OSError, ValueError):
            discard(stream)


def _complain_of_thread(arguments: threading.ExceptHookArgs) -> None:
    if (error := thread_failed(arguments)) is not None:
        complain(error)
