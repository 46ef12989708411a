"""Which connections and events are wanted: the FILTERS of the command line.

The kernel side decides ports, family, addresses and namespaces before it fills an event
(bpf/filter.h); the same rules stand here for recordings, together with what only Python
knows: processes, kinds of event, silence.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from tracer.model.events import Event

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Filter:
    """Options combine with and, the values of one option with or. An empty option wants everything.

    What an event does not know cannot match: an event without an owner does not pass --pid. Of a socket that nobody
    holds any more, who held it last counts. A name is that of a process or of its program's file.
    `lost` always passes: whatever the filter, it may have been among the lost.
    """

    ports: frozenset[int] = frozenset()  # either end
    lports: frozenset[int] = frozenset()
    rports: frozenset[int] = frozenset()
    hosts: tuple[Network, ...] = ()  # either end; IPv4 networks match v4-mapped addresses too
    family: int | None = None  # 4, 6
    netns: frozenset[int] = frozenset()
    pids: frozenset[int] = frozenset()
    comms: frozenset[str] = frozenset()
    events: frozenset[str] = frozenset()
    min_idle_ms: int | None = None
    _chooses_connections: bool = field(init=False, repr=False, compare=False)
    _networks: dict[tuple[int, int], set[int]] = field(init=False, repr=False, compare=False)  # of hosts, by prefix
    _comms: frozenset[str] = field(init=False, repr=False, compare=False)  # also as the kernel shortens them

    def __post_init__(self) -> None:
        asked = (self.ports, self.lports, self.rports, self.hosts, self.family, self.netns)
        object.__setattr__(self, "_chooses_connections", any(asked))
        object.__setattr__(self, "_networks", _by_prefix(self.hosts))
        object.__setattr__(self, "_comms", self.comms | {_shortened(comm) for comm in self.comms})

    def wants(self, event: Event) -> bool:
        """Whether this event is wanted."""
        return self.follows(event) and self.chooses(event)

    def of_any_connection(self) -> Filter:
        """The same, whatever the connection: for events of which the kernel has chosen the connections already."""
        return Filter(pids=self.pids, comms=self.comms, events=self.events, min_idle_ms=self.min_idle_ms)

    @property
    def keeps_counts(self) -> bool:
        """Whether all connections of some namespaces are wanted, or all: those that the kernel counts together."""
        return self == Filter(netns=self.netns)

    def followed(self, events: Sequence[Event]) -> Sequence[Event]:
        """Those of the events that `follows` is true of."""
        return [event for event in events if self.follows(event)] if self._chooses_connections else events

    def follows(self, event: Event) -> bool:
        """Whether the event belongs to a connection that may be wanted: what the stall tracker must see.

        The part that the kernel decides when it is live.
        """
        if not self._chooses_connections or event.event == "lost":
            return True
        if self.ports and event.lport not in self.ports and event.rport not in self.ports:
            return False
        if self.lports and event.lport not in self.lports:
            return False
        if self.rports and event.rport not in self.rports:
            return False
        if self.family is not None and event.family != self.family:
            return False
        if self.netns and event.netns not in self.netns:
            return False
        return not self.hosts or self._is_listed(event.laddr) or self._is_listed(event.raddr)

    @property
    def chooses_events(self) -> bool:
        """Whether not all events are wanted of the connections that are."""
        return bool(self.pids or self.comms or self.events or self.min_idle_ms is not None)

    def chooses(self, event: Event) -> bool:
        """Whether the event is wanted if its connection is."""
        return event.event == "lost" or (self._wants_owner(event) and self._wants_kind(event))

    def _is_listed(self, address: str | None) -> bool:
        if address is None:
            return False
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        number, bits = int(parsed), parsed.max_prefixlen
        return any(
            number >> bits - prefix in networks
            for (version, prefix), networks in self._networks.items()
            if version == parsed.version
        )

    def _wants_owner(self, event: Event) -> bool:
        if self.pids and self.pids.isdisjoint(event.pids or ([event.pid] if event.pid else [])):
            return False
        return not self.comms or event.comm in self._comms or event.exe in self._comms

    def _wants_kind(self, event: Event) -> bool:
        if self.events and event.event not in self.events:
            return False
        if self.min_idle_ms is None:
            return True
        # A stall goes by the silence that it began with: it grows by itself. A wait is nothing but silence.
        is_idle_known = event.event == "stall" and event.verdict != "unanswered"
        silent_ms = event.idle_ms if is_idle_known else event.silent_ms
        return silent_ms is not None and silent_ms >= self.min_idle_ms


def _by_prefix(networks: Iterable[Network]) -> dict[tuple[int, int], set[int]]:
    """The first bits of networks, by version and their number: a thousand of one length are one look-up."""
    found: dict[tuple[int, int], set[int]] = {}
    for network in networks:
        bits = int(network.network_address) >> network.max_prefixlen - network.prefixlen
        found.setdefault((network.version, network.prefixlen), set()).add(bits)
    return found


def _shortened(name: str) -> str:
    """What the kernel keeps of the name of a process: 15 bytes (TASK_COMM_LEN without its NUL)."""
    return name.encode("utf-8", "backslashreplace")[:15].decode("utf-8", "backslashreplace")
