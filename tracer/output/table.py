"""Tables of text. No other module imports tabulate."""

from __future__ import annotations

from collections.abc import Sequence

from tabulate import tabulate

from tracer.output.format import safe


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Left-aligned columns under their headings, ending with a newline."""
    cells = [[safe(cell) for cell in row] for row in rows]
    return tabulate(cells, headers=list(headings), tablefmt="plain", disable_numparse=True) + "\n"
