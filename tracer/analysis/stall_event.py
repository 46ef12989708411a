"""The event of a stall: what it reports, and when there is something new to report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tracer.analysis.advice.derived import advice_for
from tracer.analysis.give_up import GiveUp
from tracer.analysis.idle_timeouts import IdleTimeoutRange
from tracer.analysis.stall_state import StallState
from tracer.model.events import CARRIED_BY_STALLS, Event, names_of
from tracer.model.fields import MAX_NUMBER
from tracer.model.times import MAX_TIME_NS, format_time

MS = 1_000_000
MOVED_NS = 1_000_000_000
"""A give-up time that moved by more than this is reported again."""

_OWNER = names_of("owner")


def stall_event(
    stall: StallState, phase: str, now_ns: int, *, hz: int, idle_timeout: IdleTimeoutRange, own_netns: int
) -> Event:
    """The event of a stall at that time (CLOCK_BOOTTIME), with advice."""
    last, evidence, verdict = stall.last_event, stall.evidence, stall.verdict
    assert verdict is not None
    is_end = phase == "end"
    # The clocks and counts of a damaged recording may have any value.
    time_ns = min(max(0, last.time_ns + (now_ns - last.ktime_ns) // 1000 * 1000), MAX_TIME_NS)
    known = {
        "time_ns": time_ns,
        "ktime_ns": now_ns,
        "event": "stall",
        **_taken(last, CARRIED_BY_STALLS),
        **_present(probes_out=evidence.significant_probes if evidence.window_closed else None),
        **_taken(last, ("asked_ms", "send_error")),
        **_present(errno=stall.errno, error=stall.error),
        "phase": phase,
        "id": stall.id,
        "since": format_time(min(max(0, time_ns - (now_ns - stall.since_ns) // 1000 * 1000), MAX_TIME_NS)),
        **_present(
            idle_ms=evidence.idle_ms,
            survived_before=True if stall.survived_as_much else None,
            refused_reset=True if stall.refused_reset else None,
        ),
        "verdict": verdict.value,
        "retransmits": min(evidence.retransmits, MAX_NUMBER),
        **_give_up_fields(stall.give_up, time_ns, now_ns),
        **_present(one_way=True if evidence.one_way else None),
        **_present(survived_ms=idle_timeout.survived_ms, fatal_ms=idle_timeout.fatal_ms),
        **_present(revoked=True if stall.revoked and not is_end else None),
        **_present(outcome=evidence.outcome.value if is_end and evidence.outcome is not None else None),
        **({"duration_ms": evidence.duration_ns // MS} if is_end else {}),
        "advice": [],
        **_taken(stall.owner, _OWNER),
    }
    stall.revoked = False
    event = Event.of(known)
    event.advice = advice_for(event, hz=hz, own_netns=own_netns)
    return event


def _taken(event: Event, names: Sequence[str]) -> dict[str, Any]:
    known = event.known()
    return {name: known[name] for name in names if known.get(name) is not None}


def _present(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _give_up_fields(give_up: GiveUp | None, time_ns: int, now_ns: int) -> dict[str, Any]:
    if give_up is None:
        return {}
    until_ms = max(0, (give_up.earliest_ns - now_ns) // MS)
    at = format_time(min(time_ns + until_ms * MS, MAX_TIME_NS))
    window_ms = (give_up.latest_ns - give_up.earliest_ns) // MS
    return {
        "gives_up_at": at,
        "gives_up_in_ms": until_ms,
        **_present(gives_up_window_ms=window_ms if window_ms > 0 else None),
    }


def is_news(now: GiveUp | None, reported: GiveUp | None) -> bool:
    """Whether to report another give-up time: the first exact one, or one that moved by more than MOVED_NS."""
    if now is None or reported is None:
        return now is not None
    if now.is_exact != reported.is_exact:
        return now.is_exact
    return abs(now.earliest_ns - reported.earliest_ns) > MOVED_NS and now.is_exact
