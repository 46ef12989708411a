"""The beginning of the page: what was recorded, what is missing, and what it amounts to."""

from __future__ import annotations

from collections import Counter

from tracer.analysis.outcomes import Outcome
from tracer.output.format import plural
from tracer.output.html import blocks
from tracer.output.html.contents import Contents

MISSING = ("Missing", "Lost", "Compact")
"""Facts that a reader has to know before anything else."""
_ENDINGS = (
    "died", "not over at the end of the recording", "closed or ended by this host meanwhile",
    "answered or given up unseen", "answered in the end",
)  # fmt: skip


def title(contents: Contents) -> str:
    """`tcpwatch: 4 stalls`."""
    return f"tcpwatch: {stalls(contents)}"


def header(contents: Contents) -> str:
    """The heading of the page, what is missing, and where and when."""
    ended = endings(contents.outcomes)
    lead = f'<p class="lead">{ended}</p>' if ended else ""
    missing = blocks.facts(contents.summary, names=MISSING)
    warning = f'<dl class="missing">{missing}</dl>' if missing else ""
    others = blocks.facts(contents.summary, without=MISSING)
    where = blocks.paragraphs(contents.summary)
    return f"<header><h1>{stalls(contents).capitalize()}</h1>{lead}{where}{warning}<dl>{others}</dl></header>"


def stalls(contents: Contents) -> str:
    """`4 stalls`."""
    return plural(contents.stalls, "stall") if contents.stalls else "no stall"


def endings(outcomes: Counter[str]) -> str:
    """`2 died, 1 answered in the end`."""
    counts: Counter[str] = Counter()
    for name, count in outcomes.items():
        counts[_ending(Outcome.of(name))] += count
    return ", ".join(f"{counts[word]:,} {word}" for word in _ENDINGS if counts[word])


def _ending(outcome: Outcome | None) -> str:
    died, ongoing, closed, unseen, answered = _ENDINGS
    if outcome is None or outcome is Outcome.ONGOING:
        return ongoing
    if outcome.is_death:
        return died
    if outcome is Outcome.UNSEEN:
        return unseen
    return closed if outcome in (Outcome.CLOSED, Outcome.ENDED) else answered
