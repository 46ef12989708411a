"""A storm on a terminal: the first lines of each kind, then a count."""

from __future__ import annotations

from tracer.analysis.idle_timeouts import Service, service_of
from tracer.model.events import Event
from tracer.output.format import endpoint

MOST = 6
"""Lines of one kind and one service within a second, by the events' own clock, that a person can still read."""
MAX_KINDS = 4096
"""Kinds and services that are told apart within a second."""
_SECOND_NS = 1_000_000_000


class Folding:
    """Counts what comes after the first lines of a second, by what it says and of which service."""

    def __init__(self) -> None:
        self._second = 0
        self._offset_ns = 0  # the wall clock of the newest event, minus CLOCK_BOOTTIME
        self._count: dict[tuple[Service | None, str], int] = {}

    def has_room(self, event: Event, what: str) -> bool:
        """Whether this one is still shown."""
        if event.event == "lost":
            return True
        self._offset_ns = event.time_ns - event.ktime_ns
        key: tuple[Service | None, str] = (service_of(event), what)
        if len(self._count) >= MAX_KINDS and key not in self._count:
            key = (None, "…")
        self._count[key] = self._count.get(key, 0) + 1
        return self._count[key] <= MOST

    def due_at(self, ktime_ns: int) -> list[str]:
        """The same at a time at which nothing happened (CLOCK_BOOTTIME)."""
        return self.due(ktime_ns + self._offset_ns)

    def due(self, time_ns: int) -> list[str]:
        """What was not shown in the second that is over at that time (wall clock)."""
        second = time_ns // _SECOND_NS
        if second <= self._second:
            return []
        lines = self.rest()
        self._second = second
        return lines

    def rest(self) -> list[str]:
        """What has not been shown so far."""
        lines = [
            f"{'':12} … and {count - MOST:,} more like these in that second: {what} {_of(service)}"
            for (service, what), count in self._count.items()
            if count > MOST
        ]
        self._count.clear()
        return lines


def _of(service: Service | None) -> str:
    if service is None:
        return "elsewhere"
    if service.is_local:
        return f"from {endpoint(service.host, None)} to port {service.port}"
    return f"to {endpoint(service.host, service.port)}"
