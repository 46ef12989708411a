"""The beginning of the page: what was recorded, what is missing, and what it amounts to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from tracer.analysis.outcomes import Outcome
from tracer.analysis.verdicts import Verdict
from tracer.output.format import duration, local_time, plural
from tracer.output.html.contents import Contents, ServiceContents
from tracer.output.html.markup import text

MAX_VERDICTS = 8
"""Verdicts of one service that are listed."""
MAX_MEANINGS = 3
MAX_HARMLESS = 8


def title(contents: Contents) -> str:
    """`tcpwatch: 4 stalls on db1`."""
    hosts = (
        contents.hosts[0] if len(contents.hosts) == 1 else plural(len(contents.hosts) + contents.more_hosts, "host")
    )
    return f"tcpwatch: {_stalls(contents)} on {hosts}"


def header(contents: Contents) -> str:
    """The heading of the page, and a list of where and when."""
    incidents = f"{plural(contents.incidents, 'incident')}: " if contents.incidents < contents.stalls else ""
    ended = _endings(contents.services)
    lead = f'<p class="lead">{incidents}{ended}</p>' if ended else ""
    facts = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in _facts(contents))
    return f"<header><h1>{_stalls(contents).capitalize()}</h1>{lead}<dl>{facts}</dl></header>"


def missing(contents: Contents) -> str:
    """A box that lists what is not on the page; empty where nothing is missing."""
    if not contents.missing:
        return ""
    lines = "".join(f"<li>{text(each, 300)}</li>" for each in contents.missing)
    return f'<section class="missing"><h2>Missing from this report</h2><ul>{lines}</ul></section>'


def diagnosis(services: Sequence[ServiceContents]) -> Iterator[str]:
    """A part for each service with a stall that did not end well, and one for the others."""
    harmless = [service for service in services if _is_harmless(service)]
    if len(harmless) == 1:
        harmless = []
    for service in services:
        if service not in harmless:
            yield _card(service)
    if harmless:
        names = "".join(f"<li>{text(each.name)}: {_counted(each)}</li>" for each in harmless[:MAX_HARMLESS])
        more = len(harmless) - MAX_HARMLESS
        others = f"<li>and {plural(more, 'other service')}</li>" if more > 0 else ""
        yield f"<section><h3>Answered in the end</h3><ul>{names}{others}</ul></section>"


def _card(service: ServiceContents) -> str:
    """Its stalls, what they are consistent with, and the range of its idle timeout."""
    lines = [*_meanings(service), *(text(sentence, 500) for sentence in service.sentences)]
    items = "".join(f"<li>{line}</li>" for line in lines)
    return f"<section><h3>{text(service.name)}</h3><p>{_counted(service)}</p><ul>{items}</ul></section>"


def _is_harmless(service: ServiceContents) -> bool:
    known = [Outcome.of(name) for name, _ in service.outcomes]
    return not service.sentences and all(outcome is not None and outcome.is_harmless for outcome in known)


def _counted(service: ServiceContents) -> str:
    """`3 stalls, the longest 13.6s: 2 idle-drop, 1 packet-loss`; `1 stall of 13.6s: idle-drop`."""
    hosts = f" on {plural(service.hosts, 'host')}" if service.hosts > 1 else ""
    longest = ""
    if service.longest_ms:
        longest = f"{' of' if service.stalls == 1 else ', the longest'} {duration(service.longest_ms)}"
    counts = [(f"{count:,} ", text(verdict, 40)) for verdict, count in service.verdicts[:MAX_VERDICTS]]
    verdicts = ", ".join(number * (len(counts) > 1) + verdict for number, verdict in counts)
    return f"{plural(service.stalls, 'stall')}{hosts}{longest}: {verdicts}"


def _meanings(service: ServiceContents) -> list[str]:
    """What the frequent verdicts stand for. Those of single lost packets only where there is nothing worse."""
    known = [verdict for name, _ in service.verdicts if (verdict := Verdict.of(name)) is not None]
    chosen = [verdict for verdict in known if not verdict.is_quiet] or known[:1]
    return [f"<b>{verdict}</b> {text(verdict.meaning, 300)}" for verdict in chosen[:MAX_MEANINGS]]


def _stalls(contents: Contents) -> str:
    return plural(contents.stalls, "stall") if contents.stalls else "no stall"


def _endings(services: Iterable[ServiceContents]) -> str:
    """`2 timed out or reset, 1 answered`."""
    counts: Counter[str] = Counter()
    for service in services:
        for name, count in service.outcomes:
            outcome = Outcome.of(name)
            if outcome is None or outcome is Outcome.ONGOING:
                counts["not over at the end of the recording"] += count
            elif outcome.is_death:
                counts["died"] += count
            elif outcome is Outcome.CLOSED:
                counts["closed by the application meanwhile"] += count
            else:
                counts["answered in the end"] += count
    return ", ".join(f"{counts[word]:,} {word}" for word in _ENDINGS if counts[word])


_ENDINGS = (
    "died", "not over at the end of the recording", "closed by the application meanwhile", "answered in the end",
)  # fmt: skip


def _facts(contents: Contents) -> Iterator[tuple[str, str]]:
    more = f" and {plural(contents.more_hosts, 'other host')}" if contents.more_hosts else ""
    hosts = ", ".join(text(host, 64) for host in contents.hosts)
    yield "Host" if len(contents.hosts) + contents.more_hosts == 1 else "Hosts", f"{hosts}{more}"
    if contents.first_ns is None or contents.last_ns is None:
        yield "Recorded", "nothing"
        return
    lasted = duration((contents.last_ns - contents.first_ns) / 1_000_000)
    yield "Recorded", f"{plural(contents.events, 'event')} in {lasted}"
    yield f"Time ({zone(contents.utc_offset_s)})", _span(contents, contents.utc_offset_s)
    if contents.utc_offset_s:
        yield "Time (UTC)", _span(contents, 0)


def _span(contents: Contents, utc_offset_s: int) -> str:
    assert contents.first_ns is not None and contents.last_ns is not None
    first, last = (local_time(each, utc_offset_s) for each in (contents.first_ns, contents.last_ns))
    until = last[1][:8] if first[0] == last[0] else f"{last[0]} {last[1][:8]}"
    return f"{first[0]} {first[1][:8]} to {until}"


def zone(utc_offset_s: int) -> str:
    """`UTC`, `UTC+01:00`."""
    if not utc_offset_s:
        return "UTC"
    hours, minutes = divmod(abs(utc_offset_s) // 60, 60)
    return f"UTC{'-' if utc_offset_s < 0 else '+'}{hours:02d}:{minutes:02d}"
