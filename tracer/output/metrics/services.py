"""The services that have series of their own, and the silences that their connections survived or did not.

The number of series is bounded for ever. A service that has series of its own keeps them, and what comes when all
places are taken counts as `other`.
"""

from __future__ import annotations

from typing import NamedTuple

from tracer.analysis.idle_timeouts import IdleTimeouts, Service
from tracer.output.format import endpoint

OTHER = "other"
CLIENT, SERVER = "client", "server"


class Label(NamedTuple):
    """A service as metrics name it. role: what this host is to it, CLIENT or SERVER."""

    service: str
    role: str


def name_of(service: Service) -> Label:
    """`10.1.2.3:3306` to a client; `*:3306` to the server, whichever client or own address it is."""
    if service.is_local:
        return Label(endpoint(None, service.port), SERVER)
    return Label(endpoint(service.host, service.port), CLIENT)


class Places:
    """Which services have series of their own: the first `most` that stall, or that have a silence.

    Silences take no more than half of the places, so that a host with many healthy connections has room for a service
    that stalls.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken: set[Label] = set()

    def of_stall(self, service: Service | None) -> Label:
        """The label of a service that stalls. Without both ends of a connection the service is OTHER to a client."""
        if service is None:  # connect() has not chosen a local port yet
            return Label(OTHER, CLIENT)
        return self._place(name_of(service), self._most)

    def of_silence(self, service: Service) -> Label:
        """The label of a service with a connection that was silent for long."""
        return self._place(name_of(service), self._most // 2)

    def _place(self, label: Label, most: int) -> Label:
        if label not in self._taken:
            if len(self._taken) >= most:
                return Label(OTHER, label.role)
            self._taken.add(label)
        return label


class Silences(IdleTimeouts):
    """The ranges of the services' idle timeouts, also by label.

    The services that share OTHER have none: the silence that one of them survived says nothing about another.
    longest_survived_ms, shortest_fatal_ms: by label, milliseconds.
    """

    def __init__(self, places: Places) -> None:
        super().__init__()
        self.longest_survived_ms: dict[Label, int] = {}
        self.shortest_fatal_ms: dict[Label, int] = {}
        self._places = places

    def survived(self, service: Service | None, silence_ms: int) -> None:
        """Record that a connection was alive after this silence."""
        super().survived(service, silence_ms)
        if service is not None:
            self._take(self._places.of_silence(service), service)

    def fatal(self, service: Service | None, silence_ms: int) -> None:
        """Record that a connection was dead after this silence."""
        super().fatal(service, silence_ms)
        if service is not None:
            self._take(self._places.of_stall(service), service)

    def place(self, service: Service | None) -> Label:
        """The label of a service that stalls, with the silences that its connections survived before."""
        label = self._places.of_stall(service)
        if service is not None:
            self._take(label, service)
        return label

    def _take(self, label: Label, service: Service) -> None:
        if label.service == OTHER:
            return
        known = self.range_of(service)
        if known.survived_ms is not None:
            longest_ms = self.longest_survived_ms.get(label, 0)
            self.longest_survived_ms[label] = max(longest_ms, known.survived_ms)
        if known.fatal_ms is not None:
            shortest_ms = self.shortest_fatal_ms.get(label, known.fatal_ms)
            self.shortest_fatal_ms[label] = min(shortest_ms, known.fatal_ms)
