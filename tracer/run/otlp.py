"""The export of a live run to OpenTelemetry: the log records of its events, and its metrics."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import tracer
from tracer.kernel import host
from tracer.model.errors import TcpwatchError
from tracer.output.metrics.families import families
from tracer.output.metrics.snapshot import Snapshot
from tracer.output.otlp import metric_points
from tracer.output.otlp.backlog import Backlog
from tracer.output.otlp.endpoint import Endpoint
from tracer.output.otlp.exporter import LOGS, METRICS, Exporter
from tracer.output.otlp.sink import LogRecordSink
from tracer.output.otlp.values import Json, resource


class Otlp:
    """`start` once the capabilities are dropped, `end` after the last event, then `close`.

    latest: the newest values of the metrics. complain: reports what fails. prepare: called first in the thread.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        latest: Callable[[], Snapshot],
        complain: Callable[[TcpwatchError], None],
        prepare: Callable[[], None],
    ) -> None:
        self._endpoint = endpoint
        self._latest = latest
        self._backlog = Backlog()
        self._resource = resource(tracer.__version__, host.name())
        self._started_ns = time.time_ns()
        self.sink = LogRecordSink(self._backlog)
        self._exporter = Exporter(
            endpoint,
            self._backlog,
            self._resource,
            tracer.__version__,
            metrics=self._metrics,
            complain=complain,
            prepare=prepare,
        )

    def dropped(self) -> Mapping[str, int]:
        """The number of log records that the receiver did not get so far, by reason."""
        return self._backlog.dropped

    def start(self, say: Callable[[str], None]) -> None:
        """Start to export. Raises TcpwatchError where that is not possible."""
        self._exporter.start()
        say(f"exporting to {self._endpoint.url(LOGS)} and {self._endpoint.url(METRICS)}")

    def end(self) -> None:
        """No event follows. Does not wait until everything is sent."""
        self._exporter.end()

    def close(self) -> str:
        """Wait until everything is sent, a few seconds at most. Returns the summary."""
        self._exporter.close()
        return self._exporter.summary()

    def _metrics(self) -> Json:
        return metric_points.request(
            families(self._latest()),
            self._resource,
            tracer.__version__,
            started_ns=self._started_ns,
            now_ns=time.time_ns(),
        )
