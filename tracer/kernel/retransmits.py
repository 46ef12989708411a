"""The kind of a retransmission, inferred from the state of its socket."""

from __future__ import annotations


def retransmit_kind(
    *,
    synack: bool,
    state: str | None,
    ca_state: int,
    pending: int,
    attempt: int,
    backoff: int,
    unacked: int,
    silent_jiffies: int,
) -> str:
    """`rto`, `tlp`, `fast`, `syn`, `synack` or `fin`: why the kernel sends a segment again.

    The RTO timer clears icsk_pending before it retransmits. A tail loss probe leaves ICSK_TIME_LOSS_PROBE (5) in it
    (tcp_write_timer_handler(), net/ipv4/tcp_timer.c). An ICMP error can make the kernel retry early
    (tcp_ld_RTO_revert(), net/ipv4/tcp_ipv4.c): pending is set again, but the socket is in Loss and nothing was
    received. Recovery from loss sends at once after an ACK. The RTO timer doubles the RTO after it has sent, so a
    segment that finds the RTO doubled `attempt` times was not sent by the timer, but because the path MTU has shrunk
    (tcp_simple_retransmit(), net/ipv4/tcp_input.c).
    """
    if synack or state == "SYN_RECV":  # in a simultaneous open there is no request socket
        return "synack"
    if state == "SYN_SENT":
        return "syn"
    if state in ("FIN_WAIT1", "CLOSING", "LAST_ACK") and unacked == 0:
        return "fin"
    if pending == 5 and ca_state < 3:
        return "tlp"
    if pending == 0 or (ca_state == 4 and attempt > backoff and silent_jiffies >= 2):
        return "rto"
    return "fast"
