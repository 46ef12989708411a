"""Recordings, one after the other, through the pipeline: what `tcpwatch replay` and `tcpwatch report` share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tracer.analysis.idle import Silences
from tracer.analysis.stalls import MIN_IDLE_MS, StallTracker
from tracer.filters import Filter
from tracer.pipeline import Sink, Totals, finish, run
from tracer.storage.header import Header
from tracer.storage.reader import RecordingReader

HZ = 250
"""Debian's and most others', for a header that does not tell."""


def play(
    files: Sequence[Path],
    wanted: Filter,
    sinks: Sequence[Sink],
    *,
    warn: Callable[[str], None],
    opened: Callable[[Header], None] = lambda _: None,
    silences: Silences | None = None,
    ends_only: bool = False,
) -> Totals:
    """Carry the events of all files to the sinks. `-` is standard input. Raises TcpwatchError for a bad file.

    opened is told each header before its events come; a file may have several. Those that follow each other in time
    on one host are taken as one recording: a stall may begin in one and end in the next. Of a recording that was made
    with a filter on what events say, the stalls that it holds are passed on, since their events are not all there; in
    any other they are found again. ends_only: the sinks care how stalls ended, and not how they began.
    """
    totals = Totals()
    silences = silences if silences is not None else Silences()
    tracker: StallTracker | None = None
    host = ""
    try:
        for file in files:
            with RecordingReader(file, warn=warn) as source:
                is_next = True
                while is_next:
                    header = source.header
                    opened(header)
                    if tracker is not None and not (header.host == host and header.started_ns >= totals.until_ns):
                        finish(tracker, wanted, sinks, totals)
                        tracker = None
                    if tracker is None and header.is_whole:
                        totals.until_ns = 0
                        min_idle_ms = wanted.min_idle_ms or MIN_IDLE_MS
                        tracker = StallTracker(
                            hz=header.hz or HZ, min_idle_ms=min_idle_ms, silences=silences, ends_only=ends_only
                        )
                        host = header.host
                    run(source, wanted, tracker if header.is_whole else None, sinks, totals)
                    if tracker is not None and source.is_cut:
                        tracker.missed()
                    is_next = source.begin_next()
    finally:
        if tracker is not None:
            finish(tracker, wanted, sinks, totals)
        for sink in sinks:
            sink.close()
    return totals
