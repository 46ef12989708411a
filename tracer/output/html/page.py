"""The page as a whole: its parts in order, within MAX_BYTES whatever a recording holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import tracer
from tracer.output.format import plural
from tracer.output.html import advice, blocks, overview, strip, summary, table, timeline
from tracer.output.html.contents import Contents
from tracer.output.html.markup import fitting, paragraph, text
from tracer.output.html.style import CSS
from tracer.output.report_actions import HEADING, not_listed
from tracer.output.report_timeline import IncidentRow, weightiest_rows

MAX_BYTES = 195_000
MAX_ROWS = 60
"""Incidents with a bar and a row of the table. More are counted."""
MAX_HARMLESS = 8
"""Of these, incidents that ended well, if others did not."""
_SHARES = {
    "summary": 0.12,
    "ends": 0.06,
    "actions": 0.04,
    "strips": 0.1,
    "overview": 0.08,
    "timeline": 0.22,
    "advice": 0.16,
    "table": 0.16,
}
"""Of MAX_BYTES. The rest is for the style, the heading and what is missing."""

_SHAPES = (
    '<svg class="defs" aria-hidden="true"><defs><g id="survived"><circle r="5"/></g>'
    '<g id="fatal"><path class="halo" d="M-5-5 5 5M-5 5 5-5"/><path d="M-5-5 5 5M-5 5 5-5"/></g>'
    '<g id="predicted"><path d="M-6-10H6L0 0Z"/></g><g id="ongoing"><path d="M0-7 9 0 0 7Z"/></g>'
    '<g id="closed"><path d="M-5-5H5V5H-5Z"/></g></defs></svg>'
)
_HEAD = (
    '<meta charset="utf-8"/><meta name="viewport" content="width=device-width, initial-scale=1"/>'
    '<meta name="color-scheme" content="light dark"/><meta name="referrer" content="no-referrer"/>'
    '<meta http-equiv="Content-Security-Policy" '
    "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\"/>"
    '<link rel="icon" href="data:,"/>'
)
_MARKS_OF_SILENCES = {"survived": "survived", "fatal": "fatal", "range": "range of the idle timeout"}
_MARKS_OF_BARS = {
    "idle": "silence before",
    "tick": "retransmissions",
    "predicted": "predicted end",
    "fatal": "died",
    "survived": "answered",
    "closed": "closed or ended by this host",
    "ongoing": "not over at the end of the recording, or its end was not seen",
}


def page_of(contents: Contents) -> str:
    """The whole page, HTML that is well-formed XML as well."""
    rows = shown_rows(contents.rows)
    body = (
        _SHAPES,
        summary.header(contents),
        "<main>",
        _diagnosis(contents),
        _both_ends(contents),
        _actions(contents),
        _silences(contents),
        _incidents(contents, rows),
        _advice(contents),
        _table(contents, rows),
        "</main>",
        _footer(),
    )
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head>{_HEAD}<title>{text(summary.title(contents))}</title>'
        f"<style>{CSS.replace('%(labels)s', table.labels())}</style></head>\n<body>{''.join(body)}</body></html>\n"
    )


def shown_rows(rows: list[IncidentRow]) -> list[IncidentRow]:
    """The incidents with a bar and a row of the table, the earliest first. Of harmless ones only a few."""
    harmful = [row for row in rows if not row.bar.is_harmless]
    harmless = [row for row in rows if row.bar.is_harmless]
    chosen = weightiest_rows(harmful, MAX_ROWS)
    chosen += weightiest_rows(harmless, min(MAX_ROWS - len(chosen), MAX_HARMLESS if chosen else MAX_ROWS))
    ids = {id(row) for row in chosen}
    return [row for row in rows if id(row) in ids]


def _section(part: str, heading: str, parts: Iterable[str], before: str = "", after: str = "", what: str = "") -> str:
    """A section with the parts that fit its share of the page; empty without any. what: a noun for the others."""
    kept, left_out = fitting(parts, int(MAX_BYTES * _SHARES[part]))
    if not kept:
        return ""
    more = _more(left_out, what)
    return f'<section id="{part}"><h2>{heading}</h2>{before}{"".join(kept)}{after}{more}</section>\n'


def _more(count: int, what: str) -> str:
    if count <= 0:
        return ""
    return f'<p class="note">… and {plural(count, what)}. <code>tcpwatch report --json</code> lists every stall.</p>'


def _diagnosis(contents: Contents) -> str:
    if contents.diagnosis is None:
        return ""
    cards = blocks.cards(contents.diagnosis)
    return _section("summary", "Diagnosis", cards, '<div class="cards">', "</div>", "other verdict")


def _both_ends(contents: Contents) -> str:
    if contents.both_ends is None:
        return ""
    cards = blocks.cards(contents.both_ends)
    return _section("ends", contents.both_ends.heading, cards, '<div class="cards">', "</div>", "other group")


def _actions(contents: Contents) -> str:
    lines = (f"<li>{blocks.inline(sentence)}</li>" for sentence, _ in contents.actions)
    kept, _ = fitting(lines, int(MAX_BYTES * _SHARES["actions"]))
    if not kept:
        return ""
    others = contents.more_actions + sum(count for _, count in contents.actions[len(kept) :])
    note = paragraph([not_listed(others)] if others else [], "note")
    return f'<section id="actions"><h2>{HEADING}</h2><ul>{"".join(kept)}</ul>{note}</section>\n'


def _silences(contents: Contents) -> str:
    note = (
        '<p class="note">A path with an idle timeout forgets connections that were silent for longer. '
        "Its timeout is above every ● and at or below every ✕.</p>"
    )
    legend = note + _legend(_MARKS_OF_SILENCES)
    return _section(
        "strips", "Silences that connections survived, and fatal ones", strip.strips(contents.services), legend
    )


def _incidents(contents: Contents, rows: list[IncidentRow]) -> str:
    when = _section("overview", "When it happened", overview.overview(contents))
    note = (
        '<p class="note">All bars begin at one line: when the data was first sent that nobody answered. An incident '
        "is all stalls of one owner and service with one verdict that begin within seconds. Its bar is the longest "
        "of them.</p>"
    )
    bars = timeline.timeline(contents, rows)
    return when + _section(
        "timeline", "Each incident", bars, note + _legend(_MARKS_OF_BARS), _left_out(contents, rows), "other incident"
    )


def _left_out(contents: Contents, rows: list[IncidentRow]) -> str:
    stalls = contents.stalls - sum(row.incident.count for row in rows)
    return _more(stalls, "lighter stall")


def _advice(contents: Contents) -> str:
    notes = paragraph(contents.left_out, "note") + _more(contents.more_services, "other service")
    return _section("advice", "What to do", advice.advice(contents.services), after=notes, what="other service")


def _table(contents: Contents, rows: list[IncidentRow]) -> str:
    before = (
        '<table class="incidents"><caption>One stall of each incident, the longest. Times are UTC.</caption>'
        f"<thead>{table.head()}</thead><tbody>"
    )
    return _section("table", "Evidence", table.rows(contents, rows), before, "</tbody></table>", "other incident")


def _legend(marks: Mapping[str, str]) -> str:
    items = (
        f'<li><svg viewBox="-8 -8 16 16" aria-hidden="true">{_sample(mark)}</svg> {words}</li>'
        for mark, words in marks.items()
    )
    return f'<ul class="legend">{"".join(items)}</ul>'


def _sample(mark: str) -> str:
    if mark == "range":
        return '<rect class="range" x="-7" y="-6" width="14" height="12"/>'
    if mark == "idle":
        return '<rect class="idle" x="-8" y="-2" width="16" height="4"/>'
    if mark == "tick":
        lines = "".join(f'<line class="tick" x1="{x}" x2="{x}" y1="-6" y2="6"/>' for x in (-3, 3))
        return f'<rect class="closed" x="-8" y="-6" width="16" height="12"/>{lines}'
    return f'<use href="#{mark}" y="{5 if mark == "predicted" else 0}"/>'


def _footer() -> str:
    return (
        f'<footer class="note">Made by tcpwatch {text(tracer.__version__)} from recordings of TCP events. A verdict '
        "is what a stall is consistent with, and never more: one end of a connection does not see the path.</footer>"
    )
