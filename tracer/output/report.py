"""`tcpwatch report`: the stalls of a recording, each service's idle timeout, and what to change."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import TextIO

from tracer.analysis.idle_timeouts import IdleTimeouts
from tracer.model.events import Event
from tracer.model.window import EVERYTHING, Window
from tracer.output.other_end_text import two_ends_section
from tracer.output.report_blocks import Section
from tracer.output.report_evidence import COMPACT_EVIDENCE
from tracer.output.report_incidents import MAX_SHOWN, heaviest, incidents_section
from tracer.output.report_json import actions_records, service_record, silences_records, summary_record
from tracer.output.report_markdown import as_markdown
from tracer.output.report_services import services_section
from tracer.output.report_state import Collector, Lines, ReportState
from tracer.output.report_summary import diagnosis_section, summary_section
from tracer.output.report_text import as_text
from tracer.output.two_ends_json import two_ends_records
from tracer.recordings.header import Header


class Report:
    """A sink that writes the report when it is closed.

    idle_timeouts: as the stall tracker fills them. as_json: stalls are written as they come, one object a line, and
    `close` adds an object for each service and a summary. is_markdown: Markdown instead of text. width: columns of
    the text. here: this host's name; commands for another host name that host. program: how tcpwatch is called in
    those for this host. is_filtered: the filters of the command line leave out events that are in the kernel's
    counts. has_evidence: the text or Markdown ends with what each stalled connection sent and when. window: the part
    of the recordings that is reported.

    state, lines: to merge what was read elsewhere. lines is None unless as_json.
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
        program: str = "tcpwatch",
        is_filtered: bool = False,
        has_evidence: bool = False,
        window: Window = EVERYTHING,
    ) -> None:
        self._stream = stream
        self._is_markdown = is_markdown
        self._width = width
        self.lines = Lines(stream) if as_json else None
        self.state = ReportState(
            idle_timeouts,
            here=here,
            program=program,
            is_filtered=is_filtered,
            window=window,
            has_evidence=has_evidence and not as_json,
        )
        self._collector = Collector(self.state, self.lines)

    def opened(self, header: Header) -> None:
        """A recording begins."""
        self._collector.opened(header)

    def missing(self, file: str, reason: str, until_ns: int | None, *, is_failure: bool) -> None:
        """A file, or what comes after until_ns in it, is not in this report. is_failure: it should be."""
        self._collector.missing(file, reason, until_ns, is_failure=is_failure)

    def write(self, events: Iterable[Event]) -> None:
        """Take events."""
        self._collector.write(events)

    def flush(self, until_ns: int) -> None:
        """Show what was written."""
        self._stream.flush()

    def close(self) -> None:
        """Write the report, unless there was nothing to read."""
        data = self.state.data
        if not data.hosts:
            return
        self._collector.close()
        if self.lines is not None:
            for record in chain(actions_records(data), silences_records(data), two_ends_records(data.two_ends)):
                self.lines.write(record)
            for service, stalls in data.services.by_weight():
                self.lines.write(service_record(data, service, stalls))
            self.lines.write(summary_record(data, self.state.unfollowed))
        else:
            sections = self._sections()
            self._stream.write(as_markdown(sections) if self._is_markdown else as_text(sections, self._width))
        self._stream.flush()

    def _sections(self) -> list[Section]:
        """The report from its summary to the advice, and the evidence."""
        data = self.state.data
        kept = data.incidents.heaviest()
        sections = [summary_section(data, kept)]
        if data.first_ns is None:
            return sections
        sections.append(diagnosis_section(data, kept))
        both = two_ends_section(data.two_ends, data.utc_offset_s)
        if both is not None:
            sections.append(both)
        done = data.actions.section(data.utc_offset_s, has_hosts=len(data.hosts) > 1, has_day=data.spans_days)
        if done is not None:
            sections.append(done)
        if data.stalls:
            has_hosts = len(data.hosts) > 1
            shown = heaviest(kept, MAX_SHOWN)
            sections.append(
                incidents_section(shown, data.verdicts, has_hosts=has_hosts, utc_offset_s=data.utc_offset_s)
            )
            sections.append(services_section(data, kept, self.state.unfollowed))
            if self.state.evidence is not None:
                sections.append(self.state.evidence.section(COMPACT_EVIDENCE if data.has_compact else ""))
        return sections
