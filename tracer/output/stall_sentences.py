"""The sentences about a stall: what happened, what it is consistent with, when and how it ends."""

from __future__ import annotations

from collections.abc import Callable

from tracer.analysis.clients import HEARTBEATS
from tracer.analysis.outcomes import Outcome
from tracer.analysis.timeouts import MAX_MS
from tracer.analysis.verdicts import IN_USE_MS, Subject, Verdict
from tracer.model.events import Event
from tracer.model.times import InvalidTime, parse_time
from tracer.output.format import clock, duration, local_time, plural, safe, size

_ONE_WAY = "The peer is sending but acknowledges nothing: our data or its ACKs are being lost."
_WAS_ONE_WAY = "The peer was sending but acknowledged nothing: our data or its ACKs were lost."


LATE_MS = 2000
"""A stall that is reported so long after it began is reported with the time of day at which it began."""


def what_happened(stall: Event, utc_offset_s: int) -> str:
    """`Silent 1h02m, then no answer since 14:03:37 (1m47s): 9 retransmissions, 527 B stuck.`"""
    verdict = Verdict.of(stall.verdict)
    subject = Subject.ACKNOWLEDGEMENT if verdict is None else verdict.subject
    if subject is not Subject.REPLY:
        if stall.probes_out:
            subject = Subject.WINDOW
        elif stall.state == "SYN_SENT" and subject is not Subject.SENDING and subject is not Subject.WINDOW:
            subject = Subject.CONNECTION
    return _DESCRIPTIONS[subject](stall, _since(stall, utc_offset_s))


def _reply(stall: Event, since: str) -> str:
    if stall.phase == "end":
        return "Waited for the reply to a request."
    return f"A request was sent{since or ' just now'} and acknowledged, but no reply has come."


def _window(stall: Event, since: str) -> str:
    is_closed = "was closed" if stall.phase == "end" else "is closed"
    closed = f"has been closed{since}" if since else is_closed
    unanswered = f", the last {stall.probes_out:,} unanswered" if stall.probes_out else ""
    return f"The peer's window {closed}: {_counted(stall, 'probe')}{unanswered}{_waiting(stall)}."


def _sending(stall: Event, since: str) -> str:
    cannot = "Cannot send" if stall.phase != "end" else "Could not send"
    was_idle = stall.idle_ms is not None and stall.idle_ms >= IN_USE_MS
    before = f" Silent {duration(stall.idle_ms)} before that." if was_idle and stall.idle_ms is not None else ""
    return f"{cannot}{since}: {_counted(stall, 'attempt')}{_waiting(stall)}.{before}"


def _connection(stall: Event, since: str) -> str:
    return f"No answer to the SYN{since}: {_counted(stall, 'retransmission')}."


def _keepalive(stall: Event, since: str) -> str:
    return f"{_silent(stall)} no answer to {_counted(stall, 'keepalive probe')}{since}."


def _reset(stall: Event, since: str) -> str:
    return _acknowledgement(stall, since) if stall.retransmits else f"{_silent(stall)} a reset."


def _acknowledgement(stall: Event, since: str) -> str:
    stuck = f", {_bytes(stall.unacked_bytes)} stuck" if stall.unacked_bytes else ""
    answer = "a reset" if stall.outcome == Outcome.RESET else f"no answer{since}"
    return f"{_silent(stall)} {answer}: {_counted(stall, 'retransmission')}{stuck}."


_DESCRIPTIONS: dict[Subject, Callable[[Event, str], str]] = {
    Subject.ACKNOWLEDGEMENT: _acknowledgement,
    Subject.RESET: _reset,
    Subject.CONNECTION: _connection,
    Subject.KEEPALIVE: _keepalive,
    Subject.WINDOW: _window,
    Subject.SENDING: _sending,
    Subject.REPLY: _reply,
}


def _silent(stall: Event) -> str:
    return f"Silent {duration(stall.idle_ms)}, then" if stall.idle_ms is not None else "Then"


def _counted(stall: Event, noun: str) -> str:
    return plural(0 if stall.retransmits is None else stall.retransmits, noun)


def _waiting(stall: Event) -> str:
    """`, 700 KB waiting`; empty where nothing waits, or an older recording does not show it."""
    known = [count for count in (stall.unsent_bytes, stall.unacked_bytes) if count is not None]
    return f", {_bytes(sum(known))} waiting" if sum(known) else ""


def _since(stall: Event, utc_offset_s: int) -> str:
    """` since 14:03:37 (1m47s)`; empty where it began just now, or has ended, or a recording does not show it."""
    if stall.since is None or stall.phase == "end":
        return ""
    try:
        since_ns = parse_time(stall.since)
    except InvalidTime:
        return ""
    lasted_ms = (stall.time_ns - since_ns) // 1_000_000
    if lasted_ms < LATE_MS:
        return ""
    time_of_day, lasted = local_time(since_ns, utc_offset_s)[1][:8], duration(lasted_ms)
    return f" at {time_of_day} ({lasted} ago)" if _is_wait(stall) else f" since {time_of_day} ({lasted})"


def _is_wait(stall: Event) -> bool:
    """Whether the peer acknowledged everything, and only its reply is missing."""
    verdict = Verdict.of(stall.verdict)
    return verdict is not None and verdict.subject is Subject.REPLY


def what_it_means(stall: Event) -> list[str]:
    """What the verdict stands for, and what else was seen. A verdict of a later version stands for itself."""
    verdict = Verdict.of(stall.verdict)
    meaning = [safe(stall.verdict or "") if verdict is None else safe(verdict.meaning_of(stall))]
    if stall.soft_error is not None:
        meaning.append(f"An ICMP error came back ({safe(stall.soft_error)}).")
    if stall.one_way:
        meaning.append(_WAS_ONE_WAY if stall.phase == "end" else _ONE_WAY)
    return meaning


def when_it_ends(stall: Event, utc_offset_s: int, *, to_seconds: bool = False) -> str:
    """`Gives up at 12:45:43.204 (in 15m20s) with ETIMEDOUT.`; empty where that is not known.

    to_seconds: write the time of day without milliseconds.
    """
    is_wait = _is_wait(stall)
    if is_wait and stall.keepalive is False:
        heartbeat = ", unless the client has a heartbeat of its own" if stall.rport in HEARTBEATS else ""
        return f"Keepalive is off: the kernel never ends this wait{heartbeat}."
    if stall.gives_up_in_ms is None:
        return ""
    latest_ms = stall.gives_up_in_ms + (0 if stall.gives_up_window_ms is None else stall.gives_up_window_ms)
    if not 0 <= latest_ms < MAX_MS:
        return ""
    error = safe(stall.soft_error or "ETIMEDOUT")
    if stall.mptcp:
        error = f"{error}: this is one subflow, and its MPTCP connection may go on without it"
    gives_up = "If the peer is gone, keepalive gives up" if is_wait else "Gives up"
    length = len("12:45:43") if to_seconds else len("12:45:43.204")
    first, last = (
        clock(stall.time_ns + ms * 1_000_000, utc_offset_s)[:length] for ms in (stall.gives_up_in_ms, latest_ms)
    )
    earliest_in, latest_in = duration(stall.gives_up_in_ms), duration(latest_ms)
    if first == last:
        return f"{gives_up} at {first} (in {earliest_in}) with {error}."
    if to_seconds:
        return f"{gives_up} between {first} and {last}{'' if is_wait else f' with {error}'}."
    window = earliest_in if earliest_in == latest_in else f"{earliest_in} to {latest_in}"
    return f"{gives_up} between {first} and {last} (in {window}) with {error}."


def how_it_ended(stall: Event) -> str:
    """`Timed out after 15m28s: the application gets ETIMEDOUT.`"""
    outcome = Outcome.of(stall.outcome)
    after = "" if stall.duration_ms is None else f" after {duration(stall.duration_ms)}"
    if outcome is None:
        return f"Ended{after}."
    if outcome is Outcome.RESET and stall.duration_ms == 0:
        after = ""
    what, guess = _presumption(stall)
    return outcome.sentence.format(after=after, gets=_error_in_words(stall), what=what, guess=guess)


def _error_in_words(stall: Event) -> str:
    """`: the application gets ETIMEDOUT`; empty where no error is known and a process may still wait."""
    if stall.error is not None:
        owner = "the subflow's error is" if stall.mptcp else "the application gets"
        return f": {owner} {safe(stall.error)}"
    return ": no process held the socket any more" if stall.orphan and not stall.mptcp else ""


def _presumption(stall: Event) -> tuple[str, str]:
    """What was not seen, and what follows from that."""
    verdict = Verdict.of(stall.verdict)
    if verdict is not None and verdict.subject is Subject.SENDING:
        return "attempt", "the data was probably sent"
    is_probe = stall.state == "ESTABLISHED" and not stall.unacked_bytes
    return "probe" if is_probe else "retransmission", "it was probably answered"


def _bytes(count: int | None) -> str:
    """`527 B`, `700 KB`."""
    text = size(0 if count is None else count)
    return f"{text} B" if text.isdecimal() else f"{text[:-1]} {text[-1]}B"
