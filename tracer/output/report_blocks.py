"""The parts that a report consists of, before it is laid out as text or as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from typing import Union

from tracer.model.dataclass import dataclass
from tracer.output.format import safe

MAX_NAME = 48
"""Characters of a process, host or verdict in a table. The longest that Linux or tcpwatch has are shorter."""


class Name(str):
    """Text of a recording or a command line: a process, an address, a host, a file. Markdown shows it as code."""


Inline = Union[str, tuple[str, ...]]
"""A sentence or a cell: text, or pieces of text. A piece may be a Name."""


def name_of(text: str, most: int = MAX_NAME) -> Name:
    """The name with control characters escaped, and its end left out where it is too long for a table."""
    shown = safe(text)
    return Name(shown if len(shown) <= most else f"{shown[: most - 1]}…")


def plain(text: Inline) -> str:
    """The text on one line, without the distinction of names. Control characters are escaped."""
    return safe(text if isinstance(text, str) else "".join(text))


def pieces(text: Inline) -> tuple[str, ...]:
    """The pieces of the text, with control characters escaped."""
    parts = (text,) if isinstance(text, str) else text
    return tuple(Name(safe(part)) if isinstance(part, Name) else safe(part) for part in parts)


@dataclass(frozen=True, slots=True)
class Facts:
    """Labels, each with one or more lines."""

    rows: Sequence[tuple[str, Sequence[Inline]]]


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Sentences."""

    text: Inline


@dataclass(frozen=True, slots=True)
class Advice:
    """A line of advice. step: the name of the step; empty for further advice. command: to copy, or empty."""

    step: str
    text: Inline
    command: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under headings. The last cell of a row may be long. right: columns that are aligned to the right."""

    headings: Sequence[str]
    rows: Sequence[Sequence[Inline]]
    right: frozenset[int] = field(default_factory=frozenset)


@dataclass(frozen=True, slots=True)
class Item:
    """A title, and what belongs to it."""

    title: Inline
    blocks: Sequence[Facts | Paragraph | Advice | Table]


Block = Union[Facts, Paragraph, Advice, Table, Item]


@dataclass(frozen=True, slots=True)
class Section:
    """Blocks under a heading. The first section of a report has none."""

    heading: str
    blocks: Sequence[Block]
