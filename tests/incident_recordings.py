"""A recording of a bad night: a pool that a firewall forgot, and beside it one stall of each of several kinds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders import SECOND, event
from recording_files import header, record
from stall_events import LOSS_PROBE_MS, OWNED, close, freeze, heard, probe, rtx, window

from tracer.cli import main, replay
from tracer.model.events import Event
from tracer.output.page import Page

POOL = 1033
"""Connections of the pool."""
POOL_IDLE_MS = 80_000
POOL_OWNER: dict[str, Any] = {"comm": "gunicorn", "exe": "python3.11", "rport": 5432, "raddr": "10.77.2.3"}


def unanswered(start: float, idle_ms: int, **fields: Any) -> list[Event]:
    """Five retransmissions of data that was sent after that silence, which goes on."""
    return [
        replace(each, silent_ms=idle_ms + LOSS_PROBE_MS + (each.ktime_ns - SECOND) // 1_000_000 - round(start * 1000))
        for each in freeze(start=start, **fields)
    ]


def pool(count: int = POOL, at: float = 10, **fields: Any) -> list[Event]:
    """Stalls that begin within five seconds. Each dies after six segments."""
    events: list[Event] = []
    for number in range(count):
        start = at + 5 * number / count
        owner = {**POOL_OWNER, "pid": 23_949 + number % 4, "pids": [23_949 + number % 4], **fields}
        name: dict[str, Any] = {"sock": f"pool{number}", "lport": 33_000 + number, **owner}
        events += unanswered(start, POOL_IDLE_MS, **name) + close(start + 13.4, **name)
    return events


def _connection(number: int, rport: int, **fields: Any) -> dict[str, Any]:
    ends = {"lport": 50_000 + number, "raddr": f"10.77.2.{number}", "rport": rport}
    return {"sock": f"other{number}", **ends, **OWNED, **fields}


def others() -> list[Event]:
    """Lost packets, a peer behind a dead router, failed keepalive; a closed window and lost SYNs at the end."""
    lossy = _connection(4, 3306, family=6, laddr="2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff")
    lossy["raddr"] = "2001:db8::1:2:3:4"
    router = _connection(6, 6379)
    idle = _connection(7, 443)
    reader = _connection(5, 11_300)
    handshake = _connection(9, 80, state="SYN_SENT")
    events = [*unanswered(70, 10, **lossy)[:3], heard(70.9, silent_ms=900, **lossy)]
    events += [
        *unanswered(40, 2_000, soft_error="EHOSTUNREACH", **router),
        *close(53.4, "EHOSTUNREACH", 113, **router),
    ]
    events += [*(probe(60 + 75 * number, attempt=number + 1, **idle) for number in range(4)), *close(300, **idle)]
    events += [replace(window(308 + number / 4, attempt=number + 1), **reader) for number in range(4)]
    return events + [
        rtx(
            "syn",
            301 + 2**number,
            attempt=number,
            silent_ms=None,
            unacked_bytes=0,
            rto_ms=1000 << number,
            **handshake,
        )
        for number in range(1, 4)
    ]


VERDICTS = {"idle-drop": POOL, "zero-window": 1, "unreachable": 1, "keepalive-failed": 1, "packet-loss": 1,
            "handshake": 1}  # fmt: skip


def bad_night(path: Path, host: str = "web-a") -> Path:
    """All of that as a recording."""
    return record(path, [*pool(), *others(), event("state", 310, old_state="ESTABLISHED")], header(host=host))


def shown(capsys: pytest.CaptureFixture[str], *arguments: str | Path, status: int = 0) -> str:
    """What a command prints, in this process."""
    assert main.run([str(argument) for argument in arguments]) == status
    return capsys.readouterr().out


def at_width(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """Lay reports out for that many columns."""
    monkeypatch.setattr(replay, "page", lambda: Page(width))
