"""The incidents of a report: stalls of one owner, service and verdict that begin together are one row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

from tracer.analysis.incidents import MAX_PIDS, Incident, Incidents, Range, merged
from tracer.analysis.outcomes import Outcome
from tracer.model.events import OWNERS_NAMES, Event
from tracer.output.format import common_place, duration, endpoint, local_time, plural, process
from tracer.output.report_blocks import Inline, Name, Paragraph, Section, Table, name_of

MAX_OPEN = 1024
"""Incidents that a later stall may still join."""
MAX_KEPT = 256
"""Incidents that are kept: the weightiest, and of each verdict at least one."""
MAX_SHOWN = 30
"""Incidents that the text and the Markdown list."""
MAX_OWNER = 253
"""Characters of an owner's name that are kept."""
_KEPT = (
    "time_ns", "ktime_ns", "event", "laddr", "lport", "raddr", "rport", "pid", "state", "soft_error", "mptcp",
    "phase", "since", "idle_ms", "retransmits", "outcome", "duration_ms", "error", "one_way", "send_error",
    "unacked_bytes", "unsent_bytes", "probes_out", "asked_ms", "orphan", "gives_up_in_ms", "gives_up_window_ms",
)  # fmt: skip
"""Fields of a stall that are kept with its incident. Lists and paths take too much memory."""
T = TypeVar("T")


class ReportIncidents:
    """Sorts the stalls of a report into incidents, and keeps the weightiest in bounded memory."""

    def __init__(self) -> None:
        self._incidents = Incidents(MAX_OPEN)
        self._kept: dict[int, Incident] = {}  # by id()

    def add(self, stall: Event, host: str, verdict: str) -> None:
        """Count the end of a stall. verdict: its verdict, or the word for those that are not counted apart."""
        incident = self._incidents.put(_slim(stall, verdict), host)
        self._kept[id(incident)] = incident
        self._limit()

    def _limit(self) -> None:
        if len(self._kept) > 2 * MAX_KEPT:
            self._kept = {id(each): each for each in heaviest(self._kept.values(), MAX_KEPT)}

    def merge(self, other: ReportIncidents) -> None:
        """Include the incidents of another report, to which nothing is added any more."""
        self._kept |= {id(each): each for each in other._kept.values()}
        self._limit()

    def heaviest(self) -> list[Incident]:
        """The weightiest incidents, once nothing comes any more."""
        self._kept = {id(each): each for each in merged(self._kept.values())}
        return heaviest(self._kept.values(), 2 * MAX_KEPT)


def heaviest(incidents: Iterable[Incident], most: int) -> list[Incident]:
    """The weightiest incidents, and of each verdict at least one; that with the most weight first."""
    return weightiest(incidents, most, weight_of, _verdict_of)


def _slim(stall: Event, verdict: str) -> Event:
    """The stall without what its incident does not need."""
    known = stall.known()
    fields = {name: known[name] for name in _KEPT if known.get(name) is not None}
    owner = {name: known[name][:MAX_OWNER] for name in ("comm", "exe", *OWNERS_NAMES) if known.get(name) is not None}
    return Event.of({**fields, **owner, "verdict": verdict})


def weight_of(incident: Incident) -> tuple[bool, int]:
    """Whether it hurt, and how long its connections waited together, milliseconds."""
    is_harmful = any(outcome is None or not outcome.is_harmless for outcome in map(Outcome.of, incident.outcomes))
    return is_harmful, incident.count * (0 if incident.lasted_ms.greatest is None else incident.lasted_ms.greatest)


def _verdict_of(incident: Incident) -> str:
    return incident.key.verdict


def weightiest(
    items: Iterable[T], most: int, weight: Callable[[T], tuple[bool, int]], kind: Callable[[T], Hashable]
) -> list[T]:
    """The `most` items with the greatest weight, the weightiest first; of each kind at least one."""
    ordered = sorted(items, key=weight, reverse=True)
    kinds: set[Hashable] = set()
    first: list[T] = []
    others: list[T] = []
    for item in ordered:
        (others if kind(item) in kinds else first).append(item)
        kinds.add(kind(item))
    return sorted([*first, *others[: max(0, most - len(first))]], key=weight, reverse=True)


def incidents_section(
    incidents: Sequence[Incident], verdicts: Counter[str], *, has_hosts: bool, utc_offset_s: int
) -> Section:
    """The table, in the order of time. verdicts: all stalls of the report, also those that are not in the table."""
    rows = sorted(incidents, key=lambda each: each.began_ns.least or 0)
    days = {local_time(time_ns, utc_offset_s)[0] for each in rows for time_ns in _ends_of(each.began_ns)}
    table = Table(
        [
            "BEGAN",
            "STALLS",
            "IDLE",
            "VERDICT",
            "OUTCOME",
            "LONGEST",
            "HOST  OWNER → SERVICE"[0 if has_hosts else 6 :],
        ],
        [_row(each, utc_offset_s, has_day=len(days) > 1, has_hosts=has_hosts) for each in rows],
        right=frozenset({1}),
    )
    listed: Counter[str] = Counter()
    for each in rows:
        listed[each.key.verdict] += each.count
    left_out = verdicts - listed
    notes = []
    if left_out:
        notes.append(
            Paragraph(
                (
                    f"Not listed: {plural(sum(left_out.values()), 'stall')} of less weight (",
                    *counted(left_out),
                    "). --json has them all.",
                )
            )
        )
    return Section("Incidents", [table, *notes])


def _row(incident: Incident, utc_offset_s: int, *, has_day: bool, has_hosts: bool) -> list[Inline]:
    date, clock = local_time(incident.began_ns.least or 0, utc_offset_s)
    outcomes = incident.outcomes
    host = (name_of(incident.key.host), "  ") if has_hosts else ()
    what = _outcomes(outcomes) if len(outcomes) > 1 else ""
    return [
        f"{date[5:]} {clock[:8]}" if has_day else clock[:8],
        f"{incident.count:,}",
        _range(incident.idle_ms),
        name_of(incident.key.verdict, 24),
        name_of(next(iter(outcomes)), 24) if len(outcomes) == 1 else "mixed" if outcomes else "?",
        duration_or_dash(incident.lasted_ms.greatest),
        (*host, *connection_of(incident), *((f" ({what})",) if what else ())),
    ]


def _outcomes(outcomes: Counter[str]) -> str:
    return ", ".join(f"{number:,} {name_of(outcome, 24)}" for outcome, number in outcomes.most_common())


def counted(words: Counter[str]) -> tuple[str, ...]:
    """`200 idle-drop, 1 unreachable` as pieces of a sentence, the most frequent first."""
    pieces: list[str] = []
    for word, number in words.most_common():
        pieces += [", "] if pieces else []
        pieces += [f"{number:,} ", name_of(word, 24)]
    return tuple(pieces)


def connection_of(incident: Incident) -> tuple[str, ...]:
    """The owner and the service of an incident: `gunicorn[23949] → 10.77.2.3:5432`. One connection has both ends."""
    example, service = incident.example, incident.key.service
    owner = owner_of(incident)
    if incident.count == 1 or service is None:
        local, remote = endpoint(example.laddr, example.lport), endpoint(example.raddr, example.rport)
        return Name(owner), " ", Name(local), " → ", Name(remote)
    if service.is_local:
        return Name(owner), f" port {service.port} ← ", Name(endpoint(service.host, None).removesuffix(":*"))
    return Name(owner), " → ", Name(endpoint(service.host, service.port))


def owner_of(incident: Incident) -> str:
    """`gunicorn[23949]`, or `gunicorn (12 processes)`."""
    number = len(incident.pids)
    place = common_place([incident.example]) if incident.has_one_place else ""
    where = f"{name_of(place[:-1])} " if place else ""
    if number < 2:
        return where + name_of(process(incident.example))
    more = "at least " if number >= MAX_PIDS else ""
    return f"{where}{name_of(incident.key.owner or '?')} ({more}{number} processes)"


def _range(numbers: Range) -> str:
    """`1m20s`, or `9.2s–15.8s`."""
    least, greatest = duration_or_dash(numbers.least), duration_or_dash(numbers.greatest)
    return least if least == greatest else f"{least}–{greatest}"


def _ends_of(numbers: Range) -> list[int]:
    return [number for number in (numbers.least, numbers.greatest) if number is not None]


def duration_or_dash(ms: int | None) -> str:
    """A duration for a table; `-` where it is not known."""
    return "-" if ms is None else duration(ms)
