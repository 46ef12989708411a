"""Scales: durations and instants to positions on a page, in percent of its drawing."""

from __future__ import annotations

import math

from tracer.model.dataclass import dataclass

_SECOND, _MINUTE, _HOUR, _DAY = 1000, 60_000, 3_600_000, 86_400_000
LABELS = (
    (_MINUTE, "1m"), (_HOUR, "1h"), (_SECOND, "1s"), (_DAY, "1d"), (10 * _MINUTE, "10m"), (10 * _SECOND, "10s"),
    (100, "100ms"), (10 * _DAY, "10d"), (6 * _HOUR, "6h"), (10, "10ms"), (1, "1ms"), (100 * _DAY, "100d"),
    (30 * _MINUTE, "30m"), (2 * _HOUR, "2h"), (30 * _SECOND, "30s"), (5 * _MINUTE, "5m"), (3 * _HOUR, "3h"),
    (5 * _SECOND, "5s"), (12 * _HOUR, "12h"), (2 * _MINUTE, "2m"), (20 * _MINUTE, "20m"), (2 * _DAY, "2d"),
    (5 * _DAY, "5d"), (2 * _SECOND, "2s"), (15 * _MINUTE, "15m"), (45 * _MINUTE, "45m"),
    (20 * _SECOND, "20s"), (500, "500ms"), (200, "200ms"), (40 * _MINUTE, "40m"), (50 * _MINUTE, "50m"),
)  # fmt: skip
"""Durations with a label on an axis, milliseconds, the most useful first."""
MIN_GAP = 9.0
"""Percent between two labels: on a phone they are 30 pixels wide."""


@dataclass(frozen=True, slots=True)
class LogScale:
    """Durations from least_ms to greatest_ms, logarithmic, from the position `start` to `end`, in percent."""

    least_ms: float
    greatest_ms: float
    start: float
    end: float

    def at(self, ms: float) -> float:
        """The position of a duration; beyond an end of the scale, that end."""
        within = min(max(ms, self.least_ms), self.greatest_ms)
        share = math.log(within / self.least_ms) / math.log(self.greatest_ms / self.least_ms)
        return self.start + share * (self.end - self.start)

    def labels(self, gap: float = MIN_GAP) -> list[tuple[float, str]]:
        """Positions with labels, at least `gap` percent apart."""
        chosen: list[tuple[float, str]] = []
        for ms, label in LABELS:
            position = self.at(ms)
            if self.least_ms <= ms <= self.greatest_ms and all(abs(position - other) >= gap for other, _ in chosen):
                chosen.append((position, label))
        return sorted(chosen)


def log_scale(least_ms: float, greatest_ms: float, start: float, end: float) -> LogScale:
    """A scale that has both durations some way from its ends, and is at least a decade long."""
    least_ms, greatest_ms = max(1.0, least_ms) / 1.4, max(1.0, greatest_ms) * 1.4
    missing = max(1.0, 10 * least_ms / greatest_ms)
    return LogScale(least_ms / math.sqrt(missing), greatest_ms * math.sqrt(missing), start, end)


@dataclass(frozen=True, slots=True)
class TimeScale:
    """Instants from first_ns to last_ns, linear, from the position `start` to `end`, in percent."""

    first_ns: int
    last_ns: int
    start: float
    end: float

    def at(self, time_ns: int) -> float:
        """The position of an instant; beyond an end of the scale, that end."""
        within = min(max(time_ns, self.first_ns), self.last_ns)
        return self.start + (within - self.first_ns) / max(1, self.last_ns - self.first_ns) * (self.end - self.start)
