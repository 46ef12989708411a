"""Each incident as a bar: the silence before, then the wait with its retransmissions, and its predicted and real end.

All bars meet at one line: the moment when the data was first sent that nobody answered. Both sides of it are
logarithmic, so that retransmissions at doubling intervals stand at even distances.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tracer.analysis.incidents import Incident, Range
from tracer.analysis.outcomes import Outcome
from tracer.analysis.verdicts import IN_USE_MS, Subject, Verdict
from tracer.output.format import duration, plural
from tracer.output.html.contents import Contents
from tracer.output.html.markup import percent, text
from tracer.output.html.scale import LogScale, log_scale
from tracer.output.report_rows import service_name
from tracer.output.report_timeline import Bar, IncidentRow
from tracer.output.report_traces import MS

ORIGIN = 34.0
"""Percent from the left: when the unanswered data was first sent."""
_NOUNS = {
    Subject.KEEPALIVE: "keepalive probe",
    Subject.WINDOW: "window probe",
    Subject.SENDING: "attempt",
    Subject.CONNECTION: "SYN retransmission",
}
_WAITS = {Subject.WINDOW: "window closed", Subject.SENDING: "not sent"}
LEAST_MS = 140
"""What is shorter is at the origin."""
_TOP, _HEIGHT = 11, 14
_BOTTOM = _TOP + _HEIGHT
_MIDDLE = _TOP + _HEIGHT // 2


class Scales:
    """The positions of all bars. before: the silence. after: what follows the first unanswered data."""

    def __init__(self, rows: Sequence[IncidentRow]) -> None:
        idle = [row.bar.idle_ms for row in rows if row.bar.idle_ms is not None]
        after = [_after_ms(row.bar, each) for row in rows for each in _instants(row.bar)]
        self.before = log_scale(LEAST_MS, max([LEAST_MS, *idle]), ORIGIN, 1)
        self.after = log_scale(LEAST_MS, max([LEAST_MS, *after]), ORIGIN, 98)

    def at(self, bar: Bar, time_ns: int) -> float:
        """The position of an instant of this stall, after it began."""
        return self.after.at(max(1.0, _after_ms(bar, time_ns)))


def timeline(contents: Contents, rows: Sequence[IncidentRow]) -> Iterator[str]:
    """The parts of the section: its axis, then a row for each of these incidents."""
    if not rows:
        return
    scales = Scales(rows)
    yield _axis(scales)
    for row in rows:
        yield _row(contents, row, scales)


def _axis(scales: Scales) -> str:
    labels = [*_labels(scales.before), *_labels(scales.after)]
    lines = "".join(f'<line x1="{percent(x)}" x2="{percent(x)}" y2="30"/>' for x, _ in labels)
    origin = f'<line class="origin" x1="{percent(ORIGIN)}" x2="{percent(ORIGIN)}" y2="30"/>'
    words = "".join(f'<text x="{percent(x)}" y="27">{label}</text>' for x, label in labels)
    return (
        f'<svg class="defs" aria-hidden="true"><g id="waits">{lines}{origin}</g></svg>'
        '<div class="row axis"><p>Logarithmic on both sides</p>'
        f'<svg height="30" aria-hidden="true">{_sides()}{words}</svg></div>'
    )


def _sides() -> str:
    x = percent(ORIGIN)
    return (
        f'<text class="end" x="{x}" dx="-6" y="11">← silent before</text>'
        f'<text class="start" x="{x}" dx="6" y="11">unanswered for →</text>'
    )


def _labels(scale: LogScale) -> list[tuple[float, str]]:
    return [(x, label) for x, label in scale.labels() if abs(x - ORIGIN) > 4]


def _row(contents: Contents, row: IncidentRow, scales: Scales) -> str:
    bar = row.bar
    date, clock = contents.when(bar.since_ns)
    when = f"{date} {clock[:8]}" if contents.spans_days else clock[:8]
    host = f" on {text(bar.host, 40)}" if contents.has_several_hosts else ""
    return (
        f'<div class="row"><div><p><time>{when}</time> <b class="{ending_of(bar)}">{text(bar.verdict)}</b> '
        f"{text(bar.outcome)}</p><p>{text(who(row))} → {text(where(row))}{host}</p></div>"
        f'<div><svg height="30" role="img"><title>{text(title_of(row), 400)}</title><use href="#waits"/>'
        f'{_bar(bar, scales)}</svg><p class="numbers">{text(sentence_of(row), 400)}</p></div></div>'
    )


def _bar(bar: Bar, scales: Scales) -> str:
    ending = ending_of(bar)
    end = scales.at(bar, bar.ended_ns)
    parts = []
    if bar.idle_ms is not None and bar.idle_ms > LEAST_MS:
        left = scales.before.at(bar.idle_ms)
        parts.append(
            f'<rect class="idle" x="{percent(left)}" y="{_MIDDLE - 2}" width="{percent(ORIGIN - left)}" height="4"/>'
        )
    parts.append(
        f'<rect class="{ending}" x="{percent(ORIGIN)}" y="{_TOP}" '
        f'width="{percent(end - ORIGIN)}" height="{_HEIGHT}"/>'
    )
    for x in dict.fromkeys(percent(scales.at(bar, tick)) for tick in bar.ticks):
        parts.append(f'<line class="tick" x1="{x}" x2="{x}" y1="{_TOP}" y2="{_BOTTOM}"/>')
    if is_prediction_shown(bar):
        assert bar.prediction is not None
        earliest, latest = (scales.at(bar, each) for each in bar.prediction[1:])
        if not bar.prediction.is_exact:
            parts.append(f'<line class="window" x1="{percent(earliest)}" x2="{percent(latest)}" y1="9" y2="9"/>')
        parts.append(f'<use href="#predicted" x="{percent(earliest)}" y="{_TOP - 1}"/>')
    parts.append(f'<use href="#{ending}" x="{percent(end)}" y="{_MIDDLE}"/>')
    return "".join(parts)


def is_prediction_shown(bar: Bar) -> bool:
    """Whether a bar has ▼: not if the stall was answered before."""
    return bar.prediction is not None and not bar.is_harmless


def ending_of(bar: Bar) -> str:
    """How the stall ended, as the page marks it: `fatal`, `survived`, `closed` or `ongoing`."""
    outcome = Outcome.of(bar.outcome)
    if outcome in (None, Outcome.ONGOING, Outcome.UNSEEN):
        return "ongoing"
    if outcome.is_death:
        return "fatal"
    return "survived" if bar.is_harmless else "closed"


def who(row: IncidentRow) -> str:
    """`php[8506]`, `200 × gunicorn in 4 processes`; the local end where no process is known."""
    incident, bar = row.incident, row.bar
    name = bar.owner if bar.owner != "-" else bar.local
    if incident.count == 1:
        return name
    processes = len(incident.pids)
    if processes < 2:
        return f"{incident.count:,} × {name}"
    return f"{incident.count:,} × {incident.key.owner or name} in {processes} processes"


def where(row: IncidentRow) -> str:
    """The service of an incident, or the remote end."""
    service = row.incident.key.service
    return row.bar.remote if service is None else service_name(service)


def title_of(row: IncidentRow) -> str:
    """The text alternative of a bar."""
    return f"{row.bar.verdict}, {row.bar.outcome}: {who(row)} to {where(row)}. {sentence_of(row)}"


def sentence_of(row: IncidentRow) -> str:
    """The numbers of an incident in words."""
    incident, bar = row.incident, row.bar
    is_idle = incident.idle_ms.greatest is not None and incident.idle_ms.greatest >= IN_USE_MS
    verdict = Verdict.of(bar.verdict)
    waits = "unanswered" if verdict is None else _WAITS.get(verdict.subject, "unanswered")
    wait = f"{waits} for {_range(incident.lasted_ms)}" if incident.lasted_ms.greatest else waits
    if not incident.lasted_ms.greatest and bar.outcome == Outcome.RESET:
        wait = "reset at once"
    idle = f"Silent {_range(incident.idle_ms)}, then {wait}" if is_idle else f"{wait[:1].upper()}{wait[1:]}"
    again = f", {counted(bar)}" if bar.retransmits else ""
    of_longest = " (the longest)" if incident.count > 1 and again else ""
    parts = [f"{idle}{again}{of_longest}.", _outcomes(incident), prediction_in_words(bar)]
    return " ".join(part for part in parts if part)


def counted(bar: Bar) -> str:
    """`5 retransmissions`, `3 keepalive probes`."""
    verdict = Verdict.of(bar.verdict)
    return plural(bar.retransmits, _NOUNS.get(verdict.subject, "retransmission") if verdict else "retransmission")


def prediction_in_words(bar: Bar) -> str:
    """When the kernel was expected to give up, and whether it did; empty without an exact prediction."""
    if bar.prediction is None or not bar.prediction.is_exact or not is_prediction_shown(bar):
        return ""
    after = duration(max(0.0, _after_ms(bar, bar.prediction.earliest_ns)))
    if bar.outcome != Outcome.TIMED_OUT:
        would = "gives" if bar.outcome == Outcome.ONGOING else "would have given"
        return f"▼ The kernel {would} up after {after}."
    made = duration(max(0.0, _after_ms(bar, bar.prediction.made_ns)))
    off_ms = (bar.ended_ns - bar.prediction.earliest_ns) / MS
    off = f"{duration(abs(off_ms))} {'later' if off_ms > 0 else 'earlier'}" if abs(off_ms) >= 1 else "just then"
    return f"▼ After {made} tcpwatch predicted the end after {after}. It came {off}."


def _outcomes(incident: Incident) -> str:
    if len(incident.outcomes) < 2:
        return ""
    return f"{', '.join(f'{count:,} {outcome}' for outcome, count in incident.outcomes.most_common(4))}."


def _range(lengths: Range) -> str:
    assert lengths.least is not None and lengths.greatest is not None
    least, greatest = duration(lengths.least), duration(lengths.greatest)
    return least if least == greatest else f"{least} to {greatest}"


def _instants(bar: Bar) -> list[int]:
    predicted = [bar.prediction.latest_ns] if bar.prediction is not None and is_prediction_shown(bar) else []
    return [bar.ended_ns, *bar.ticks, *predicted]


def _after_ms(bar: Bar, time_ns: int) -> float:
    return (time_ns - bar.since_ns) / MS
