"""Counts and clocks of an event that are absent until they begin: then they are zero."""

from __future__ import annotations

from tracer.model.events import Event


def retrying_ms(event: Event) -> int:
    """Milliseconds since the first retransmission by RTO, window probe or attempt to send; 0 before it."""
    return 0 if event.retrying_ms is None else event.retrying_ms


def attempts(event: Event) -> int:
    """Retransmissions by RTO or probes so far, as the kernel counts; 0 before the first, or where it is not known."""
    return 0 if event.attempt is None else event.attempt


def probes(event: Event) -> int:
    """The number of the probe that the event is about, at least 1."""
    return max(1, attempts(event))


def linear_timeouts(event: Event) -> int:
    """SYN retransmissions that do not double the RTO; none before Linux 6.5."""
    return 0 if event.syn_linear_timeouts is None else event.syn_linear_timeouts
