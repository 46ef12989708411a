"""`tcpwatch report`: the stalls of a recording, each service's idle timeout, and what to change."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TextIO

from tracer.analysis.idle_timeouts import IdleTimeouts
from tracer.model.events import Event
from tracer.model.validation import to_json
from tracer.model.window import EVERYTHING, Window
from tracer.output.report_blocks import Section
from tracer.output.report_data import ReportData
from tracer.output.report_evidence import COMPACT_EVIDENCE, Evidence
from tracer.output.report_incidents import MAX_SHOWN, heaviest, incidents_section
from tracer.output.report_json import missing_record, service_record, summary_record
from tracer.output.report_markdown import as_markdown
from tracer.output.report_rows import Missing
from tracer.output.report_services import services_section
from tracer.output.report_summary import diagnosis_section, summary_section
from tracer.output.report_text import as_text
from tracer.recordings.header import Header


class Report:
    """A sink that writes the report when it is closed.

    idle_timeouts: as the stall tracker fills them. as_json: stalls are written as they come, one object a line, and
    `close` adds an object for each service and a summary. is_markdown: Markdown instead of text. width: columns of
    the text. here: this host's name; commands for another host name that host. unfollowed: how many stalls could not
    be followed. is_filtered: the filters of the command line leave out events that are in the kernel's counts.
    has_evidence: the text or Markdown ends with what each stalled connection sent and when. window: the part of the
    recordings that is reported.
    """

    def __init__(
        self,
        stream: TextIO,
        idle_timeouts: IdleTimeouts,
        *,
        as_json: bool,
        width: int,
        is_markdown: bool = False,
        here: str = "",
        unfollowed: Callable[[], int] = lambda: 0,
        is_filtered: bool = False,
        has_evidence: bool = False,
        window: Window = EVERYTHING,
    ) -> None:
        self._stream = stream
        self._data = ReportData(idle_timeouts, here=here, is_filtered=is_filtered, window=window)
        self._as_json = as_json
        self._is_markdown = is_markdown
        self._width = width
        self._evidence = Evidence() if has_evidence and not as_json else None
        self._unfollowed = unfollowed

    def opened(self, header: Header) -> None:
        """A recording begins."""
        is_first = not self._data.hosts
        self._data.opened(header)
        if self._as_json and is_first:
            for missing in self._data.missing:
                self._write_missing(missing)

    def missing(self, file: str, reason: str, until_ns: int | None, *, is_failure: bool) -> None:
        """A file, or what comes after until_ns in it, is not in this report. is_failure: it should be."""
        missing = Missing(file, reason, until_ns)
        self._data.add_missing(missing, is_failure=is_failure)
        if self._as_json and self._data.hosts:
            self._write_missing(missing)

    def write(self, events: Iterable[Event]) -> None:
        """Take events."""
        data, evidence = self._data, self._evidence
        for event in events:
            if evidence is not None:
                evidence.take(event, data.host)
            ends = data.take(event)
            if ends:
                self._write_stalls(ends)

    def flush(self, until_ns: int) -> None:
        """Show what was written."""
        self._stream.flush()

    def close(self) -> None:
        """Write the report, unless there was nothing to read."""
        if not self._data.hosts:
            return
        self._write_stalls(self._data.take_rest())
        unfollowed = self._unfollowed()
        if self._as_json:
            for service, stalls in self._data.by_weight():
                self._write_record(service_record(self._data, service, stalls))
            self._write_record(summary_record(self._data, unfollowed))
        else:
            sections = self._sections(unfollowed)
            self._stream.write(as_markdown(sections) if self._is_markdown else as_text(sections, self._width))
        self._stream.flush()

    def _sections(self, unfollowed: int) -> list[Section]:
        """The report from its summary to the advice, and the evidence."""
        data = self._data
        kept = data.incidents.heaviest()
        sections = [summary_section(data, kept)]
        if data.first_ns is None:
            return sections
        sections.append(diagnosis_section(data, kept))
        done = data.actions.section(data.utc_offset_s, has_hosts=len(data.hosts) > 1)
        if done is not None:
            sections.append(done)
        if data.stalls:
            has_hosts = len(data.hosts) > 1
            shown = heaviest(kept, MAX_SHOWN)
            sections.append(
                incidents_section(shown, data.verdicts, has_hosts=has_hosts, utc_offset_s=data.utc_offset_s)
            )
            sections.append(services_section(data, kept, unfollowed))
            if self._evidence is not None:
                sections.append(self._evidence.section(COMPACT_EVIDENCE if data.has_compact else ""))
        return sections

    def _write_stalls(self, ends: Sequence[tuple[str, Event]]) -> None:
        for host, stall in ends:
            if self._as_json:
                self._write_record({**to_json(stall), "host": host})
            elif self._evidence is not None:
                self._evidence.end(stall, host, self._data.verdict_of(stall))

    def _write_missing(self, missing: Missing) -> None:
        self._write_record({"report": "missing", **missing_record(missing)})

    def _write_record(self, record: dict[str, Any]) -> None:
        self._stream.write(json.dumps(record, separators=(",", ":")) + "\n")
