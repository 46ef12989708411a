"""Messages on stderr: progress, warnings and errors. stdout is data."""

from __future__ import annotations

import shutil
import sys
import textwrap
from contextlib import suppress

import click

from tracer.model.errors import TcpwatchError
from tracer.output.format import PLAIN, safe


def say(text: str) -> None:
    """Print a line, wrapped on a terminal. A stderr that cannot be written is ignored."""
    line = f"tcpwatch: {safe(text)}"
    if sys.stderr is not None and sys.stderr.isatty():
        width = shutil.get_terminal_size().columns
        line = textwrap.fill(line, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    _write(line)


def show(line: str) -> None:
    """Print a line that is not a message, such as a row of a list."""
    encoding = getattr(sys.stderr, "encoding", None) or "ascii"
    _write(line.encode(encoding, PLAIN).decode(encoding))


def complain(error: TcpwatchError) -> None:
    """Print an error, then its hint. Lines of other threads do not come between them."""
    message = f"tcpwatch: {safe(str(error))}"
    if sys.stderr is not None and sys.stderr.isatty():
        message = click.style(message, fg="red", bold=True)
    _write(f"{message}\nHint: {safe(error.hint)}" if error.hint else message)


def _write(line: str) -> None:
    if sys.stderr is None:  # closed; print would use stdout instead
        return
    with suppress(OSError, ValueError):
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
