"""The longest silence that the connections to a service survived, against the shortest that was fatal."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from tracer.events import Event

EPHEMERAL = 32768
"""Where the ports begin that connect() chooses from: net.ipv4.ip_local_port_range."""
REMEMBERED_SERVICES = 65536


@dataclass(frozen=True, slots=True)
class Bracket:
    """What is known of a service's idle timeout: it lies above the one and not above the other.

    survived_ms: the longest silence that a connection survived, milliseconds; None: none was seen.
    fatal_ms: the shortest silence that was fatal, milliseconds; None: none was seen.
    """

    survived_ms: int | None
    fatal_ms: int | None

    @property
    def contradicts(self) -> bool:
        """Whether no single timeout explains both: something else than idleness ended those connections."""
        return self.survived_ms is not None and self.fatal_ms is not None and self.survived_ms >= self.fatal_ms


class Service(NamedTuple):
    """Who is talked to, over which path: a remote service, or the clients at one address of a local one."""

    host: str  # the remote end's
    port: int  # the service's
    is_local: bool


def service_of(event: Event) -> Service | None:
    """The service of a connection: the end whose port was not chosen by connect(). None without both ends."""
    if event.raddr is None or event.rport is None or event.lport is None:
        return None
    is_local = event.rport >= EPHEMERAL > event.lport or (
        (event.lport < EPHEMERAL) == (event.rport < EPHEMERAL) and event.lport < event.rport
    )
    return Service(event.raddr, event.lport if is_local else event.rport, is_local)


@dataclass(slots=True)
class _Seen:
    survived_ms: int | None = None
    fatal_ms: int | None = None


class Silences:
    """The brackets of all services, the REMEMBERED_SERVICES that were heard of last."""

    def __init__(self) -> None:
        self._seen: OrderedDict[Service, _Seen] = OrderedDict()

    def __iter__(self) -> Iterator[Service]:
        return iter(self._seen)

    def bracket(self, service: Service | None) -> Bracket:
        """What is known so far; Bracket(None, None) for a service never heard of."""
        seen = self._seen.get(service) if service is not None else None
        return Bracket(seen.survived_ms, seen.fatal_ms) if seen else Bracket(None, None)

    def survived(self, service: Service | None, silence_ms: int) -> None:
        """A connection was alive after this silence."""
        if service is not None:
            seen = self._of(service)
            seen.survived_ms = max(silence_ms, seen.survived_ms or 0)

    def fatal(self, service: Service | None, silence_ms: int) -> None:
        """A connection was dead after this silence."""
        if service is not None:
            seen = self._of(service)
            seen.fatal_ms = silence_ms if seen.fatal_ms is None else min(silence_ms, seen.fatal_ms)

    def _of(self, service: Service) -> _Seen:
        seen = self._seen.setdefault(service, _Seen())
        self._seen.move_to_end(service)
        if len(self._seen) > REMEMBERED_SERVICES:
            self._seen.popitem(last=False)
        return seen


def survived_silence_ms(event: Event) -> int | None:
    """PLACEHOLDER"""
    if event.silent_ms is None or event.cause == "no-progress":
        return None
    if event.stuck_ms is not None and event.unacked_bytes:
        return max(0, event.silent_ms - event.stuck_ms)
    if event.unacked_bytes and (event.backoff or event.ca_state not in (None, "Open")):
        return None
    return event.silent_ms
