"""Recordings through the pipeline, one after the other: `tcpwatch replay` and `tcpwatch report`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tracer.analysis.idle_timeouts import IdleTimeouts
from tracer.analysis.recorded import RecordedStalls
from tracer.analysis.stalls import MIN_IDLE_MS, StallTracker
from tracer.model.events import Batch
from tracer.model.filters import Filter
from tracer.model.window import EVERYTHING, Window
from tracer.output.sink import Sink
from tracer.recordings.header import Header
from tracer.recordings.reader import RecordingReader, ReportOutput
from tracer.recordings.series_order import in_order
from tracer.recordings.source_file import SourceFile, Unreadable
from tracer.run.interrupts import interrupted_by
from tracer.run.pipeline import Totals, finish, run

HZ = 250
"""Jiffies per second of Debian and most others, for a header without hz."""


class Missing(NamedTuple):
    """A file, or a part of one, that could not be read.

    reason: why, as a phrase without the name. hint: what to type. until_ns: events up to this time were read (wall
    clock); None if there were none. is_all: nothing of the file was read. is_failure: False for what is normal after
    a crash or in a file that is still being written.
    """

    file: str
    reason: str
    hint: str
    until_ns: int | None
    is_all: bool = False
    is_failure: bool = True


class Player:
    """Carries the events of recordings to sinks. Continues with the next file if one cannot be read.

    Files of one host that follow each other in time are one recording: a stall may begin in one and end in the next,
    unless a file between them is missing. The stalls of a complete recording are found again. A recording with a
    filter on events lacks events of its stalls, so its own stall events are passed on.

    warn gets sentences about oddities. missing gets each file that cannot be read completely. idle_timeouts collects
    the silences that connections survived, and those that were fatal. ends_only: the sinks need only the ends of
    stalls. command: named in hints. window: the part of the recordings that reaches the sinks; silences before it do
    not count. reports: takes the output of `report --json`; None: it is not a recording. later: files that others
    read after these.
    """

    def __init__(
        self,
        wanted: Filter,
        sinks: Sequence[Sink],
        *,
        warn: Callable[[str], None],
        missing: Callable[[Missing], None] = lambda _: None,
        idle_timeouts: IdleTimeouts | None = None,
        ends_only: bool = False,
        command: str = "replay",
        totals: Totals | None = None,
        window: Window = EVERYTHING,
        reports: Callable[[ReportOutput], None] | None = None,
        later: int = 0,
    ) -> None:
        self.totals = totals if totals is not None else Totals()
        self._wanted = wanted
        self._sinks = sinks
        self._warn = warn
        self._missing = missing
        self._idle_timeouts = idle_timeouts if idle_timeouts is not None else IdleTimeouts()
        self._ends_only = ends_only
        self._command = command
        self._window = window
        self._reports = reports
        self._later = later
        self._tracker: StallTracker | RecordedStalls | None = None
        self._host = ""
        self._filters: Mapping[str, Any] | None = None  # of the recording in tracker; None: it is complete
        self._has_warned = command != "replay"  # a report says it itself
        self._names: dict[tuple[int, int], str] = {}  # of files that were read, by device and inode

    def play(self, files: Sequence[Path]) -> None:
        """Read the files, those of a series in its order. `-` is standard input.

        Closes the sinks at the end, also if one of them raises.
        """
        try:
            for number, file in enumerate(in_order(files), 1):
                self._play_file(file, others=len(files) - number + self._later)
        finally:
            self._finish()
            for sink in self._sinks:
                sink.close()

    def _play_file(self, file: Path, others: int) -> None:
        until_ns, is_all = None, True
        try:
            with RecordingReader(file, warn=self._warn, command=self._command) as source:
                if self._is_known(source):
                    return
                is_all = False
                try:
                    self._play_recordings(source)
                finally:
                    until_ns = source.last_ns
                    self._report_damage(source)
        except ReportOutput as found:
            self._play_report(found)
        except Unreadable as error:
            self._missing(Missing(error.file, error.reason, error.hint, until_ns, is_all))
            # Any time and any event may lie between this file and the next.
            if self._tracker is not None:
                self._tracker.missed()
                self._finish()
        except KeyboardInterrupt as error:
            if others or str(file) != "-":
                more = f", and {others:,} more FILE{'' if others == 1 else 's'}" if others else ""
                self._missing(Missing(f"{file}{more}", f"interrupted by {interrupted_by(error)}", "", until_ns))
            raise

    def _play_report(self, found: ReportOutput) -> None:
        """Pass on the output of `report --json`, if this command takes it."""
        source = found.source
        try:
            if self._reports is None:
                self._missing(Missing(found.file, found.reason, found.hint, None, is_all=True))
            elif not self._is_known(source):
                self._finish()
                self._reports(found)
        finally:
            source.close()

    def _is_known(self, source: RecordingReader | SourceFile) -> bool:
        identity = source.identity
        if identity is None:
            return False
        known = self._names.setdefault(identity, source.name)
        if known is source.name:
            return False
        self._warn(f"{source.name}: same file as {known}; read only once")
        return True

    def _play_recordings(self, source: RecordingReader) -> None:
        is_next = True
        while is_next:
            tracker = self._begin(source.header)
            run(self._in_window(source), self._wanted, tracker, self._sinks, self.totals, self._window)
            if source.is_truncated:
                tracker.missed()
            is_next = source.begin_next()

    def _in_window(self, source: Iterable[Batch]) -> Iterator[Batch]:
        """The batches up to the end of the window."""
        for batch, is_wanted in self._window.parts(source):
            self._idle_timeouts.is_paused = not is_wanted
            yield batch

    def _report_damage(self, source: RecordingReader) -> None:
        if source.damaged:
            others = source.damaged - 1
            more = f", as are {others:,} later ones" if others > 1 else ", as is a later one" if others else ""
            reason = f"{source.first_damage} is damaged{source.first_reason}; skipped{more}"
            self._missing(Missing(source.name, reason, source.first_damage_hint, source.last_ns))
        if source.has_no_end:
            reason = "its compressed data has no end: the file is still being written, or was truncated"
            self._missing(Missing(source.name, reason, "", source.last_ns, is_failure=False))

    def _begin(self, header: Header) -> StallTracker | RecordedStalls:
        """The tracker for a recording: the current one, if the recording continues the last."""
        filters = None if header.is_whole else header.filters
        is_next_part = (
            header.host == self._host and filters == self._filters and header.started_ns >= self.totals.until_ns
        )
        if not is_next_part:
            self._finish()
        for sink in self._sinks:
            sink.opened(header)
        if header.compact and not self._has_warned:
            self._has_warned = True
            self._warn(
                "recorded with --compact: only stalls, survived silences, actions, counters and lost events are shown"
            )
        if self._tracker is None:
            self.totals.until_ns = 0
            self._tracker = self._tracker_of(header)
            self._host, self._filters = header.host, filters
        return self._tracker

    def _finish(self) -> None:
        if self._tracker is not None:
            tracker, self._tracker = self._tracker, None
            finish(tracker, self._wanted, self._sinks, self.totals, self._window)

    def _tracker_of(self, header: Header) -> StallTracker | RecordedStalls:
        """A new tracker, which finds the stalls of the recording or takes them from it."""
        hz = header.hz if header.hz > 0 else HZ
        if not header.is_whole:
            recorded = header.min_idle_ms if header.min_idle_ms is not None else MIN_IDLE_MS
            min_idle_ms = self._wanted.min_idle_ms if self._wanted.min_idle_ms is not None else recorded
            return RecordedStalls(
                hz=hz,
                min_idle_ms=min_idle_ms,
                idle_timeouts=self._idle_timeouts,
                own_netns=header.netns,
                has_all_stalls=header.has_all_stalls,
            )
        min_idle_ms = self._wanted.min_idle_ms if self._wanted.min_idle_ms is not None else MIN_IDLE_MS
        return StallTracker(
            hz=hz,
            min_idle_ms=min_idle_ms,
            idle_timeouts=self._idle_timeouts,
            ends_only=self._ends_only,
            own_netns=header.netns,
        )


def play(files: Sequence[Path], wanted: Filter, sinks: Sequence[Sink], **options: Any) -> Totals:
    """Play the files through a Player with these options. Returns its totals."""
    player = Player(wanted, sinks, **options)
    player.play(files)
    return player.totals
