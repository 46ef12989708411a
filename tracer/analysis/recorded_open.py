"""The stalls of a recording that have begun and not ended, for a recording that lacks the events to find them again.

The end is missing where the recorder was killed, where the file is still being written, and in a part of a series.
"""

from __future__ import annotations

from contextlib import suppress
from itertools import islice
from typing import NamedTuple

from tracer.analysis.outcomes import Outcome
from tracer.model.events import DECLARATIONS, Event, size_of
from tracer.model.fields import MAX_NUMBER
from tracer.model.recent import Recent
from tracer.model.times import MAX_TIME_NS, InvalidTime, parse_time

MAX_OPEN = 8192
MAX_OPEN_BYTES = 6 << 20
MS = 1_000_000
_ABSENT_AT_THE_END = frozenset({"gives_up_at", "gives_up_in_ms", "gives_up_window_ms", "revoked", "advice"})


class _Open(NamedTuple):
    """An open stall. stall: its newest `begin` or `update`. gap: the number of gaps before that."""

    stall: Event
    gap: int


class End(NamedTuple):
    """The end of a stall that was open when its recording ended. is_uncertain: an answer may have been missed."""

    stall: Event
    is_uncertain: bool


class RecordedOpenStalls:
    """Open stalls by id, in bounded memory."""

    def __init__(self) -> None:
        self._open: Recent[str, _Open] = Recent(MAX_OPEN, MAX_OPEN_BYTES, lambda each: size_of(each.stall))
        self._gaps = 0

    def take(self, stall: Event) -> list[End]:
        """Take a `stall` event. Returns the ends of the oldest stalls, for which there is no room."""
        stall_id = stall.id or ""
        if stall.phase == "end":
            self._open.pop(stall_id)
            return []
        removed = self._open.put(stall_id, _Open(stall, self._gaps))
        return [self._ended(oldest, oldest.stall.ktime_ns) for _, oldest in removed]

    def missed(self) -> None:
        """Events are missing here. An answer may have been among them."""
        self._gaps += 1

    def is_uncertain(self, stall: Event) -> bool:
        """Whether events are missing between this one of a stall and the one before it. Ask before `take`."""
        known = self._open.get(stall.id or "")
        return known is not None and known.gap < self._gaps

    def finish(self, until_ns: int, most: int | None) -> list[End]:
        """The ends of the oldest stalls, as `ongoing` at until_ns (CLOCK_BOOTTIME). most: their number; None: all."""
        oldest = [stall_id for stall_id, _ in islice(self._open.items(), most)]
        stalls = [stall for stall in map(self._open.pop, oldest) if stall is not None]
        return [self._ended(stall, until_ns) for stall in stalls]

    def _ended(self, known: _Open, until_ns: int) -> End:
        return End(_end_of(known.stall, until_ns), known.gap < self._gaps)


def _end_of(stall: Event, until_ns: int) -> Event:
    """The `end` of a stall, from its newest event, as the tracker makes it when a run ends."""
    until_ns = max(until_ns, stall.ktime_ns)
    time_ns = min(stall.time_ns + (until_ns - stall.ktime_ns) // 1000 * 1000, MAX_TIME_NS)
    since_ns = stall.time_ns
    if stall.since is not None:
        with suppress(InvalidTime):
            since_ns = parse_time(stall.since)
    known = {
        **{name: value for name, value in stall.known().items() if name not in _ABSENT_AT_THE_END},
        "time_ns": time_ns,
        "ktime_ns": until_ns,
        "phase": "end",
        "outcome": Outcome.ONGOING.value,
        "duration_ms": min(max(0, time_ns - since_ns) // MS, MAX_NUMBER),
    }
    return Event.of({name: known[name] for name in DECLARATIONS if known.get(name) is not None})
