"""The parts of a report as HTML: what the text report has at its beginning and as its advice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tracer.output.html.markup import text
from tracer.output.report_blocks import Advice, Facts, Inline, Item, Paragraph, Section, plain

MAX_SENTENCE = 600
"""Characters of one sentence, line of advice, or command."""
MAX_LINES = 12
"""Lines of one fact."""


def inline(sentence: Inline) -> str:
    """A sentence as text of the page."""
    return text(plain(sentence), MAX_SENTENCE)


def paragraphs(section: Section) -> str:
    """The sentences of a section that are in no item."""
    return "".join(f"<p>{inline(block.text)}</p>" for block in section.blocks if isinstance(block, Paragraph))


def facts(section: Section, names: Iterable[str] | None = None, without: Iterable[str] = ()) -> str:
    """The facts of a section as a list of terms. names: only these; without: not these. Empty without any."""
    chosen, left_out = None if names is None else set(names), set(without)
    rows = [row for block in section.blocks if isinstance(block, Facts) for row in block.rows]
    return "".join(
        f"<div><dt>{text(name)}</dt>{''.join(f'<dd>{inline(line)}</dd>' for line in lines[:MAX_LINES])}</div>"
        for name, lines in rows
        if (chosen is None or name in chosen) and name not in left_out
    )


def cards(section: Section) -> Iterator[str]:
    """A part of the page for each item of a section, and for each sentence outside of items."""
    for block in section.blocks:
        if isinstance(block, Item):
            title, _, what = plain(block.title).partition(": ")
            yield f"<section><h3>{inline(title)}</h3><p>{inline(what)}</p>{_body(block)}</section>"
        elif isinstance(block, Paragraph):
            yield f"<section><p>{inline(block.text)}</p></section>"


def _body(item: Item) -> str:
    sentences = "".join(f"<li>{inline(block.text)}</li>" for block in item.blocks if isinstance(block, Paragraph))
    lines = "".join(advice_line(block) for block in item.blocks if isinstance(block, Advice))
    return f'<ul class="steps">{sentences}{lines}</ul>' if sentences or lines else ""


def advice_line(line: Advice) -> str:
    """A line of advice: the name of its step in bold, and the command at its end as code."""
    step = f"<b>{text(line.step)}</b> " if line.step else ""
    code = f"<code>{text(line.command, MAX_SENTENCE)}</code>" if line.command else ""
    words = inline(line.text)
    return f"<li>{step}{words}{':' if words and code else ''}{code}</li>"
