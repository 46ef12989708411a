"""What acting commands did while the recording was made, as a section of the report."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tracer.analysis.idle_timeouts import service_of
from tracer.model.actions import Answer, Result
from tracer.model.dataclass import dataclass
from tracer.model.events import Event
from tracer.output.format import endpoint, local_time, plural, program, safe
from tracer.output.report_blocks import Inline, Paragraph, Section, name_of

HEADING = "Actions"
MAX_GROUPS = 64
"""Groups of similar actions that are listed. Of more, only the number is."""
MAX_TEXT = 64
"""Characters of each name that is kept."""
_VERBS = {
    ("end", Result.ENDED.value): ("tcpwatch end ended", ""),
    ("protect", "changed"): ("tcpwatch protect changed", ""),
    ("probe", Answer.ALIVE.value): ("tcpwatch probe asked", ", answered"),
    ("probe", Answer.NO_ANSWER.value): ("tcpwatch probe asked", ", without an answer"),
    ("probe", Answer.RESET.value): ("tcpwatch probe asked", ", answered by a reset"),
}


_KNOWN = frozenset(action for action, _ in _VERBS)
"""Commands of tcpwatch. Another word may be any text of a recording, and is not shown as a command."""


class ActionKey(NamedTuple):
    """What similar actions have in common. service: empty where it is not known. by_user: likewise."""

    host: str
    action: str
    result: str
    program: str
    service: str
    by_user: str


@dataclass(slots=True)
class ActionGroup:
    """The number of similar actions, and when the first and the last of them were, wall-clock nanoseconds."""

    count: int
    first_ns: int
    last_ns: int


class ReportActions:
    """Counts actions by host, command, result, program, service and user, in bounded memory.

    left_out: actions of further groups.
    """

    def __init__(self) -> None:
        self.groups: dict[ActionKey, ActionGroup] = {}
        self.left_out = 0

    def take(self, event: Event, host: str) -> None:
        """Count an `action` event."""
        service = service_of(event)
        where = "" if service is None else endpoint(service.host or None, service.port)
        if service is not None and service.is_local:
            where = f"port {service.port}"
        name = program(event)
        texts = (host, event.action or "?", event.result or "?", name, where, event.by_user or "")
        self.add(ActionKey(*texts), ActionGroup(1, event.time_ns, event.time_ns))

    def add(self, key: ActionKey, more: ActionGroup) -> None:
        """Count actions with this key. Escapes and shortens its texts."""
        key = ActionKey(*(safe(text)[:MAX_TEXT] for text in key))
        group = self.groups.get(key)
        if group is not None:
            group.count += more.count
            group.first_ns, group.last_ns = min(group.first_ns, more.first_ns), max(group.last_ns, more.last_ns)
        elif len(self.groups) < MAX_GROUPS:
            self.groups[key] = ActionGroup(more.count, more.first_ns, more.last_ns)
        else:
            self.left_out += more.count

    def merge(self, other: ReportActions) -> None:
        """Include the actions of another report."""
        for key, group in other.groups.items():
            self.add(key, group)
        self.left_out += other.left_out

    def sentences(self, utc_offset_s: int, *, has_hosts: bool, has_day: bool) -> list[tuple[Inline, int]]:
        """A sentence for each group, in the order of time, and the number of its actions."""
        groups = sorted(self.groups.items(), key=lambda item: item[1].first_ns)
        return [
            (_sentence(key, group, utc_offset_s, has_hosts=has_hosts, has_day=has_day), group.count)
            for key, group in groups
        ]

    def section(self, utc_offset_s: int, *, has_hosts: bool, has_day: bool) -> Section | None:
        """The sentences; None where nothing was done."""
        if not self.groups:
            return None
        listed = self.sentences(utc_offset_s, has_hosts=has_hosts, has_day=has_day)
        blocks = [Paragraph(sentence) for sentence, _ in listed]
        if self.left_out:
            blocks.append(Paragraph(not_listed(self.left_out)))
        return Section(HEADING, blocks)


def not_listed(count: int) -> str:
    """The sentence about actions without one of their own."""
    return f"Not listed: {plural(count, 'other action')}."


def _sentence(key: ActionKey, group: ActionGroup, utc_offset_s: int, *, has_hosts: bool, has_day: bool) -> Inline:
    """`14:05:43: tcpwatch end ended 60 connections of gunicorn → 10.77.2.3:5432, by alice`."""
    host, action, result, name, where, user = key
    verb, rest = _VERBS.get((action, result), (f"tcpwatch {action}:", f": {result}"))
    pieces: list[str] = list(_times(group, utc_offset_s, has_day=has_day))
    if has_hosts:
        pieces += [" on ", name_of(host)]
    if action in _KNOWN:
        pieces += [": ", verb]
    else:
        pieces += [": an action that this tcpwatch does not know (", name_of(action), ")"]
    pieces.append(f" {plural(group.count, 'connection')}")
    pieces += [" of ", name_of(name)]
    if where:
        pieces += [" → ", name_of(where)]
    pieces.append(rest)
    if user:
        pieces += [", by ", name_of(user)]
    return tuple(pieces)


def _times(group: ActionGroup, utc_offset_s: int, *, has_day: bool) -> Iterator[str]:
    instants = (local_time(max(0, ns), utc_offset_s) for ns in (group.first_ns, group.last_ns))
    first, last = (f"{date[5:]} {clock[:8]}" if has_day else clock[:8] for date, clock in instants)
    yield first if first == last else f"{first} to {last}"
