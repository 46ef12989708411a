"""The advice of every verdict, for combinations of what it depends on."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import cache
from typing import Any

from builders import event

from tracer.analysis.advice.commands import split
from tracer.analysis.advice.context import AdviceContext
from tracer.analysis.idle_timeouts import IdleTimeoutRange
from tracer.analysis.verdicts import Verdict

OWN, OTHER = 4026531840, 4026532000
ADDRESSES: tuple[dict[str, Any], ...] = (
    {"family": 4},
    {"family": 6, "laddr": "2001:db8:1::2", "raddr": "2001:db8:2::2"},
    {"family": 6, "laddr": "::ffff:10.66.1.2", "raddr": "::ffff:10.66.2.2"},
    {"family": 6, "laddr": "fe80::1", "raddr": "fe80::2"},
)
OWNERS: tuple[dict[str, Any], ...] = (
    {"pids": [4194304], "pid": 4194304},
    {"pids": None},
    {"pids": None, "orphan": True},
)
NAMESPACES: tuple[dict[str, Any], ...] = (
    {"netns": OWN, "own": OWN}, {"netns": OTHER, "own": OWN}, {"netns": OTHER, "own": 0}, {"netns": None, "own": OWN},
)  # fmt: skip
ENDS: tuple[dict[str, Any], ...] = (
    {"comm": "php", "rport": 3306},
    {"comm": "php", "rport": 3306, "mptcp": True},
    {"comm": "python3", "rport": 5432},
    {"comm": "python3", "rport": 5672},
    {"comm": "node", "rport": 6379},
    {"comm": None, "rport": 65535, "lport": 65534},
    {"comm": "mariadbd", "lport": 3306, "rport": 51000},
    {"comm": "postgres", "lport": 5432, "rport": 51000},
    {"comm": "redis-server", "lport": 6379, "rport": 51000},
)
SIGNS: tuple[dict[str, Any], ...] = (
    {"keepalive": True, "keepalive_idle_s": 7200, "keepalive_idle_own": False, "keepalive_interval_s": 75},
    {"keepalive": True, "keepalive_idle_s": 32767, "keepalive_idle_own": True, "keepalive_interval_s": 32767},
    {"keepalive": True, "keepalive_idle_s": 1, "keepalive_idle_own": False, "keepalive_interval_s": 32767},
    {"keepalive": False, "send_error": "EPERM", "probes_out": 2},
    {"keepalive": None, "send_error": "NET_XMIT_DROP", "kind": "synack", "soft_error": "EHOSTUNREACH"},
)
SILENCES = (None, 6_500, 3_720_000)


@cache
def all_advice() -> tuple[tuple[str, ...], ...]:
    """The advice for every combination, each once."""
    return tuple(dict.fromkeys(tuple(lines) for lines in _all_advice()))


def _all_advice() -> Iterator[list[str]]:
    for parts in itertools.product(ADDRESSES, OWNERS, NAMESPACES, ENDS, SIGNS):
        fields: dict[str, Any] = {name: value for part in parts for name, value in part.items()}
        own = fields.pop("own")
        stall = event("stall", **fields)
        for verdict, over, idle_ms in itertools.product(Verdict, (False, True), SILENCES):
            context = AdviceContext(stall, idle_ms, over, 250, IdleTimeoutRange(None, idle_ms), True, False, own)
            yield verdict.advice(context)


@cache
def commands() -> tuple[str, ...]:
    """The commands in all of it, each once."""
    found = (split(line)[1] for lines in all_advice() for line in lines)
    return tuple(dict.fromkeys(command for command in found if command))
