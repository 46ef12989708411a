"""The advice for a stall, derived from its event, its host and what is known about its service.

A recording and the output of `report --json` may hold any text, and advice is there to be typed. So advice is never
taken from a file: every reader derives it here.
"""

from __future__ import annotations

from tracer.analysis.advice.context import AdviceContext
from tracer.analysis.idle_timeouts import IdleTimeoutRange
from tracer.analysis.outcomes import Outcome
from tracer.analysis.verdicts import Verdict
from tracer.model.events import Event


def advice_for(stall: Event, *, hz: int, own_netns: int, idle_timeout: IdleTimeoutRange | None = None) -> list[str]:
    """The lines for a `stall` event; none for a verdict of a later version.

    hz: jiffies per second of its kernel. own_netns: inode of its host's own network namespace; 0: unknown.
    idle_timeout: the range of the idle timeout of its service; None: as it was known when the stall was reported.
    """
    verdict = Verdict.of(stall.verdict)
    if verdict is None:
        return []
    return verdict.advice(
        AdviceContext(
            event=stall,
            idle_ms=stall.idle_ms,
            over=stall.phase == "end" and stall.outcome != Outcome.ONGOING,
            hz=hz,
            idle_timeout=idle_timeout or IdleTimeoutRange(stall.survived_ms, stall.fatal_ms),
            refused_reset=bool(stall.refused_reset),
            survived_as_much=bool(stall.survived_before),
            own_netns=own_netns,
        )
    )
