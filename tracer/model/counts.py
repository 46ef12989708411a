"""What the kernel counts by itself, and what the events say of the same: each is the other's truth check."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from tracer.model.events import Event

MOST_NAMESPACES = 4096
_WITH_SYN_OR_FIN = frozenset({"SYN_SENT", "SYN_RECV", "FIN_WAIT1", "CLOSING", "LAST_ACK"})
"""States in which one of these may be in flight, which unacked_bytes leaves out."""
_BY_TIMER = frozenset({"rto", "syn", "synack", "fin"})


class Counts(NamedTuple):
    """Of one network namespace, or of several together. The kernel's names are those of `nstat`."""

    segments: int = 0  # TcpRetransSegs: retransmitted, SYN/ACKs included
    keepalives: int = 0  # TcpExtTCPKeepAlive: probes sent
    timeouts: int = 0  # TcpExtTCPTimeouts: expiries of the retransmission timer

    def plus(self, other: Counts) -> Counts:
        """Both together."""
        segments, keepalives, timeouts = other
        return Counts(self.segments + segments, self.keepalives + keepalives, self.timeouts + timeouts)

    def since(self, before: Counts) -> Counts:
        """What came since then."""
        return Counts(*(now - old for now, old in zip(self, before, strict=True)))


NOTHING = Counts()
_ONE_KEEPALIVE = Counts(keepalives=1)


def counts_of_kernel(event: Event) -> Counts:
    """What a `counters` event says."""
    return Counts(event.retrans_segs or 0, event.keepalives or 0, event.timeouts or 0)


def counts_of(event: Event) -> Counts:
    """How far the kernel's counters have grown with this event.

    tcp_retransmit_timer() (net/ipv4/tcp_timer.c) counts each expiry but those into a closed window, and also the last
    one, at which it gives up. reqsk_timer_handler() (net/ipv4/inet_connection_sock.c) counts those of a SYN/ACK. Some
    of them are no event (docs/events.md), so the timeouts of events may be a few less than the kernel's.
    """
    kind = event.event
    if kind == "keepalive":
        return _ONE_KEEPALIVE
    if kind == "retransmit":
        by_timer = event.kind in _BY_TIMER and (event.attempt or 0) > 0
        into_closed_window = event.kind == "rto" and event.snd_wnd == 0 and not event.orphan
        return Counts(1 if event.segments is None else event.segments, 0, int(by_timer and not into_closed_window))
    # Whoever gives up reports the error that ICMP has brought, if one has (tcp_write_err()).
    if kind == "error" and event.error in ("ETIMEDOUT", event.soft_error or "ETIMEDOUT"):
        # With nothing in flight it is another timer that gives up: keepalive's, or that of a closed window.
        in_flight = event.unacked_bytes or (
            (event.old_state or event.state) in _WITH_SYN_OR_FIN and not event.unsent_bytes
        )
        return Counts(timeouts=int(bool(in_flight) or event.silent_ms is None))
    return NOTHING


class Tally:
    """Counts by network namespace, of MOST_NAMESPACES; further ones are together None."""

    def __init__(self) -> None:
        self._by_netns: dict[int | None, list[int]] = {}  # in the order of Counts

    def add(self, netns: int | None, counts: Counts) -> None:
        """Add to those of one namespace."""
        if counts is NOTHING:
            return
        sums = self._by_netns.get(netns)
        if sums is None:
            if len(self._by_netns) >= MOST_NAMESPACES:
                netns = None
            sums = self._by_netns.setdefault(netns, [0, 0, 0])
        for place, count in enumerate(counts):
            sums[place] += count

    def take(self, other: Tally) -> None:
        """Move everything from the other one here."""
        for netns, sums in other._by_netns.items():
            self.add(netns, Counts(*sums))
        other._by_netns.clear()

    def of(self, netns: int | None) -> Counts:
        """What was added to that namespace."""
        return Counts(*self._by_netns.get(netns, NOTHING))

    def namespaces(self) -> Collection[int | None]:
        """Those that something was added to."""
        return self._by_netns.keys()

    def clear(self) -> None:
        """Begin anew."""
        self._by_netns.clear()

    def total(self, without: Collection[int | None] = ()) -> Counts:
        """Of all namespaces but these."""
        total = NOTHING
        for netns, sums in self._by_netns.items():
            if netns not in without:
                total = total.plus(Counts(*sums))
        return total
