"""A report as text for a terminal of any width."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from tracer.output.format import safe
from tracer.output.report_blocks import Advice, Block, Facts, Item, Paragraph, Section, Table, plain

_GAP = 2
_INDENT = 4
_CONTINUED = 10
"""Columns before the part of a row that did not fit into its first line."""


def as_text(sections: Sequence[Section], width: int) -> str:
    """The sections as text. No line is wider than `width`, except for a command and for one long word."""
    parts: list[str] = []
    for section in sections:
        lines = [section.heading] if section.heading else []
        for number, block in enumerate(section.blocks):
            if number and _stands_alone(block, section.blocks[number - 1]):
                lines.append("")
            lines += _lines(block, width)
        parts.append("".join(f"{line}\n" for line in lines))
    return "\n".join(parts)


def _stands_alone(block: Block, before: Block) -> bool:
    """Whether an empty line separates two blocks of a section."""
    return isinstance(block, (Item, Table, Facts)) or isinstance(before, (Item, Facts))


def _lines(block: Block, width: int, indent: int = 0) -> Iterator[str]:
    if isinstance(block, Item):
        yield from _wrapped(plain(block.title), width, indent, hanging=_INDENT)
        for each in block.blocks:
            yield from _lines(each, width, indent + _INDENT)
    elif isinstance(block, Paragraph):
        yield from _wrapped(plain(block.text), width, indent)
    elif isinstance(block, Facts):
        yield from _facts(block, width, indent)
    elif isinstance(block, Advice):
        yield from _advice(block, width, indent)
    else:
        yield from _table(block, width, indent)


_ARROWS = ("→ ", "← ")


def _wrapped(text: str, width: int, indent: int, first: str = "", hanging: int = 0) -> list[str]:
    """The text in lines of that width. first: what stands before it. hanging: further indent of later lines."""
    for arrow in _ARROWS:  # an arrow and what it points to stay together
        text = text.replace(arrow, f"{arrow[0]}\N{NO-BREAK SPACE}")
    lines = textwrap.wrap(
        text,
        width,
        initial_indent=f"{' ' * indent}{first}",
        subsequent_indent=" " * (indent + hanging),
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines]


def _facts(facts: Facts, width: int, indent: int) -> Iterator[str]:
    column = max(len(label) for label, _ in facts.rows) + _GAP
    for label, texts in facts.rows:
        for number, text in enumerate(texts):
            first = ("" if number else label).ljust(column)
            yield from _wrapped(plain(text), width, indent, first, column)


_STEP = len("Release") + _GAP


def _advice(advice: Advice, width: int, indent: int) -> Iterator[str]:
    first, hanging = (advice.step.ljust(_STEP), _STEP) if advice.step else ("→ ", 2)
    text = plain(advice.text)
    if not text:
        yield f"{' ' * indent}{first}{safe(advice.command)}"
        return
    yield from _wrapped(f"{text}:" if advice.command else text, width, indent, first, hanging)
    if advice.command:
        yield f"{' ' * (indent + hanging + _INDENT)}{safe(advice.command)}"


def _table(table: Table, width: int, indent: int) -> Iterator[str]:
    """Rows of as many lines as their columns need. The last cell begins a line of its own where it does not fit."""
    cells = [table.headings, *([plain(cell) for cell in row] for row in table.rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(table.headings) - 1)]
    groups = _groups(widths, width - indent)
    last = [row[-1] for row in cells[1:]]
    room = width - indent - _width_of(groups[-1], widths) - (_CONTINUED if len(groups) > 1 else 0) - _GAP
    is_below = sum(len(cell) > room for cell in last) > len(last) / 2
    for row in cells:
        lines = [
            " " * (indent + (_CONTINUED if number else 0))
            + (" " * _GAP).join(
                row[column].rjust(widths[column]) if column in table.right else row[column].ljust(widths[column])
                for column in group
            )
            for number, group in enumerate(groups)
        ]
        if is_below or len(row[-1]) > room:
            yield from (line.rstrip() for line in lines)
            yield from _wrapped(row[-1], width, indent + _CONTINUED)
        else:
            yield from (line.rstrip() for line in lines[:-1])
            yield f"{lines[-1]}{' ' * _GAP}{row[-1]}".rstrip()


def _groups(widths: Sequence[int], width: int) -> list[list[int]]:
    """The columns of each line of a row."""
    groups: list[list[int]] = [[]]
    for column in range(len(widths)):
        room = width - (_CONTINUED if len(groups) > 1 else 0)
        if groups[-1] and _width_of([*groups[-1], column], widths) > room:
            groups.append([])
        groups[-1].append(column)
    return groups


def _width_of(columns: Sequence[int], widths: Sequence[int]) -> int:
    return sum(widths[column] for column in columns) + _GAP * max(0, len(columns) - 1)
