"""How standard output shows text: its size, colour and folding, and the name of this program."""

from __future__ import annotations

import math
import os
import platform
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from tracer.output.page import WIDTH, Page

_MIN_WIDTH, _MAX_WIDTH = 60, 120
"""Columns of sentences: wider lines are hard to read."""
_CLONE = Path(__file__).resolve().parents[2] / "scripts" / "tcpwatch"


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
        program=_program(),
        here=platform.node(),
        command_line=command_line,
    )


def columns(stream: TextIO | None) -> float:
    """Columns of a terminal; infinite where no person reads, so that each connection takes one line."""
    return shutil.get_terminal_size().columns if stream is not None and stream.isatty() else math.inf


def _program() -> str:
    """How to call this tcpwatch by sudo: its name, or the script of a clone that is not installed."""
    if shutil.which("tcpwatch") is not None or not os.access(_CLONE, os.X_OK):
        return "tcpwatch"
    try:
        here = Path.cwd()
    except OSError:  # removed
        return str(_CLONE)
    return str(_CLONE.relative_to(here) if _CLONE.is_relative_to(here) else _CLONE)


def wants_colour() -> bool:
    """Whether to use colour: on a terminal, unless NO_COLOR is set (https://no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")
