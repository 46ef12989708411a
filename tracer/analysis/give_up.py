"""The time at which the kernel gives up, from the expiries of a timer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tracer.analysis.timer_wheel import time_ns
from tracer.model.dataclass import dataclass
from tracer.model.events import Event

EXACT_MS = 50
"""A window no wider than this counts as exact, because machines are that late now and then."""
MAX_EXPIRIES = 1000
"""A timer that needs more expiries than this gets a window instead of an exact time."""
CONGESTED_MS = 500
"""TCP_RESOURCE_PROBE_INTERVAL (include/net/tcp.h): the next attempt after local congestion."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """When the kernel gives up, CLOCK_BOOTTIME nanoseconds: not before `earliest_ns`, not after `latest_ns`.

    Both are equal where the time is exact, which is to EXACT_MS on a machine that is not late itself.
    """

    earliest_ns: int
    latest_ns: int

    @property
    def is_exact(self) -> bool:
        """Whether the window has no width."""
        return self.earliest_ns == self.latest_ns


def when_over(expiries: Iterable[tuple[int, bool, bool]]) -> tuple[int, int] | None:
    """The first expiry at which the kernel may give up, and the one at which it must; None if there is none.

    expiries: (jiffy, whether the kernel may give up then, whether it must), in order.
    """
    first = None
    for expiry, may, must in expiries:
        if may and first is None:
            first = expiry
        if first is not None and must:
            return first, expiry
    return None


def give_up_at(event: Event, hz: int, candidates: Sequence[tuple[int, int]]) -> GiveUp:
    """The window over all candidates, each the jiffies at which the kernel may and must give up."""
    earliest = min(may for may, _ in candidates)
    latest = max(must for _, must in candidates)
    if (latest - earliest) * 1000 <= EXACT_MS * hz:
        latest = earliest
    return GiveUp(time_ns(event, hz, earliest), time_ns(event, hz, latest))
