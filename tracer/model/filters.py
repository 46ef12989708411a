"""The FILTERS of the command line: which connections and events are wanted.

Live, the kernel side applies the filters of ports, family, addresses and namespaces before it fills an event
(bpf/filter.h). The same rules are here for recordings, with the filters of processes, kinds of event and silence.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import field
from typing import Union

from tracer.model.dataclass import dataclass
from tracer.model.events import Event
from tracer.model.kinds import Kind
from tracer.model.patterns import ContainerPatterns, PodPatterns, UnitPatterns

Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]


@dataclass(frozen=True, slots=True)
class Filter:
    """An event has to match every option that is not empty, and one value of it.

    A field that an event lacks does not match: an event without an owner does not pass --pid. For a socket that no
    process holds any more, the last owner counts. A name is that of a process or of its program's file. `lost` always
    passes, because a wanted event may have been among the lost ones.
    """

    ports: frozenset[int] = frozenset()  # either end
    lports: frozenset[int] = frozenset()
    rports: frozenset[int] = frozenset()
    hosts: tuple[Network, ...] = ()  # either end; IPv4 networks match v4-mapped addresses too
    family: int | None = None  # 4, 6
    netns: frozenset[int] = frozenset()
    pids: frozenset[int] = frozenset()
    comms: frozenset[str] = frozenset()
    containers: frozenset[str] = frozenset()  # patterns, as tracer/model/patterns.py describes them
    pods: frozenset[str] = frozenset()
    units: frozenset[str] = frozenset()
    events: frozenset[str] = frozenset()
    min_idle_ms: int | None = None
    typed: Mapping[str, tuple[str, ...]] = field(default_factory=dict, compare=False)
    """The values of hosts and netns as the user typed them, for messages."""
    _chooses_connections: bool = field(init=False, repr=False, compare=False)
    _networks: dict[tuple[int, int], set[int]] = field(init=False, repr=False, compare=False)  # of hosts, by prefix
    _comms: frozenset[str] = field(init=False, repr=False, compare=False)  # also as the kernel truncates them
    _containers: ContainerPatterns = field(init=False, repr=False, compare=False)
    _pods: PodPatterns = field(init=False, repr=False, compare=False)
    _units: UnitPatterns = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        asked = (self.ports, self.lports, self.rports, self.hosts, self.family, self.netns)
        object.__setattr__(self, "_chooses_connections", any(asked))
        object.__setattr__(self, "_networks", _by_prefix(self.hosts))
        object.__setattr__(self, "_comms", self.comms | {kernel_name(comm) for comm in self.comms})
        object.__setattr__(self, "_containers", ContainerPatterns(self.containers))
        object.__setattr__(self, "_pods", PodPatterns(self.pods))
        object.__setattr__(self, "_units", UnitPatterns(self.units))

    def wants(self, event: Event) -> bool:
        """Whether this event is wanted."""
        return self.follows(event) and self.chooses(event)

    def of_any_connection(self) -> Filter:
        """The filter without its options of connections, which the kernel has applied already."""
        return Filter(
            pids=self.pids,
            comms=self.comms,
            containers=self.containers,
            pods=self.pods,
            units=self.units,
            events=self.events,
            min_idle_ms=self.min_idle_ms,
        )

    @property
    def chooses_owners(self) -> bool:
        """Whether only the connections of some processes, containers, pods or units are wanted."""
        return bool(self.pids or self.comms or self.containers or self.pods or self.units)

    @property
    def keeps_counts(self) -> bool:
        """Whether all events of the wanted namespaces are wanted, so that the kernel's counts can be compared."""
        return self == Filter(netns=self.netns)

    def followed(self, events: Sequence[Event]) -> Sequence[Event]:
        """The events of connections that may be wanted."""
        return [event for event in events if self.follows(event)] if self._chooses_connections else events

    def follows(self, event: Event) -> bool:
        """Whether the event is of a connection that may be wanted, so that the stall tracker needs it.

        Live, the kernel applies this part.
        """
        if not self._chooses_connections or event.event == Kind.LOST:
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
        """Whether only some events of the wanted connections are wanted."""
        return bool(self.chooses_owners or self.events or self.min_idle_ms is not None)

    def chooses(self, event: Event) -> bool:
        """Whether the event is wanted, given that its connection is."""
        return event.event == Kind.LOST or (self._wants_owner(event) and self._wants_kind(event))

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
        if self.comms and event.comm not in self._comms and event.exe not in self._comms:
            return False
        if self.containers and not self._containers.match(event.container, event.container_name):
            return False
        if self.pods and not self._pods.match(event.pod, event.pod_namespace):
            return False
        return not self.units or self._units.match(event.unit)

    def _wants_kind(self, event: Event) -> bool:
        if self.events and event.event not in self.events:
            return False
        if self.min_idle_ms is None:
            return True
        # For a stall, the silence before it counts, because silent_ms grows during the stall.
        is_idle_known = event.event == Kind.STALL and event.verdict != "unanswered"
        silent_ms = event.idle_ms if is_idle_known else event.silent_ms
        return silent_ms is not None and silent_ms >= self.min_idle_ms


def collapsed(ports: Iterable[int]) -> list[int | str]:
    """Ports in order. Three or more in a row are one range: `3306-3310`."""
    found: list[int | str] = []
    for first, last in _runs(sorted(ports)):
        found += [f"{first}-{last}"] if last - first > 1 else range(first, last + 1)
    return found


def _runs(ports: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The first and the last of each run of successive numbers."""
    begin = 0
    for number, port in enumerate(ports):
        if number + 1 == len(ports) or ports[number + 1] != port + 1:
            yield ports[begin], port
            begin = number + 1


def _by_prefix(networks: Iterable[Network]) -> dict[tuple[int, int], set[int]]:
    """Prefixes by version and length, so that a thousand networks of one length take one look-up."""
    found: dict[tuple[int, int], set[int]] = {}
    for network in networks:
        bits = int(network.network_address) >> network.max_prefixlen - network.prefixlen
        found.setdefault((network.version, network.prefixlen), set()).add(bits)
    return found


def kernel_name(name: str) -> str:
    """The name of a process as the kernel truncates it: 15 bytes (TASK_COMM_LEN without its NUL)."""
    return name.encode("utf-8", "backslashreplace")[:15].decode("utf-8", "backslashreplace")
