"""The stall text formatter: which sentences about a stall are printed below its line.

Each sentence is printed once, and few where many connections stall at once.
"""

from __future__ import annotations

import textwrap
from collections import OrderedDict
from typing import TypeVar

from tracer.analysis.advice.commands import COMMANDS
from tracer.analysis.idle_timeouts import Service, service_of
from tracer.analysis.outcomes import Outcome
from tracer.analysis.verdicts import Subject, Verdict
from tracer.model.events import Event
from tracer.output.format import safe
from tracer.output.stall_sentences import how_it_ended, what_happened, what_it_means, when_it_ends

MAX_EXPLAINED = 3
"""Stalls of one service within a second that get sentences; the others have only their lines."""
MAX_REMEMBERED = 4096
_K = TypeVar("_K")
_V = TypeVar("_V")
_SECOND_NS = 1_000_000_000
_INDENT = "    "
_ENDS_IT = "ss -K "


class StallFormatter:
    """Remembers what was printed already: the verdict of each stall, the advice for each process and service."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._printed: OrderedDict[str, str] = OrderedDict()  # the last verdict printed, by the stall's id
        self._advised: OrderedDict[tuple[Service | None, str, int | None], tuple[str, ...]] = OrderedDict()
        self._explained: OrderedDict[tuple[Service | None, str], tuple[int, int]] = OrderedDict()  # second, number

    def lines(self, stall: Event, utc_offset_s: int) -> list[str]:
        """What is printed below the stall's own line, wrapped and indented."""
        sentences = self._end(stall, utc_offset_s) if stall.phase == "end" else self._news(stall, utc_offset_s)
        return [line for sentence in sentences for line in wrapped(sentence, self._width)]

    def _end(self, stall: Event, utc_offset_s: int) -> list[str]:
        verdict = stall.verdict or ""
        printed = self._printed.pop(stall.id or "", None)
        if printed is None and not self._is_explained(stall):
            return []
        outcome = Outcome.of(stall.outcome)
        if outcome is not None and outcome.is_harmless:
            # A presumed outcome has no meaning beyond itself.
            explained = printed == verdict or outcome is Outcome.PRESUMED
            return [how_it_ended(stall), *([] if explained else [what_it_means(stall)])]
        return [
            *([what_happened(stall, utc_offset_s)] if printed is None else []),
            how_it_ended(stall),
            *([what_it_means(stall)] if printed != verdict else []),
            *self._advice(stall),
        ]

    def _news(self, stall: Event, utc_offset_s: int) -> list[str]:
        """The sentences for a begin or an update."""
        printed = self._printed.get(stall.id or "")
        if printed is None and not self._is_explained(stall):
            return []
        _put(self._printed, stall.id or "", stall.verdict or "")
        verdict = Verdict.of(stall.verdict)
        if printed == (stall.verdict or ""):
            grows = verdict is not None and verdict.subject is Subject.REPLY
            return [*([what_happened(stall, utc_offset_s)] if grows else []), when_it_ends(stall, utc_offset_s)]
        meaning = what_it_means(stall)
        if printed is None and stall.retransmits == 1 and verdict is not None and verdict.is_provisional:
            meaning = f"If this stays unanswered, it is {meaning[:1].lower()}{meaning[1:]}"
        return [
            *(["It was not answered after all, and the stall goes on."] if stall.revoked else []),
            what_happened(stall, utc_offset_s),
            meaning,
            when_it_ends(stall, utc_offset_s),
            *self._advice(stall),
        ]

    def _is_explained(self, stall: Event) -> bool:
        """Whether a stall without any sentence so far gets some."""
        verdict = Verdict.of(stall.verdict)
        if verdict is not None and verdict.is_quiet:
            return False
        key = (service_of(stall), stall.phase or "")
        second = stall.ktime_ns // _SECOND_NS
        last, count = self._explained.get(key, (second, 0))
        count = count + 1 if last == second else 1
        _put(self._explained, key, (second, count))
        return count <= MAX_EXPLAINED

    def _advice(self, stall: Event) -> list[str]:
        """The advice, unless this process got it for this service before.

        If the line that ends this connection is all that is new, it is printed alone, because no other line refers to
        it. Otherwise all lines are printed, because they refer to each other.
        """
        if not stall.advice:
            return []
        key = (service_of(stall), stall.verdict or "", stall.pid)
        lines = [safe(line) for line in stall.advice]
        before = self._advised.get(key, ())
        _put(self._advised, key, tuple(lines))
        news = [line for line in lines if line not in before]
        return [f"→ {line}" for line in (news if all(_ENDS_IT in line for line in news) else lines)]


def _put(memory: OrderedDict[_K, _V], key: _K, value: _V) -> None:
    memory[key] = value
    memory.move_to_end(key)
    if len(memory) > MAX_REMEMBERED:
        memory.popitem(last=False)


def wrapped(sentence: str, width: int) -> list[str]:
    """Lines of at most that width. A command at the end of advice has a line of its own, so that it is copied whole.

    Other sentences contain names, which may look like a command.
    """
    if not sentence:
        return []
    text, colon, command = sentence.rpartition(": ")
    hanging = _INDENT + "  " if sentence.startswith("→") else _INDENT
    if not (colon and command.startswith(COMMANDS) and sentence.startswith("→")):
        text, command = sentence, ""
    else:
        text += ":"
    lines = textwrap.wrap(
        text, width, initial_indent=_INDENT, subsequent_indent=hanging, break_long_words=False, break_on_hyphens=False
    )
    return [*lines, f"{hanging}    {command}"] if command else lines
