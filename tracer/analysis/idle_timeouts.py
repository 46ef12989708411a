"""The idle timeout of the path to each service, from the silences that were survived and those that were fatal."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import NamedTuple

from tracer.model.dataclass import dataclass
from tracer.model.events import Event

EPHEMERAL = 32768
"""The lowest port that connect() chooses by default: net.ipv4.ip_local_port_range."""
MAX_SERVICES = 16384
"""Services with a known range. The one that was updated longest ago is forgotten first."""


@dataclass(frozen=True, slots=True)
class IdleTimeoutRange:
    """Where a service's idle timeout lies: above survived_ms, and not above fatal_ms.

    survived_ms: the longest silence that a connection survived, milliseconds; None: none was seen.
    fatal_ms: the shortest silence that was fatal, milliseconds; None: none was seen.
    """

    survived_ms: int | None
    fatal_ms: int | None

    @property
    def contradicts(self) -> bool:
        """Whether no single timeout explains both: something else than idleness ended those connections."""
        return self.survived_ms is not None and self.fatal_ms is not None and self.survived_ms >= self.fatal_ms


NOTHING_KNOWN = IdleTimeoutRange(None, None)


class Service(NamedTuple):
    """A remote service and the path to it, or the clients at one address of a local service."""

    host: str
    """Address of the remote end."""
    port: int
    """The service's port, at whichever end it is."""
    is_local: bool


def service_of(event: Event) -> Service | None:
    """The service of a connection, at the end with the port that connect() did not choose. None without both ends."""
    if event.raddr is None or event.rport is None or event.lport is None:
        return None
    is_local = event.rport >= EPHEMERAL > event.lport or (
        (event.lport < EPHEMERAL) == (event.rport < EPHEMERAL) and event.lport < event.rport
    )
    return Service(event.raddr, event.lport if is_local else event.rport, is_local)


@dataclass(slots=True)
class _Silences:
    longest_survived_ms: int | None = None
    shortest_fatal_ms: int | None = None


class IdleTimeouts:
    """The ranges of the services' idle timeouts, of MAX_SERVICES at most.

    is_paused: silences do not count now, because they lie before what is reported.
    """

    def __init__(self) -> None:
        self.is_paused = False
        self._silences: OrderedDict[Service, _Silences] = OrderedDict()

    def __iter__(self) -> Iterator[Service]:
        return iter(self._silences)

    def range_of(self, service: Service | None) -> IdleTimeoutRange:
        """What is known so far; NOTHING_KNOWN for a service without any silence."""
        known = self._silences.get(service) if service is not None else None
        return IdleTimeoutRange(known.longest_survived_ms, known.shortest_fatal_ms) if known else NOTHING_KNOWN

    def survived(self, service: Service | None, silence_ms: int) -> None:
        """Record that a connection was alive after this silence."""
        if service is not None and not self.is_paused:
            known = self._of(service)
            longest_ms = known.longest_survived_ms
            known.longest_survived_ms = silence_ms if longest_ms is None else max(silence_ms, longest_ms)

    def fatal(self, service: Service | None, silence_ms: int) -> None:
        """Record that a connection was dead after this silence."""
        if service is not None and not self.is_paused:
            known = self._of(service)
            shortest_ms = known.shortest_fatal_ms
            known.shortest_fatal_ms = silence_ms if shortest_ms is None else min(silence_ms, shortest_ms)

    def take_range(self, service: Service, known: IdleTimeoutRange) -> None:
        """Include what is known about a service elsewhere."""
        mine = self._of(service)
        mine.longest_survived_ms = max(
            (ms for ms in (mine.longest_survived_ms, known.survived_ms) if ms is not None), default=None
        )
        mine.shortest_fatal_ms = min(
            (ms for ms in (mine.shortest_fatal_ms, known.fatal_ms) if ms is not None), default=None
        )

    def merge(self, other: IdleTimeouts) -> None:
        """Include everything that is known elsewhere. Associative, and an empty one changes nothing."""
        for service in other:
            self.take_range(service, other.range_of(service))

    def _of(self, service: Service) -> _Silences:
        known = self._silences.setdefault(service, _Silences())
        self._silences.move_to_end(service)
        if len(self._silences) > MAX_SERVICES:
            self._silences.popitem(last=False)
        return known
