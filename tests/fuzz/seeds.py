"""Where fuzzing begins: small inputs that go deep, made from the builders."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import Any

from builders import event, mapped, record
from stall_events import close, freeze, heard, reset
from targets import HEADER, OPTIONS

from tracer.model.events import Event
from tracer.model.filters import Filter
from tracer.model.kinds import EVENTS
from tracer.model.validation import to_json
from tracer.recordings.header import describe_filter


def seeds(target: str) -> list[bytes]:
    """Inputs for one of targets.TARGETS, in a fixed order."""
    return list(_SEEDS[target]())


def _stories() -> Iterator[list[Event]]:
    owned: dict[str, Any] = {"pid": 8506, "comm": "php", "pids": [8506, 8507], "cgroup": "/system.slice"}
    yield [*freeze(2, **owned), *close(3, **owned)]
    yield [*freeze(1, silent_ms=210), heard(2, cause="no-progress"), heard(3)]
    yield [event("keepalive", at, attempt=at + 1, jiffies=at * 250, keepalive_probes=3, keepalive_interval_s=1,
                 silent_ms=70_000 + at * 1000) for at in range(3)]  # fmt: skip
    yield [event("window-probe", at, attempt=at + 1, rto_ms=200, snd_wnd=0, unsent_bytes=9) for at in range(4)]
    yield [reset(0, silent_ms=350_000), *close(0, "ECONNRESET", 104)]
    yield [event("lost", count=3, hook="tcp_retransmit_skb", sock=None)]
    yield [event(name, at) for at, name in enumerate(EVENTS)]
    yield [event("stall", phase="end", id="a-1", idle_ms=60_000, verdict="idle-drop", duration_ms=900_000,
                 outcome="timed-out", retransmits=9, advice=["Try: ss -t"], errno=110,
                 error="ETIMEDOUT")]  # fmt: skip
    yield [event(kind="syn", state="SYN_SENT", attempt=2, retries=6, rto_ms=1000, rto_max_ms=120_000, jiffies=5,
                 retrying_ms=1000, syn_linear_timeouts=4, soft_error="EHOSTUNREACH", send_error="ENETUNREACH",
                 srtt_ms=0.04, orphan=True, user_timeout_ms=5000, ca_state="Loss", backoff=1)]  # fmt: skip


def _lines() -> Iterator[bytes]:
    for story in _stories():
        yield b"".join(json.dumps(to_json(each)).encode() + b"\n" for each in story)


def _recordings() -> Iterator[bytes]:
    header = HEADER.to_line().encode()
    stories = list(_lines())
    yield b""
    yield header
    yield header + stories[0]
    yield header + stories[2] + header + stories[3]
    yield header.replace(b'"filters":{}', json.dumps(
        {"filters": describe_filter(Filter(events=frozenset({"stall"})))}
    )[1:-1].encode()) + stories[7]  # fmt: skip
    yield gzip.compress(header + stories[4], mtime=0)


def _records() -> Iterator[bytes]:
    yield b""
    yield record()[:-1]
    yield b"".join(record(type=kind, attempt=2) for kind in range(1, 9))
    yield record() + record(
        ktime_ns=5_300_000_000, pending=0, attempt=1, ca_state=4, jiffies=4_295_018, retrying_ms=0
    )
    yield record(type=2, attempt=2) + record(type=5, error=110, state=7, ktime_ns=6_000_000_000)
    yield record(
        family=6, laddr=mapped("fd66:1::2"), raddr=mapped("fd66:2::2"), type=4, direction=2, flags=9, reason=1
    )
    yield record(type=8, flags=1 | 2 | 128, timer=100, timer_in=1_700_000, since_sent=2053, comm=b"\xff\x1b[2J")
    yield record(
        state=2, retries=6, rto=250, syn_linear=4, flags=1 | 16, soft_error=113, error=101, user_timeout_ms=1
    )


def _choices() -> Iterator[bytes]:
    """Bytes of which stories.py makes something: there is no way back from a recording, so they are plain runs."""
    for step in (1, 7, 13, 37):
        yield bytes(byte * step % 256 for byte in range(120))
    for kind in range(len(EVENTS)):
        yield bytes([0, *[0, 4, kind, 0] * 6])


def _words() -> Iterator[bytes]:
    values = {
        "port": ["3306,http", "65536"],
        "host": ["10.1.2.3/16", "2001:db8::/32", "::ffff:10.1.2.3"],
        "pid": ["8506"],
        "comm": ["php-fpm: pool", "é\u202e"],
        "netns": ["/proc/self/ns/net", "4026531840"],
        "event": ["retransmit,stall"],
        "min-idle": ["1h30m", "2d4h5m6.5s"],
    }
    for option, words in values.items():
        number = bytes([OPTIONS.index(f"--{option}")])
        yield b"\0".join(number + word.encode() for word in [*words, "\x1b[2J,,"])
        yield number + b"\xff\xfe,\x1b[2J,,"


_SEEDS = {"recording": _recordings, "lines": _lines, "fields": _choices, "wire": _records, "words": _words}
