"""The services of a report: silences survived and fatal, other dead connections, and the advice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from tracer.analysis.idle_timeouts import Service
from tracer.analysis.incidents import Incident
from tracer.model.events import Event
from tracer.output.format import duration, endpoint, plural, process
from tracer.output.idle_timeouts import range_in_words
from tracer.output.owners_advice import Line
from tracer.output.report_blocks import Advice, Inline, Item, Name, Paragraph, Section, Table, name_of
from tracer.output.report_data import ReportData
from tracer.output.report_incidents import counted, duration_or_dash
from tracer.output.report_rows import ServiceStalls, service_name

MAX_SHOWN_SERVICES = 20
MAX_SHOWN_SUSPECTS = 8


def services_section(data: ReportData, incidents: Iterable[Incident], unfollowed: int) -> Section:
    """A table, then each service, those of the first incidents first. unfollowed: stalls that were not followed."""
    places: dict[Service | None, int] = {}
    for number, incident in enumerate(incidents):
        places.setdefault(incident.key.service, number)
    services = sorted(data.services.by_weight(), key=lambda each: places.get(each[0], len(data.services)))
    shown = services[:MAX_SHOWN_SERVICES]
    has_hosts = len(data.hosts) > 1
    headings = ["STALLS", *(["HOSTS"] if has_hosts else []), "SURVIVED", "FATAL", "LONGEST", "SERVICE"]
    table = Table(
        headings,
        [_row(data, service, stalls, has_hosts=has_hosts) for service, stalls in shown],
        right=frozenset(range(len(headings) - 4)),
    )
    more = len(services) - len(shown)
    notes = [Paragraph(f"… and {plural(more, 'other service')}; --json has them all.")] if more else []
    items = [item for service, stalls in shown if (item := _about(data, service, stalls)).blocks]
    return Section("Services", [table, *notes, *items, *map(Paragraph, left_out(data, unfollowed))])


def _row(data: ReportData, service: Service, stalls: ServiceStalls, *, has_hosts: bool) -> list[Inline]:
    idle_timeout = data.idle_timeouts.range_of(service)
    return [
        f"{sum(stalls.verdicts.values()):,}",
        *([f"{len(stalls.hosts):,}"] if has_hosts else []),
        duration_or_dash(idle_timeout.survived_ms),
        duration_or_dash(idle_timeout.fatal_ms),
        duration(stalls.longest_ms),
        Name(service_name(service)),
    ]


def _about(data: ReportData, service: Service, stalls: ServiceStalls) -> Item:
    """The range of a service's idle timeout, other dead connections, and the advice."""
    sentences: list[Inline] = [*range_in_words(data.idle_timeouts.range_of(service)), *_suspects(data, service)]
    blocks: list[Paragraph | Advice] = [Paragraph(sentence) for sentence in sentences]
    blocks += _advice_of(data, service, stalls)
    return Item((Name(service_name(service)), ": ", *counted(stalls.verdicts)), blocks)


def _advice_of(data: ReportData, service: Service, stalls: ServiceStalls) -> Iterator[Paragraph | Advice]:
    """The advice for each verdict, the most frequent first. A line that two of them have is shown once."""
    by_verdict = {verdict: data.advice_of(service, verdict) for verdict, _ in stalls.verdicts.most_common()}
    has_several = sum(map(bool, by_verdict.values())) > 1
    shown: set[Line] = set()
    for verdict, lines in by_verdict.items():
        news = [line for line in lines if line not in shown]
        if news and has_several:
            yield Paragraph(("For ", name_of(verdict), ":"))
        yield from advice_blocks(news)
        shown.update(news)


def advice_blocks(lines: Sequence[Line]) -> list[Advice]:
    """The lines of advice, those with a step first."""
    ordered = sorted(lines, key=lambda line: line.step is None)
    return [_advice(line) for line in ordered]


def _advice(line: Line) -> Advice:
    text, command = line.parts()
    step = "" if line.step is None else line.step.value
    if not line.owner:
        return Advice(step, text, command)
    return Advice(step, (Name(line.owner), f": {text}") if text else (Name(line.owner),), command)


def _suspects(data: ReportData, service: Service) -> Iterator[Inline]:
    suspects = sorted(data.suspects.get(service, ()), key=lambda each: _longest_silence_first(each[1]))
    if not suspects:
        return
    were = "connection was" if len(suspects) == 1 else "connections were"
    pieces: list[str] = [f"{len(suspects):,} other {were} open and silent for longer, and probably dead as well: "]
    for number, (host, each) in enumerate(suspects[:MAX_SHOWN_SUSPECTS]):
        pieces += [", "] if number else []
        pieces += [Name(endpoint(each.laddr, each.lport)), " ", name_of(process(each))]
        pieces += [" on ", name_of(host)] if len(data.hosts) > 1 else []
        pieces.append(f" ({duration_or_dash(each.silent_ms)})")
    more = len(suspects) - MAX_SHOWN_SUSPECTS
    yield (*pieces, f", {more:,} more." if more > 0 else ".")


def _longest_silence_first(event: Event) -> int:
    return 0 if event.silent_ms is None else -event.silent_ms


def left_out(data: ReportData, unfollowed: int) -> Iterator[str]:
    """Sentences about what would have taken too much memory."""
    if data.services.others.verdicts:
        stalls, longest = sum(data.services.others.verdicts.values()), duration(data.services.others.longest_ms)
        yield (
            f"{plural(stalls, 'stall')} of at most {longest} had services that are not listed, "
            "because there are too many."
        )
    if unfollowed:
        yield (
            f"{plural(unfollowed, 'stall')} of those counted as ongoing ended unseen, "
            "because too many connections stalled at once."
        )
    if data.services.without_advice:
        services = plural(data.services.without_advice, "other service")
        yield f"The advice for {services} is left out, because too many owners stalled."
    if data.suspects_left_out:
        yield f"Of the connections that were probably dead as well, {data.suspects_left_out:,} are not listed."
