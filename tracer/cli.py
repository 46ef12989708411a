"""The commands: wiring and help text only."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from tracer import __version__
from tracer.errors import TcpwatchError, UsageError
from tracer.findings import can_trace
from tracer.options import filter_options, make_filter, parse_duration, wants_colour
from tracer.output.findings import findings_as_json, findings_as_text
from tracer.output.jsonlines import JsonSink
from tracer.output.talk import complain, say
from tracer.output.text import TextSink
from tracer.pipeline import Sink, Totals, run
from tracer.stopping import Stop, discard
from tracer.storage.reader import RecordingReader

_EPILOG = """\b
Examples:
  sudo tcpwatch --port 3306               everything about MySQL connections
  sudo tcpwatch -p 3306,11300 -w now.tw   the same, and record it
  sudo tcpwatch --min-idle 10m            what follows ten minutes of silence
  tcpwatch replay now.tw --rport 3306     look at it later, on any machine
  sudo tcpwatch demo                      see the incident in half a minute

\b
What the columns say:
  EVENT   tlp: a tail loss probe; rto N: the Nth retransmission by the timer;
          fast, syn N, synack N, fin N: other retransmissions; keepalive N: a
          probe (1: the one before was answered); RST received, sent or
          refused; an errno: what the application's next call returns;
          or a change of state
  SILENT  time since the peer was last heard
  UNACK   bytes sent and not acknowledged
  OWNER   the processes that hold the socket
"""


def _duration(_context: click.Context, _option: click.Parameter, value: str | None) -> float | None:
    return None if value is None else parse_duration(value)


_json_option = click.option("--json", "as_json", is_flag=True, help="JSON, one event a line (docs/events.md).")
_duration_option = click.option(
    "--duration", metavar="DURATION", callback=_duration, help="End after 90s, 10m, 1h30m."
)


@click.group(
    invoke_without_command=True,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@filter_options
@_json_option
@click.option("-w", "--write", "recording", type=click.Path(path_type=Path), metavar="FILE", help="Record it, too.")
@_duration_option
@click.version_option(__version__, prog_name="tcpwatch")
@click.pass_context
def cli(
    context: click.Context, /, as_json: bool, recording: Path | None, duration: float | None, **filters: Any
) -> None:
    """Find TCP connections that died while nobody was talking.

    Without a command: show retransmissions, keepalive probes, resets, errors and changes of state of every
    TCP connection of this host as they happen, with the time since the peer was last heard and the processes
    that own the socket. ^C ends it with a summary. Needs root.
    """
    if context.invoked_subcommand is not None:
        for name, _ in context.params.items():
            if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
                command = context.invoked_subcommand
                raise UsageError(f"options of {command} go after its name", hint=f"tcpwatch {command} [OPTIONS]")
        return
    stop = Stop(duration, sys.stdout)
    wanted = make_filter(filters)
    from tracer.session import utc_offset_now_s, watch

    sink = _sink(as_json=as_json, utc_offset_s=utc_offset_now_s())
    watch(wanted, [sink], stop, recording=recording)


@cli.command()
@click.option("-o", "--output", "recording", required=True, type=click.Path(path_type=Path), metavar="FILE")
@filter_options
@_duration_option
def record(recording: Path, duration: float | None, **filters: Any) -> None:
    """Record events to a file and show nothing. Needs root.

    The file is JSON lines behind a header (docs/recording-format.md), readable while it grows and by its
    owner only.
    """
    stop = Stop(duration)
    from tracer.session import watch

    watch(make_filter(filters), [], stop, recording=recording)


@cli.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE…")
@filter_options
@_json_option
def replay(files: tuple[Path, ...], as_json: bool, **filters: Any) -> None:
    """Show a recording as live tracing showed it. FILE may be - for standard input.

    Needs neither root nor the kernel that it was made on. Times are in the time zone of the recording.
    """
    wanted = make_filter(filters)
    totals = Totals()
    sink = _sink(as_json=as_json, utc_offset_s=0)
    try:
        for file in files:
            with RecordingReader(file, warn=say) as source:
                if isinstance(sink, TextSink):
                    sink.utc_offset_s = source.header.utc_offset_s
                run(source, wanted, [sink], totals)
    except BrokenPipeError:
        discard(sys.stdout)


@cli.command()
@_json_option
@click.pass_context
def check(context: click.Context, /, as_json: bool) -> None:
    """Say what this host can do: each hook ok, by fallback, or missing.

    Every hook is attached for a moment. Exits with 1 where live tracing is not possible.
    """
    from tracer.kernel.check import check_host

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
def demo(server: str) -> None:
    """Let the incident happen, in half a minute: a firewall forgets a connection that both ends believe in.

    Client, firewall (nftables and conntrack) and server live in network namespaces of their own; nothing of this
    host is touched, and nothing is left behind. Needs root.
    """
    stop = Stop(at_once=False)
    from tracer.kernel import host
    from tracer.lab.demo import demo as show
    from tracer.session import utc_offset_now_s

    host.require_privilege()
    show(server, stop, colour=wants_colour(sys.stdout), utc_offset_s=utc_offset_now_s())


def _sink(*, as_json: bool, utc_offset_s: int) -> Sink:
    if as_json:
        return JsonSink(sys.stdout)
    return TextSink(sys.stdout, colour=wants_colour(sys.stdout), utc_offset_s=utc_offset_s)


def main() -> None:
    """Run a command and end with its exit status: 0 fine, 1 failed, 2 wrong usage."""
    sys.exit(_run(sys.argv[1:]))


def _run(arguments: list[str]) -> int:
    try:
        status = cli.main(args=arguments, prog_name="tcpwatch", standalone_mode=False)
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except TcpwatchError as error:
        complain(error)
        return error.exit_status
    except click.ClickException as error:
        complain(UsageError(error.format_message(), hint="tcpwatch --help"))
        return 2
    except (click.Abort, KeyboardInterrupt):
        return 0
    except BrokenPipeError:
        discard(sys.stdout)
        return 0
    except OSError as error:
        # What else can fail is writing to stdout: a full disk behind a redirection.
        complain(TcpwatchError(f"cannot write the output: {error.strerror or error}", hint="df -h"))
        discard(sys.stdout)
        return 1


if __name__ == "__main__":
    main()
