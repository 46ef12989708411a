"""The log records that wait for the receiver, and the count of those that it did not get."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping, Sequence

from tracer.output.otlp.log_records import Noticed

MAX_WAITING = 8192
"""Log records that wait. Of more, the oldest are dropped."""
MAX_BATCH = 512
"""Log records in one request."""
QUEUE_FULL, REJECTED, UNDELIVERED = "queue-full", "rejected", "undelivered"
REASONS = (QUEUE_FULL, REJECTED, UNDELIVERED)
"""Why the receiver did not get a log record: too many waited; it was refused; the run ended."""


class Backlog:
    """A bounded queue. One thread puts, another one takes batches."""

    def __init__(self, most: int = MAX_WAITING) -> None:
        self.delivered = 0
        self._most = most
        self._waiting: deque[Noticed] = deque()
        self._batch: Sequence[Noticed] = ()  # on its way; it is not delivered until the receiver has acknowledged it
        self._dropped = dict.fromkeys(REASONS, 0)
        self._lock = threading.Lock()

    @property
    def dropped(self) -> Mapping[str, int]:
        """The number of log records that the receiver did not get, by reason."""
        with self._lock:
            return dict(self._dropped)

    def put(self, noticed: Noticed) -> None:
        """Add a log record."""
        with self._lock:
            self._waiting.append(noticed)
            if len(self._waiting) > self._most:
                self._waiting.popleft()
                self._dropped[QUEUE_FULL] += 1

    def batch(self) -> Sequence[Noticed]:
        """The next ones to send, the same until `settle`. Empty if none wait."""
        with self._lock:
            if not self._batch:
                self._batch = [self._waiting.popleft() for _ in range(min(MAX_BATCH, len(self._waiting)))]
            return self._batch

    def settle(self, rejected: int | None = 0) -> None:
        """The receiver got the batch, except for some that it rejected. None: all of it is rejected."""
        with self._lock:
            lost = len(self._batch) if rejected is None else min(rejected, len(self._batch))
            self.delivered += len(self._batch) - lost
            self._dropped[REJECTED] += lost
            self._batch = ()

    def abandon(self) -> None:
        """The run ends: nothing more is sent."""
        with self._lock:
            self._dropped[UNDELIVERED] += len(self._batch) + len(self._waiting)
            self._batch = ()
            self._waiting.clear()
