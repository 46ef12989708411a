"""Results of a row of the bench: lines of cells, and a verdict if there is a budget."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Union

from benchmarks.spread import Spread, median_between

Cell = Union[Spread, float, int, str, None]
"""None: could not be measured."""


@dataclass
class Line:
    """One thing that was measured, by heading (which has the unit). verdict: about its budget."""

    name: str
    cells: Mapping[str, Cell] = field(default_factory=dict)
    verdict: str = ""


@dataclass
class Result:
    """A row. name: as on the command line; what: the heading of the lines' names; notes: the conditions."""

    name: str
    title: str
    what: str
    lines: list[Line]
    notes: list[str] = field(default_factory=list)

    @property
    def headings(self) -> list[str]:
        """Of all cells, in the order in which they first come."""
        return list(dict.fromkeys(heading for line in self.lines for heading in line.cells))


def as_json(results: Iterable[Result], host: Mapping[str, Any]) -> dict[str, Any]:
    """For programs: the host and each row by its name."""
    return {"host": dict(host), "rows": {each.name: dataclasses.asdict(each) for each in results}}


def at_most(measured: float, budget: float, unit: str = "") -> str:
    """The verdict on a cost."""
    if measured <= budget:
        return f"met: {_beside(measured, budget)} ≤ {budget:g}{unit}"
    return f"missed: {_beside(measured, budget)} > {budget:g}{unit}"


def _beside(measured: float, budget: float) -> str:
    """The measured value with four digits, or as many as tell it from the budget."""
    figures = (f"{measured:.{digits}g}" for digits in range(4, 18))
    return next((each for each in figures if float(each) != budget), f"{budget:g}")


def median_at_most(values: Sequence[float], budget: float, accounted: float) -> str:
    """The same of repeated measurements.

    Where their median may as well be on the budget's other side, what the cost is made of decides: accounted.
    """
    low, high = median_between(values)
    measured = f"{low:.3f} to {high:.3f}"
    if low <= budget < high:
        sign, verdict = ("≤", "met") if accounted <= budget else (">", "missed")
        return f"{verdict} by CPU time: {accounted:.3f} {sign} {budget:g}; by the clock unclear: {measured}"
    sign, verdict = ("≤", "met") if high <= budget else (">", "missed")
    return f"{verdict}: {measured} {sign} {budget:g}"


def at_least(measured: float, budget: float, unit: str = "") -> str:
    """The verdict on a rate."""
    if measured >= budget:
        return f"met: {measured:,.0f} ≥ {budget:,.0f}{unit}"
    return f"missed: {measured:,.0f} < {budget:,.0f}{unit}"
