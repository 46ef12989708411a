"""Bursts on a terminal: the first lines of each kind, then a count of the rest at growing intervals.

A kind is the name of the event without its number, at one service. Without a limit, a service with many short
connections fills a terminal within seconds, and what matters scrolls away.
"""

from __future__ import annotations

from collections import OrderedDict

from tracer.analysis.idle_timeouts import service_of
from tracer.model.dataclass import dataclass
from tracer.model.events import Event
from tracer.model.kinds import Kind
from tracer.output.event_line import what
from tracer.output.format import endpoint, plural

MAX_LINES = 6
"""Lines of one kind in a burst that are printed: as many as show what it is about."""
MAX_ALL_LINES = 10
"""Lines of all kinds in a burst that are printed."""
REFILL_S, REFILL_BESIDE_STALLS_S = 3, 10
"""After a burst, one more line is printed in this time. Beside stalls fewer are, so that these stay on the screen."""
FIRST_COUNT_S, MAX_COUNT_S = 1, 60
"""Seconds from the first line that is left out to the counts. The interval doubles while more come."""
MAX_KINDS = 4096
MAX_COUNTS = 3
"""Kinds that get a line of their own when counts are due, the most frequent; the others share one line."""
_SECOND_NS = 1_000_000_000


class _Bucket:
    """Lines that may be printed now: `most` at once, and one more each refill_s."""

    __slots__ = ("_left", "_most", "_time_ns")

    def __init__(self, most: int) -> None:
        self._most = most
        self._left = float(most)
        self._time_ns = 0

    def has_room(self, time_ns: int, refill_s: float) -> bool:
        elapsed_s = max(0, time_ns - self._time_ns) / _SECOND_NS
        self._left = min(self._most, self._left + elapsed_s / refill_s)
        self._time_ns = max(time_ns, self._time_ns)
        return self._left >= 1

    def take(self) -> None:
        self._left -= 1


@dataclass(slots=True)
class _Kind:
    """Lines of one kind: how many may be printed, and how many were left out since the last count."""

    bucket: _Bucket
    left_out: int = 0


_Key = tuple[str, str]


class Folding:
    """Decides which event lines are printed, by the clock of the events."""

    def __init__(self) -> None:
        self._offset_ns = 0  # wall clock of the newest event, minus CLOCK_BOOTTIME
        self._all = _Bucket(MAX_ALL_LINES)
        self._kinds: OrderedDict[_Key, _Kind] = OrderedDict()
        self._due_ns: int | None = None  # when the next counts are due
        self._interval_s = FIRST_COUNT_S
        self._counted_ns = 0

    def has_room(self, event: Event, *, beside_stalls: bool) -> bool:
        """Count the event. Returns whether to print its line. beside_stalls: a stall is open."""
        if event.event == Kind.LOST:
            return True
        time_ns = event.time_ns
        self._offset_ns = time_ns - event.ktime_ns
        kind = self._kind(_key_of(event))
        refill_s = REFILL_BESIDE_STALLS_S if beside_stalls else REFILL_S
        # Both have to be brought up to date.
        has_room = kind.bucket.has_room(time_ns, refill_s)
        if self._all.has_room(time_ns, refill_s) and has_room:
            kind.bucket.take()
            self._all.take()
            return True
        kind.left_out += 1
        if self._due_ns is None:
            if time_ns - self._counted_ns > 2 * self._interval_s * _SECOND_NS:
                self._interval_s = FIRST_COUNT_S
            self._due_ns = time_ns + self._interval_s * _SECOND_NS
        return False

    def due_at(self, ktime_ns: int) -> list[str]:
        """As `due`, by CLOCK_BOOTTIME."""
        return self.due(ktime_ns + self._offset_ns)

    def due(self, time_ns: int) -> list[str]:
        """Lines with the counts, if they are due at time_ns (wall clock)."""
        if self._due_ns is None or time_ns < self._due_ns:
            return []
        self._due_ns, self._counted_ns = None, time_ns
        self._interval_s = min(2 * self._interval_s, MAX_COUNT_S)
        return self.rest()

    def rest(self) -> list[str]:
        """Lines with the counts since the last call."""
        counted = [(key, kind.left_out) for key, kind in self._kinds.items() if kind.left_out]
        for kind in self._kinds.values():
            kind.left_out = 0
        counted.sort(key=lambda item: -item[1])
        shown = MAX_COUNTS if len(counted) > MAX_COUNTS + 1 else len(counted)  # a single other kind has its line
        lines = [f"{'':8} … and {count:,} more {what} {where}" for (what, where), count in counted[:shown]]
        others = counted[shown:]
        if others:
            total = sum(count for _, count in others)
            lines.append(f"{'':8} … and {total:,} more lines of {plural(len(others), 'other kind')}")
        return lines

    def _kind(self, key: _Key) -> _Kind:
        if key not in self._kinds and len(self._kinds) >= MAX_KINDS:
            quiet = next((each for each, kind in self._kinds.items() if not kind.left_out), None)
            if quiet is None:
                key = ("…", "elsewhere")
            else:
                del self._kinds[quiet]
        return self._kinds.setdefault(key, _Kind(_Bucket(MAX_LINES)))


def _key_of(event: Event) -> _Key:
    """The kind of line, and the service in words. Clients of a service here are one kind."""
    kind = what(event)
    if event.event != Kind.STATE:
        kind = kind.rstrip("0123456789").rstrip()
    service = service_of(event)
    if service is None:
        return kind, f"to {endpoint(event.raddr, event.rport)}"
    if service.is_local:
        return kind, f"on port {service.port}"
    return kind, f"to {endpoint(service.host, service.port)}"
