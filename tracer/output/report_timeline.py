"""What the timeline of a report shows: the incidents, and of each the weightiest stall with its instants.

Instants are wall-clock nanoseconds. Memory is bounded, whatever a recording holds.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from contextlib import suppress
from dataclasses import field
from typing import NamedTuple, TypeVar

from tracer.analysis.incidents import Incident, IncidentKey, Incidents, began_ns
from tracer.analysis.outcomes import Outcome
from tracer.model.dataclass import dataclass
from tracer.model.events import OWNERS_NAMES, Event
from tracer.model.kinds import Kind
from tracer.model.times import InvalidTime, parse_time
from tracer.output.format import common_place, endpoint, process
from tracer.output.report_incidents import MAX_OPEN, merged, weightiest

MS = 1_000_000
MAX_TRACKED = 8192
"""Connections with retransmissions, and ended stalls that do not count yet, that are remembered."""
MAX_TICKS = 48
"""Instants of retransmissions of one stall. Of more, the first and the last are kept."""
MAX_FIRST_TICKS = 36
MAX_INCIDENTS = 512
"""Incidents that are kept. Of more, the weightiest half is."""
MAX_TEXT = 120
"""Characters of each name that is kept."""
MAX_NS = 2**63 - 1
"""The greatest instant of an array: in the year 2262. A damaged recording may have a later one."""
SLACK_NS = 50 * MS
"""Instants of one moment that come from two clocks differ by less than this."""

_SIGNS = frozenset({Kind.RETRANSMIT, Kind.KEEPALIVE, Kind.WINDOW_PROBE, Kind.UNSENT})
_KEPT_BY_INCIDENTS = (
    "time_ns", "ktime_ns", "event", "laddr", "lport", "raddr", "rport", "state", "comm", "exe", "pid", "since",
    "idle_ms", "outcome", "duration_ms", "unacked_bytes", "retransmits", *OWNERS_NAMES,
)  # fmt: skip
_K = TypeVar("_K")
_V = TypeVar("_V")


class Prediction(NamedTuple):
    """When the kernel gives up: not before earliest_ns, nor after latest_ns. made_ns: when that was known."""

    made_ns: int
    earliest_ns: int
    latest_ns: int

    @property
    def is_exact(self) -> bool:
        """Whether both are equal."""
        return self.earliest_ns == self.latest_ns


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


@dataclass(slots=True)
class _Track:
    """What was seen of a connection that retransmits."""

    ticks: array[int] = field(default_factory=lambda: array("q"))
    left_out: int = 0
    since_ns: int = 0
    prediction: Prediction | None = None

    def add(self, time_ns: int) -> None:
        self.ticks.append(min(time_ns, MAX_NS))
        if len(self.ticks) > MAX_TICKS:
            del self.ticks[MAX_FIRST_TICKS]
            self.left_out += 1

    def restart(self, since_ns: int) -> None:
        """Forget what was before this, unless the stall is known to have begun then."""
        if abs(since_ns - self.since_ns) > SLACK_NS:
            kept = array("q", [tick for tick in self.ticks if tick >= since_ns - SLACK_NS])
            if len(kept) < len(self.ticks):
                self.ticks, self.left_out = kept, 0
            self.since_ns, self.prediction = since_ns, None

    def predict(self, stall: Event) -> None:
        """Keep the first exact prediction; before there is one, the first."""
        prediction = prediction_of(stall)
        if prediction is None:
            return
        if self.prediction is None or (prediction.is_exact and not self.prediction.is_exact):
            self.prediction = prediction


class Timeline:
    """Takes events and the ends of stalls that count, and sorts these into incidents."""

    def __init__(self) -> None:
        self._tracks: OrderedDict[int, _Track] = OrderedDict()  # by the hash of host and socket
        self._ended: OrderedDict[int, _Track] = OrderedDict()  # by the hash of host and stall
        self._incidents = Incidents(MAX_OPEN)
        self._rows: dict[int, IncidentRow] = {}  # by the identity of the incident

    def take(self, host: str, event: Event) -> None:
        """Take an event of that host."""
        if event.event in _SIGNS and event.sock is not None:
            self._track(host, event.sock).add(event.time_ns)
        elif event.event == Kind.STALL and event.sock is not None:
            track = self._track(host, event.sock)
            track.restart(began_ns(event))
            track.predict(event)
            if event.phase == "end":
                frozen = _Track(array("q", track.ticks), track.left_out, track.since_ns, track.prediction)
                _put(self._ended, hash((host, event.id)), frozen)

    def count(self, host: str, end: Event, verdict: str) -> None:
        """Take the end of a stall that no later event can revoke. It came through `take` before.

        verdict: its verdict, or the word for those that are not counted apart.
        """
        known = end.known()
        kept = {name: _short(known[name]) for name in _KEPT_BY_INCIDENTS if known.get(name) is not None}
        host = _short(host)
        incident = self._incidents.put(Event.of({**kept, "verdict": verdict}), host)
        bar = _bar(host, end, verdict, self._ended.pop(hash((host, end.id)), None))
        row = self._rows.get(id(incident))
        if row is None:
            self._rows[id(incident)] = IncidentRow(incident, bar)
        elif bar.weight > row.bar.weight:
            row.bar = bar
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

    def _track(self, host: str, sock: str) -> _Track:
        key = hash((host, sock))
        track = self._tracks.get(key)
        if track is None:
            track = _put(self._tracks, key, _Track())
        else:
            self._tracks.move_to_end(key)
        return track


def weightiest_rows(rows: list[IncidentRow], most: int) -> list[IncidentRow]:
    """At most that many incidents, in their order. Each verdict has one."""
    chosen = weightiest(rows, most, lambda row: row.bar.weight, lambda row: row.bar.verdict)
    ids = {id(row) for row in chosen}
    return [row for row in rows if id(row) in ids]


def _is_within(bar: Bar, incident: Incident) -> bool:
    least, greatest = incident.began_ns.least, incident.began_ns.greatest
    return least is not None and greatest is not None and least <= bar.since_ns <= greatest


def prediction_of(stall: Event) -> Prediction | None:
    """When the kernel gives up, from a stall's begin or update; None where it is not known."""
    if stall.gives_up_at is None:
        return None
    with suppress(InvalidTime):
        earliest_ns = parse_time(stall.gives_up_at)
        window_ms = 0 if stall.gives_up_window_ms is None else stall.gives_up_window_ms
        return Prediction(stall.time_ns, earliest_ns, earliest_ns + window_ms * MS)
    return None


def _bar(host: str, end: Event, verdict: str, track: _Track | None) -> Bar:
    since_ns = began_ns(end)
    ended_ns = end.time_ns if end.duration_ms is None else since_ns + end.duration_ms * MS
    seen = track or _Track()
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
        ticks=tuple(tick for tick in seen.ticks if since_ns - SLACK_NS <= tick <= ended_ns + SLACK_NS),
        ticks_left_out=seen.left_out,
        prediction=seen.prediction,
    )


def _short(value: _V) -> _V:
    return value[:MAX_TEXT] if isinstance(value, str) else value  # type: ignore[return-value]


def _put(remembered: OrderedDict[_K, _V], key: _K, value: _V) -> _V:
    remembered[key] = value
    remembered.move_to_end(key)
    if len(remembered) > MAX_TRACKED:
        remembered.popitem(last=False)
    return value
