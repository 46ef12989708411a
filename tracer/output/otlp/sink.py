"""The sink of a run that hands events to the exporter."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress

from tracer.model.events import Event
from tracer.model.times import InvalidTime, parse_time
from tracer.output.otlp.backlog import Backlog
from tracer.output.otlp.log_records import Noticed, name_of
from tracer.recordings.header import Header


class LogRecordSink:
    """Puts the events that have a log record into the backlog. It never waits, and never fails."""

    def __init__(self, backlog: Backlog) -> None:
        self._backlog = backlog
        self._started_ns = 0

    def opened(self, header: Header) -> None:
        """Note when tracing began."""
        with suppress(InvalidTime):
            self._started_ns = parse_time(header.started)

    def write(self, events: Sequence[Event]) -> None:
        """Take events."""
        for event in events:
            name = name_of(event, self._started_ns)
            if name is not None:
                self._backlog.put(Noticed(name, event, time.time_ns()))

    def flush(self, until_ns: int) -> None:
        """The exporter sends without being asked."""

    def close(self) -> None:
        """Nothing is left to write."""
