"""The silences of each service on one logarithmic axis: survived (●), fatal (✕), and the range between them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tracer.analysis.silence_marks import Mark
from tracer.output.format import duration, plural
from tracer.output.html.contents import ServiceContents
from tracer.output.html.markup import paragraph, percent, text
from tracer.output.html.scale import LogScale, log_scale

_START, _END = 13.0, 87.0
"""Percent from the left. Beyond them is room for the lengths beside the marks."""
_HEIGHT = 42
_MIDDLE = 27
"""Where the marks are, pixels from the top of a strip. Above them is the length of those at the ends of the range."""


def strips(services: Iterable[ServiceContents]) -> Iterator[str]:
    """The parts of the section: its axis, then a row for each service with a known silence. Nothing without any."""
    shown = [each for each in services if each.marks.survived or each.marks.fatal]
    if not shown:
        return
    scale = scale_of(shown)
    yield _axis(scale)
    for service in shown:
        yield _row(service, scale)


def scale_of(services: Iterable[ServiceContents]) -> LogScale:
    """The scale on which every silence of these services has a place."""
    lengths = [mark.ms for each in services for mark in (*each.marks.survived, *each.marks.fatal)]
    return log_scale(min(lengths), max(lengths), _START, _END)


def _axis(scale: LogScale) -> str:
    labels = scale.labels()
    lines = "".join(f'<line x1="{percent(x)}" x2="{percent(x)}" y1="14" y2="{_HEIGHT - 2}"/>' for x, _ in labels)
    words = "".join(f'<text x="{percent(x)}" y="12">{label}</text>' for x, label in labels)
    return (
        f'<svg class="defs" aria-hidden="true"><g id="silences">{lines}</g></svg>'
        f'<div class="row axis"><p>Length of the silence (logarithmic)</p>'
        f'<svg height="16" aria-hidden="true">{words}</svg></div>'
    )


def _row(service: ServiceContents, scale: LogScale) -> str:
    return (
        f'<div class="row"><div><h3>{text(service.name)}</h3>{paragraph([counts(service)], "numbers")}</div>'
        f'<div><svg height="{_HEIGHT}" role="img"><title>{text(title_of(service), 400)}</title>'
        f'<use href="#silences"/>{_range(service, scale)}{_marks(service, scale)}{_lengths(service, scale)}</svg>'
        f"{paragraph(service.sentences)}</div></div>"
    )


def title_of(service: ServiceContents) -> str:
    """The text alternative of a strip."""
    return f"Silences of {service.name}. {counts(service)}"


def _range(service: ServiceContents, scale: LogScale) -> str:
    """The band in which the idle timeout is, or the silences that no single timeout explains."""
    survived_ms, fatal_ms = service.range.survived_ms, service.range.fatal_ms
    if fatal_ms is None:
        return ""
    start, end = scale.start if survived_ms is None else scale.at(survived_ms), scale.at(fatal_ms)
    kind = "contradiction" if service.range.contradicts else "range" if survived_ms is not None else "open range"
    left, right = min(start, end), max(start, end)
    return (
        f'<rect class="{kind}" x="{percent(left)}" y="{_MIDDLE - 11}" width="{percent(right - left)}" height="22"/>'
    )


def _marks(service: ServiceContents, scale: LogScale) -> str:
    survived = "".join(_mark("survived", mark, scale) for mark in service.marks.survived)
    fatal = "".join(_mark("fatal", mark, scale) for mark in service.marks.fatal)
    return survived + fatal


def _mark(kind: str, mark: Mark, scale: LogScale) -> str:
    return f'<use href="#{kind}" x="{percent(scale.at(mark.ms))}" y="{_MIDDLE}"/>'


def _lengths(service: ServiceContents, scale: LogScale) -> str:
    """The ends of the range in words, above the marks and to both sides of the band."""
    survived_ms, fatal_ms = service.range.survived_ms, service.range.fatal_ms
    inner, outer = ("end", -2), ("start", 2)
    if service.range.contradicts:
        inner, outer = outer, inner
    parts = [(survived_ms, *inner), (fatal_ms, *outer)]
    return "".join(
        f'<text class="{anchor}" x="{percent(scale.at(ms))}" dx="{distance}" y="11">{duration(ms)}</text>'
        for ms, anchor, distance in parts
        if ms is not None
    )


def counts(service: ServiceContents) -> str:
    """The silences of a service in words."""
    survived, fatal = (sum(mark.silences for mark in marks) for marks in service.marks[:2])
    words = []
    if survived:
        least = "" if service.has_all_silences else "at least "
        words.append(f"● {least}{survived:,} survived, the longest {duration(service.range.survived_ms or 0)}.")
    if fatal:
        words.append(f"✕ {fatal:,} fatal, the shortest {duration(service.range.fatal_ms or 0)}.")
    if service.marks.left_out:
        words.append(f"{plural(service.marks.left_out, 'other silence')} without a mark, far from the range.")
    return " ".join(words)
