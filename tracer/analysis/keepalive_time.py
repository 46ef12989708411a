"""The keepalive time to advise, from the silences that were survived and those that were fatal."""

from __future__ import annotations

from tracer.analysis.idle_timeouts import IdleTimeoutRange
from tracer.analysis.timer_wheel import lateness
from tracer.model.durations import setting

# Seconds that a person would choose.
_ROUND_S = (1, 2, 3, 5, 10, 20, 30, 60, 90, 120, 180, 240, 300, 600, 900, 1200, 1500, 1800, 2700, 3600, 7200)
DEFAULT_KEEPALIVE_S = 60
"""The keepalive time to advise where no survived silence proves that a longer one is enough.

Below the shortest idle timeout in middleboxes.KNOWN, with room for one more probe after a lost one.
"""
MAX_DEFAULT_S = 90
"""A setting up to this is short enough for the same reason, and needs no change."""


def keepalive_for(idle_timeout: IdleTimeoutRange, fatal_ms: int | None, hz: int) -> int | None:
    """The keepalive time to advise, whole seconds. Its probe comes in time even if the timer is late.

    The larger of two: the longest time with a probe within the longest survived silence, and the longest up to
    DEFAULT_KEEPALIVE_S with a probe before half of the shortest fatal silence. The fatal silence is fatal_ms or
    the range's, whichever is shorter. None if no silence was fatal, or if no whole second is left.
    """
    known = narrowed(idle_timeout, fatal_ms)
    fitting = [
        each
        for each in _ROUND_S
        if is_proven(each, known, hz) or (each <= DEFAULT_KEEPALIVE_S and is_cautious(each, known, hz))
    ]
    return fitting[-1] if fitting else None


def why_default() -> str:
    """Why DEFAULT_KEEPALIVE_S is short enough for an idle timeout that is not known."""
    return (
        f"{setting(DEFAULT_KEEPALIVE_S)} is below the default idle timeout of every firewall, NAT and load balancer "
        "that tcpwatch knows."
    )


def narrowed(idle_timeout: IdleTimeoutRange, fatal_ms: int | None) -> IdleTimeoutRange:
    """The range with another fatal silence, and without a survived one that contradicts it."""
    known = [each for each in (idle_timeout.fatal_ms, fatal_ms) if each is not None]
    both = IdleTimeoutRange(idle_timeout.survived_ms, min(known, default=None))
    return IdleTimeoutRange(None, both.fatal_ms) if both.contradicts else both


def is_proven(seconds: int, known: IdleTimeoutRange, hz: int) -> bool:
    """Whether a probe after that time, at its latest, comes within a silence that was survived."""
    if known.survived_ms is None or known.fatal_ms is None:
        return False
    return _latest_ms(seconds, hz) <= known.survived_ms


def is_cautious(seconds: int, known: IdleTimeoutRange, hz: int) -> bool:
    """Whether a probe after that time comes before half of the fatal silence, and in time for any known middlebox."""
    if known.fatal_ms is None or seconds > MAX_DEFAULT_S:
        return False
    return _latest_ms(seconds, hz) <= known.fatal_ms / 2


def _latest_ms(seconds: int, hz: int) -> float:
    """The longest silence, milliseconds, after which a probe that is due after `seconds` goes out."""
    return (seconds + lateness(seconds, hz)) * 1000
