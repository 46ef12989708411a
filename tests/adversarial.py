"""Recordings that were made to fill the memory of what reads them: of each thing that a file may have any number of.

FAMILIES has the lines of each by name. All are well formed: whatever is not is in test_damage.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from builders import SECOND, START
from recording_files import HEADER

from tracer.model.times import format_time
from tracer.recordings.header import Header

LONG = "\N{GRINNING FACE}"
"""Takes four bytes in memory, and twelve in a line."""
WHOLE = replace(HEADER, filters={})
ONLY_STALLS = replace(HEADER, filters={"events": ["stall", "resume", "lost"]})
_ENDS: dict[str, Any] = {"phase": "end", "verdict": "idle-drop", "outcome": "timed-out", "idle_ms": 70_000}


def _record(kind: str, number: int, /, **fields: Any) -> dict[str, Any]:
    """An event of a connection of its own, a millisecond after the one before."""
    time_ns = START + number * 1_000_000
    return {
        "time": format_time(time_ns), "ktime_ns": SECOND + number * 1_000_000, "event": kind,
        "family": 4, "laddr": "10.66.1.2", "lport": 33356, "raddr": "10.66.2.2", "rport": 3306,
        "netns": 4026532000, "sock": f"{number:016x}", "state": "ESTABLISHED", **fields,
    }  # fmt: skip


def line(event: str, number: int, /, **fields: Any) -> bytes:
    """The same as a line."""
    return json.dumps(_record(event, number, **fields), separators=(",", ":")).encode() + b"\n"


def _numbered(text: str, number: int, length: int = 0) -> str:
    return f"{text * max(1, length - 6)}{number:x}"


def _of(events: int, event: str, header: Header = WHOLE, /, **fields: Callable[[int], Any]) -> Iterator[bytes]:
    yield header.to_line().encode()
    for number in range(events):
        yield line(event, number, **{name: value(number) for name, value in fields.items()})


def _stalls(count: int, **fields: Callable[[int], Any]) -> Iterator[bytes]:
    ends = {name: lambda _, value=value: value for name, value in _ENDS.items()}
    identified = {"id": lambda number: f"{number:x}", "duration_ms": lambda number: number}
    return _of(count, "stall", ONLY_STALLS, **{**ends, **identified, **fields})


def _opened(count: int, **fields: Callable[[int], Any]) -> Iterator[bytes]:
    """Connections that stall and never end."""
    signs: dict[str, Callable[[int], Any]] = {
        "kind": lambda _: "rto", "attempt": lambda _: 3, "rto_ms": lambda _: 30_000, "silent_ms": lambda _: 70_000,
        "unacked_bytes": lambda _: 9, "rto_max_ms": lambda _: 120_000, "retries": lambda _: 15,
        "retrying_ms": lambda _: 1400, "jiffies": lambda number: number, "backoff": lambda _: 3,
    }  # fmt: skip
    return _of(count, "retransmit", **{**signs, **fields})


def _headers(count: int, **changes: Callable[[int], Any]) -> Iterator[bytes]:
    for number in range(count):
        header = replace(WHOLE, **{name: value(number) for name, value in changes.items()})
        yield header.to_line().encode()
        yield line("retransmit", number, kind="rto", attempt=1, silent_ms=70_000)


def _forgotten(count: int) -> Iterator[bytes]:
    """Connections whose stall ends without evidence because time goes on."""
    yield WHOLE.to_line().encode()
    for number in range(count):
        yield line(
            "retransmit", number * 20_000, kind="rto", attempt=1, rto_ms=200, silent_ms=70_000, unacked_bytes=9
        )


def _fields(count: int) -> Iterator[bytes]:
    """No two with the same fields."""
    names = [
        "silent_ms", "rto_ms", "unacked_bytes", "unsent_bytes", "snd_wnd", "jiffies", "rto_max_ms", "retrying_ms",
        "retries", "probes_out", "stuck_ms", "asked_ms", "timer_ms", "attempt", "segments", "backoff", "errno",
    ]  # fmt: skip
    yield WHOLE.to_line().encode()
    for number in range(count):
        # In another order than ours: such a line is read as JSON.
        fields = {name: 1 for bit, name in enumerate(reversed(names)) if number >> bit & 1}
        yield line("state", number, **fields)


def _advised(count: int) -> Iterator[bytes]:
    advice = [f"{number:04} {'x' * 4000}" for number in range(100)]
    return _stalls(count, advice=lambda _: advice)


def _hosts_of_services(count: int) -> Iterator[bytes]:
    """A thousand hosts with stalls of a thousand services each, as far as count goes."""
    for number in range(count):
        if number % 1000 == 0:
            yield replace(ONLY_STALLS, host=f"host-{number // 1000}").to_line().encode()
        yield line(
            "stall", number, **{**_ENDS, "id": f"{number:x}", "raddr": f"10.9.{number % 1000 >> 8}.{number % 256}"}
        )


def _owners(count: int) -> Iterator[bytes]:
    """Each service has stalls of sixteen owners."""
    return _stalls(
        count,
        raddr=lambda number: f"10.{number >> 20}.{number >> 12 & 255}.{number >> 4 & 255}",
        comm=lambda number: f"worker-{number % 16}",
        pid=lambda number: number + 1,
        pids=lambda number: [number + 1],
        keepalive=lambda _: False,
    )


def _lists(count: int, length: int) -> Iterator[bytes]:
    return _opened(count, pids=lambda number: list(range(number + 300, number + 300 + length)))


FAMILIES: dict[str, Callable[[], Iterator[bytes]]] = {
    "hooks": lambda: _of(30_000, "lost", count=lambda _: 1, hook=lambda number: _numbered("hook", number)),
    "long hooks": lambda: _of(20_000, "lost", count=lambda _: 1, hook=lambda number: _numbered(LONG, number, 100)),
    "verdicts": lambda: _stalls(30_000, verdict=lambda number: _numbered("v", number)),
    "outcomes": lambda: _stalls(30_000, outcome=lambda number: _numbered("o", number)),
    "network namespaces": lambda: _of(30_000, "retransmit", netns=lambda number: number, kind=lambda _: "rto"),
    "counted namespaces": lambda: _of(
        30_000, "counters", netns=lambda number: number, late=lambda _: True, retrans_segs=lambda _: 1
    ),
    "hosts": lambda: _headers(20_000, host=lambda number: _numbered(LONG, number, 100)),
    "runs": lambda: _headers(20_000, run=lambda number: _numbered(LONG, number, 100)),
    "filters": lambda: _headers(40, filters=lambda number: {"ports": list(range(100_000)), "x": [[]] * 10_000}),
    "sysctls": lambda: _headers(40, sysctls=lambda number: {f"net.{key}": number for key in range(30_000)}),
    "services": lambda: _stalls(30_000, raddr=lambda number: _numbered("a", number, 40)),
    "hosts of services": lambda: _hosts_of_services(80_000),
    "owners": lambda: _owners(30_000),
    "sockets": lambda: _of(140_000, "state", new_state=lambda _: "CLOSE"),
    "long sockets": lambda: _of(25_000, "state", sock=lambda number: _numbered(LONG, number, 64)),
    "open stalls": lambda: _opened(25_000),
    "open stalls of long names": lambda: _opened(
        6_000,
        comm=lambda number: _numbered(LONG, number, 60),
        exe=lambda number: _numbered(LONG, number, 250),
        cgroup=lambda number: _numbered(LONG, number, 2000),
    ),
    "stalls that end without evidence": lambda: _forgotten(12_000),
    "ids without evidence": lambda: _stalls(
        60_000, outcome=lambda _: "presumed", id=lambda number: _numbered(LONG, number, 60)
    ),
    "begun stalls": lambda: _stalls(30_000, phase=lambda _: "begin", id=lambda number: _numbered(LONG, number, 60)),
    "advice": lambda: _advised(200),
    "some processes": lambda: _lists(5_000, 1000),
    "many processes": lambda: _lists(60, 100_000),
    "processes of other sockets": lambda: _of(
        5_000, "state", pids=lambda number: list(range(number + 300, number + 1300))
    ),
    "names": lambda: _of(
        20_000, "state", comm=lambda number: _numbered("c", number, 60),
        cgroup=lambda number: _numbered("g", number, 3000)
    ),
    "addresses": lambda: _of(25_000, "state", laddr=lambda number: _numbered(LONG, number, 60)),
    "silent sockets": lambda: _of(
        30_000, "found", kind=lambda _: "idle", raddr=lambda number: f"a{number % 500}", silent_ms=lambda _: 70_000,
        cgroup=lambda number: _numbered("g", number, 300),
    ),
    "survivors": lambda: _of(
        80_000, "resume", raddr=lambda number: _numbered("a", number, 40), cause=lambda _: "keepalive",
        silent_ms=lambda _: 70_000, stuck_ms=lambda _: 0,
    ),
    "refused resets": lambda: _of(
        30_000, "reset", direction=lambda _: "refused", sock=lambda number: _numbered(LONG, number, 60)
    ),
    "unknown kinds": lambda: _of(30_000, "x", event=lambda number: _numbered(LONG, number, 60)),
    "fields": lambda: _fields(20_000),
    "errors": lambda: _of(
        40_000, "error", error=lambda number: _numbered("E", number, 40), errno=lambda number: number
    ),
}  # fmt: skip
"""What there is a lot of → the lines of a recording."""
