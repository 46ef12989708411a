"""What advice about a stall depends on."""

from __future__ import annotations

from collections.abc import Callable

from tracer.analysis.clients import Client, clients_of, if_this_is, server_of
from tracer.analysis.idle_timeouts import IdleTimeoutRange, service_of
from tracer.model.dataclass import dataclass
from tracer.model.events import Event

MAX_NAME = 32
"""Characters of a process name that are compared. No known program has a longer name."""


@dataclass(frozen=True, slots=True)
class AdviceContext:
    """A stall, and what is known about its connection and its service.

    event: the newest event of the stall. idle_ms: the silence before it, milliseconds; None where it is not known.
    over: the stall has ended, so that there is no wait to end. hz: jiffies per second of the kernel. idle_timeout:
    the range of the service's idle timeout. refused_reset: the kernel ignored a RST on this connection before
    (RFC 5961). survived_as_much: this connection survived a silence as long as idle_ms before. own_netns: inode of
    the network namespace that tcpwatch ran in; 0: unknown.
    """

    event: Event
    idle_ms: int | None
    over: bool
    hz: int
    idle_timeout: IdleTimeoutRange
    refused_reset: bool
    survived_as_much: bool
    own_netns: int = 0

    @property
    def longer_survived_ms(self) -> int | None:
        """A silence at least as long as idle_ms that a connection to this service survived; None: none was seen."""
        survived, idle = self.idle_timeout.survived_ms, self.idle_ms
        return survived if survived is not None and idle is not None and survived >= idle else None

    @property
    def contradicts_idle_timeout(self) -> bool:
        """Whether a silence as long as idle_ms was survived before."""
        return self.survived_as_much or self.longer_survived_ms is not None


def service_port(event: Event) -> tuple[int | None, bool]:
    """The service's port, and whether the service is at this end of the connection."""
    service = service_of(event)
    return (service.port, service.is_local) if service else (event.rport, False)


def programs(event: Event) -> tuple[tuple[Client, ...], bool]:
    """The programs or libraries that may be at this end, and whether this end is the server."""
    port, is_local = service_port(event)
    comm, exe = (event.comm or "")[:MAX_NAME], (event.exe or "")[:MAX_NAME]
    if is_local:
        server = server_of(comm, exe)
        return ((server,) if server else ()), True
    return clients_of(comm, exe, port, event.keepalive), False


def setting_in_words(event: Event, setting_of: Callable[[Client], str | None]) -> str:
    """`if this is psycopg: …`, with the settings that the candidates have; empty where none has one."""
    candidates, is_local = programs(event)
    return if_this_is(candidates, setting_of, is_server=is_local)
