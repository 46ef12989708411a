"""What the page shows, taken from what a report collects. Only this module knows how a report keeps it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from tracer.analysis.idle_timeouts import IdleTimeoutRange, Service
from tracer.analysis.middleboxes import matching
from tracer.analysis.silence_marks import ServiceMarks, SilenceMarks
from tracer.model.durations import setting
from tracer.output.format import duration, local_time, plural, safe
from tracer.output.idle_timeouts import range_in_words
from tracer.output.report_data import ReportData
from tracer.output.report_rows import service_name
from tracer.output.report_timeline import IncidentRow, Timeline

MAX_SERVICES = 24
"""Services on the page: those with the longest stalls."""
MAX_HOSTS = 8
MAX_MISSING = 10


@dataclass(frozen=True, slots=True)
class ServiceContents:
    """One service: its stalls by verdict and outcome, its silences, and what to change."""

    service: Service
    name: str
    stalls: int
    hosts: int
    verdicts: list[tuple[str, int]]
    outcomes: list[tuple[str, int]]
    longest_ms: int
    range: IdleTimeoutRange
    marks: ServiceMarks
    sentences: list[str]
    """About the range, and about connections that are probably dead as well."""
    advice: list[str]


@dataclass(frozen=True, slots=True)
class Contents:
    """Everything on the page. Instants are wall-clock nanoseconds; texts are not escaped."""

    hosts: list[str]
    more_hosts: int
    first_ns: int | None
    last_ns: int | None
    utc_offset_s: int
    stalls: int
    events: int
    missing: list[str]
    services: list[ServiceContents]
    more_services: int
    incidents: int
    rows: list[IncidentRow]
    """The incidents that are kept, the earliest first."""

    @property
    def has_several_hosts(self) -> bool:
        """Whether a host's name belongs to each incident."""
        return len(self.hosts) > 1

    def when(self, time_ns: int) -> tuple[str, str]:
        """Date and time of day with milliseconds, in the time zone of the recorded host."""
        return local_time(max(0, time_ns), self.utc_offset_s)

    @property
    def spans_days(self) -> bool:
        """Whether a time of day needs its date."""
        instants = [self.first_ns, self.last_ns, *(row.bar.since_ns for row in self.rows)]
        return len({self.when(each)[0] for each in instants if each is not None}) > 1


def contents_of(data: ReportData, timeline: Timeline, marks: SilenceMarks, unfollowed: int) -> Contents:
    """The contents of the page. unfollowed: stalls that could not be followed."""
    services = data.by_weight()
    hosts = list(islice(data.hosts, MAX_HOSTS))
    return Contents(
        hosts=hosts,
        more_hosts=len(data.hosts) - len(hosts),
        first_ns=data.first_ns,
        last_ns=data.last_ns,
        utc_offset_s=data.utc_offset_s,
        stalls=data.stalls,
        events=data.events,
        missing=[*_missing_files(data), *_missing_events(data, unfollowed)],
        services=[_service(data, marks, service) for service, _ in services[:MAX_SERVICES]],
        more_services=max(0, len(services) - MAX_SERVICES),
        incidents=timeline.incidents,
        rows=timeline.rows(),
    )


def _service(data: ReportData, marks: SilenceMarks, service: Service) -> ServiceContents:
    stalls = data.services[service]
    idle_timeout = data.idle_timeouts.range_of(service)
    return ServiceContents(
        service=service,
        name=service_name(service),
        stalls=stalls.verdicts.total(),
        hosts=len(stalls.hosts),
        verdicts=stalls.verdicts.most_common(),
        outcomes=stalls.outcomes.most_common(),
        longest_ms=stalls.longest_ms,
        range=idle_timeout,
        marks=marks.marks_of(service),
        sentences=[*range_in_words(idle_timeout), *_defaults(idle_timeout), *_suspects(data, service)],
        advice=data.advice_of(service),
    )


def _defaults(idle_timeout: IdleTimeoutRange) -> Iterator[str]:
    boxes = [f"{box.name} ({setting(box.timeout_s)})" for box in matching(idle_timeout)]
    if boxes:
        yield f"Default idle timeouts within this range: {', '.join(boxes)}."


def _suspects(data: ReportData, service: Service) -> Iterator[str]:
    count = len(data.suspects.get(service, ()))
    if count:
        were = "connection was" if count == 1 else "connections were"
        yield f"{count:,} other {were} open and silent for longer, and probably dead as well."


def _missing_files(data: ReportData) -> Iterator[str]:
    for file, reason, until_ns in data.missing[:MAX_MISSING]:
        until = ""
        if until_ns is not None:
            date, clock = local_time(until_ns, data.utc_offset_s)
            until = f" (last event: {date} {clock[:8]})"
        yield f"{safe(file)}: {safe(reason)}{until}."
    more = data.missing_count - min(len(data.missing), MAX_MISSING)
    if more > 0:
        yield f"{plural(more, 'other file')}."


def _missing_events(data: ReportData, unfollowed: int) -> Iterator[str]:
    if data.lost:
        lost = ", ".join(f"{count:,} at {safe(hook)[:40]}" for hook, count in data.lost.most_common(6))
        yield f"Events were lost while recording ({lost}), so this report may be incomplete."
    if data.is_counted and data.missed():
        yield data.missed()
    if data.others.verdicts:
        stalls, longest = data.others.verdicts.total(), duration(data.others.longest_ms)
        yield f"{plural(stalls, 'stall')} of at most {longest} had services that are not listed: there are too many."
    if unfollowed:
        yield (
            f"{plural(unfollowed, 'stall')} of those counted as ongoing ended unseen, because too many connections "
            "stalled at once."
        )
