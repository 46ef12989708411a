"""Text that is safe in HTML and SVG, and parts of a page within a number of bytes."""

from __future__ import annotations

import html
from collections.abc import Iterable

from tracer.output.format import safe

MAX_TEXT = 120
"""Characters of a name from a recording."""


def text(value: str, most: int = MAX_TEXT) -> str:
    """At most `most` characters for HTML content and attributes: escaped, invisible ones made visible."""
    shown = safe(value)
    return html.escape(shown if len(shown) <= most else f"{shown[: most - 1]}…")


def percent(share: float) -> str:
    """`12.5%`: a position or a width of an SVG element."""
    return f"{share:.2f}".rstrip("0").rstrip(".") + "%"


def fitting(parts: Iterable[str], max_bytes: int) -> tuple[list[str], int]:
    """The first parts that take at most max_bytes together, and the number of the others."""
    kept: list[str] = []
    left_out = 0
    for part in parts:
        max_bytes -= len(part.encode())
        if max_bytes < 0 or left_out:
            left_out += 1
        else:
            kept.append(part)
    return kept, left_out


def paragraph(sentences: Iterable[str], css_class: str = "") -> str:
    """A paragraph of sentences that are text; empty without any."""
    joined = " ".join(text(sentence, 1000) for sentence in sentences if sentence)
    opening = f'<p class="{css_class}">' if css_class else "<p>"
    return f"{opening}{joined}</p>" if joined else ""
