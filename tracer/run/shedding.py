"""Load shedding for live output. Drops are counted and reported; recordings are unaffected."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tracer.model.events import Event
from tracer.model.kinds import Kind
from tracer.output.background_writer import OUTPUT, BackgroundWriter
from tracer.output.sink import Sink
from tracer.recordings.header import Header

REPORT_EVERY_NS = 1_000_000_000
"""Time between two reports of drops, by the events' own clock."""
_NEVER_SHED = frozenset({Kind.STALL, Kind.LOST})


class Shedding:
    """A sink in front of another one. It drops what the output cannot take, and writes `lost` events with the count.

    sink: writes to output. is_behind: whether more events wait in the source than can be processed; then only stalls
    pass. None: the output is data for a program, and only a full output drops events.
    """

    def __init__(self, sink: Sink, output: BackgroundWriter, is_behind: Callable[[], bool] | None = None) -> None:
        self.left_out = 0
        self._sink = sink
        self._output = output
        self._is_behind = is_behind
        self._sheds = False
        self._unreported = 0
        self._reported_ns = 0
        self._last: Event | None = None  # the last dropped event; None: all drops are reported

    def opened(self, header: Header) -> None:
        """Pass the header on."""
        self._sink.opened(header)

    def write(self, events: Sequence[Event]) -> None:
        """Pass events on, or count them."""
        if not self._output.has_room:
            shown: Sequence[Event] = ()
        elif self._sheds:
            shown = [event for event in events if event.event in _NEVER_SHED]
        else:
            shown = events
        if shown:
            self._sink.write(shown)
        left_out = len(events) - len(shown)
        if left_out:
            self.left_out += left_out
            self._unreported += left_out
            self._last = events[-1]

    def flush(self, until_ns: int) -> None:
        """Flush the sink, and report drops at most once a second."""
        self._sheds = self._is_behind is not None and self._is_behind()
        last = self._last
        if last is not None and self._output.has_room and last.ktime_ns - self._reported_ns >= REPORT_EVERY_NS:
            self._report(last)
        self._sink.flush(until_ns)

    def close(self) -> None:
        """Report the remaining drops, and wait until the reader has taken everything."""
        if self._last is not None:
            self._report(self._last)
        self._sink.close()
        self._output.close()

    def _report(self, last: Event) -> None:
        count = Event(time_ns=last.time_ns, ktime_ns=last.ktime_ns, event="lost", count=self._unreported, hook=OUTPUT)
        self._sink.write([count])
        self._unreported, self._last, self._reported_ns = 0, None, last.ktime_ns
