"""Bytes → the lines of a recording that are JSON of the right shape, and say anything.

Bytes that are taken as they are hardly ever get past the JSON parser. Here each byte is a choice: the next kind of
event, a field of it, a value. The same bytes give the same lines.
"""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

from tracer.analysis.verdicts import Verdict
from tracer.model.events import CA_STATES, STATES, Event
from tracer.model.kinds import EVENTS
from tracer.model.times import format_time

START = 1_800_000_000 * 1_000_000_000
_TYPES = {field.name: str(field.type).removesuffix(" | None") for field in fields(Event) if field.name != "time_ns"}
_NAMES = [*_TYPES, "format", "new"]
_WORDS = (
    *EVENTS, *Verdict, *STATES.values(), *CA_STATES.values(),
    "tlp", "rto", "fast", "syn", "synack", "fin", "received", "sent", "refused", "data", "window", "no-progress",
    "begin", "update", "end", "recovered", "timed-out", "closed", "ongoing", "ETIMEDOUT", "ECONNRESET",
    "EHOSTUNREACH", "TCP_KEEPALIVE_TIMEOUT", "NOT_SPECIFIED", "tcpwatch", "php", "mysqld", "10.66.2.2", "fd66::1",
    "::ffff:10.1.2.3", "fe80::1%x", "Try it: ss -t", "\x1b[2J", "\x9b2J", "\u202egnp", "\u2028", "\ud800",
    "a\nb\tc\r", "", " ", "\0", "é", "\u115f",
)  # fmt: skip
_NUMBERS = (
    *range(20), 110, 104, 113, 200, 250, 1000, 3306, 33356, 60_000, 65_535, 120_000, 3_600_000, 2**31, 2**32 - 1,
    2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -1, -(2**63), 10**30,
)  # fmt: skip
_STEPS_NS = (0, 1, 4_000_000, 200_000_000, 1_000_000_000, 75_000_000_000, 7_200_000_000_000, 10**18, -1_000_000_000)
_ORDINARY: dict[str, Any] = {
    "family": 4, "laddr": "10.66.1.2", "lport": 33356, "raddr": "10.66.2.2", "rport": 3306, "netns": 4026532000,
    "sock": "aa", "state": "ESTABLISHED", "silent_ms": 70_000, "unacked_bytes": 5, "rto_ms": 204,
    "rto_max_ms": 120_000, "retries": 5, "jiffies": 1000, "kind": "rto", "attempt": 1, "retrying_ms": 0,
    "keepalive": True, "keepalive_idle_s": 7200, "keepalive_interval_s": 75, "keepalive_probes": 9,
    "user_timeout_ms": 0,
}  # fmt: skip


class _Choices:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1] if self._at <= len(self._data) else 0

    def of(self, values: Any) -> Any:
        return values[self.byte() % len(values)]

    def take(self, count: int) -> bytes:
        self._at += count
        return self._data[self._at - count : self._at]

    def number(self) -> int:
        how = self.byte()
        if how < 200:
            return int(_NUMBERS[how % len(_NUMBERS)])
        return int.from_bytes(self.take(how % 8 + 1), "little")

    def word(self) -> str:
        how = self.byte()
        if how < 200:
            return str(_WORDS[how % len(_WORDS)])
        return self.take(how % 16).decode("utf-8", "surrogateescape")

    def value(self, kind: str) -> Any:
        odd = self.byte()
        if odd == 255:
            return self.of((None, True, 1.5, float("nan"), float("inf"), 1e300, [], {}, [[]], "x", 5))
        if kind == "bool":
            return bool(odd % 2)
        if kind == "float":
            return self.of((0.0, 0.04, 12.5, -1.0, 1e300, 7))
        if kind == "list[int]":
            return [self.number() for _ in range(odd % 4)]
        if kind == "list[str]":
            return [self.word() for _ in range(odd % 4)]
        if kind == "dict[str, int]":
            return {self.word(): self.number() for _ in range(odd % 4)}
        return self.number() if kind == "int" else self.word()


def story(data: bytes) -> bytes:
    """The header and the events of a recording."""
    choices = _Choices(data)
    header: dict[str, Any] = {
        "format": "tcpwatch", "version": 1, "host": "db1", "started": "2027-01-15T08:00:00.000000Z",
        "clock_offset_ns": START, "utc_offset_s": 3600, "hz": 250, "filters": {},
    }  # fmt: skip
    lines = [_header(choices, header)]
    ktime_ns = 1_000_000_000
    while choices:
        if choices.byte() == 254:
            lines.append(_header(choices, header))
            continue
        ktime_ns += choices.of(_STEPS_NS)
        record = {**_ORDINARY, "event": choices.of(EVENTS)}
        record["ktime_ns"] = ktime_ns
        for _ in range(choices.byte() % 8):
            name = choices.of(_NAMES)
            record[name] = choices.value(_TYPES.get(name, "str"))
        time_ns = START + ktime_ns
        lines.append(json.dumps({"time": format_time(min(max(time_ns, 0), 2**63)), **record}))
    return "\n".join(lines).encode() + b"\n"


def _header(choices: _Choices, header: dict[str, Any]) -> str:
    changed = dict(header)
    for _ in range(choices.byte() % 3):
        name = choices.of(list(header))
        changed[name] = choices.of(
            (choices.number(), choices.word(), None, {"events": ["stall"]}, {"ports": [3306]}, 0, 1, 250)
        )
    return json.dumps(changed)
