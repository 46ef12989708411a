"""What text is laid out for: the terminal's size, or none, and how much a person wants to see."""

from __future__ import annotations

from collections.abc import Callable

from tracer.model.dataclass import dataclass

WIDTH = 80


@dataclass(frozen=True, slots=True)
class Page:
    """The layout of text for people.

    width: columns of sentences. columns: the greatest length of a line; None: unlimited, in a file or a pipe.
    rows: lines of the terminal; None: none. colour: use it. folded: summarise bursts of similar lines.
    shows_all: show connections without trouble, too. is_verbose: show every sentence about a stall.
    program: how this tcpwatch is called in commands that are printed. here: the name of this host; commands for
    another one name it. command_line: the command line of a process of this host that runs now, or empty.
    """

    width: int = WIDTH
    columns: int | None = None
    rows: int | None = None
    colour: bool = False
    folded: bool = False
    shows_all: bool = False
    is_verbose: bool = False
    program: str = "tcpwatch"
    here: str = ""
    command_line: Callable[[int], str] = lambda pid: ""
