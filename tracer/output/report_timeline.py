"""What the timeline of a report shows: the incidents, and of each the weightiest stall with its instants.

Instants are wall-clock nanoseconds. Memory is bounded, whatever a recording holds.
"""

from __future__ import annotations

from typing import TypeVar

from tracer.analysis.incidents import Incident, IncidentKey, Incidents, began_ns, merged
from tracer.analysis.outcomes import Outcome
from tracer.model.dataclass import dataclass
from tracer.model.events import OWNERS_NAMES, Event
from tracer.output.format import common_place, endpoint, process
from tracer.output.report_incidents import MAX_OPEN, weightiest
from tracer.output.report_traces import MS, SLACK_NS, Prediction, Trace

MAX_INCIDENTS = 512
"""Incidents that are kept. Of more, the weightiest half is."""
MAX_TEXT = 120
"""Characters of each name that is kept."""

_KEPT_BY_INCIDENTS = (
    "time_ns", "ktime_ns", "event", "laddr", "lport", "raddr", "rport", "state", "comm", "exe", "pid", "since",
    "idle_ms", "outcome", "duration_ms", "unacked_bytes", "retransmits", *OWNERS_NAMES,
)  # fmt: skip
_V = TypeVar("_V")


@dataclass(slots=True)
class Bar:
    """One stall. since_ns: when what is unanswered was first sent. ticks: when it was sent again, as far as seen."""

    host: str
    owner: str
    local: str
    remote: str
    verdict: str
    outcome: str
    error: str
    since_ns: int
    ended_ns: int
    idle_ms: int | None
    lasted_ms: int | None
    retransmits: int
    unacked_bytes: int | None
    ticks: tuple[int, ...] = ()
    ticks_left_out: int = 0
    prediction: Prediction | None = None

    @property
    def is_harmless(self) -> bool:
        """Whether the connection goes on, as far as is known."""
        outcome = Outcome.of(self.outcome)
        return outcome is not None and outcome.is_harmless

    @property
    def weight(self) -> tuple[bool, int]:
        """Harmful stalls before harmless ones, long ones before short ones."""
        return not self.is_harmless, -1 if self.lasted_ms is None else self.lasted_ms


@dataclass(slots=True)
class IncidentRow:
    """An incident, and its weightiest stall."""

    incident: Incident
    bar: Bar


class Timeline:
    """Takes the ends of stalls that count, and sorts them into incidents."""

    def __init__(self) -> None:
        self._incidents = Incidents(MAX_OPEN)
        self._rows: dict[int, IncidentRow] = {}  # by the identity of the incident

    def count(self, host: str, end: Event, verdict: str, trace: Trace) -> None:
        """Take the end of a stall that no later event can revoke.

        verdict: its verdict, or the word for those that are not counted apart.
        """
        known = end.known()
        kept = {name: _short(known[name]) for name in _KEPT_BY_INCIDENTS if known.get(name) is not None}
        host = _short(host)
        incident = self._incidents.put(Event.of({**kept, "verdict": verdict}), host)
        bar = _bar(host, end, verdict, trace)
        row = self._rows.get(id(incident))
        if row is None:
            self._rows[id(incident)] = IncidentRow(incident, bar)
        elif bar.weight > row.bar.weight:
            row.bar = bar
        self._limit()

    def merge(self, other: Timeline) -> None:
        """Include the incidents of another report, to which nothing is added any more."""
        self._rows |= {id(row.incident): row for row in other._rows.values()}
        self._limit()

    def _limit(self) -> None:
        if len(self._rows) > MAX_INCIDENTS:
            kept_rows = weightiest_rows(list(self._rows.values()), MAX_INCIDENTS // 2)
            self._rows = {id(row.incident): row for row in kept_rows}

    def rows(self) -> list[IncidentRow]:
        """The incidents that are kept, the earliest first, once nothing comes any more."""
        bars: dict[IncidentKey, list[Bar]] = {}
        for row in self._rows.values():
            bars.setdefault(row.incident.key, []).append(row.bar)
        rows = []
        for incident in merged([row.incident for row in self._rows.values()]):
            of_incident = [bar for bar in bars[incident.key] if _is_within(bar, incident)]
            rows.append(IncidentRow(incident, max(of_incident, key=lambda bar: bar.weight)))
        self._rows = {id(row.incident): row for row in rows}
        return sorted(rows, key=lambda row: (row.incident.began_ns.least or 0, row.bar.remote))


def weightiest_rows(rows: list[IncidentRow], most: int) -> list[IncidentRow]:
    """At most that many incidents, in their order. Each verdict has one."""
    chosen = weightiest(rows, most, lambda row: row.bar.weight, lambda row: row.bar.verdict)
    ids = {id(row) for row in chosen}
    return [row for row in rows if id(row) in ids]


def _is_within(bar: Bar, incident: Incident) -> bool:
    least, greatest = incident.began_ns.least, incident.began_ns.greatest
    return least is not None and greatest is not None and least <= bar.since_ns <= greatest


def _bar(host: str, end: Event, verdict: str, trace: Trace) -> Bar:
    since_ns = began_ns(end)
    ended_ns = end.time_ns if end.duration_ms is None else since_ns + end.duration_ms * MS
    return Bar(
        host=host,
        owner=_short(common_place([end]) + process(end)),
        local=_short(endpoint(end.laddr, end.lport)),
        remote=_short(endpoint(end.raddr, end.rport)),
        verdict=_short(verdict),
        outcome=_short(end.outcome or "?"),
        error=_short(end.error or ""),
        since_ns=since_ns,
        ended_ns=ended_ns,
        idle_ms=end.idle_ms,
        lasted_ms=end.duration_ms,
        retransmits=0 if end.retransmits is None else end.retransmits,
        unacked_bytes=end.unacked_bytes,
        ticks=tuple(tick for tick in trace.ticks if since_ns - SLACK_NS <= tick <= ended_ns + SLACK_NS),
        ticks_left_out=trace.left_out,
        prediction=trace.prediction,
    )


def _short(value: _V) -> _V:
    return value[:MAX_TEXT] if isinstance(value, str) else value  # type: ignore[return-value]
