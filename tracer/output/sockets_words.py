"""What the tables of `tcpwatch sockets` say about one socket, or about a group of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from tracer.analysis.socket_groups import Group
from tracer.analysis.stuck import Stuck
from tracer.model.durations import setting
from tracer.model.sockets import Socket
from tracer.output.format import duration, endpoint, owner_of_all, plural, safe, size
from tracer.output.rows import columns_of, shortened

NOTHING = "-"
_MIN_NAME = 8
"""Columns of a program's name that are kept."""
_WAITS_FOR_ANSWER = {
    "on": "retransmission",
    "persist": "window probe",
    "keepalive": "keepalive probe",
}
"""What went unanswered, by the timer that is armed."""


def time_of(ms: int | None) -> str:
    """A duration; `-` without one."""
    return NOTHING if ms is None else duration(ms)


def range_in_words(least_and_greatest_ms: tuple[int, int] | None) -> str:
    """`59.0s–1h02m`, or one duration where both are spelled alike."""
    if least_and_greatest_ms is None:
        return NOTHING
    least, greatest = map(duration, least_and_greatest_ms)
    return least if least == greatest else f"{least}–{greatest}"


def bytes_in_words(count: int) -> str:
    """`527 B`, `700 KB`."""
    text = size(count)
    return f"{text} B" if text.isdecimal() else f"{text[:-1]} {text[-1]}B"


def keepalive(socket: Socket) -> str:
    """`off`, or `2h+9x75s`: the first probe after two hours of silence, and the end after 9 probes every 75s."""
    if socket.keepalive is None or socket.keepalive_idle_s is None or socket.keepalive_interval_s is None:
        return NOTHING
    if not socket.keepalive:
        return "off"
    return keepalive_times(socket.keepalive_idle_s, socket.keepalive_probes, socket.keepalive_interval_s)


def keepalive_times(idle_s: int, probes: int | None, interval_s: int) -> str:
    """`2h+9x75s`."""
    return f"{setting(idle_s)}+{probes}x{setting(interval_s)}"


def notes(socket: Socket) -> str:
    """What is remarkable about a socket: its state if that is not ESTABLISHED, what is unanswered, what is queued."""
    found = [] if socket.state == "ESTABLISHED" else [safe(socket.state or "?")]
    if socket.attempt and socket.timer in _WAITS_FOR_ANSWER:
        found.append(f"{_unanswered(socket.attempt, socket)}, next in {time_of(socket.timer_ms)}")
    elif socket.timer == "persist":
        window = "closed window" if not socket.snd_wnd else "small window"
        found.append(f"{window}, next probe in {time_of(socket.timer_ms)}")
    if socket.unacked_bytes or socket.unsent_bytes or socket.unread_bytes:
        found += _queued([socket])
    if socket.soft_error:
        found.append(safe(socket.soft_error))
    return ", ".join(found)


def _unanswered(count: int, example: Socket) -> str:
    what = "SYN" if example.state == "SYN_SENT" else _WAITS_FOR_ANSWER.get(example.timer or "", "probe")
    return f"{plural(count, what)} unanswered"


def _queued(sockets: Sequence[Socket]) -> Iterator[str]:
    for name, what in (("unacked_bytes", "unacked"), ("unsent_bytes", "unsent"), ("unread_bytes", "unread")):
        count = sum(getattr(socket, name) or 0 for socket in sockets)
        if count:
            yield f"{bytes_in_words(count)} {what}"


def title(group: Group, width: int | None) -> str:
    """`pgbouncer[30903] → 10.77.2.3:5432 × 500`, `sshd[812] port 22, from 3 clients × 3`.

    width: shorten the name of the program, and only that, if the title is longer; None for any length.
    """
    count = len(group.sockets)
    service = f" {_service(group)} × {count:,}" if count > 1 else f" {_service(group)}"
    name = owner_of_all(group.sockets)
    if width is None:
        return name + service
    return shortened(name, max(_MIN_NAME, width - columns_of(service))) + service


def _service(group: Group) -> str:
    key, peers = group.key, group.peers
    if key.is_local:
        clients = safe(next(iter(peers)) or "?") if len(peers) == 1 else f"{len(peers):,} clients"
        return f"port {key.port}, from {clients}"
    if len(peers) > 1:
        return f"→ port {key.port} of {len(peers):,} hosts"
    return f"→ {endpoint(key.host or None, key.port)}"


def keepalive_of_group(group: Group) -> str:
    """That of all sockets, or `mixed`."""
    found = {keepalive(socket) for socket in group.sockets}
    return found.pop() if len(found) == 1 else "mixed"


def _in_words(reason: Stuck) -> str:
    return "connecting in vain" if reason is Stuck.SYN else reason.value


def notes_of_group(group: Group) -> str:
    """What is remarkable about the sockets of a group."""
    sockets, reasons = group.sockets, group.reasons
    found = [
        _in_words(reason) if len(sockets) == 1 else f"{reasons[reason]:,} {_in_words(reason)}"
        for reason in Stuck
        if reasons[reason]
    ]
    attempts = [socket for socket in sockets if socket.attempt]
    if attempts:
        worst = max(attempts, key=lambda socket: socket.attempt or 0)
        unanswered = _unanswered(worst.attempt or 0, worst)
        found.append(unanswered if len(attempts) == 1 else f"up to {unanswered}")
    states = Counter(socket.state or "?" for socket in sockets)
    if len(sockets) == 1:
        found += [safe(state) for state in states if state != "ESTABLISHED"]
    else:
        found += [f"{count:,} {safe(state)}" for state, count in states.most_common() if state != "ESTABLISHED"]
    waiting = sum(bool(socket.waiting) for socket in sockets) - reasons[Stuck.REPLY]
    if waiting and len(sockets) > 1:
        found.append(f"{waiting:,} waiting")
    off = sum(socket.keepalive is False for socket in sockets)
    if 0 < off < len(sockets):
        found.append(f"keepalive off on {off:,}")
    found += _queued(sockets)
    errors = {socket.soft_error for socket in sockets if socket.soft_error}
    found += sorted(safe(error) for error in errors)
    return ", ".join(found)
