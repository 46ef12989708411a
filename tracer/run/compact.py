"""Compact recordings: what a report needs, and none of the events that it was concluded from.

The stall tracker is upstream. Its stalls, and the silences that it found survived, replace what they follow from.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from tracer.analysis.idle_timeouts import MAX_SERVICES, Service, service_of
from tracer.model.counts import Tally, counts_of
from tracer.model.events import Event
from tracer.model.kinds import Kind
from tracer.output.sink import Sink
from tracer.recordings.header import Header

REPEATED_NS = 600_000_000_000
"""A silence that was survived is left out if a longer one of its service was recorded within this time before."""
_AS_THEY_ARE = frozenset({Kind.STALL, Kind.ACTION, Kind.LOST})


class Compact:
    """A sink that passes the events of a compact recording on to another.

    min_idle_ms: shorter silences are left out. Of the others, each service's longest within REPEATED_NS is kept. A
    `counters` event gets the counts of the events that are left out.
    """

    def __init__(self, sink: Sink, min_idle_ms: int) -> None:
        self._sink = sink
        self._min_idle_ms = min_idle_ms
        self._seen = Tally()
        self._longest: OrderedDict[Service, tuple[int, int]] = OrderedDict()  # idle_ms, and its ktime_ns

    def opened(self, header: Header) -> None:
        """A recording begins."""
        self._sink.opened(header)

    def write(self, events: Sequence[Event]) -> None:
        """Pass on what is kept."""
        kept = [each for event in events if (each := self._kept(event)) is not None]
        if kept:
            self._sink.write(kept)

    def flush(self, until_ns: int) -> None:
        """Pass it on."""
        self._sink.flush(until_ns)

    def close(self) -> None:
        """Pass it on."""
        self._sink.close()

    def _kept(self, event: Event) -> Event | None:
        kind = event.event
        if kind in _AS_THEY_ARE:
            return event
        if kind == Kind.COUNTERS:
            return self._with_seen(event)
        if kind == Kind.RESUME:
            return event if self._is_news(event) else None
        if kind != Kind.STATE:
            self._seen.add(event.netns, counts_of(event))
        return event if kind == Kind.FOUND and event.kind == "idle" else None

    def _with_seen(self, event: Event) -> Event:
        seen = self._seen.take_of(event.netns)
        return Event.of(
            {
                **event.known(),
                "seen_retrans_segs": seen.segments,
                "seen_keepalives": seen.keepalives,
                "seen_timeouts": seen.timeouts,
            }
        )

    def _is_news(self, event: Event) -> bool:
        """Whether the event proves a silence that is longer than the recorded ones of its service."""
        service, idle_ms = service_of(event), event.idle_ms
        if service is None or idle_ms is None or idle_ms < self._min_idle_ms:
            return False
        longest_ms, known_ns = self._longest.get(service, (-1, 0))
        if idle_ms <= longest_ms and event.ktime_ns - known_ns < REPEATED_NS:
            return False
        self._longest[service] = idle_ms, event.ktime_ns
        self._longest.move_to_end(service)
        if len(self._longest) > MAX_SERVICES:
            self._longest.popitem(last=False)
        return True
