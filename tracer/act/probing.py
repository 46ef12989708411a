"""Probe connections: send each one a window probe, up to three times, and see which peers answer.

A duplicate of a socket is open from its first probe to its answer. A process that closes the connection meanwhile
would only close it in effect when the duplicate is closed, so each look also checks that the process still holds it.
"""

from __future__ import annotations

import errno
import time
from collections import deque
from collections.abc import Callable, Iterable

from tracer.act.answers import PROBES, judge, pause_s, why_not
from tracer.kernel import window_probe
from tracer.kernel.descriptors import Descriptors, Duplicate, Unreachable
from tracer.kernel.sock_diag import Named, named_of
from tracer.kernel.window_probe import Reading
from tracer.model.actions import Answer, Probed
from tracer.model.dataclass import dataclass
from tracer.model.durations import duration
from tracer.model.sockets import Socket

BATCH = 16
"""Connections that are probed before their answers are looked for."""
BATCH_S = 0.002
"""How long the answers of a batch are looked for before the next one."""

MAX_AT_ONCE = 800
"""Connections that are probed at once, below the usual limit of 1024 descriptors. Others follow as these answer."""

_Report = Callable[[Probed], None]


@dataclass(slots=True, eq=False)
class _Attempt:
    """One connection that is being probed. Times of time.monotonic().

    reuses: whether SO_REUSEADDR is on. before: as it was just before the first probe. sent: probes so far. look_s:
    when to look again.
    """

    socket: Socket
    named: Named
    duplicate: Duplicate
    reuses: bool
    began_s: float
    before: Reading | None = None
    first_s: float = 0.0
    sent: int = 0
    look_s: float = 0.0

    def due_s(self, wait_s: float) -> float:
        """When the next probe is due, or the end of the wait after the last one."""
        return (self.first_s if self.sent else self.began_s) + wait_s * self.sent / PROBES


class Prober:
    """Probes connections in the calling thread. wait_s: for the answers of one connection, all probes together.

    report: called with each result as soon as it is known; a slow one delays the others. is_stopped: ends it.
    """

    def __init__(self, wait_s: float, report: _Report, is_stopped: Callable[[], bool] = lambda: False) -> None:
        self._wait_s = wait_s
        self._report = report
        self._is_stopped = is_stopped
        self._waiting: dict[_Attempt, None] = {}
        self._descriptors = Descriptors()

    def probe(self, sockets: Iterable[Socket]) -> None:
        """Probe them all at once, or as many at once as this process may have descriptors."""
        left = deque(sockets)
        try:
            while (left or self._waiting) and not self._is_stopped():
                began = self._begin(left)
                self._look_closely(began)
                self._look()
                if self._waiting and (not left or len(self._waiting) >= MAX_AT_ONCE):
                    self._sleep()
        finally:
            for attempt in self._waiting:
                attempt.duplicate.close()
            self._waiting.clear()

    def _begin(self, left: deque[Socket]) -> list[_Attempt]:
        """Send the first probe to the next batch. Returns those without a result yet."""
        began: list[_Attempt] = []
        while left and len(began) < BATCH and len(self._waiting) < MAX_AT_ONCE:
            try:
                attempt = self._duplicate(left[0])
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE) and (began or self._waiting):
                    break  # until some of these are answered
                self._report(Probed(left.popleft(), Answer.UNREACHABLE, detail=error.strerror or str(error)))
                continue
            socket = left.popleft()
            if isinstance(attempt, str):
                self._report(Probed(socket, Answer.UNREACHABLE, detail=attempt))
            else:
                began.append(attempt)
                self._waiting[attempt] = None
        for attempt in began:  # without anything else between a probe and the first look for its answer
            self._advance(attempt)
        return [attempt for attempt in began if attempt in self._waiting]

    def _duplicate(self, socket: Socket) -> _Attempt | str:
        """The connection, ready to be probed; or why it cannot be. Raises OSError if there is no descriptor left."""
        reason, named = why_not(socket), named_of(socket)
        if reason is not None or named is None:
            return reason or "its ends are unknown"
        try:
            duplicate = self._descriptors.duplicate(socket.pids or (), named)
        except Unreachable as error:
            return str(error)
        try:
            reuses = window_probe.reuses_address(duplicate.socket)
        except OSError:
            duplicate.close()
            raise
        return _Attempt(socket, named, duplicate, reuses, time.monotonic())

    def _look_closely(self, batch: list[_Attempt]) -> None:
        """Look at these again and again for a moment: most answers come at once, and their round trip is measured."""
        until_s = time.monotonic() + BATCH_S
        while batch and time.monotonic() < until_s:
            for attempt in batch:
                self._advance(attempt)
            batch = [attempt for attempt in batch if attempt in self._waiting]

    def _look(self) -> None:
        now_s = time.monotonic()
        for attempt in [each for each in self._waiting if each.look_s <= now_s]:
            self._advance(attempt)
            next_s = now_s + pause_s(now_s - attempt.first_s, is_busy=not attempt.sent)
            due_s = attempt.due_s(self._wait_s)
            attempt.look_s = min(next_s, due_s) if due_s > now_s else next_s  # due: data is in flight

    def _sleep(self) -> None:
        next_s = min(attempt.look_s for attempt in self._waiting)
        time.sleep(max(0.0, next_s - time.monotonic()))

    def _advance(self, attempt: _Attempt) -> None:
        """Look at the socket; report its result, or send the next probe if that is due."""
        try:
            result = self._result(attempt)
        except Unreachable as error:
            result = Probed(attempt.socket, Answer.UNREACHABLE, detail=str(error))
        except OSError as error:
            result = Probed(attempt.socket, Answer.UNREACHABLE, detail=error.strerror or str(error))
        if result is not None:
            attempt.duplicate.close()
            del self._waiting[attempt]
            self._report(result)

    def _result(self, attempt: _Attempt) -> Probed | None:
        """None if there is none yet. Raises Unreachable, OSError."""
        now = window_probe.read(attempt.duplicate.socket)
        now_s = time.monotonic()
        elapsed_ms = (now_s - attempt.first_s) * 1000
        if attempt.before is not None:
            answer = judge(attempt.before, now, elapsed_ms)
            if answer is not None:
                return _answered(attempt, answer, now, elapsed_ms)
        if now.state == "CLOSE":
            raise Unreachable("it ended meanwhile, without an answer")
        if attempt.sent and elapsed_ms >= self._wait_s * 1000:
            return self._unanswered(attempt)
        if not attempt.duplicate.is_held():
            self._take_from_another(attempt)
        if now_s >= attempt.due_s(self._wait_s):
            # Data in flight is not disturbed: the peer acknowledges it anyway.
            queued = window_probe.queued_bytes(attempt.duplicate.socket)
            if not queued:
                _send(attempt, now)
            elif not attempt.sent and now_s - attempt.began_s >= self._wait_s:
                return Probed(attempt.socket, Answer.BUSY, detail=f"{queued} B unacknowledged or unsent")
        return None

    def _take_from_another(self, attempt: _Attempt) -> None:
        """Go on with another descriptor of the same socket, as of a process that shares it. Raises Unreachable."""
        cookie = attempt.duplicate.cookie
        attempt.duplicate.close()
        attempt.duplicate = self._descriptors.duplicate(attempt.socket.pids or (), attempt.named, cookie)

    def _unanswered(self, attempt: _Attempt) -> Probed:
        detail = f"{attempt.sent} {'probe' if attempt.sent == 1 else 'probes'} in {duration(self._wait_s * 1000)}"
        return Probed(attempt.socket, Answer.NO_ANSWER, detail=detail, probes=attempt.sent)


def _send(attempt: _Attempt, now: Reading) -> None:
    sent_s = time.monotonic()
    window_probe.send(attempt.duplicate.socket, reuses=attempt.reuses)
    if attempt.before is None:
        attempt.before, attempt.first_s = now, sent_s
    attempt.sent += 1


def _answered(attempt: _Attempt, answer: Answer, now: Reading, elapsed_ms: float) -> Probed:
    """The round trip is that of the only probe, unless data that was sent after it was acknowledged, too."""
    rtt_ms, detail = None, "" if attempt.sent == 1 else f"after {attempt.sent} probes"
    if answer is Answer.ALIVE and attempt.before is not None:
        if now.has_delivered_since(attempt.before):
            detail = "data was sent and acknowledged meanwhile"
        elif attempt.sent == 1:
            rtt_ms = elapsed_ms
    return Probed(attempt.socket, answer, rtt_ms, detail, attempt.sent)
