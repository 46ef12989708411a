"""What `tcpwatch protect` did, as text and as JSON lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from tracer.model.durations import setting
from tracer.model.protection import Outcome, Result, Settings
from tracer.output.actions import MAX_SINGLE, action_as_json, connection, fitting, service
from tracer.output.format import plural, process, safe
from tracer.output.sockets_words import keepalive_times

_RESULT_WIDTH = max(len(result.value) for result in Result)


def as_text(outcomes: Sequence[Outcome], width: float) -> Iterator[str]:
    """A line for each connection, or for each group of similar ones where they are many. width: in columns."""
    if len(outcomes) <= MAX_SINGLE:
        for outcome in outcomes:
            yield from _lines(outcome, connection(outcome.socket), width)
        return
    groups: dict[tuple[str, str, str, str], list[Outcome]] = {}
    for outcome in outcomes:
        socket = outcome.socket
        key = outcome.result.value, process(socket), service(socket), _what(outcome)
        groups.setdefault(key, []).append(outcome)
    for (_, name, place, _), similar in sorted(groups.items(), key=lambda item: -len(item[1])):
        who = connection(similar[0].socket) if len(similar) == 1 else f"{len(similar):,} × {name} {place}"
        yield from _lines(similar[0], who, width)


def _lines(outcome: Outcome, who: str, width: float) -> Iterator[str]:
    for line in fitting(f"{outcome.result.value:<{_RESULT_WIDTH}}  {who}", _what(outcome), width):
        yield f"{line}\n"


def _what(outcome: Outcome) -> str:
    """`keepalive off → 60s+9x60s`, the settings that stay, or why it could not be reached."""
    if outcome.before is None or outcome.after is None:
        return safe(outcome.detail)
    words = _changes(outcome.before, outcome.after) or [_keepalive(outcome.before), *_timeout(outcome.before)]
    return ", ".join(words) + (f" ({safe(outcome.detail)})" if outcome.detail else "")


def _changes(before: Settings, after: Settings) -> list[str]:
    words = []
    if (old := _keepalive(before)) != (new := _keepalive(after)):
        words.append(f"{old} → {new.removeprefix('keepalive ')}")
    if before.user_timeout_ms != after.user_timeout_ms:
        old = _time(before.user_timeout_ms) if before.user_timeout_ms else "none"
        words.append(f"user timeout {old} → {_time(after.user_timeout_ms)}")
    return words


def _keepalive(settings: Settings) -> str:
    """`keepalive 2h+9x75s`, as `tcpwatch sockets` has it."""
    if not settings.keepalive:
        return "keepalive off"
    times = keepalive_times(settings.keepalive_idle_s, settings.keepalive_probes, settings.keepalive_interval_s)
    return f"keepalive {times}"


def _timeout(settings: Settings) -> list[str]:
    return [f"user timeout {_time(settings.user_timeout_ms)}"] if settings.user_timeout_ms else []


def _time(milliseconds: int) -> str:
    """A user timeout exactly: `30s`, `1500ms`."""
    return f"{milliseconds}ms" if milliseconds % 1000 else setting(milliseconds // 1000)


def as_json(outcome: Outcome) -> str:
    """A line: the fields of the socket, `action`, `result`, `before`, `after`, and `detail` where there is one."""
    before, after = (None if each is None else each.to_json() for each in (outcome.before, outcome.after))
    return action_as_json(outcome.socket, "protect", outcome.result.value, outcome.detail, before=before, after=after)


def summary(counts: Counter[Result]) -> str:
    """The numbers, for stderr: `changed 3 connections, 1 unchanged`."""
    if counts[Result.WOULD_CHANGE]:
        parts = [f"would change {plural(counts[Result.WOULD_CHANGE], 'connection')}"]
    else:
        parts = [f"changed {plural(counts[Result.CHANGED], 'connection')}"]
    if counts[Result.UNCHANGED]:
        parts.append(f"{counts[Result.UNCHANGED]:,} had settings as short already")
    if counts[Result.UNREACHABLE]:
        parts.append(f"{counts[Result.UNREACHABLE]:,} could not be reached")
    return ", ".join(parts) + ("; nothing was done" if counts[Result.WOULD_CHANGE] else "")
