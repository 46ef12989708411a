"""Tables of many rows on a screen of a given width, as fast as they can be printed.

A row has a lead (what it is about), short cells, and a tail and a note of any length. A lead that is too long stands
on a line of its own, and so does what follows the cells, so that no row widens another one. Small tables are simpler
with tracer/output/table.py.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from textwrap import wrap
from typing import NamedTuple

MAX_CELL = 14
"""Columns of a cell that other rows make room for."""
_MIN_LEAD, _MIN_TAIL = 24, 10
_INDENT = "    "


class Row(NamedTuple):
    """One row. tail, note: at the end of the line if they fit, else below it."""

    lead: str
    cells: tuple[str, ...]
    tail: str = ""
    note: str = ""


def table(headings: Row, rows: Sequence[Row], width: int, *, truncated: bool) -> Iterator[str]:
    """Lines, each ending with a newline, with at least two spaces between columns.

    width: columns of the screen. truncated: shorten what is longer than the screen even on a line of its own.
    """
    columns = zip(headings.cells, *(row.cells for row in rows))
    widths = [max(len(cells[0]), max(min(len(cell), MAX_CELL) for cell in cells)) for cells in columns]
    room = width - sum(2 + each for each in widths) - (2 + _MIN_TAIL if headings.tail else 0)
    lead_width = _lead_width(headings, rows, max(room, _MIN_LEAD))
    form = "%s" + "".join(f"  %-{each}s" for each in widths)
    limit = width if truncated else None
    for row in (headings, *rows):
        lead, cells, tail, note = row
        taken = columns_of(lead)
        if taken > lead_width:
            yield f"{shortened(lead, limit)}\n"
            lead, taken = "", 0
        line = form % (lead + " " * (lead_width - taken), *cells)
        below: list[str] = []
        for text in (tail, note):
            if text and not below and columns_of(line) + 2 + columns_of(text) <= width:
                line = f"{line}  {text}"
            elif text:
                below.append(text)
        yield f"{line.rstrip()}\n"
        if below:
            yield from (f"{shortened(each, limit)}\n" for each in wrapped(", ".join(below), width))


def _lead_width(headings: Row, rows: Sequence[Row], room: int) -> int:
    """That of the longest lead for which there is room."""
    fitting = (taken for row in rows if (taken := columns_of(row.lead)) <= room)
    return max(columns_of(headings.lead), max(fitting, default=0))


def wrapped(text: str, width: int, indent: str = _INDENT) -> list[str]:
    """The text as indented lines. A longer word than that keeps its length."""
    return wrap(
        text, max(width, 40), initial_indent=indent, subsequent_indent=indent, break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip


def columns_of(text: str) -> int:
    """The columns that a terminal uses for the text: two for wide characters, none for combining ones."""
    if text.isascii():
        return len(text)
    return sum(_columns_of_character(character) for character in text)


def _columns_of_character(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def shortened(text: str, columns: int | None) -> str:
    """The text, or as much as fits with `…` at its end. columns: None for any length."""
    if columns is None or columns_of(text) <= columns:
        return text
    while text and columns_of(text) > columns - 1:
        text = text[: -max(1, (columns_of(text) - columns) // 2)]
    return f"{text}…"
