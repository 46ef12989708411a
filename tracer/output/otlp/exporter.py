"""Exports log records and metrics, in a thread of its own: no receiver delays or loses an event.

What waits is bounded in number, each exchange in time, and the end of the run, too.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from tracer.model.errors import TcpwatchError
from tracer.model.threads import can_start, cannot_start
from tracer.output.format import plural
from tracer.output.otlp import log_records
from tracer.output.otlp.backlog import QUEUE_FULL, Backlog
from tracer.output.otlp.client import Answer, Client, Result
from tracer.output.otlp.complaints import about_drops, about_failure
from tracer.output.otlp.endpoint import Endpoint
from tracer.output.otlp.retrying import Retrying
from tracer.output.otlp.values import Json

LOGS, METRICS = "/v1/logs", "/v1/metrics"
BATCH_EVERY_S = 1.0
METRICS_EVERY_S = 15.0
TIMEOUT_S = 10.0
"""The longest exchange with the receiver."""
FLUSH_S = 5.0
"""How long the end of the run may take."""


class Exporter:
    """Sends what waits once a second, and the metrics every METRICS_EVERY_S and at the end.

    metrics: makes the request with the newest values. complain: reports the first failure and the first drop; called
    in the thread. prepare: called first in the thread.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        backlog: Backlog,
        resource: Json,
        version: str,
        *,
        metrics: Callable[[], Json],
        complain: Callable[[TcpwatchError], None],
        prepare: Callable[[], None],
    ) -> None:
        self._endpoint = endpoint
        self._client = Client(endpoint)
        self._backlog = backlog
        self._resource, self._version = resource, version
        self._metrics = metrics
        self._complain = complain
        self._prepare = prepare
        self._logs_retry, self._metrics_retry = Retrying(), Retrying()
        self._next_metrics_s = 0.0
        self._metrics_answer: Answer | None = None
        self._has_failed = self._has_dropped = False
        self._ends = threading.Event()
        self._end_s = float("inf")
        self._thread = threading.Thread(target=self._run, name="otlp", daemon=True)

    def start(self) -> None:
        """Start the thread. Raises TcpwatchError where that is not possible."""
        if not can_start(self._thread):
            raise cannot_start(f"nothing is exported to {self._endpoint.url()}")

    def end(self) -> None:
        """Send what waits and the last metrics, within FLUSH_S. Does not wait for that."""
        if not self._ends.is_set():
            self._end_s = time.monotonic() + FLUSH_S
            self._ends.set()

    def close(self) -> None:
        """Wait for the end. What is not delivered then is counted as dropped."""
        self.end()
        if self._thread.ident is not None:
            self._thread.join(max(0.0, self._end_s - time.monotonic()))
        self._backlog.abandon()

    def summary(self) -> str:
        """`exported 12 log records to http://127.0.0.1:4318; dropped 3: 3 undelivered`."""
        counts = {reason: count for reason, count in self._backlog.dropped.items() if count}
        text = f"exported {plural(self._backlog.delivered, 'log record')} to {self._endpoint.url()}"
        if counts:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in counts.items())
            text += f"; dropped {sum(counts.values()):,}: {reasons}"
        answer = self._metrics_answer
        if answer is None or answer.result is not Result.ACCEPTED:
            text += f"; its metrics are out of date: {answer.detail if answer is not None else 'none were sent'}"
        return text

    def _run(self) -> None:
        self._prepare()
        while not self._ends.is_set():
            self._send_logs()
            if time.monotonic() >= self._next_metrics_s and self._metrics_retry.is_due:
                self._send_metrics()
            self._report_full()
            self._ends.wait(BATCH_EVERY_S)
        self._flush()
        self._client.close()

    def _flush(self) -> None:
        """Send the rest. Where that fails, try once more, if there is time."""
        self._logs_retry.settled()
        self._metrics_retry.settled()
        if self._send_rest():
            return
        wait_s = max(self._logs_retry.wait_s, self._metrics_retry.wait_s)
        if wait_s < self._left_s():
            time.sleep(wait_s)
            self._send_rest()

    def _send_rest(self) -> bool:
        """Whether nothing is left to send."""
        self._send_logs()
        return not self._backlog.batch() and self._send_metrics()

    def _left_s(self) -> float:
        return self._end_s - time.monotonic()

    def _send_logs(self) -> None:
        """Send batches until none waits or one fails."""
        while self._logs_retry.is_due and self._left_s() > 0 and (batch := self._backlog.batch()):
            answer = self._post(LOGS, log_records.request(batch, self._resource, self._version))
            if answer.result is Result.ACCEPTED:
                self._backlog.settle(answer.rejected)
            elif answer.result is Result.REFUSED or not self._logs_retry.failed(answer):
                self._backlog.settle(None)
            else:
                return
            self._logs_retry.settled()
            if answer.result is not Result.ACCEPTED or answer.rejected:
                self._report_drops(LOGS, answer)

    def _send_metrics(self) -> bool:
        """Send the newest values. Returns whether no further attempt is needed."""
        answer = self._metrics_answer = self._post(METRICS, self._metrics())
        if answer.result in (Result.UNREACHABLE, Result.BUSY):
            # The next attempt has newer values, so it may be made for ever.
            self._metrics_retry.failed(answer)
            return False
        self._metrics_retry.settled()
        self._next_metrics_s = time.monotonic() + METRICS_EVERY_S
        if answer.result is Result.REFUSED or answer.rejected:
            self._report_failure(METRICS, answer)
        return True

    def _post(self, signal: str, message: Any) -> Answer:
        answer = self._client.post(signal, message, min(TIMEOUT_S, max(0.0, self._left_s())))
        if answer.result in (Result.UNREACHABLE, Result.BUSY) and not self._ends.is_set():
            self._report_failure(signal, answer)
        return answer

    def _report_failure(self, signal: str, answer: Answer) -> None:
        if not self._has_failed:
            self._has_failed = True
            self._complain(about_failure(self._endpoint, signal, answer))

    def _report_drops(self, signal: str, answer: Answer) -> None:
        if not self._has_dropped:
            self._has_dropped = self._has_failed = True
            self._complain(about_drops(self._endpoint, signal, answer))

    def _report_full(self) -> None:
        if self._backlog.dropped[QUEUE_FULL] and not self._has_dropped:
            self._has_dropped = True
            self._complain(about_drops(self._endpoint, LOGS, None))
