"""Bursts on a terminal: the first lines of each kind in a second, then a count of the rest."""

from __future__ import annotations

from tracer.analysis.idle_timeouts import Service, service_of
from tracer.model.events import Event
from tracer.model.kinds import Kind
from tracer.output.format import endpoint

MAX_LINES = 6
"""Similar lines in a second of the events' clock: as many as a person can read."""
MAX_KINDS = 4096
"""Pairs of line and service that are counted separately in a second."""
_SECOND_NS = 1_000_000_000


class Folding:
    """Counts lines of a second by their text and service."""

    def __init__(self) -> None:
        self._second = 0
        self._offset_ns = 0  # wall clock of the newest event, minus CLOCK_BOOTTIME
        self._count: dict[tuple[Service | None, str], int] = {}

    def has_room(self, event: Event, what: str) -> bool:
        """Count the event. Returns whether to print its line."""
        if event.event == Kind.LOST:
            return True
        self._offset_ns = event.time_ns - event.ktime_ns
        key: tuple[Service | None, str] = (service_of(event), what)
        if len(self._count) >= MAX_KINDS and key not in self._count:
            key = (None, "…")
        self._count[key] = self._count.get(key, 0) + 1
        return self._count[key] <= MAX_LINES

    def due_at(self, ktime_ns: int) -> list[str]:
        """As `due`, by CLOCK_BOOTTIME."""
        return self.due(ktime_ns + self._offset_ns)

    def due(self, time_ns: int) -> list[str]:
        """Lines with the counts of the second before time_ns (wall clock), once it is over."""
        second = time_ns // _SECOND_NS
        if second <= self._second:
            return []
        lines = self.rest()
        self._second = second
        return lines

    def rest(self) -> list[str]:
        """Lines with the counts since the last call."""
        lines = [
            f"{'':12} … and {count - MAX_LINES:,} more like these in that second: {what} {_ends(service)}"
            for (service, what), count in self._count.items()
            if count > MAX_LINES
        ]
        self._count.clear()
        return lines


def _ends(service: Service | None) -> str:
    if service is None:
        return "elsewhere"
    if service.is_local:
        return f"from {endpoint(service.host, None)} to port {service.port}"
    return f"to {endpoint(service.host, service.port)}"
