"""The sentences about a stall: what happened, what it is consistent with, when and how it ends."""

from __future__ import annotations

from tracer.analysis.clients import HEARTBEATS
from tracer.analysis.timeouts import FAR_MS
from tracer.model.events import Event
from tracer.model.times import InvalidTime, parse_time
from tracer.output.format import clock, duration, endpoint, local_time, plural, safe, size

_CONSISTENT_WITH = {
    "idle-drop": "Consistent with a firewall or NAT that forgot the session, or a peer that vanished while idle.",
    "idle-reset": "Consistent with a firewall or load balancer that resets idle sessions, or a peer that restarted.",
    "keepalive-failed": "Consistent with a path or peer that died while the connection was idle.",
    "local-drop": "This host itself does not let the connection's packets out: its firewall, a queue, or no route.",
    "unreachable": "The network says that the peer cannot be reached.",
    "path-loss": "The connection was in use: consistent with a path or peer that died, not with an idle timeout.",
    "packet-loss": "Consistent with packet loss.",
    "no-answer": "Too few retransmissions so far to tell a lost packet from a dead path.",
    "unanswered": "The reply is late, the peer is stopped, or the path lost the reply: only the other end can tell. "
    "Where no reply is due, nothing is wrong.",
    "zero-window": "The peer answers, and its application does not read: the network is not at fault.",
    "handshake": "Consistent with a firewall that drops the connection, or no host at that address.",
    "peer-closed": "The peer had closed this connection before the application wrote to it.",
}
_ONE_WAY = "The peer is heard, and acknowledges nothing: what we send gets lost, or its acknowledgements do."


_WHO_DROPS = {"EPERM": "its firewall", "EACCES": "its firewall", "ENOMEM": "lack of memory"}

IN_USE_MS = 5000
"""A connection whose peer was silent for less was in use."""
LATE_MS = 2000
"""A stall that is reported so long after it began is reported with the time of day at which it began."""


def what_happened(stall: Event, utc_offset_s: int) -> str:
    """`Silent 1h02m, then no answer since 14:03:37 (1m47s): 9 retransmissions, 527 B stuck.`"""
    count = stall.retransmits or 0
    since = _since(stall, utc_offset_s)
    if stall.verdict == "unanswered":
        asked = f" to {endpoint(stall.raddr, stall.rport)}"
        return f"Last data{asked} sent{since or ' just now'}, and acknowledged; no data has come in reply."
    waiting = (stall.unsent_bytes or 0) + (stall.unacked_bytes or 0)
    if stall.verdict == "zero-window" or stall.probes_out:
        closed = f"has been closed{since}" if since else "is closed"
        unanswered = f", the last {stall.probes_out:,} unanswered" if stall.probes_out else ""
        return f"The peer's window {closed}: {plural(count, 'probe')}{unanswered}, {_bytes(waiting)} waiting."
    if stall.verdict == "local-drop":
        cannot = "Cannot send" if stall.phase != "end" else "Could not send"
        idle_ms = stall.idle_ms or 0
        before = f" Silent {duration(idle_ms)} before." if idle_ms >= IN_USE_MS else ""
        left = f", {_bytes(waiting)} waiting" if waiting else ""
        return f"{cannot}{since}: dropped on this host, {plural(count, 'attempt')}{left}.{before}"
    if stall.verdict == "handshake" or stall.state == "SYN_SENT":
        return f"No answer to the SYN{since}: {plural(count, 'retransmission')}."
    silent = f"Silent {duration(stall.idle_ms)}, then" if stall.idle_ms is not None else "Then"
    if stall.verdict in ("idle-reset", "peer-closed") and count == 0:
        return f"{silent} a reset."
    if stall.verdict == "keepalive-failed":
        return f"{silent} no answer to {plural(count, 'keepalive probe')}{since}."
    stuck = f", {_bytes(stall.unacked_bytes)} stuck" if stall.unacked_bytes else ""
    answer = "a reset" if stall.outcome == "reset" else f"no answer{since}"
    return f"{silent} {answer}: {plural(count, 'retransmission')}{stuck}."


def _since(stall: Event, utc_offset_s: int) -> str:
    """` since 14:03:37 (1m47s)`; empty where it began just now, or has ended, or a recording does not say."""
    if stall.since is None or stall.phase == "end":
        return ""
    try:
        since_ns = parse_time(stall.since)
    except InvalidTime:
        return ""
    lasted_ms = (stall.time_ns - since_ns) // 1_000_000
    if lasted_ms < LATE_MS:
        return ""
    word = "at" if stall.verdict == "unanswered" else "since"
    ago = " ago" if stall.verdict == "unanswered" else ""
    return f" {word} {local_time(since_ns, utc_offset_s)[1][:8]} ({duration(lasted_ms)}{ago})"


def what_it_means(stall: Event) -> str:
    """What the verdict stands for."""
    meaning = _CONSISTENT_WITH.get(stall.verdict or "", safe(stall.verdict or ""))
    if stall.verdict == "keepalive-failed" and stall.asked_ms is not None:
        meaning = "A request was open: it was acknowledged, and no reply came before the path or the peer died."
    if stall.verdict == "zero-window" and stall.probes_out:
        meaning = (
            "The peer's application did not read, and now probes are unanswered: the peer or path may have died."
        )
    if stall.verdict == "unreachable" and stall.soft_error is None and stall.send_error is not None:
        meaning = f"This host cannot send to the peer ({safe(stall.send_error)})."
    if stall.verdict == "local-drop" and stall.send_error is not None:
        by = _WHO_DROPS.get(stall.send_error, "its queue")
        meaning = f"This host itself does not let the connection's packets out: {by} ({safe(stall.send_error)})."
    if stall.verdict == "path-loss" and not stall.probes_out and (stall.idle_ms or 0) >= IN_USE_MS:
        silence = duration(stall.idle_ms or 0)
        meaning = f"Consistent with a path or peer that died: an idle timeout of {silence} or less is rare."
    if stall.soft_error is not None:
        meaning = f"{meaning} ICMP says {safe(stall.soft_error)}."
    return f"{meaning} {_ONE_WAY}" if stall.one_way else meaning


def when_it_ends(stall: Event, utc_offset_s: int) -> str:
    """`Gives up at 12:45:43.204 (in 15m20s) with ETIMEDOUT.`; empty where that is not known."""
    if stall.verdict == "unanswered" and stall.keepalive is False:
        heartbeat = ", unless the client has a heartbeat of its own" if stall.rport in HEARTBEATS else ""
        return f"Keepalive is off: the kernel never ends this wait{heartbeat}."
    if stall.gives_up_in_ms is None or not 0 <= stall.gives_up_in_ms + (stall.gives_up_window_ms or 0) < FAR_MS:
        return ""
    error = safe(stall.soft_error or "ETIMEDOUT")
    if stall.mptcp:
        error = f"{error}: this is one subflow, and its MPTCP connection may go on without it"
    gives_up = "If the peer is gone, keepalive gives up" if stall.verdict == "unanswered" else "Gives up"
    earliest_ns = stall.time_ns + stall.gives_up_in_ms * 1_000_000
    if not stall.gives_up_window_ms:
        return f"{gives_up} at {clock(earliest_ns, utc_offset_s)} (in {duration(stall.gives_up_in_ms)}) with {error}."
    latest_ms = stall.gives_up_in_ms + stall.gives_up_window_ms
    latest_ns = stall.time_ns + latest_ms * 1_000_000
    return (
        f"{gives_up} between {clock(earliest_ns, utc_offset_s)} and {clock(latest_ns, utc_offset_s)} "
        f"(in {duration(stall.gives_up_in_ms)} to {duration(latest_ms)}) with {error}."
    )


def how_it_ended(stall: Event) -> str:
    """`Timed out after 15m28s: the application gets ETIMEDOUT.`"""
    lasted = duration(stall.duration_ms or 0)
    gets = f": the application gets {safe(stall.error)}" if stall.error is not None else ""
    if stall.mptcp:
        gets = f": the subflow's error is {safe(stall.error)}" if stall.error is not None else ""
    elif stall.orphan and not gets:
        gets = ": no process was waiting any more"
    if stall.outcome == "recovered":
        return f"Answered after {lasted}."
    if stall.outcome == "presumed":
        if stall.verdict == "local-drop":
            return f"No further attempt was seen after {lasted}: the data was probably sent."
        what = "probe" if not stall.unacked_bytes and stall.state == "ESTABLISHED" else "retransmission"
        return f"No further {what} was seen after {lasted}: it was probably answered."
    if stall.outcome == "alive":
        return f"The peer answered a probe, or acknowledged more data, after {lasted}. It has not replied yet."
    if stall.outcome == "timed-out":
        return f"Timed out after {lasted}{gets}."
    if stall.outcome == "reset":
        return f"Reset after {lasted}{gets}." if stall.duration_ms else f"Reset{gets}."
    if stall.outcome == "unreachable":
        return f"Given up after {lasted}{gets}."
    if stall.outcome == "closed":
        return f"Closed by this end after {lasted}{gets}."
    return f"Not over yet after {lasted}."


def _bytes(count: int | None) -> str:
    text = size(count or 0)
    return f"{text} B" if text.isdecimal() else f"{text}B"
