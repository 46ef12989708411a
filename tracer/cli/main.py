"""The command line: the group of commands, and the exit status of each error.

A command imports what it alone needs when it runs, so that live tracing starts without it.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
from click.core import ParameterSource

from tracer import __version__
from tracer.cli.commands import Commands
from tracer.cli.failures import explain, print_traceback, thread_failed
from tracer.cli.habits import suggestion
from tracer.cli.live import live_options, trace
from tracer.cli.screen import as_called
from tracer.cli.usage import usage_error
from tracer.model.errors import TcpwatchError, UsageError
from tracer.output.format import PLAIN
from tracer.output.messages import complain
from tracer.output.stdout import OutputError, describe, occupy_standard_descriptors, open_stdout
from tracer.run.interrupts import end_at_once_on_signals, interrupt_on_signals
from tracer.run.stopping import discard

_GC_THRESHOLD = 20_000
"""Allocations between two collections of cycles: events form none, and come by the hundred thousand."""

_EPILOG = """\b
Examples:
  sudo tcpwatch --port 3306               trace MySQL connections
  sudo tcpwatch -p 3306,11300 -w now.tw   trace two services, and record them
  sudo tcpwatch --min-idle 10m            what follows ten minutes of silence
  sudo tcpwatch -e stall                  only connections that stall
  tcpwatch report now.tw                  what stalled, why, what to change
  tcpwatch replay now.tw --rport 3306     show a recording, on any machine
  sudo tcpwatch sockets --at-risk 1h      what a 1h idle timeout would drop
  sudo tcpwatch probe --min-idle 5m       which idle connections are dead
  sudo tcpwatch protect -p 3306 --idle 4m keep open connections alive
  sudo tcpwatch end --stuck               make calls that hang return now
  sudo tcpwatch demo                      reproduce the failure in 30 seconds
  tcpwatch help record                    every option of a command

\b
Columns:
  EVENT   STALL: connections wait for an answer. The lines below it give the
            likely cause, when the kernel gives up and what to do. WAIT: they
            still wait; END: how it ended
          tlp: tail loss probe; rto N: Nth retransmission by the timer;
            fast, syn N, synack N, fin N: other retransmissions
          keepalive N: keepalive probe; 1: all before it were answered
          window? N: Nth probe of a closed window
          unsent N: Nth attempt to send what this host holds back
          idle: silent for longer than a connection that was found dead
          resumed: the peer sent again after a long silence or a stall
          RST received, sent or refused
          ACTION probe, protect, end: what such a command did
          ETIMEDOUT, …: the error of the application's next system call
          OLD → NEW: change of state
  SILENT  time since the last segment from the peer
  UNACK   bytes sent but not acknowledged
  OWNER   processes that hold the socket
"""


class _Commands(click.Group):
    """A group that keeps click from handling two errors: EOFError as ^D, a closed pipe as a failure."""

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
    except BrokenPipeError:  # the reader has seen enough (`| head`)
        discard(sys.stdout)
        raise click.exceptions.Exit(0) from None
    except EOFError as error:
        raise explain(error, sys.argv[1:]) from error


@click.group(
    cls=_Commands,
    commands=Commands(),
    invoke_without_command=True,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@live_options
@click.version_option(__version__, "-V", "--version", prog_name="tcpwatch")
@click.pass_context
def cli(context: click.Context, /, **options: Any) -> None:
    """Find TCP connections that died while nobody was talking.

    Without a command, tcpwatch traces every TCP connection of this host: it prints retransmissions, keepalive probes,
    resets, errors and changes of state as they happen, with the time since the last segment from the peer and the
    processes that own the socket. When a connection stalls it reports the likely cause, when the kernel gives up,
    and what to change. ^C stops it and prints a summary. Requires root.
    """
    command = context.invoked_subcommand
    if command is None:
        trace(**options)
        return
    if any(context.get_parameter_source(name) is ParameterSource.COMMANDLINE for name in context.params):
        moved = suggestion(cli, context.obj) if context.obj is not None else None
        raise UsageError(f"options of {command} must follow its name", hint=moved or f"tcpwatch {command} [OPTIONS]")


def main() -> None:
    """Run a command and end with its exit status: 0 fine, 1 failed, 2 wrong usage."""
    gc.set_threshold(_GC_THRESHOLD)
    occupy_standard_descriptors()
    sys.stdout = open_stdout(errors=PLAIN)
    threading.excepthook = _complain_of_thread
    if "_TCPWATCH_COMPLETE" in os.environ:
        import tracer.cli.completion  # noqa: F401 registers what answers bash
    status = run(sys.argv[1:])
    end_at_once_on_signals()
    _forget_unwritten()
    sys.exit(status)


def run(arguments: list[str]) -> int:
    """Run a command and report its errors. Returns the exit status."""
    try:
        interrupt_on_signals()
        status = cli.main(args=arguments, prog_name="tcpwatch", standalone_mode=False, obj=arguments)
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except TcpwatchError as error:
        print_traceback(error)
        _complain(error)
        return error.exit_status
    except click.ClickException as error:
        _complain(usage_error(error, cli, arguments))
        return 2
    except (click.Abort, KeyboardInterrupt):
        return 0
    except BrokenPipeError:
        discard(sys.stdout)
        return 0
    except OutputError as error:
        _complain(describe(error))
        discard(sys.stdout)
        return 1
    except Exception as error:
        print_traceback(error)
        _complain(explain(error, arguments))
        return 1


def _complain(error: TcpwatchError) -> None:
    """Print an error, with a hint that calls tcpwatch as it was called."""
    error.hint = as_called(error.hint)
    complain(error)


def _forget_unwritten() -> None:
    """Drop what could not be written: Python would try again at exit, and fail with status 120."""
    for stream in (sys.stdout, sys.stderr):
        if stream is None:
            continue
        try:
            stream.flush()
        except (OSError, ValueError):
            discard(stream)


def _complain_of_thread(arguments: threading.ExceptHookArgs) -> None:
    if (error := thread_failed(arguments)) is not None:
        _complain(error)
