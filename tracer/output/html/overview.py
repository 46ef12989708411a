"""When the incidents were: for each service a lane on one linear axis of wall-clock time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tracer.output.format import plural
from tracer.output.html.contents import Contents
from tracer.output.html.markup import percent, text
from tracer.output.html.scale import TimeScale
from tracer.output.html.timeline import ending_of, where
from tracer.output.report_timeline import IncidentRow

MAX_LANES = 12
MAX_MARKS = 40
"""Incidents of one lane: the weightiest."""
LABELS = 4


def overview(contents: Contents) -> Iterator[str]:
    """The parts of the section: its axis and its lanes. Nothing for a single incident, which its own bar shows."""
    rows = contents.rows
    if len(rows) < 2:
        return
    scale = scale_of(contents, rows)
    lanes: dict[str, list[IncidentRow]] = {}
    for row in rows:
        lanes.setdefault(where(row), []).append(row)
    yield _axis(contents, scale)
    heaviest = sorted(lanes, key=lambda name: max(row.bar.weight for row in lanes[name]), reverse=True)
    for name in heaviest[:MAX_LANES]:
        yield _lane(name, lanes[name], scale)


def scale_of(contents: Contents, rows: Sequence[IncidentRow]) -> TimeScale:
    """From the first silence of the recording to the last end; the silences before it are not on the page."""
    firsts = [row.bar.since_ns for row in rows] + ([] if contents.first_ns is None else [contents.first_ns])
    lasts = [row.bar.ended_ns for row in rows] + ([] if contents.last_ns is None else [contents.last_ns])
    return TimeScale(min(firsts), max(lasts), 2, 98)


def _axis(contents: Contents, scale: TimeScale) -> str:
    instants = [
        scale.first_ns + (scale.last_ns - scale.first_ns) * number // (LABELS - 1) for number in range(LABELS)
    ]
    has_days = contents.when(scale.first_ns)[0] != contents.when(scale.last_ns)[0]
    anchors = ["start", *["middle"] * (LABELS - 2), "end"]
    words = "".join(
        f'<text class="{anchor}" x="{percent(scale.at(each))}" y="12">{_label(contents, each, has_days)}</text>'
        for each, anchor in zip(instants, anchors)
    )
    lines = "".join(
        f'<line x1="{percent(scale.at(each))}" x2="{percent(scale.at(each))}" y2="22"/>' for each in instants
    )
    return (
        f'<svg class="defs" aria-hidden="true"><g id="times">{lines}</g></svg>'
        f'<div class="row axis"><p>Time</p><svg height="16" aria-hidden="true">{words}</svg></div>'
    )


def _label(contents: Contents, time_ns: int, has_days: bool) -> str:
    date, clock = contents.when(time_ns)
    return f"{date[5:]} {clock[:5]}" if has_days else clock[:8]


def _lane(name: str, rows: Sequence[IncidentRow], scale: TimeScale) -> str:
    stalls = sum(row.incident.count for row in rows)
    title = f"{name}: {plural(stalls, 'stall')} in {plural(len(rows), 'incident')}"
    parts = []
    for row in sorted(rows, key=lambda row: row.bar.weight)[-MAX_MARKS:]:
        began_ns = row.incident.began_ns.least
        start = scale.at(row.bar.since_ns if began_ns is None else began_ns)
        width = max(0.4, scale.at(row.bar.ended_ns) - start)
        parts.append(
            f'<rect class="{ending_of(row.bar)}" x="{percent(start)}" y="4" width="{percent(width)}" height="14"/>'
        )
    shown = "".join(dict.fromkeys(parts))
    return (
        f'<div class="row lane"><p>{text(name)} <span class="numbers">{plural(stalls, "stall")}</span></p>'
        f'<svg height="22" role="img"><title>{text(title)}</title><use href="#times"/>{shown}</svg></div>'
    )
