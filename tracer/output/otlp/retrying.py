"""When to send a request again."""

from __future__ import annotations

import random
import time

from tracer.output.otlp.client import Answer, Result

FIRST_S, MAX_S = 1.0, 30.0
"""The first pause, and the longest. Each is twice the one before."""
MAX_RETRY_AFTER_S = 120.0
"""The longest pause that a receiver may ask for."""
MAX_BUSY_S = 300.0
"""How long one request is sent again to a receiver that answers, and asks to try again."""


class Retrying:
    """The pauses between the attempts to send one request. Times are those of time.monotonic()."""

    def __init__(self) -> None:
        self._pause_s = FIRST_S
        self._due_s = 0.0
        self._busy_since_s: float | None = None

    @property
    def is_due(self) -> bool:
        """Whether to try now."""
        return time.monotonic() >= self._due_s

    @property
    def wait_s(self) -> float:
        """The seconds until the next attempt."""
        return max(0.0, self._due_s - time.monotonic())

    def failed(self, answer: Answer) -> bool:
        """Wait before the next attempt. Returns False if there is none, because the receiver was busy for too long.

        Without an answer there is no such limit: another request would fare no better.
        """
        now_s = time.monotonic()
        if answer.result is not Result.BUSY:
            self._busy_since_s = None
        elif self._busy_since_s is None:
            self._busy_since_s = now_s
        if answer.retry_after_s is not None:
            pause_s = min(answer.retry_after_s, MAX_RETRY_AFTER_S)
        else:
            pause_s = self._pause_s * random.uniform(0.75, 1.25)  # hosts of a fleet do not come back all at once
            self._pause_s = min(2 * self._pause_s, MAX_S)
        self._due_s = now_s + pause_s
        return self._busy_since_s is None or now_s - self._busy_since_s < MAX_BUSY_S

    def settled(self) -> None:
        """The request needs no further attempt."""
        self._pause_s, self._due_s, self._busy_since_s = FIRST_S, 0.0, None
