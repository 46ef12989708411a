"""The incidents as a table, in full: for the network team, and for readers that cannot see the drawings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tracer.model.times import MAX_TIME_NS, format_time
from tracer.output.format import duration, plural
from tracer.output.html.contents import Contents
from tracer.output.html.markup import text
from tracer.output.html.timeline import ending_of, is_prediction_shown
from tracer.output.report_timeline import Bar, IncidentRow
from tracer.output.report_traces import MS

COLUMNS = ("First unanswered (UTC)", "Connection", "Silence before", "Finding", "Retransmissions", "End (UTC)")
MAX_OFFSETS = 18
"""Retransmissions of one stall with their times."""


def head() -> str:
    """The row of headings."""
    return "<tr>" + "".join(f'<th scope="col">{column}</th>' for column in COLUMNS) + "</tr>"


def labels() -> str:
    """CSS that puts the heading before each cell, where a screen is too narrow for columns."""
    return "".join(
        f'.incidents td:nth-child({number})::before{{content:"{column}: "}}'
        for number, column in enumerate(COLUMNS, 1)
    )


def rows(contents: Contents, incidents: Sequence[IncidentRow]) -> Iterator[str]:
    """A row of the table for each incident: its weightiest stall."""
    for row in incidents:
        bar = row.bar
        cells = (
            _first(bar),
            _connection(contents, row),
            _silence(bar),
            f'<b class="{ending_of(bar)}">{text(bar.verdict)}</b>',
            _retransmissions(bar),
            _end(bar),
        )
        yield "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _first(bar: Bar) -> str:
    return utc(bar.since_ns)


def _connection(contents: Contents, row: IncidentRow) -> str:
    bar = row.bar
    host = f" on {text(bar.host, 40)}" if contents.has_several_hosts else ""
    owner = text(bar.owner) if bar.owner != "-" else "owner not known"
    one_of = f"; one of {row.incident.count:,}" if row.incident.count > 1 else ""
    return f"{text(bar.local)} → {text(bar.remote)}<br/>{owner}{host}{one_of}"


def _silence(bar: Bar) -> str:
    if bar.idle_ms is None:
        return "not known"
    heard_ns = max(0, bar.since_ns - bar.idle_ms * MS)
    return f"{duration(bar.idle_ms)}<br/>last segment from the peer before it {_beside(bar, heard_ns)}"


def _retransmissions(bar: Bar) -> str:
    stuck = f"<br/>{plural(bar.unacked_bytes, 'byte')} unacknowledged" if bar.unacked_bytes else ""
    offsets = [duration(max(0.0, (tick - bar.since_ns) / MS)) for tick in bar.ticks]
    more = len(offsets) - MAX_OFFSETS + bar.ticks_left_out
    after = ", ".join(offsets[:MAX_OFFSETS]) + (f" and {more:,} more" if more > 0 else "")
    seen = f", seen after {after}" if offsets else ""
    return f"{bar.retransmits:,}{seen}{stuck}"


def _end(bar: Bar) -> str:
    error = f" ({text(bar.error, 40)})" if bar.error else ""
    lasted = "" if bar.lasted_ms is None else f", after {duration(bar.lasted_ms)}"
    predicted = ""
    if is_prediction_shown(bar):
        assert bar.prediction is not None
        until = "" if bar.prediction.is_exact else f" to {_beside(bar, bar.prediction.latest_ns)}"
        predicted = f"<br/>predicted: {_beside(bar, bar.prediction.earliest_ns)}{until}"
    return f"{_beside(bar, bar.ended_ns)}<br/>{text(bar.outcome)}{error}{lasted}{predicted}"


def _beside(bar: Bar, time_ns: int) -> str:
    """An instant in the row of a stall: without the date where that is the date in its first column."""
    date = utc(bar.since_ns)[:11]
    return utc(time_ns).removeprefix(date)


def utc(time_ns: int) -> str:
    """`2027-01-15 08:00:00.123`."""
    return format_time(min(max(0, time_ns), MAX_TIME_NS))[:23].replace("T", " ")
