"""The picture of the growth. Only this module imports matplotlib."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from benchmarks.results import Result


def draw(results: Iterable[Result], picture: Path) -> None:
    """A PNG of rows with a number in the name of each line: one field for each heading, both axes logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    fields = [(result, heading) for result in results for heading in result.headings]
    columns = 3
    rows = -(-len(fields) // columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(4 * columns, 3 * rows), squeeze=False)
    for axis in axes.flat[len(fields) :]:
        axis.axis("off")
    for axis, (result, heading) in zip(axes.flat, fields):
        x, y = curve(result, heading)
        axis.loglog(x, y, marker="o")
        # From a tenth of the least to ten times the most: what does not grow is flat.
        axis.set_ylim(min(y) / 10, max(y) * 10)
        axis.set_title(heading, fontsize=10)
        axis.set_xlabel(result.what, fontsize=9)
        axis.grid(True, which="major", alpha=0.3)
    figure.tight_layout()
    figure.savefig(picture, dpi=80, metadata={"Software": None})
    pyplot.close(figure)


def curve(result: Result, heading: str) -> tuple[list[int], list[float]]:
    """The numbers that the lines are named by, and what was measured at them."""
    points = [
        (int(line.name.replace(",", "")), value)
        for line in result.lines
        if isinstance(value := line.cells.get(heading), (int, float)) and value > 0
    ]
    return [x for x, _ in points], [y for _, y in points]
