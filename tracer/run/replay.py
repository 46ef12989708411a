"""Recordings, one after the other, through the pipeline: what `tcpwatch replay` and `tcpwatch report` share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tracer.analysis.idle_timeouts import IdleTimeouts
from tracer.analysis.recorded import RecordedStalls
from tracer.analysis.stalls import MIN_IDLE_MS, StallTracker
from tracer.model.filters import Filter
from tracer.recordings.header import Header
from tracer.recordings.reader import RecordingReader, Unreadable
from tracer.recordings.series import in_order
from tracer.run.pipeline import Sink, Totals, finish, run

HZ = 250
"""Debian's and most others', for a header that does not tell."""


class Missing(NamedTuple):
    """A file, or a part of one, that is not in what was read.

    reason: why, as a phrase without the name. hint: what to type. until_ns: the file's events up to this time are
    there (wall clock); None where it has none. is_all: nothing of the file was read. is_failure: False for what is
    normal after a crash or while it is written.
    """

    file: str
    reason: str
    hint: str
    until_ns: int | None
    is_all: bool = False
    is_failure: bool = True


class Player:
    """Carries the events of recordings to sinks, and goes on with the next file where one cannot be read.

    Those that follow each other in time on one host are taken as one recording: a stall may begin in one and end in
    the next, unless a file between them is missing. Of a recording that was made with a filter on what events say,
    the stalls that it holds are passed on, since their events are not all there; in any other they are found again.

    warn gets sentences about what is odd. opened gets each header before its events; a file may have several. missing
    gets each file that cannot be read whole. idle_timeouts collects the silences that connections
    survived, and those that were fatal.
    ends_only: the sinks care how stalls ended, and not how they began. command: for hints.
    """

    def __init__(
        self,
        wanted: Filter,
        sinks: Sequence[Sink],
        *,
        warn: Callable[[str], None],
        opened: Callable[[Header], None] = lambda _: None,
        missing: Callable[[Missing], None] = lambda _: None,
        idle_timeouts: IdleTimeouts | None = None,
        ends_only: bool = False,
        command: str = "replay",
        totals: Totals | None = None,
    ) -> None:
        self.totals = totals if totals is not None else Totals()
        self._wanted = wanted
        self._sinks = sinks
        self._warn = warn
        self._opened = opened
        self._missing = missing
        self._idle_timeouts = idle_timeouts if idle_timeouts is not None else IdleTimeouts()
        self._ends_only = ends_only
        self._command = command
        self._tracker: StallTracker | RecordedStalls | None = None
        self._host = ""
        self._filters: Mapping[str, Any] | None = None  # of the recording that tracker reads; None: it is whole
        self._names: dict[tuple[int, int], str] = {}  # of files that were read, by identity

    def play(self, files: Sequence[Path]) -> None:
        """Read them all, those of a series in its order. `-` is standard input.

        The sinks are closed at the end, also where one of them raises.
        """
        try:
            for number, file in enumerate(in_order(files), 1):
                self._play_file(file, others=len(files) - number)
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
        except Unreadable as error:
            self._missing(Missing(error.file, error.reason, error.hint, until_ns, is_all))
            # What follows may be much later, and anything may have happened meanwhile.
            if self._tracker is not None:
                self._tracker.missed()
                self._finish()
        except KeyboardInterrupt:
            if others or str(file) != "-":
                more = f", and {others:,} more FILE{'' if others == 1 else 's'}" if others else ""
                self._missing(Missing(f"{file}{more}", "interrupted by ^C", "", until_ns))
            raise

    def _is_known(self, source: RecordingReader) -> bool:
        identity = source.identity
        if identity is None:
            return False
        known = self._names.setdefault(identity, source.name)
        if known is source.name:
            return False
        self._warn(f"{source.name}: the same file as {known}; read only once")
        return True

    def _play_recordings(self, source: RecordingReader) -> None:
        is_next = True
        while is_next:
            tracker = self._begin(source.header)
            run(source, self._wanted, tracker, self._sinks, self.totals)
            if source.is_truncated:
                tracker.missed()
            is_next = source.begin_next()

    def _report_damage(self, source: RecordingReader) -> None:
        if source.damaged:
            others = source.damaged - 1
            more = f", as are {others:,} later ones" if others > 1 else ", as is a later one" if others else ""
            reason = f"{source.first_damage} is damaged{source.first_reason}; skipped{more}"
            self._missing(Missing(source.name, reason, source.first_damage_hint, source.last_ns))
        if source.has_no_end:
            reason = "the end of its compressed data is missing: it is still being written, or was truncated"
            self._missing(Missing(source.name, reason, "", source.last_ns, is_failure=False))

    def _begin(self, header: Header) -> StallTracker | RecordedStalls:
        """The tracker for the events of that recording: the one before goes on if it is the next part."""
        filters = None if header.is_whole else header.filters
        is_next_part = (
            header.host == self._host and filters == self._filters and header.started_ns >= self.totals.until_ns
        )
        if not is_next_part:
            self._finish()
        self._opened(header)
        if self._tracker is None:
            self.totals.until_ns = 0
            self._tracker = self._tracker_of(header)
            self._host, self._filters = header.host, filters
        return self._tracker

    def _finish(self) -> None:
        if self._tracker is not None:
            tracker, self._tracker = self._tracker, None
            finish(tracker, self._wanted, self._sinks, self.totals)

    def _tracker_of(self, header: Header) -> StallTracker | RecordedStalls:
        """What finds the stalls of a recording or, if it is not whole, takes them from it."""
        hz = header.hz or HZ
        if not header.is_whole:
            min_idle_ms = self._wanted.min_idle_ms or header.min_idle_ms or MIN_IDLE_MS
            return RecordedStalls(hz=hz, min_idle_ms=min_idle_ms, idle_timeouts=self._idle_timeouts)
        min_idle_ms = self._wanted.min_idle_ms or MIN_IDLE_MS
        return StallTracker(
            hz=hz, min_idle_ms=min_idle_ms, idle_timeouts=self._idle_timeouts, ends_only=self._ends_only
        )


def play(files: Sequence[Path], wanted: Filter, sinks: Sequence[Sink], **options: Any) -> Totals:
    """Play the files through a Player with these options, and return its totals."""
    player = Player(wanted, sinks, **options)
    player.play(files)
    return player.totals
