"""Results as tables, on the terminal and in docs/performance.md."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tabulate import tabulate

from benchmarks.results import Cell, Line, Result
from benchmarks.spread import Spread

END = "<!-- end -->\n"


def begin(row: str) -> str:
    """What stands before a row's generated part of the document."""
    return f"<!-- scripts/bench {row} --write -->\n"


def as_text(result: Result) -> str:
    """A heading, the table, the conditions."""
    notes = "".join(f"  {note}\n" for note in result.notes)
    return f"{result.name}: {result.title}\n{_tabulated(result, 'simple')}\n{notes}"


def as_markdown(result: Result) -> str:
    """The table, then the conditions."""
    return f"{_tabulated(result, 'github')}\n\n" + "".join(f"* {note}\n" for note in result.notes)


def refresh(text: str, results: Iterable[Result]) -> str:
    """The document with the generated parts of these rows in place of the old ones; all else stays.

    Raises ValueError for a row that it has no place for.
    """
    for result in results:
        before, mark, rest = text.partition(begin(result.name))
        _, end, after = rest.partition(END)
        if not mark or not end:
            raise ValueError(f"no place for the row {result.name}")
        text = f"{before}{mark}{as_markdown(result)}{END}{after}"
    return text


def write(results: Iterable[Result], document: Path) -> None:
    """Refresh the file."""
    document.write_text(refresh(document.read_text(encoding="utf-8"), results), encoding="utf-8")


def _tabulated(result: Result, form: str) -> str:
    judged = any(line.verdict for line in result.lines)
    headings = [result.what, *result.headings, *(["budget"] if judged else [])]
    rows = [_row(result, line) + ([line.verdict] if judged else []) for line in result.lines]
    return tabulate(rows, headers=headings, tablefmt=form, disable_numparse=True)


def _row(result: Result, line: Line) -> list[str]:
    return [line.name, *(shown(line.cells.get(heading, "")) for heading in result.headings)]


def shown(cell: Cell) -> str:
    """A cell as a person reads it."""
    if cell is None:
        return "–"
    if isinstance(cell, Spread):
        if cell.count == 1:
            return number(cell.median)
        return f"{number(cell.median)} ({number(cell.low)}–{number(cell.high)})"
    return cell if isinstance(cell, str) else number(cell)


def number(value: float) -> str:
    """Three places after the point below ten, one below a thousand, none above; whole numbers as such."""
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
