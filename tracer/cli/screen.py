"""How standard output shows text: its width, colour and folding."""

from __future__ import annotations

import os
import shutil
import sys

from tracer.output.formats import Page

_WIDTH = 80
_MIN_WIDTH, _MAX_WIDTH = 60, 120
"""Columns of sentences: wider lines are hard to read."""


def page() -> Page:
    """The layout for standard output: a terminal's width, colour and folding, or 80 plain columns."""
    is_terminal = sys.stdout.isatty()
    columns = shutil.get_terminal_size().columns if is_terminal else _WIDTH
    return Page(max(_MIN_WIDTH, min(_MAX_WIDTH, columns)), colour=wants_colour(), folded=is_terminal)


def wants_colour() -> bool:
    """Whether to use colour: on a terminal, unless NO_COLOR is set (https://no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")
