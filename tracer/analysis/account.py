"""An episode as an event: what is told of it, and when there is something new to tell."""

from __future__ import annotations

from tracer.analysis.advice import Case, advice
from tracer.analysis.episode import Episode
from tracer.analysis.idle import Bracket
from tracer.analysis.timeouts import GiveUp
from tracer.events import LARGEST, LATEST_NS, Event, format_time

MS = 1_000_000
MOVED_NS = 1_000_000_000
"""A give-up time that moved by more than this is told again."""

_OWNER = ("pid", "comm", "pids", "cgroup")
_CARRIED = (
    "family", "laddr", "lport", "raddr", "rport", "netns", "sock", "state", "silent_ms", "unacked_bytes",
    "unsent_bytes", "rto_ms", "srtt_ms", "snd_wnd", "keepalive", "keepalive_idle_s", "keepalive_idle_own",
    "keepalive_interval_s", "keepalive_probes", "user_timeout_ms", "orphan", "soft_error",
)  # fmt: skip


def account(stall: Episode, phase: str, now_ns: int, *, hz: int, bracket: Bracket) -> Event:
    """The stall event of an episode as it stands at that time (CLOCK_BOOTTIME), and what to do about it."""
    facts = stall.facts
    over = phase == "end" and stall.seen.outcome != "ongoing"
    report = Event(
        # The clocks and counts of a damaged recording may be anywhere.
        time_ns=min(max(0, facts.time_ns + (now_ns - facts.ktime_ns) // 1000 * 1000), LATEST_NS),
        ktime_ns=now_ns,
        event="stall",
        phase=phase,
        id=stall.id,
        idle_ms=stall.seen.idle_ms,
        verdict=stall.verdict,
        retransmits=min(stall.seen.retransmits, LARGEST),
        one_way=stall.seen.one_way or None,
    )
    for name in _CARRIED:
        setattr(report, name, getattr(facts, name))
    for name in _OWNER:
        setattr(report, name, getattr(stall.owner, name))
    if stall.give_up is not None:
        until_ms = max(0, (stall.give_up.earliest_ns - now_ns) // MS)
        report.gives_up_in_ms = until_ms
        report.gives_up_at = format_time(min(report.time_ns + until_ms * MS, LATEST_NS))
        report.gives_up_window_ms = (stall.give_up.latest_ns - stall.give_up.earliest_ns) // MS or None
    report.advice = advice(
        Case(
            verdict=stall.verdict,
            event=report,
            idle_ms=stall.seen.idle_ms,
            over=over,
            hz=hz,
            bracket=bracket,
            refused_reset=stall.refused_reset,
            survived_as_much=stall.survived_as_much,
        )
    )
    return report


def is_news(now: GiveUp | None, told: GiveUp | None) -> bool:
    """Whether another time is to be told: the first exact one, or one that moved by more than a second."""
    if now is None or told is None:
        return now is not None
    was_exact, is_exact = told.earliest_ns == told.latest_ns, now.earliest_ns == now.latest_ns
    if is_exact != was_exact:
        return is_exact
    return abs(now.earliest_ns - told.earliest_ns) > MOVED_NS and is_exact
