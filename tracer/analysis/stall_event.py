"""An episode as an event: what is told of it, and when there is something new to tell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tracer.analysis.advice import Case, advice
from tracer.analysis.expiry import GiveUp
from tracer.analysis.idle_timeouts import Bracket
from tracer.analysis.stall_state import Episode
from tracer.model.events import Event
from tracer.model.fields import MAX_NUMBER
from tracer.model.times import MAX_TIME_NS, format_time

MS = 1_000_000
MOVED_NS = 1_000_000_000
"""A give-up time that moved by more than this is told again."""

_CARRIED = (
    "family", "laddr", "lport", "raddr", "rport", "netns", "sock", "state", "orphan", "mptcp", "keepalive",
    "keepalive_idle_s", "keepalive_idle_own", "keepalive_interval_s", "keepalive_probes", "user_timeout_ms",
    "unacked_bytes", "unsent_bytes", "silent_ms", "rto_ms", "srtt_ms", "snd_wnd", "soft_error",
)  # fmt: skip
_OWNER = ("pids", "pid", "comm", "exe", "cgroup")


def account(stall: Episode, phase: str, now_ns: int, *, hz: int, bracket: Bracket) -> Event:
    """The stall event of an episode as it stands at that time (CLOCK_BOOTTIME), and what to do about it."""
    facts, seen = stall.facts, stall.seen
    # The clocks and counts of a damaged recording may be anywhere.
    time_ns = min(max(0, facts.time_ns + (now_ns - facts.ktime_ns) // 1000 * 1000), MAX_TIME_NS)
    known = {
        "time_ns": time_ns,
        "ktime_ns": now_ns,
        "event": "stall",
        **_taken(facts, _CARRIED),
        **_present(probes_out=seen.in_vain if seen.window_closed else None),
        **_taken(facts, ("asked_ms", "send_error")),
        **_present(errno=stall.errno, error=stall.error),
        "phase": phase,
        "id": stall.id,
        "since": format_time(min(max(0, time_ns - (now_ns - stall.since_ns) // 1000 * 1000), MAX_TIME_NS)),
        **_present(idle_ms=seen.idle_ms),
        "verdict": stall.verdict,
        "retransmits": min(seen.retransmits, MAX_NUMBER),
        **_end_to_come(stall.give_up, time_ns, now_ns),
        **_present(one_way=seen.one_way or None),
        **({"outcome": seen.outcome} if phase == "end" else _present(revoked=stall.revoked or None)),
        **({"duration_ms": seen.duration_ns // MS} if phase == "end" else {}),
        "advice": [],
        **_taken(stall.owner, _OWNER),
    }
    stall.revoked = False
    report = Event.of(known)
    report.advice = advice(
        Case(
            verdict=stall.verdict,
            event=report,
            idle_ms=seen.idle_ms,
            over=phase == "end" and seen.outcome != "ongoing",
            hz=hz,
            bracket=bracket,
            refused_reset=stall.refused_reset,
            survived_as_much=stall.survived_as_much,
        )
    )
    return report


def _taken(event: Event, names: Sequence[str]) -> dict[str, Any]:
    known = event.known()
    return {name: known[name] for name in names if known.get(name) is not None}


def _present(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _end_to_come(give_up: GiveUp | None, time_ns: int, now_ns: int) -> dict[str, Any]:
    if give_up is None:
        return {}
    until_ms = max(0, (give_up.earliest_ns - now_ns) // MS)
    at = format_time(min(time_ns + until_ms * MS, MAX_TIME_NS))
    window_ms = (give_up.latest_ns - give_up.earliest_ns) // MS or None
    return {"gives_up_at": at, "gives_up_in_ms": until_ms, **_present(gives_up_window_ms=window_ms)}


def is_news(now: GiveUp | None, told: GiveUp | None) -> bool:
    """Whether another time is to be told: the first exact one, or one that moved by more than a second."""
    if now is None or told is None:
        return now is not None
    was_exact, is_exact = told.earliest_ns == told.latest_ns, now.earliest_ns == now.latest_ns
    if is_exact != was_exact:
        return is_exact
    return abs(now.earliest_ns - told.earliest_ns) > MOVED_NS and is_exact
