"""The range of a service's idle timeout in words."""

from __future__ import annotations

from tracer.analysis.idle_timeouts import IdleTimeoutRange
from tracer.output.format import duration


def range_in_words(bracket: IdleTimeoutRange) -> list[str]:
    """Sentences; none where no silence was fatal."""
    if bracket.fatal_ms is None:
        return []
    fatal = duration(bracket.fatal_ms)
    if bracket.survived_ms is None:
        sentence = (
            f"A silence of {fatal} was fatal. No shorter one is known to have been survived, "
            f"so an idle timeout on the path would be {fatal} or less."
        )
    elif bracket.contradicts:
        survived = duration(bracket.survived_ms)
        return [
            f"A silence of {fatal} was fatal, and one of {survived} was survived: "
            "no single idle timeout explains both. Look for a failover, a restart or a change of routes."
        ]
    else:
        sentence = f"The path forgets after {duration(bracket.survived_ms)} to {fatal} of silence."
    return [sentence]
