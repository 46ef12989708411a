"""The advice of a report for the stalls of one service: for every owner, each sentence once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from typing import NamedTuple

from tracer.analysis.advice.commands import split
from tracer.analysis.advice.steps import Step
from tracer.model.dataclass import dataclass
from tracer.model.events import Event
from tracer.output.format import endpoint, plural, quoted
from tracer.output.report_rows import StallEnd

MAX_OWNERS = 16
"""Owners of one service's stalls with one verdict that have advice: those that stalled last."""
MAX_SHOWN_OWNERS = 4
UNKNOWN_HOST = "an unknown host"
MAX_NAME = 64
"""Characters of a process name that are kept."""
_NOT_NEEDED = frozenset({"advice", "cgroup", "id", "sock", "since", "gives_up_at", "ca_state"})


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

    by_owner: OrderedDict[_Owner, tuple[str, StallEnd]] = field(default_factory=OrderedDict)  # name, newest stall
    orphans: int = 0
    without_owner: StallEnd | None = None  # the newest stall of an orphan

    def __len__(self) -> int:
        return len(self.by_owner) + (self.without_owner is not None)

    def add(self, end: StallEnd) -> None:
        """Keep a stall, instead of the last one of its owner."""
        stall = end.stall
        self.orphans += bool(stall.orphan)
        end = end._replace(stall=_slim(stall))
        if stall.orphan:
            self.without_owner = end
            return
        owner = _Owner(end.host, _short(stall.comm), stall.netns)
        is_known = stall.comm is not None and stall.pid is not None
        name = f"{quoted(stall.comm or '')}[{stall.pid}]" if is_known else quoted(endpoint(stall.laddr, stall.lport))
        self._keep(owner, (name, end))

    def merge(self, other: OwnersAdvice) -> None:
        """Include later stalls."""
        self.orphans += other.orphans
        self.without_owner = other.without_owner or self.without_owner
        for owner, newest in other.by_owner.items():
            self._keep(owner, newest)

    def _keep(self, owner: _Owner, newest: tuple[str, StallEnd]) -> None:
        self.by_owner[owner] = newest
        self.by_owner.move_to_end(owner)
        if len(self.by_owner) > MAX_OWNERS:
            self.by_owner.popitem(last=False)

    def lines(self, advice_for: Callable[[StallEnd], list[str]], *, has_hosts: bool) -> list[Line]:
        """Each line once, with the owner's name where it is not for all. Orphans are counted beside known owners.

        advice_for: derives the advice for a stall. has_hosts: owners are on several hosts, which their names include.
        """
        newest = list(reversed(self.by_owner.values()))[:MAX_SHOWN_OWNERS]
        if not newest:
            return [] if self.without_owner is None else [Line("", text) for text in advice_for(self.without_owner)]
        hosts = {f"{name} on {quoted(end.host)}": (name, end.host) for name, end in newest}
        owners = [(f"{name} on {quoted(end.host)}" if has_hosts else name, advice_for(end)) for name, end in newest]
        lines = [_without_repetition(line, hosts) for line in merged(owners)]
        if len(self.by_owner) > len(owners):
            others = plural(len(self.by_owner) - len(owners), "other owner")
            lines.append(Line("", f"{others} had such stalls as well."))
        if self.orphans:
            lines.append(Line("", f"{plural(self.orphans, 'connection')} had no process any more."))
        return lines


def _without_repetition(line: Line, hosts: Mapping[str, tuple[str, str]]) -> Line:
    """The line without the host after its owner, where the text names that host already."""
    name, host = hosts.get(line.owner, ("", ""))
    return Line(name, line.text) if name and f"on {host}: " in line.text else line


def _slim(stall: Event) -> Event:
    """The stall without what advice does not depend on, and with short names: a file may have any."""
    known = {name: value for name, value in stall.known().items() if value is not None and name not in _NOT_NEEDED}
    known |= {name: _short(known[name]) for name in ("comm", "exe") if name in known}
    if "pids" in known:
        known["pids"] = known["pids"][:1]
    return Event.of(known)


def _short(name: str | None) -> str | None:
    return None if name is None else name[:MAX_NAME]


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
