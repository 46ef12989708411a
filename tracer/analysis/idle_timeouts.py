"""The longest silence that the connections to a service survived, against the shortest that was fatal."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from tracer.analysis.verdicts import CHANCE
from tracer.model.events import Event

MS = 1_000_000
EPHEMERAL = 32768
"""Where the ports begin that connect() chooses from: net.ipv4.ip_local_port_range."""
REMEMBERED_SERVICES = 16384


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


_IDLE_VERDICTS = frozenset({"idle-drop", "idle-reset", "keepalive-failed"})
_UNDECIDED = frozenset({"ongoing", "closed"})
_NOT_LOST = (None, "Open", "CWR")  # ca_state; a connection stays in CWR while it is idle (RFC 3168)
_DEATHS = frozenset({"timed-out", "reset", "unreachable"})


def is_fatal(verdict: str, outcome: str, idle_ms: int | None, retransmits: int) -> bool:
    """Whether the silence before a stall (idle_ms) counts as fatal, from the stall's end.

    A connection that was still open, or closed by its application, counts from CHANCE unanswered segments on. An
    outcome that was presumed is evidence of nothing.
    """
    if idle_ms is None or verdict not in _IDLE_VERDICTS:
        return False
    return outcome in _DEATHS or (outcome in _UNDECIDED and retransmits >= CHANCE)


def survived_silence_ms(event: Event, probed_ns: int | None = None) -> int | None:
    """The silence that the connection of a `resume` event survived, milliseconds. None where the event proves none.

    probed_ns: when the peer's latest keepalive probe came (CLOCK_BOOTTIME). The kernel's own clock of silence ignores
    such probes. The time for which data waited for its acknowledgement or for an open window (stuck_ms) is not idle.
    An event without stuck_ms counts only if no data waited.
    """
    if event.event != "resume" or event.silent_ms is None or event.cause == "no-progress":
        return None
    if event.stuck_ms is None and (event.ca_state not in _NOT_LOST or event.backoff or event.cause == "window"):
        return None
    silent_ms = event.silent_ms
    if probed_ns is not None:
        silent_ms = min(silent_ms, max(0, event.ktime_ns - probed_ns) // MS)
    survived_ms = silent_ms - (event.stuck_ms or 0)
    return survived_ms if survived_ms >= 0 else None


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
