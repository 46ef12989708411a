"""How standard output shows text: its size, colour and folding, and the name of this program."""

from __future__ import annotations

import math
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from tracer.cli.commands import Commands
from tracer.output.page import WIDTH, Page

_MIN_WIDTH, _MAX_WIDTH = 60, 120
"""Columns of sentences: wider lines are hard to read."""
_SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "tcpwatch"
_STARTED_BY_SCRIPT = "tcpwatch.py"
"""The name of what scripts/tcpwatch runs."""
_COMMAND = re.compile(rf"(?<![\w/.-])tcpwatch(?=$| -| (?:{'|'.join(Commands())})\b)")


def page(
    *, shows_all: bool = False, is_verbose: bool = False, command_line: Callable[[int], str] = lambda pid: ""
) -> Page:
    """The layout for standard output: that of a terminal, or of a file. command_line: as in Page."""
    is_terminal = sys.stdout.isatty()
    # A file has no width; COLUMNS sets one.
    size = shutil.get_terminal_size((WIDTH, 24))
    has_columns = is_terminal or "COLUMNS" in os.environ
    width = size.columns if has_columns else WIDTH
    return Page(
        width=max(_MIN_WIDTH, min(_MAX_WIDTH, width)),
        columns=max(_MIN_WIDTH, width) if has_columns else None,
        rows=size.lines if is_terminal else None,
        colour=wants_colour(),
        folded=is_terminal,
        shows_all=shows_all,
        is_verbose=is_verbose,
        program=program(),
        here=platform.node(),
        command_line=command_line,
    )


def columns(stream: TextIO | None) -> float:
    """Columns of a terminal; infinite where no person reads, so that each connection takes one line."""
    return shutil.get_terminal_size().columns if stream is not None and stream.isatty() else math.inf


def as_called(text: str) -> str:
    """The text with its commands of tcpwatch as this tcpwatch was called."""
    name = program()
    return text if name == "tcpwatch" else _COMMAND.sub(lambda _: name, text)


def program() -> str:
    """How to call this tcpwatch by sudo: its name, or the script of a clone that is not installed."""
    is_script = Path(sys.argv[0]).name == _STARTED_BY_SCRIPT and os.access(_SCRIPT, os.X_OK)
    if not is_script or shutil.which("tcpwatch") is not None:
        return "tcpwatch"
    try:
        here = Path.cwd()
    except OSError:  # removed
        return str(_SCRIPT)
    return str(_SCRIPT.relative_to(here) if _SCRIPT.is_relative_to(here) else _SCRIPT)


def wants_colour() -> bool:
    """Whether to use colour: on a terminal, unless NO_COLOR is set (https://no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")
