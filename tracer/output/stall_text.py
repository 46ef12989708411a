"""Which sentences of a stall are worth a reader's time: each once, and few where many connections stall at once."""

from __future__ import annotations

import textwrap
from collections import OrderedDict
from typing import TypeVar

from tracer.analysis.idle_timeouts import Service, service_of
from tracer.model.events import Event
from tracer.output.format import safe
from tracer.output.stalls import how_it_ended, what_happened, what_it_means, when_it_ends

BLOCKS = 3
"""So many stalls of one service are told whole within a second; the others have their lines."""
REMEMBERED = 4096
_QUIET = frozenset({"packet-loss", "no-answer"})
"""Verdicts that are worth their line, and no sentences."""
_NO_HARM = frozenset({"recovered", "presumed", "alive"})
"""Outcomes after which there is nothing to change."""
_K = TypeVar("_K")
_V = TypeVar("_V")
_SECOND_NS = 1_000_000_000
_INDENT = "    "
_ENDS_IT = "ss -K "
COMMANDS = ("nsenter ", "ss ", "sysctl ", "ip ", "nft ", "tc ", "sudo ", "psql ", "mariadb ", "redis-cli ")


class Teller:
    """Remembers what was printed already: of each stall its verdict, of each process and service its advice."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._told: OrderedDict[str, str] = OrderedDict()  # verdict as last told, by id
        self._advised: OrderedDict[tuple[Service | None, str, int | None], tuple[str, ...]] = OrderedDict()
        self._blocks: OrderedDict[tuple[Service | None, str], tuple[int, int]] = OrderedDict()

    def lines(self, stall: Event, utc_offset_s: int) -> list[str]:
        """What stands below the stall's own line, wrapped and indented."""
        sentences = self._sentences(stall, utc_offset_s)
        return [line for sentence in sentences for line in wrapped(sentence, self._width)]

    def _sentences(self, stall: Event, utc_offset_s: int) -> list[str]:
        key = stall.id or ""
        verdict = stall.verdict or ""
        if stall.phase == "end":
            told = self._told.pop(key, None)
            if told is None and (verdict in _QUIET or not self._has_room(stall)):
                return []
            sentences = [how_it_ended(stall)]
            if stall.outcome in _NO_HARM:
                return sentences if told == verdict else [*sentences, *self._meaning_of_end(stall)]
            if told is None:
                sentences.insert(0, what_happened(stall, utc_offset_s))
            if told != verdict:
                sentences.append(what_it_means(stall))
            return [*sentences, *self._advice(stall)]
        told = self._told.get(key)
        if told is None and (verdict in _QUIET or not self._has_room(stall)):
            return []
        _put(self._told, key, verdict)
        if told == verdict:
            news = [what_happened(stall, utc_offset_s)] if verdict == "unanswered" else []
            return [*news, when_it_ends(stall, utc_offset_s)]
        meaning = what_it_means(stall)
        if told is None and (stall.retransmits or 0) == 1 and stall.verdict == "idle-drop":
            meaning = f"If this stays unanswered, it is {meaning[:1].lower()}{meaning[1:]}"
        took_back = ["It was not answered after all."] if stall.revoked else []
        happened = what_happened(stall, utc_offset_s)
        return [*took_back, happened, meaning, when_it_ends(stall, utc_offset_s), *self._advice(stall)]

    def _meaning_of_end(self, stall: Event) -> list[str]:
        return [] if stall.outcome == "presumed" else [what_it_means(stall)]

    def _has_room(self, stall: Event) -> bool:
        key = (service_of(stall), stall.phase or "")
        second = stall.ktime_ns // _SECOND_NS
        last, count = self._blocks.get(key, (second, 0))
        count = count + 1 if last == second else 1
        _put(self._blocks, key, (second, count))
        return count <= BLOCKS

    def _advice(self, stall: Event) -> list[str]:
        """The advice, unless this process got it for this service before.

        Then only the line that ends this very connection: no other line refers to it. Of anything else that is new,
        all lines are printed, because they refer to each other.
        """
        if not stall.advice:
            return []
        key = (service_of(stall), stall.verdict or "", stall.pid)
        fresh = [safe(line) for line in stall.advice]
        last = self._advised.get(key, ())
        _put(self._advised, key, tuple(fresh))
        news = [line for line in fresh if line not in last]
        shown = news if all(_ENDS_IT in line for line in news) else fresh
        return [f"→ {line}" for line in shown]


def _put(memory: OrderedDict[_K, _V], key: _K, value: _V) -> None:
    memory[key] = value
    memory.move_to_end(key)
    if len(memory) > REMEMBERED:
        memory.popitem(last=False)


def wrapped(sentence: str, width: int) -> list[str]:
    """Lines of at most that width, but for a command at the end of advice, which is to be copied whole.

    Other sentences have names in them, which may look like a command.
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
