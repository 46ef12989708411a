"""Orderly closes of connections as each end saw them: what the clocks of two hosts are compared by.

A FIN is received after it was sent, and before its acknowledgement is received:
tcp_close_state(), tcp_fin() and tcp_rcv_state_process(), net/ipv4/tcp.c and tcp_input.c. Of each pair of addresses
the connections with the lowest hashes of their ports are kept, which are the same at both hosts.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import NamedTuple

from tracer.analysis.connection_ends import MAX_TEXT, Ends, ends_of
from tracer.model.events import Event

MAX_PAIRS = 4096
MAX_PAIRS_OF_HOST = 256
"""Pairs of addresses that are kept: those that closed a connection last."""
MAX_CONNECTIONS = 6
"""Pairs of ports of one pair of addresses that are kept."""
MAX_CLOSES = 2
"""Closes of connections with the same addresses and ports that are kept: the last."""
MAX_CLOSING = 1024
MAX_BETWEEN_NS = 500_000_000
"""Between a FIN and its acknowledgement. What takes longer shows little about clocks."""

_Connections = dict[tuple[int, int], tuple["Close", ...]]


class Close(NamedTuple):
    """A FIN as one end saw it, wall clock of its host.

    clock_ns: the wall clock minus CLOCK_BOOTTIME, which changes when the clock is set. first_ns, last_ns: when it was
    sent, and acknowledged; both are the time of its arrival at the end that received it.
    """

    clock_ns: int
    is_sender: bool
    first_ns: int
    last_ns: int


class Closes:
    """Takes the state changes of hosts one after the other, and keeps closes in bounded memory."""

    def __init__(self) -> None:
        self._hosts: dict[str, OrderedDict[tuple[str, str], _Connections]] = {}
        self._pairs = 0
        self._closing: OrderedDict[str, int] = OrderedDict()  # when each socket sent its FIN

    def __iter__(self) -> Iterator[tuple[str, Ends, tuple[Close, ...]]]:
        for host, pairs in self._hosts.items():
            for (laddr, raddr), connections in pairs.items():
                for (lport, rport), closes in connections.items():
                    yield host, Ends(laddr, lport, raddr, rport), closes

    def begin(self) -> None:
        """Another recording begins: its sockets are other ones."""
        self._closing.clear()

    def take(self, host: str, event: Event) -> None:
        """Take a state change of that host."""
        old_state, new_state, time_ns = event.old_state, event.new_state, event.time_ns
        if old_state == "ESTABLISHED":
            if new_state == "CLOSE_WAIT":
                self._add(host, event, is_sender=False, first_ns=time_ns)
            elif new_state == "FIN_WAIT1" and event.sock is not None:
                self._closing[event.sock] = time_ns
                if len(self._closing) > MAX_CLOSING:
                    self._closing.popitem(last=False)
        elif old_state == "FIN_WAIT1" and event.sock is not None:
            first_ns = self._closing.pop(event.sock, None)
            if new_state == "FIN_WAIT2" and first_ns is not None and 0 <= time_ns - first_ns <= MAX_BETWEEN_NS:
                self._add(host, event, is_sender=True, first_ns=first_ns)

    def _add(self, host: str, event: Event, *, is_sender: bool, first_ns: int) -> None:
        ends = ends_of(event)
        if ends is not None:
            self.put(host, ends, Close(event.time_ns - event.ktime_ns, is_sender, first_ns, event.time_ns))

    def put(self, host: str, ends: Ends, close: Close) -> None:
        """Keep a close, unless there are enough of its addresses."""
        pairs, pair = self._hosts.setdefault(host[:MAX_TEXT], OrderedDict()), (ends.laddr, ends.raddr)
        self._pairs += pair not in pairs
        connections = pairs.setdefault(pair, {})
        pairs.move_to_end(pair)
        ports = (ends.lport, ends.rport)
        connections[ports] = (*connections.get(ports, ())[1 - MAX_CLOSES :], close)
        if len(connections) > MAX_CONNECTIONS:
            del connections[max(connections, key=_hash)]
        if len(pairs) > MAX_PAIRS_OF_HOST:
            self._forget_oldest(host[:MAX_TEXT])
        elif self._pairs > MAX_PAIRS:
            self._forget_oldest(next(iter(self._hosts)))

    def _forget_oldest(self, host: str) -> None:
        self._hosts[host].popitem(last=False)
        self._pairs -= 1
        if not self._hosts[host]:
            del self._hosts[host]

    def merge(self, other: Closes) -> None:
        """Include the closes of another report."""
        for host, ends, closes in other:
            for close in closes:
                self.put(host, ends, close)


def _hash(ports: tuple[int, int]) -> tuple[int, int]:
    """The same at both ends, and in no order of time, in which a system may choose ports."""
    both = min(ports) << 16 | max(ports)
    return both * 2_654_435_761 % 2**32, both
