"""What live output leaves out when there is too much of it: never without saying so, and never from the recording."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tracer.model.events import Event
from tracer.output.background_writer import OUTPUT, Outlet
from tracer.run.pipeline import Sink

EVERY_NS = 1_000_000_000
"""What was left out is said so often, by the events' own clock."""
_TOLD_ANYWAY = frozenset({"stall", "lost"})


class Shedding:
    """A sink before an outlet, which leaves out what the outlet has no room for, and says how much that was.

    sink: what writes to the outlet. is_behind: whether the source has more waiting than can be carried; then all but
    stalls is left out. None: it makes no difference, because the output is data that somebody works with.
    """

    def __init__(self, sink: Sink, outlet: Outlet, is_behind: Callable[[], bool] | None = None) -> None:
        self.left_out = 0
        self._sink = sink
        self._outlet = outlet
        self._is_behind = is_behind
        self._sheds = False
        self._unsaid = 0
        self._said_ns = 0
        self._last: Event | None = None

    def write(self, *events: Event) -> None:
        """Pass events on, or count them."""
        if not self._outlet.has_room:
            shown: Sequence[Event] = ()
        elif self._sheds:
            shown = [event for event in events if event.event in _TOLD_ANYWAY]
        else:
            shown = events
        if shown:
            self._sink.write(*shown)
        left_out = len(events) - len(shown)
        if left_out:
            self.left_out += left_out
            self._unsaid += left_out
            self._last = events[-1]

    def flush(self, until_ns: int) -> None:
        """Let it be seen, and with it what was left out."""
        self._sheds = self._is_behind is not None and self._is_behind()
        if self._last is not None and self._outlet.has_room and self._last.ktime_ns - self._said_ns >= EVERY_NS:
            self._say(self._last)
        self._sink.flush(until_ns)

    def close(self) -> None:
        """Nothing comes any more; wait for the reader."""
        if self._last is not None:
            self._say(self._last)
        self._sink.close()
        self._outlet.close()

    def _say(self, last: Event) -> None:
        self._sink.write(
            Event(time_ns=last.time_ns, ktime_ns=last.ktime_ns, event="lost", count=self._unsaid, hook=OUTPUT)
        )
        self._unsaid, self._last, self._said_ns = 0, None, last.ktime_ns
