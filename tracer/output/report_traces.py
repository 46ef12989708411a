"""What was seen of each stall on its way: when it was sent again, and when the kernel was to give up.

Instants are wall-clock nanoseconds. Memory is bounded, whatever a recording holds.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from contextlib import suppress
from dataclasses import field
from typing import NamedTuple, TypeVar

from tracer.analysis.incidents import began_ns
from tracer.model.dataclass import dataclass
from tracer.model.events import Event
from tracer.model.kinds import Kind
from tracer.model.times import InvalidTime, parse_time

MS = 1_000_000
MAX_TRACKED = 8192
"""Connections with retransmissions, and ended stalls that do not count yet, that are remembered."""
MAX_TICKS = 48
"""Instants of retransmissions of one stall. Of more, the first and the last are kept."""
MAX_FIRST_TICKS = 36
MAX_NS = 2**63 - 1
"""The greatest instant of an array: in the year 2262. A damaged recording may have a later one."""
SLACK_NS = 50 * MS
"""Instants of one moment that come from two clocks differ by less than this."""

_SIGNS = frozenset({Kind.RETRANSMIT, Kind.KEEPALIVE, Kind.WINDOW_PROBE, Kind.UNSENT})
_K = TypeVar("_K")
_V = TypeVar("_V")


class Prediction(NamedTuple):
    """When the kernel gives up: not before earliest_ns, nor after latest_ns. made_ns: when that was known."""

    made_ns: int
    earliest_ns: int
    latest_ns: int

    @property
    def is_exact(self) -> bool:
        """Whether both are equal."""
        return self.earliest_ns == self.latest_ns


class Trace(NamedTuple):
    """Of one stall. ticks: when it was sent again, as far as seen. left_out: ticks that are not kept."""

    ticks: tuple[int, ...] = ()
    left_out: int = 0
    prediction: Prediction | None = None


NO_TRACE = Trace()


@dataclass(slots=True)
class _Track:
    """What was seen of a connection that retransmits."""

    ticks: array[int] = field(default_factory=lambda: array("q"))
    left_out: int = 0
    since_ns: int = 0
    prediction: Prediction | None = None

    def add(self, time_ns: int) -> None:
        self.ticks.append(min(time_ns, MAX_NS))
        if len(self.ticks) > MAX_TICKS:
            del self.ticks[MAX_FIRST_TICKS]
            self.left_out += 1

    def restart(self, since_ns: int) -> None:
        """Forget what was before this, unless the stall is known to have begun then."""
        if abs(since_ns - self.since_ns) > SLACK_NS:
            kept = array("q", [tick for tick in self.ticks if tick >= since_ns - SLACK_NS])
            if len(kept) < len(self.ticks):
                self.ticks, self.left_out = kept, 0
            self.since_ns, self.prediction = since_ns, None

    def predict(self, stall: Event) -> None:
        """Keep the first exact prediction, or the first before there is one. Drop it where nothing ends the stall."""
        prediction = prediction_of(stall)
        if prediction is None:
            if stall.phase == "update":
                self.prediction = None
            return
        if self.prediction is None or (prediction.is_exact and not self.prediction.is_exact):
            self.prediction = prediction


class Traces:
    """Takes all events, and has the trace of each stall that ended."""

    def __init__(self) -> None:
        self._tracks: OrderedDict[int, _Track] = OrderedDict()  # by the hash of host and socket
        self._ended: OrderedDict[int, Trace] = OrderedDict()  # by the hash of host and stall

    def take(self, host: str, event: Event) -> None:
        """Take an event of that host."""
        if event.event in _SIGNS and event.sock is not None:
            self._track(host, event.sock).add(event.time_ns)
        elif event.event == Kind.STALL and event.sock is not None:
            track = self._track(host, event.sock)
            track.restart(began_ns(event))
            track.predict(event)
            if event.phase == "end":
                trace = Trace(tuple(track.ticks), track.left_out, track.prediction)
                _put(self._ended, hash((host, event.id)), trace)

    def of(self, host: str, end: Event) -> Trace:
        """The trace of a stall that has ended. It came through `take` before."""
        return self._ended.pop(hash((host, end.id)), NO_TRACE)

    def _track(self, host: str, sock: str) -> _Track:
        key = hash((host, sock))
        track = self._tracks.get(key)
        if track is None:
            track = _put(self._tracks, key, _Track())
        else:
            self._tracks.move_to_end(key)
        return track


def prediction_of(stall: Event) -> Prediction | None:
    """When the kernel gives up, from a stall's begin or update; None where it is not known."""
    if stall.gives_up_at is None:
        return None
    with suppress(InvalidTime):
        earliest_ns = parse_time(stall.gives_up_at)
        window_ms = 0 if stall.gives_up_window_ms is None else stall.gives_up_window_ms
        return Prediction(stall.time_ns, earliest_ns, earliest_ns + window_ms * MS)
    return None


def _put(remembered: OrderedDict[_K, _V], key: _K, value: _V) -> _V:
    remembered[key] = value
    remembered.move_to_end(key)
    if len(remembered) > MAX_TRACKED:
        remembered.popitem(last=False)
    return value
