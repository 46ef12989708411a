"""What the page shows, taken from what a report collects. Only this module knows how a report keeps it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from tracer.analysis.idle_timeouts import IdleTimeoutRange, Service
from tracer.analysis.middleboxes import matching
from tracer.analysis.silence_marks import ServiceMarks, SilenceMarks
from tracer.model.dataclass import dataclass
from tracer.model.durations import setting
from tracer.output.format import local_time
from tracer.output.idle_timeouts import range_in_words
from tracer.output.other_end_text import two_ends_section
from tracer.output.report_blocks import Advice, Inline, Section
from tracer.output.report_data import ReportData
from tracer.output.report_rows import service_name
from tracer.output.report_services import advice_blocks, left_out
from tracer.output.report_summary import diagnosis_section, summary_section
from tracer.output.report_timeline import IncidentRow, Timeline

MAX_SERVICES = 24
"""Services on the page: those with the longest stalls."""


@dataclass(frozen=True, slots=True)
class ServiceContents:
    """One service: its silences, sentences about their range, and what to change.

    has_all_silences: False where a compact recording left shorter ones out.
    """

    name: str
    range: IdleTimeoutRange
    marks: ServiceMarks
    has_all_silences: bool
    sentences: list[str]
    advice: list[Advice]


@dataclass(frozen=True, slots=True)
class Contents:
    """Everything on the page. Instants are wall-clock nanoseconds; texts are not escaped."""

    hosts: int
    first_ns: int | None
    last_ns: int | None
    utc_offset_s: int
    stalls: int
    outcomes: Counter[str]
    summary: Section
    diagnosis: Section | None
    both_ends: Section | None
    actions: list[tuple[Inline, int]]
    """Sentences, each with the number of its actions."""
    more_actions: int
    left_out: list[str]
    services: list[ServiceContents]
    more_services: int
    rows: list[IncidentRow]
    """The incidents that are kept, the earliest first."""

    @property
    def has_several_hosts(self) -> bool:
        """Whether a host's name belongs to each incident."""
        return self.hosts > 1

    def when(self, time_ns: int) -> tuple[str, str]:
        """Date and time of day with milliseconds, in the time zone of the report."""
        return local_time(max(0, time_ns), self.utc_offset_s)

    @property
    def spans_days(self) -> bool:
        """Whether a time of day needs its date."""
        instants = [self.first_ns, self.last_ns, *(row.bar.since_ns for row in self.rows)]
        return len({self.when(each)[0] for each in instants if each is not None}) > 1


def contents_of(data: ReportData, timeline: Timeline, marks: SilenceMarks, unfollowed: int) -> Contents:
    """The contents of the page. unfollowed: stalls that could not be followed."""
    incidents = data.incidents.heaviest()
    services = [service for service, _ in data.services.by_weight()]
    outcomes: Counter[str] = Counter()
    for each in data.outcomes.values():
        outcomes += each
    return Contents(
        hosts=len(data.hosts),
        first_ns=data.first_ns,
        last_ns=data.last_ns,
        utc_offset_s=data.utc_offset_s,
        stalls=data.stalls,
        outcomes=outcomes,
        summary=summary_section(data, incidents),
        diagnosis=None if data.first_ns is None else diagnosis_section(data, incidents),
        both_ends=two_ends_section(data.two_ends, data.utc_offset_s),
        actions=data.actions.sentences(data.utc_offset_s, has_hosts=len(data.hosts) > 1, has_day=data.spans_days),
        more_actions=data.actions.left_out,
        left_out=list(left_out(data, unfollowed)),
        services=[
            ServiceContents(
                name=service_name(service),
                range=data.idle_timeouts.range_of(service),
                marks=marks.marks_of(service),
                has_all_silences=not data.has_compact,
                sentences=[*range_in_words(data.idle_timeouts.range_of(service)), *_defaults(data, service)],
                advice=advice_blocks(data.advice_of(service)),
            )
            for service in services[:MAX_SERVICES]
        ],
        more_services=max(0, len(services) - MAX_SERVICES),
        rows=timeline.rows(),
    )


def _defaults(data: ReportData, service: Service) -> Iterator[str]:
    boxes = [f"{box.name} ({setting(box.timeout_s)})" for box in matching(data.idle_timeouts.range_of(service))]
    if boxes:
        yield f"Default idle timeouts within this range: {', '.join(boxes)}."
    count = len(data.suspects.get(service, ()))
    if count:
        were = "connection was" if count == 1 else "connections were"
        yield f"{count:,} other {were} open and silent for longer, and probably dead as well."
