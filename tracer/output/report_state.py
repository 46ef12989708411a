"""Everything that a report collects, and the sink that collects it. The states of several hosts merge into one."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, TextIO

from tracer.analysis.idle_timeouts import IdleTimeouts
from tracer.model.events import Event
from tracer.model.window import EVERYTHING, Window
from tracer.output.report_data import ReportData
from tracer.output.report_evidence import Evidence
from tracer.output.report_json import head_record, missing_record, stall_record
from tracer.output.report_rows import Missing, StallEnd
from tracer.output.report_timeline import Timeline
from tracer.output.report_traces import NO_TRACE, Trace, Traces
from tracer.recordings.header import Header


class ReportState:
    """What is known about the recordings that were read.

    evidence, timeline: None where the report does not show them. unfollowed: stalls that could not be followed.
    """

    def __init__(
        self,
        idle_timeouts: IdleTimeouts,
        *,
        here: str = "",
        program: str = "tcpwatch",
        is_filtered: bool = False,
        window: Window = EVERYTHING,
        has_evidence: bool = False,
        has_timeline: bool = False,
    ) -> None:
        self.data = ReportData(idle_timeouts, here=here, program=program, is_filtered=is_filtered, window=window)
        self.evidence = Evidence() if has_evidence else None
        self.timeline = Timeline() if has_timeline else None
        self.unfollowed = 0

    def merge(self, other: ReportState) -> None:
        """Include the state of recordings that come later, to which nothing is added any more."""
        self.data.merge(other.data)
        if self.evidence is not None and other.evidence is not None:
            self.evidence.merge(other.evidence)
        if self.timeline is not None and other.timeline is not None:
            self.timeline.merge(other.timeline)
        self.unfollowed += other.unfollowed


class Lines:
    """The JSON of a report, one object a line. Nothing is written before `begin`, which writes the first line."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._has_begun = False
        self._pending: list[str] = []

    @classmethod
    def of_a_part(cls, stream: TextIO) -> Lines:
        """Lines that another report includes, without a first line of their own."""
        lines = cls(stream)
        lines._has_begun = True
        return lines

    def begin(self) -> None:
        """There is something to report."""
        if not self._has_begun:
            self._has_begun = True
            self.write(head_record())
            for text in self._pending:
                self.write_text(text)
            self._pending.clear()

    def write(self, record: dict[str, Any]) -> None:
        """Write an object."""
        self.write_text(json.dumps(record, separators=(",", ":")) + "\n")

    def write_text(self, text: str) -> None:
        """Write whole lines."""
        if self._has_begun:
            self._stream.write(text)
        else:
            self._pending.append(text)

    def flush(self) -> None:
        """Show what was written."""
        self._stream.flush()


class Collector:
    """A sink that fills a state. lines: where stalls and missing files are written as they come; None: nowhere.

    traces: what the lines and the timeline need of the events before the end of a stall.
    """

    def __init__(self, state: ReportState, lines: Lines | None = None) -> None:
        self.state = state
        self.lines = lines
        self._traces = Traces() if lines is not None or state.timeline is not None else None

    def opened(self, header: Header) -> None:
        """A recording begins."""
        self.state.data.opened(header)
        if self.lines is not None:
            self.lines.begin()

    def missing(self, file: str, reason: str, until_ns: int | None, *, is_failure: bool) -> None:
        """A file, or what comes after until_ns in it, is not in this report. is_failure: it should be."""
        missing = Missing(file, reason, until_ns, is_failure)
        self.state.data.add_missing(missing)
        if self.lines is not None:
            self.lines.write({"report": "missing", **missing_record(missing)})

    def write(self, events: Iterable[Event]) -> None:
        """Take events."""
        data, evidence, traces = self.state.data, self.state.evidence, self._traces
        for event in events:
            if evidence is not None:
                evidence.take(event, data.host)
            if traces is not None:
                traces.take(data.host, event)
            ends = data.take(event)
            if ends:
                self._show(ends)

    def flush(self, until_ns: int) -> None:
        """Show what was written."""
        if self.lines is not None:
            self.lines.flush()

    def close(self) -> None:
        """Nothing comes any more."""
        self._show(self.state.data.take_rest())

    def add_end(self, end: StallEnd, trace: Trace) -> None:
        """Take the end of a stall from the output of `report --json`."""
        self.state.data.add_end(end)
        self._show_one(end, trace)

    def _show(self, ends: Iterable[StallEnd]) -> None:
        for end in ends:
            self._show_one(end, self._traces.of(end.host, end.stall) if self._traces is not None else NO_TRACE)

    def _show_one(self, end: StallEnd, trace: Trace) -> None:
        state = self.state
        if self.lines is not None:
            self.lines.write(stall_record(end, trace))
        if state.timeline is not None:
            state.timeline.count(end.host, end.stall, state.data.verdict_of(end.stall), trace)
        if state.evidence is not None:
            state.evidence.end(end.stall, end.host, state.data.verdict_of(end.stall))
