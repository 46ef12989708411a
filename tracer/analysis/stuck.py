"""What hangs now: sockets with a peer that owes an answer, by a single look at them.

A look shows less than the events of a trace, and a healthy connection loses a segment, fills a window and waits for a
reply now and then. So each rule waits until the kernel's own counts and clocks show that more than chance is at work.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

from tracer.analysis.clients import HEARTBEATS, MAX_HEARTBEAT_S
from tracer.analysis.outstanding import outstanding
from tracer.analysis.progress import is_beyond_count
from tracer.analysis.timeouts import gives_up
from tracer.model.sockets import Socket
from tracer.model.times import format_time

LOST_BY_CHANCE = 2
"""Retransmissions or probes without an answer that a healthy path may cost."""
LASTS_MS = 1_000
"""Shorter losses are not reported. Data centers lower the RTO so far that three retransmissions take 50 ms."""
WINDOW_MS = 10_000
"""A window that is closed for less may be that of a peer which reads slowly."""
WAITING_MS = 60_000
"""A reply that takes longer than this counts as missing: bpf/settings.h has the same default for `waiting`."""
_PROBES_SOON_S = 600
"""Keepalive probes that are due sooner tell more than a wait does: as waiting_threshold(), bpf/walk.h."""
_PROBE_BASE_MS, _PROBE_MAX_MS = 200, 120_000  # tcp_probe0_base(), tcp_probe0_when(), include/net/tcp.h


class Stuck(str, Enum):
    """Why a socket hangs, the worst first."""

    RETRANSMITTING = "retransmitting"
    """Data or a FIN is in flight, and nothing acknowledges it."""
    PROBING = "probing in vain"
    """Keepalive probes, or probes of a closed window, go unanswered."""
    UNSENT = "cannot send"
    """The peer's window is open, and this host fails to send: its own firewall, queue or routes."""
    WINDOW = "closed window"
    """The peer answers, but its application has not read for WINDOW_MS."""
    SYN = "SYN unanswered"
    REPLY = "waiting for a reply"
    """The peer acknowledged a request, and has been silent for WAITING_MS. A slow reply looks the same."""

    @property
    def slug(self) -> str:
        """The reason as JSON has it: `probing-in-vain`."""
        return self.value.lower().replace(" ", "-")


def stuck(socket: Socket, waiting_ms: int = WAITING_MS) -> Stuck | None:
    """Why this socket hangs; None if nothing shows that it does. waiting_ms: a reply that takes longer is missing."""
    attempt = _number(socket.attempt)
    if socket.state == "SYN_SENT":
        return Stuck.SYN if attempt >= LOST_BY_CHANCE else None
    if socket.timer == "on":
        if socket.snd_wnd == 0 and socket.unacked_bytes and not socket.orphan:
            return _behind_a_shrunk_window(socket)
        return Stuck.RETRANSMITTING if attempt > LOST_BY_CHANCE and _lasts(socket) else None
    if socket.timer == "persist":
        return _at_window_probes(socket, attempt)
    if socket.timer == "keepalive" and attempt and socket.keepalive is not False:
        # The answer to the latest probe may be on its way.
        unanswered = attempt if _latest_probe_is_overdue(socket) else attempt - 1
        return Stuck.PROBING if unanswered >= LOST_BY_CHANCE else None
    return Stuck.REPLY if _waits(socket, waiting_ms) else None


def _behind_a_shrunk_window(socket: Socket) -> Stuck | None:
    """The peer closed its window over data in flight.

    The kernel retransmits the data as probes and does not count them (tcp_retransmit_timer(), net/ipv4/tcp_timer.c).
    It doubles the RTO each time, so a silence longer than the RTO is that of two probes.
    """
    if _number(socket.stuck_ms) < WINDOW_MS:
        return None
    return Stuck.PROBING if _number(socket.silent_ms) > _number(socket.rto_ms) else Stuck.WINDOW


def _at_window_probes(socket: Socket, attempt: int) -> Stuck | None:
    """The PROBE0 timer also runs for data that TCP_CORK holds back: then the window is open, and nothing fails.

    tcp_send_probe0() (net/ipv4/tcp_output.c) counts a probe with an open window only if it was not sent.
    """
    if socket.snd_wnd:
        return Stuck.UNSENT if attempt > LOST_BY_CHANCE and _lasts(socket) else None
    if attempt > LOST_BY_CHANCE:
        return Stuck.PROBING
    return Stuck.WINDOW if window_closed_ms(socket) >= WINDOW_MS else None


def _latest_probe_is_overdue(socket: Socket) -> bool:
    """Whether the latest keepalive probe is older than an RTO: tcp_keepalive_timer() rearms its timer after each."""
    if socket.keepalive_interval_s is None or socket.timer_ms is None or socket.rto_ms is None:
        return True
    return socket.keepalive_interval_s * 1000 - socket.timer_ms >= socket.rto_ms


def _waits(socket: Socket, waiting_ms: int) -> bool:
    """Whether a reply is missing.

    The peer must be silent, too: if it answers keepalive probes, the path is fine and the reply only takes its time.
    Nobody waits for a reply on an idle connection that no thread reads.
    """
    if not socket.waiting or socket.has_reader is False or socket.waiting_ms is None:
        return False
    if socket.rport in HEARTBEATS and socket.waiting_ms <= MAX_HEARTBEAT_S * 1000:
        return False
    silent_ms = socket.waiting_ms if socket.silent_ms is None else socket.silent_ms
    return min(socket.waiting_ms, silent_ms) >= max(waiting_ms, _probed_ms(socket))


def _probed_ms(socket: Socket) -> float:
    """The silence that the next keepalive probe ends on a healthy path, its timer as late as it may be; 0: none."""
    idle_s = socket.keepalive_idle_s
    if not socket.keepalive or idle_s is None or idle_s > _PROBES_SOON_S:
        return 0
    probed_s = idle_s + _number(socket.keepalive_interval_s)
    return (probed_s * 9 / 8 + 1) * 1000


def _lasts(socket: Socket) -> bool:
    return socket.stuck_ms is None or socket.stuck_ms >= LASTS_MS


def _number(value: int | None) -> int:
    return 0 if value is None else value


def window_closed_ms(socket: Socket) -> int:
    """How long the peer's window has been closed, at least.

    Each answered probe doubles the timeout of the next one, and an open window ends the doubling (tcp_ack_probe(),
    net/ipv4/tcp_input.c). The kernel's own clock (stuck_ms) also runs while a slow reader opens its window a bit now
    and then, so it counts only where it agrees, or where the kernel counts no more probes.
    """
    base_ms = max(_PROBE_BASE_MS, _number(socket.rto_ms))
    timeouts_ms = [min(base_ms << min(number, 16), _PROBE_MAX_MS) for number in range(_number(socket.backoff) + 1)]
    since_probe_ms = max(0, timeouts_ms[-1] - _number(socket.timer_ms)) if socket.timer_ms is not None else 0
    probed_ms = sum(timeouts_ms[:-1]) + since_probe_ms
    stuck_ms = _number(socket.stuck_ms)
    if socket.trouble is not None and is_beyond_count(socket.trouble):
        return max(stuck_ms, probed_ms)
    return stuck_ms if probed_ms <= stuck_ms <= probed_ms * 1.25 + 1000 and socket.backoff else probed_ms


def hangs_ms(socket: Socket, reason: Stuck, hz: int) -> int | None:
    """How long it has hung, as far as one look shows; None where it does not. hz: the kernel's jiffies per second."""
    if reason is Stuck.REPLY:
        return socket.waiting_ms
    if reason is Stuck.WINDOW and socket.timer == "persist":
        return window_closed_ms(socket)
    if socket.stuck_ms is not None and socket.timer == "on":
        return socket.stuck_ms
    if reason is Stuck.PROBING and socket.timer == "persist":
        return socket.silent_ms
    first = outstanding(socket.trouble, hz) if socket.trouble is not None else None
    if first is None or socket.trouble is None:
        return None
    return (socket.trouble.ktime_ns - first.since_ns) // 1_000_000


def mark(sockets: Iterable[Socket], hz: int) -> list[Socket]:
    """The sockets that hang, the worst first, with `stuck`, and `since` and `gives_up_…` where one look tells them.

    hz: the kernel's jiffies per second.
    """
    found = worst_first(sockets)
    for reason, socket in found:
        socket.stuck = reason.slug
        ms = hangs_ms(socket, reason, hz)
        socket.since = None if ms is None else format_time(max(0, socket.time_ns - ms * 1_000_000))
        _set_give_up(socket, hz)
    return [socket for _, socket in found]


def _set_give_up(socket: Socket, hz: int) -> None:
    socket.gives_up_at = socket.gives_up_in_ms = socket.gives_up_window_ms = None
    give_up = gives_up(socket.trouble, hz) if socket.trouble is not None else None
    if give_up is None or socket.trouble is None:
        return
    in_ms = max(0, (give_up.earliest_ns - socket.trouble.ktime_ns) // 1_000_000)
    window_ms = (give_up.latest_ns - give_up.earliest_ns) // 1_000_000
    socket.gives_up_in_ms = in_ms
    socket.gives_up_at = format_time(socket.time_ns + in_ms * 1_000_000)
    socket.gives_up_window_ms = window_ms or None


_ORDER = {reason: number for number, reason in enumerate(Stuck)}
REASONS = {reason.slug: reason for reason in Stuck}
"""The reasons by their words in JSON."""


def worst_first(sockets: Iterable[Socket]) -> list[tuple[Stuck, Socket]]:
    """The sockets that hang, with the reason: by reason, orphans last, and then the longest silence first."""
    found = [(reason, socket) for socket in sockets if (reason := stuck(socket)) is not None]
    return sorted(found, key=lambda item: (_ORDER[item[0]], bool(item[1].orphan), _silence_first(item[1])))


def _silence_first(socket: Socket) -> int:
    return 0 if socket.silent_ms is None else -socket.silent_ms
