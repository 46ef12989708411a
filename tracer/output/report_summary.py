"""The beginning of a report: what was recorded, what is missing, what happened and what to change first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from tracer.analysis.advice.steps import Step
from tracer.analysis.incidents import Incident
from tracer.analysis.outcomes import Outcome
from tracer.analysis.verdicts import Verdict
from tracer.model.times import format_second
from tracer.model.window import Window
from tracer.output.crosscheck import beside_the_kernel
from tracer.output.format import duration, local_time, plural, safe
from tracer.output.idle_timeouts import range_in_words
from tracer.output.other_end_text import clock_differences, known_meaning
from tracer.output.report_blocks import Advice, Block, Facts, Inline, Item, Name, Paragraph, Section, name_of
from tracer.output.report_data import MAX_HOSTS, ReportData
from tracer.output.report_incidents import connection_of, counted, weight_of
from tracer.output.report_services import advice_blocks
from tracer.output.stall_sentences import what_it_means

MAX_SHOWN_HOSTS = 8
MAX_SHOWN_MISSING = 10
_SECOND_NS = 1_000_000_000


def summary_section(data: ReportData, incidents: Sequence[Incident]) -> Section:
    """Hosts, time, the number of stalls, and what is missing."""
    blocks: list[Block] = [Paragraph(_headline(data))]
    rows: list[tuple[str, Sequence[Inline]]] = []
    if data.first_ns is not None and data.last_ns is not None:
        rows.append(("UTC", [_between(data, data.first_ns, data.last_ns)]))
    if data.window:
        rows.append(("Limited", [_limits(data.window, data.utc_offset_s)]))
    if ambiguous := data.two_ends.coverages.ambiguous:
        rows.append(("Hosts", [_ambiguous(host) for host in ambiguous[:MAX_SHOWN_HOSTS]]))
    if data.has_compact:
        rows.append(("Compact", [_compact(data)]))
    if data.missing:
        rows.append(("Missing", list(_missing(data))))
    if data.lost:
        rows.append(("Lost", [_lost(data)]))
    if data.repeats.hosts:
        rows.append(("Repeated", [_repeated(data)]))
    differences = clock_differences(data.two_ends)
    if differences:
        rows.append(("Clocks", differences))
    if data.stalls:
        rows.append(("Stalls", [_stalls(data, incidents)]))
    if data.is_counted:
        rows.append(("Kernel", [_crosscheck(data), *([data.missed()] if data.missed() else [])]))
    return Section("", [*blocks, *([Facts(rows)] if rows else [])])


def _headline(data: ReportData) -> Inline:
    """`db1: 4 stalls, 29 events in 1m23s, from 2027-01-15 09:00:00 on. Times are in UTC+01:00.`"""
    if data.first_ns is None or data.last_ns is None:
        return (*_hosts(data), f": no {'stall' if data.has_compact else 'event'} to report.")
    lasted = duration((data.last_ns - data.first_ns) / 1_000_000)
    stalls = plural(data.stalls, "stall") if data.stalls else "no stall"
    began = _when(data.first_ns, data.utc_offset_s)
    if not data.has_compact:  # that left the others out, and does not show when it ended
        stalls += f", {plural(data.events, 'event')} in {lasted}"
    why = ", because the hosts are in several time zones" if len(data.utc_offsets_s) > 1 else ""
    return (
        *_hosts(data),
        f": {stalls}, from {began} on. ",
        f"Times are in {zone_name(data.utc_offset_s)}{why}.",
    )


def _between(data: ReportData, first_ns: int, last_ns: int) -> str:
    """The time of the recordings. A compact one begins before its first event, and does not show when it ended."""
    if not data.has_compact:
        return f"{_utc_second(first_ns)} to {_utc_second(last_ns)}"
    last = f"; last event at {_utc_second(last_ns)}" if data.has_events else ""
    return f"{_utc_second(first_ns)} on{last}"


def _compact(data: ReportData) -> str:
    where = " of some files" if data.has_whole else ""
    return (
        f"Left out{where} by record --compact: single retransmissions, probes, resets, errors, state changes, and "
        "shorter silences."
    )


def _hosts(data: ReportData) -> tuple[str, ...]:
    shown = list(data.hosts)[:MAX_SHOWN_HOSTS]
    more = len(data.hosts) - len(shown)
    pieces: list[str] = []
    for host in shown:
        pieces += [" and "] if pieces else []
        pieces.append(name_of(host))
    if more > 0:
        pieces.append(f" and {'at least ' if len(data.hosts) >= MAX_HOSTS else ''}{plural(more, 'other host')}")
    return tuple(pieces)


def _when(time_ns: int, utc_offset_s: int) -> str:
    date, clock = local_time(time_ns, utc_offset_s)
    return f"{date} {clock[:8]}"


def _utc_second(time_ns: int) -> str:
    return f"{format_second(time_ns // _SECOND_NS)}Z"


def zone_name(utc_offset_s: int) -> str:
    """`UTC`, `UTC+01:00`."""
    if not utc_offset_s:
        return "UTC"
    minutes, seconds = divmod(abs(utc_offset_s), 60)
    rest = f":{seconds:02d}" if seconds else ""
    return f"UTC{'-' if utc_offset_s < 0 else '+'}{minutes // 60:02d}:{minutes % 60:02d}{rest}"


def _limits(window: Window, utc_offset_s: int) -> str:
    limits = [
        f"{word} {_when(time_ns, utc_offset_s)}"
        for word, time_ns in (("from", window.since_ns), ("to", window.until_ns))
        if time_ns is not None
    ]
    return f"{' '.join(limits)}, by --since and --until"


def _missing(data: ReportData) -> Iterator[Inline]:
    for file, reason, until_ns, _ in data.missing[:MAX_SHOWN_MISSING]:
        until = "" if until_ns is None else f" (last event: {_when(until_ns, data.utc_offset_s)})"
        yield Name(safe(file)), f": {safe(reason)}{until}"
    more = data.missing_count - MAX_SHOWN_MISSING
    if more > 0:
        yield f"and {plural(more, 'other file')}"


def _lost(data: ReportData) -> Inline:
    pieces = ["Events were lost while recording ("]
    for number, (hook, count) in enumerate(data.lost.most_common()):
        pieces += [", "] if number else []
        pieces += [f"{count:,} at ", name_of(hook)]
    return (*pieces, "), so this report may be incomplete.")


def _ambiguous(host: str) -> Inline:
    why = "Either several hosts have this name, or its clock was set."
    return "Recordings of ", name_of(host), f" are of the same time, but of different clocks. {why}"


def _repeated(data: ReportData) -> Inline:
    pieces: list[str] = ["In several recordings, and counted each time: "]
    for number, (host, count) in enumerate(data.repeats.hosts.most_common(MAX_SHOWN_HOSTS)):
        pieces += [", "] if number else []
        pieces += [f"{plural(count, 'stall')} of ", name_of(host)]
    more = len(data.repeats.hosts) - MAX_SHOWN_HOSTS
    return (*pieces, f", and of {plural(more, 'other host')}." if more > 0 else ".")


def _stalls(data: ReportData, incidents: Sequence[Incident]) -> Inline:
    # Incidents that were not kept are not counted: these have the other stalls.
    is_all = sum(each.count for each in incidents) == data.stalls
    where = f" in {plural(len(incidents), 'incident')}" if is_all else ""
    return (*counted(data.verdicts), where)


def _crosscheck(data: ReportData) -> str:
    sums = data.comparison
    sentence = beside_the_kernel(sums.seen, sums.counted, sums.out_of_sight)
    return f"{sentence[:1].upper()}{sentence[1:]}."


def diagnosis_section(data: ReportData, incidents: Sequence[Incident]) -> Section:
    """For each verdict, the weightiest first, what it means. The first one that can be cured has its cure."""
    weightiest: dict[str, Incident] = {}
    for incident in sorted(incidents, key=weight_of, reverse=True):
        weightiest.setdefault(incident.key.verdict, incident)
    if not weightiest:
        is_whole = not (data.missing or data.lost or data.missed() or data.has_compact)
        return Section(
            "Diagnosis", [Paragraph(f"No connection stalled{'' if is_whole else ', as far as was recorded'}.")]
        )
    items = []
    has_cure = False
    for verdict, incident in weightiest.items():
        item, has_cure = _diagnosis(data, verdict, incident, has_cure=has_cure)
        items.append(item)
    return Section("Diagnosis", items)


def _diagnosis(data: ReportData, verdict: str, incident: Incident, *, has_cure: bool) -> tuple[Item, bool]:
    """What is known about a verdict, by its weightiest incident. Returns whether there is a cure by now, too."""
    total = data.verdicts[verdict]
    outcomes = data.outcomes.get(verdict, Counter[str]())
    of = " of " if total == incident.count else ", the worst of "
    host = (" on ", name_of(incident.key.host)) if len(data.hosts) > 1 else ()
    title = (name_of(verdict), f": {plural(total, 'stall')}{of}", *connection_of(incident), *host)
    known = known_meaning(verdict, total, data.two_ends)
    blocks: list[Paragraph | Advice] = [Paragraph(known or _meaning(incident, outcomes))]
    if outcomes[Outcome.ONGOING]:
        blocks.append(Paragraph(_still_waiting(incident, outcomes[Outcome.ONGOING], data)))
    declared = Verdict.of(verdict)
    service = incident.key.service
    if service is None:
        return Item(title, blocks), has_cure
    if declared is not None and declared.blames_idleness:
        blocks += [Paragraph(text) for text in range_in_words(data.idle_timeouts.range_of(service))]
    if not has_cure:
        cure = next((line for line in data.advice_of(service, verdict) if line.step is Step.CURE), None)
        if cure is not None:
            blocks += advice_blocks([cure])
            has_cure = True
    return Item(title, blocks), has_cure


def _meaning(incident: Incident, outcomes: Counter[str]) -> str:
    meaning = " ".join(what_it_means(incident.example))
    known = [Outcome.of(outcome) for outcome in outcomes]
    if all(outcome is Outcome.RECOVERED for outcome in known):
        return f"{meaning} All were answered."
    if all(outcome is not None and outcome.is_harmless for outcome in known):
        return f"{meaning} None is known to have ended a connection."
    return meaning


def _still_waiting(incident: Incident, number: int, data: ReportData) -> str:
    were = "1 was" if number == 1 else f"{number:,} were"
    give_up, until_ns = incident.gives_up_ns, data.window.until_ns
    ended = "when the recording ended" if until_ns is None else "at the end of this period"
    text = f"{were} still waiting {ended}"
    if give_up.least is None or give_up.greatest is None or not incident.outcomes[Outcome.ONGOING]:
        return f"{text}."
    earliest, latest = (
        local_time(time_ns, data.utc_offset_s)[1][:8] for time_ns in (give_up.least, give_up.greatest)
    )
    when = f"at {earliest}" if earliest == latest else f"between {earliest} and {latest}"
    return f"{text}. The kernel gives up {when}."
