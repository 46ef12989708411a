"""Which connections can be probed, and what their sockets show of the answer. No I/O."""

from __future__ import annotations

from collections.abc import Iterable

from tracer.act.selection import without_process
from tracer.kernel.window_probe import Reading
from tracer.model.actions import Answer
from tracer.model.sockets import Socket

PROBES = 3
"""Probes of a connection before it counts as one that does not answer."""
MIN_WAIT_S = 1
"""Then the last probe is answered, whatever was answered before the first: a Linux peer answers one such segment in
net.ipv4.tcp_invalid_ratelimit (500 ms)."""
SLACK_MS = 20
"""Two jiffies with HZ=100, the lowest: the error of `Reading.acked_ms`."""
MIN_PAUSE_S, MAX_PAUSE_S = 0.0005, 0.1
"""Between two looks at a connection."""
MAX_BUSY_PAUSE_S = 0.01
"""Between two looks at one with data in flight. Its peer may be alive, and should not get a FIN later than that."""


def split(sockets: Iterable[Socket]) -> tuple[list[Socket], list[Socket]]:
    """The connections to probe, and those that their application has closed, which nobody waits for."""
    chosen: list[Socket] = []
    closed: list[Socket] = []
    for socket in sockets:
        (closed if socket.orphan else chosen).append(socket)
    return chosen, closed


def why_not(socket: Socket) -> str | None:
    """Why this connection cannot be probed; None if it can.

    tcp_send_window_probe() (net/ipv4/tcp_output.c) only sends in ESTABLISHED. A Multipath TCP socket takes no
    TCP_REPAIR (mptcp_supported_sockopt(), net/mptcp/sockopt.c), and the sockets of its subflows have no descriptor.
    """
    if socket.mptcp:
        return "a subflow of Multipath TCP has no descriptor"
    if socket.state != "ESTABLISHED":
        return f"the kernel sends no probe in {socket.state or 'an unknown state'}"
    return without_process(socket)


def judge(before: Reading, now: Reading, elapsed_ms: float) -> Answer | None:
    """What came in answer to the first probe; None if nothing has yet. elapsed_ms: since the first probe.

    An answer acknowledges and has no data. Data alone is not enough: a peer that retransmits because it does not
    get our acknowledgements sends data, too. Nor is a FIN, which such a peer sends as well. A keepalive probe of the
    peer has no data and acknowledges nothing here (tcp_validate_incoming(), net/ipv4/tcp_input.c). Before the first
    probe nothing is in flight, so data that is acknowledged was sent after it.
    """
    if now.state == "CLOSE":
        return Answer.RESET if now.has_received_since(before) else None
    if now.has_delivered_since(before):
        return Answer.ALIVE
    if now.state == "CLOSE_WAIT" or not now.has_received_since(before):
        return None
    return Answer.ALIVE if now.acked_ms <= elapsed_ms + SLACK_MS else None


def pause_s(elapsed_s: float, *, is_busy: bool = False) -> float:
    """Seconds until the next look: a tenth of the time since the first probe, within limits.

    So a round trip is measured with an error of a tenth.
    """
    return min(MAX_BUSY_PAUSE_S if is_busy else MAX_PAUSE_S, max(MIN_PAUSE_S, elapsed_s / 10))
