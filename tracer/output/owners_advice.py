"""The advice of a report for the stalls of one service: for every owner, each sentence once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import field
from typing import NamedTuple

from tracer.analysis.advice.commands import split
from tracer.analysis.advice.steps import Step
from tracer.model.dataclass import dataclass
from tracer.model.events import Event
from tracer.output.format import endpoint, plural, quoted

MAX_OWNERS = 16
"""Owners of one service's stalls with one verdict that have advice: those that stalled last."""
MAX_SHOWN_OWNERS = 4
UNKNOWN_HOST = "an unknown host"


class Line(NamedTuple):
    """A line of advice. owner: whom it is for; empty: for all owners."""

    owner: str
    text: str

    def __str__(self) -> str:
        return f"{self.owner}: {self.text}" if self.owner else self.text

    @property
    def step(self) -> Step | None:
        """Its step; None for further advice."""
        return Step.of(self.text)

    def parts(self) -> tuple[str, str]:
        """The text without its step, and the command at its end. Either may be empty."""
        return split(self.step.text_of(self.text) if self.step is not None else self.text)


class _Owner(NamedTuple):
    """Processes of one program in one network namespace of one host. They get the same advice."""

    host: str
    comm: str | None
    netns: int | None


@dataclass(slots=True)
class OwnersAdvice:
    """The advice for the owners of a service's stalls with one verdict."""

    by_owner: OrderedDict[_Owner, tuple[str, list[str]]] = field(default_factory=OrderedDict)  # name, newest lines
    orphans: int = 0
    without_owner: list[str] = field(default_factory=list)  # for an orphan

    def __len__(self) -> int:
        return len(self.by_owner) + bool(self.without_owner)

    def add(self, host: str, stall: Event, lines: list[str]) -> None:
        """Keep what is advised for a stall, instead of what its owner got before."""
        self.orphans += bool(stall.orphan)
        if stall.orphan:
            self.without_owner = lines
            return
        owner = _Owner(host, stall.comm, stall.netns)
        is_known = stall.comm is not None and stall.pid is not None
        name = f"{quoted(stall.comm or '')}[{stall.pid}]" if is_known else quoted(endpoint(stall.laddr, stall.lport))
        self.by_owner[owner] = (name, lines)
        self.by_owner.move_to_end(owner)
        if len(self.by_owner) > MAX_OWNERS:
            self.by_owner.popitem(last=False)

    def lines(self) -> list[Line]:
        """Each line once, with the owner's name where it is not for all. Orphans are counted beside known owners."""
        owners = list(reversed(self.by_owner.values()))[:MAX_SHOWN_OWNERS]
        if not owners:
            return [Line("", text) for text in self.without_owner]
        lines = merged(owners)
        if len(self.by_owner) > len(owners):
            others = plural(len(self.by_owner) - len(owners), "other owner")
            lines.append(Line("", f"{others} had such stalls as well."))
        if self.orphans:
            lines.append(Line("", f"{plural(self.orphans, 'connection')} had no process any more."))
        return lines


def merged(owners: Sequence[tuple[str, list[str]]]) -> list[Line]:
    """The lines of all owners (name, lines) in their order; with the name where one is not for all of them."""
    for_all = set(owners[0][1]).intersection(*(lines for _, lines in owners))
    left = [(name, list(lines)) for name, lines in owners]
    result: list[Line] = []
    for shared in [line for line in owners[0][1] if line in for_all] + [None]:
        for name, lines in left:
            while lines and (shared is None or lines[0] != shared):
                line = lines.pop(0)
                if line not in for_all:
                    result.append(Line(name, line))
            del lines[:1]
        if shared is not None:
            result.append(Line("", shared))
    return result
