"""A sink that collects a report, and writes it as a page when it is closed."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tracer.analysis.silence_marks import SilenceMarks
from tracer.model.events import Event
from tracer.model.window import EVERYTHING, Window
from tracer.output.html.contents import contents_of
from tracer.output.html.page import page_of
from tracer.output.report_data import ReportData
from tracer.output.report_rows import Missing
from tracer.output.report_timeline import Timeline
from tracer.recordings.header import Header


class HtmlReport:
    """A sink that calls `finished` with the page when it is closed, unless there was nothing to read.

    It needs the begins and updates of stalls, which have the predictions. idle_timeouts: as the stall tracker fills
    them. here: this host's name. unfollowed: how many stalls could not be followed. is_filtered: the filters of the
    command line leave out events that are in the kernel's counts. window: of --since and --until.
    """

    def __init__(
        self,
        finished: Callable[[str], None],
        idle_timeouts: SilenceMarks,
        *,
        here: str = "",
        unfollowed: Callable[[], int] = lambda: 0,
        is_filtered: bool = False,
        window: Window = EVERYTHING,
    ) -> None:
        self._finished = finished
        self._marks = idle_timeouts
        self._data = ReportData(idle_timeouts, here=here, is_filtered=is_filtered, window=window)
        self._timeline = Timeline()
        self._unfollowed = unfollowed

    def opened(self, header: Header) -> None:
        """A recording begins."""
        self._data.opened(header)

    def missing(self, file: str, reason: str, until_ns: int | None, *, is_failure: bool) -> None:
        """A file, or what comes after until_ns in it, is not in this report. is_failure: it should be."""
        self._data.add_missing(Missing(file, reason, until_ns), is_failure=is_failure)

    def write(self, events: Iterable[Event]) -> None:
        """Take events."""
        for event in events:
            self._timeline.take(self._data.host, event)
            for host, end in self._data.take(event):
                self._timeline.count(host, end, self._data.verdict_of(end))

    def flush(self, until_ns: int) -> None:
        """The page is written as a whole."""

    def close(self) -> None:
        """Make the page."""
        if not self._data.hosts:
            return
        for host, end in self._data.take_rest():
            self._timeline.count(host, end, self._data.verdict_of(end))
        contents = contents_of(self._data, self._timeline, self._marks, self._unfollowed())
        self._finished(page_of(contents))
