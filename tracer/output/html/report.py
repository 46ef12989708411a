"""A sink that collects a report, and writes it as a page when it is closed."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tracer.analysis.silence_marks import SilenceMarks
from tracer.model.events import Event
from tracer.model.window import EVERYTHING, Window
from tracer.output.html.contents import contents_of
from tracer.output.html.page import page_of
from tracer.output.report_state import Collector, Lines, ReportState
from tracer.recordings.header import Header


class HtmlReport:
    """A sink that calls `finished` with the page when it is closed, unless there was nothing to read.

    It needs the begins and updates of stalls, which have the predictions. idle_timeouts: as the stall tracker fills
    them. here: this host's name. is_filtered: the filters of the command line leave out events that are in the
    kernel's counts. window: of --since and --until. state: to merge what was read elsewhere.
    """

    lines: Lines | None = None

    def __init__(
        self,
        finished: Callable[[str], None],
        idle_timeouts: SilenceMarks,
        *,
        here: str = "",
        is_filtered: bool = False,
        window: Window = EVERYTHING,
    ) -> None:
        self._finished = finished
        self._marks = idle_timeouts
        self.state = ReportState(idle_timeouts, here=here, is_filtered=is_filtered, window=window, has_timeline=True)
        self._collector = Collector(self.state)

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
        """The page is written as a whole."""

    def close(self) -> None:
        """Make the page."""
        data, timeline = self.state.data, self.state.timeline
        if not data.hosts or timeline is None:
            return
        self._collector.close()
        self._finished(page_of(contents_of(data, timeline, self._marks, self.state.unfollowed)))
