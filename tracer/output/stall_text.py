"""Sentences and commands of a stall as lines of a terminal."""

from __future__ import annotations

import textwrap

from tracer.analysis.advice.commands import COMMANDS

_INDENT = "    "


def wrapped(sentence: str, width: int) -> list[str]:
    """Lines of at most that width. A command at the end of advice has a line of its own, so that it is copied whole.

    Other sentences contain names, which may look like a command.
    """
    if not sentence:
        return []
    text, colon, command = sentence.rpartition(": ")
    hanging = _INDENT + "  " if sentence.startswith("→") else _INDENT
    if not (colon and command.startswith(COMMANDS) and sentence.startswith("→")):
        text, command = sentence, ""
    else:
        text += ":"
    lines = textwrap.wrap(
        text, width, initial_indent=_INDENT, subsequent_indent=hanging, break_long_words=False, break_on_hyphens=False
    )
    return [*lines, f"{hanging}    {command}"] if command else lines
