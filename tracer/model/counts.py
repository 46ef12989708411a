"""Counts of retransmissions, probes and timeouts: the kernel's own, and those of the events, to compare."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from tracer.model.events import Event

MAX_NAMESPACES = 4096
_WITH_SYN_OR_FIN = frozenset({"SYN_SENT", "SYN_RECV", "FIN_WAIT1", "CLOSING", "LAST_ACK"})
"""States in which a SYN or a FIN may be in flight. unacked_bytes does not include these."""
_BY_TIMER = frozenset({"rto", "syn", "synack", "fin"})


class Counts(NamedTuple):
    """The counts of one or several network namespaces. The kernel's names are those of `nstat`."""

    segments: int = 0  # TcpRetransSegs: retransmitted, SYN/ACKs included
    keepalives: int = 0  # TcpExtTCPKeepAlive: probes sent
    timeouts: int = 0  # TcpExtTCPTimeouts: expiries of the retransmission timer

    def plus(self, other: Counts) -> Counts:
        """The sum of both."""
        segments, keepalives, timeouts = other
        return Counts(self.segments + segments, self.keepalives + keepalives, self.timeouts + timeouts)

    def since(self, before: Counts) -> Counts:
        """The difference to earlier counts."""
        return Counts(*(now - old for now, old in zip(self, before)))


NOTHING = Counts()
_ONE_KEEPALIVE = Counts(keepalives=1)


def counts_of_kernel(event: Event) -> Counts:
    """The counts of a `counters` event."""
    return Counts(_known(event.retrans_segs), _known(event.keepalives), _known(event.timeouts))


def counts_seen(event: Event) -> Counts | None:
    """The counts of the events that a compact recording left out before this `counters` event; None in others."""
    seen = event.seen_retrans_segs, event.seen_keepalives, event.seen_timeouts
    return None if seen == (None, None, None) else Counts(*map(_known, seen))


def counts_of(event: Event) -> Counts:
    """The amount by which the kernel's counters grew with this event.

    tcp_retransmit_timer() (net/ipv4/tcp_timer.c) counts each expiry but those into a closed window, and also the last
    one, at which it gives up. reqsk_timer_handler() (net/ipv4/inet_connection_sock.c) counts those of a SYN/ACK. Some
    expiries have no event (docs/events.md), so the timeouts of events may be a few less than the kernel's.
    """
    kind = event.event
    if kind == "keepalive":
        return _ONE_KEEPALIVE
    if kind == "retransmit":
        by_timer = event.kind in _BY_TIMER and _known(event.attempt) > 0
        into_closed_window = event.kind == "rto" and event.snd_wnd == 0 and not event.orphan
        return Counts(1 if event.segments is None else event.segments, 0, int(by_timer and not into_closed_window))
    # The timer that gives up reports the error of an ICMP message, if there was one (tcp_write_err()).
    if kind == "error" and event.error in ("ETIMEDOUT", event.soft_error or "ETIMEDOUT"):
        # With nothing in flight, the timer of keepalive or of a closed window gave up instead.
        in_flight = event.unacked_bytes or (
            (event.old_state or event.state) in _WITH_SYN_OR_FIN and not event.unsent_bytes
        )
        return Counts(timeouts=int(bool(in_flight) or event.silent_ms is None))
    return NOTHING


def _known(count: int | None) -> int:
    return 0 if count is None else count


class Tally:
    """Counts by network namespace. Beyond MAX_NAMESPACES, the others share the key None."""

    def __init__(self) -> None:
        self._by_netns: dict[int | None, list[int]] = {}  # in the order of Counts

    def add(self, netns: int | None, counts: Counts) -> None:
        """Add counts to a namespace."""
        if counts is NOTHING:
            return
        sums = self._by_netns.get(netns)
        if sums is None:
            if len(self._by_netns) >= MAX_NAMESPACES:
                netns = None
            sums = self._by_netns.setdefault(netns, [0, 0, 0])
        for place, count in enumerate(counts):
            sums[place] += count

    def take(self, other: Tally) -> None:
        """Move everything from another tally to this one."""
        for netns, sums in other._by_netns.items():
            self.add(netns, Counts(*sums))
        other._by_netns.clear()

    def of(self, netns: int | None) -> Counts:
        """The sums of a namespace."""
        return Counts(*self._by_netns.get(netns, NOTHING))

    def take_of(self, netns: int | None) -> Counts:
        """Remove and return the sums of a namespace."""
        return Counts(*self._by_netns.pop(netns, NOTHING))

    def namespaces(self) -> Collection[int | None]:
        """The namespaces with sums."""
        return self._by_netns.keys()

    def clear(self) -> None:
        """Remove all sums."""
        self._by_netns.clear()

    def total(self, without: Collection[int | None] = ()) -> Counts:
        """The sums of all namespaces but these."""
        total = NOTHING
        for netns, sums in self._by_netns.items():
            if netns not in without:
                total = total.plus(Counts(*sums))
        return total
