"""The attributes of a log record: the names of the semantic conventions where they have one, else `tcpwatch.FIELD`.

https://github.com/open-telemetry/semantic-conventions, docs/registry/attributes.
"""

from __future__ import annotations

from typing import Any

from tracer.analysis.idle_timeouts import service_of
from tracer.analysis.outcomes import Outcome
from tracer.model.events import DECLARATIONS, Event
from tracer.model.kinds import Kind

PREFIX = "tcpwatch."

CONVENTIONAL = {
    "laddr": "network.local.address",
    "lport": "network.local.port",
    "raddr": "network.peer.address",
    "rport": "network.peer.port",
    "family": "network.type",
    "state": "network.connection.state",
    "pid": "process.pid",
    "container": "container.id",
    "container_name": "container.name",
    "pod": "k8s.pod.name",
    "pod_namespace": "k8s.namespace.name",
}
"""The fields of an event that are an attribute of the conventions, and its name."""
DERIVED = {
    "network.transport": "`tcp`",
    "server.address": "the end that is the server, with the port that `connect()` did not choose",
    "server.port": "its port",
    "client.address": "the other end",
    "client.port": "its port",
    "process.executable.name": "`exe`, or `comm` where that is the name of the program file",
    "k8s.container.name": "`container_name`, where there is a `pod`",
    "error.type": "`error`; without one, the `outcome` of a connection that ended with an error",
}
"""Attributes of the conventions that are made of several fields, and what they are."""
ELSEWHERE = frozenset({"time_ns", "event"})
"""Fields that a log record has as its timestamp and its event name."""

_TYPES = {4: "ipv4", 6: "ipv6"}
_STATES = {
    "ESTABLISHED": "established",
    "SYN_SENT": "syn_sent",
    "SYN_RECV": "syn_received",
    "FIN_WAIT1": "fin_wait_1",
    "FIN_WAIT2": "fin_wait_2",
    "TIME_WAIT": "time_wait",
    "CLOSE": "closed",
    "CLOSE_WAIT": "close_wait",
    "LAST_ACK": "last_ack",
    "LISTEN": "listen",
    "CLOSING": "closing",
    "NEW_SYN_RECV": "syn_received",
}
"""The kernel's names of states, and those of the conventions."""


def name_of(field: str) -> str:
    """The attribute of a field of an event."""
    return CONVENTIONAL.get(field, PREFIX + field)


def attributes_of(event: Event) -> dict[str, Any]:
    """The attributes of an event by name. An unknown one is absent."""
    known = event.known()
    found: dict[str, Any] = {"network.transport": "tcp"}
    for field in DECLARATIONS:
        value = known.get(field)
        if value is not None and field not in ELSEWHERE:
            found[name_of(field)] = _converted(field, value)
    found.update(_derived(event))
    return found


def _converted(field: str, value: Any) -> Any:
    if field == "family":
        return _TYPES.get(value, str(value))
    if field == "state":
        return _STATES.get(value, str(value).lower())
    return value


def _derived(event: Event) -> dict[str, Any]:
    derived = {
        **_ends(event),
        "process.executable.name": event.exe or event.comm,
        "k8s.container.name": event.container_name if event.pod is not None else None,
        "error.type": _error_type(event),
    }
    return {name: value for name, value in derived.items() if value is not None}


def _ends(event: Event) -> dict[str, Any]:
    """The client and the server. Empty where the ports do not tell which end is which."""
    service = service_of(event)
    if service is None:
        return {}
    local, remote = ("server", "client") if service.is_local else ("client", "server")
    return {
        f"{local}.address": event.laddr,
        f"{local}.port": event.lport,
        f"{remote}.address": event.raddr,
        f"{remote}.port": event.rport,
    }


def _error_type(event: Event) -> str | None:
    if event.event != Kind.STALL or event.phase != "end":
        return None
    outcome = Outcome.of(event.outcome)
    return event.error or (outcome.value if outcome is not None and outcome.is_death else None)
