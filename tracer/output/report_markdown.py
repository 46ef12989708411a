"""A report as Markdown, to paste into a ticket: GitHub's tables, and code blocks for commands."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from tracer.output.format import safe
from tracer.output.report_blocks import Advice, Block, Facts, Inline, Item, Name, Paragraph, Section, Table, pieces

_SPECIAL = re.compile(r"([\\`*_{}\[\]#|~!$])")
_PIPE = re.compile(r"(\\*)\|")
"""With the backslashes before it, which would otherwise escape the one that escapes the pipe."""
_HTML = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "&#64;"})


def as_markdown(sections: Sequence[Section]) -> str:
    """The sections as Markdown. What a recording has in its texts stays text."""
    paragraphs: list[str] = []
    for section in sections:
        if section.heading:
            paragraphs.append(f"### {_inline(section.heading)}")
        for block in section.blocks:
            paragraphs += _paragraphs(block)
    return "\n\n".join(paragraphs) + "\n"


def _paragraphs(block: Block) -> Iterator[str]:
    if isinstance(block, Item):
        yield f"**{_inline(block.title)}**"
        for each in block.blocks:
            yield from _paragraphs(each)
    elif isinstance(block, Paragraph):
        yield _inline(block.text)
    elif isinstance(block, Facts):
        rows = [(label, "<br>".join(_cell(text) for text in texts)) for label, texts in block.rows]
        yield "\n".join(["| | |", "|---|---|", *(f"| {_cell(label)} | {text} |" for label, text in rows)])
    elif isinstance(block, Advice):
        yield from _advice(block)
    else:
        yield _table(block)


def _advice(advice: Advice) -> Iterator[str]:
    step = f"**{advice.step}** " if advice.step else ""
    text = _inline(advice.text)
    colon = ":" if advice.command else ""
    yield f"- {step}{text}{colon}" if text else f"- {step.rstrip()}{colon}"
    if advice.command:
        command = safe(advice.command)
        fence = "`" * max(3, _longest_run(command) + 1)
        yield f"  {fence}sh\n  {command}\n  {fence}"


def _table(table: Table) -> str:
    rule = ("---:" if column in table.right else "---" for column in range(len(table.headings)))
    rows = (" | ".join(map(_cell, row)) for row in table.rows)
    lines = [" | ".join(map(_cell, table.headings)), " | ".join(rule), *rows]
    return "\n".join(f"| {line} |" for line in lines)


def _inline(text: Inline) -> str:
    return "".join(_code(piece) if isinstance(piece, Name) else _escaped(piece) for piece in pieces(text))


def _cell(text: Inline) -> str:
    """A cell of a table: GitHub takes a pipe for the next cell, in code as well."""
    return "".join(
        _PIPE.sub(r"\1\1\|", _code(piece)) if isinstance(piece, Name) else _escaped(piece) for piece in pieces(text)
    )


def _escaped(text: str) -> str:
    """Text without any markup. Its line breaks were escaped before."""
    return _SPECIAL.sub(r"\\\1", text).translate(_HTML)


def _code(name: Name) -> str:
    """The name as code, in more backticks than it has in a row."""
    if not name:
        return ""
    fence = "`" * (_longest_run(name) + 1)
    padding = " " if name[:1] in "` " or name[-1:] in "` " else ""
    return f"{fence}{padding}{name}{padding}{fence}"


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)
