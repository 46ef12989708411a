"""Sentences about the range of a service's idle timeout."""

from __future__ import annotations

from tracer.analysis.idle_timeouts import IdleTimeoutRange
from tracer.output.format import duration


def range_in_words(known: IdleTimeoutRange) -> list[str]:
    """Sentences; none where no silence was fatal."""
    if known.fatal_ms is None:
        return []
    fatal = duration(known.fatal_ms)
    if known.survived_ms is None:
        return [
            f"A silence of {fatal} was fatal. No shorter one is known to have been survived, "
            f"so an idle timeout on the path would be {fatal} or less."
        ]
    survived = duration(known.survived_ms)
    if known.contradicts:
        return [
            f"A silence of {fatal} was fatal, and one of {survived} was survived: no single idle timeout explains "
            "both. Look for a failover, a restart or a change of routes."
        ]
    return [f"If the path has an idle timeout, it is between {survived} and {fatal}."]
