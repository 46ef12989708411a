"""Recordings, one after the other, through the pipeline: what `tcpwatch replay` and `tcpwatch report` share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tracer.analysis.idle import Silences
from tracer.analysis.recorded import RecordedStalls
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
    any other they are found again. silences collects what connections survived and what they did not, from either.
    ends_only: the sinks care how stalls ended, and not how they began.
    """
    totals = Totals()
    silences = silences if silences is not None else Silences()
    tracker: StallTracker | RecordedStalls | None = None
    host = ""
    filters: Mapping[str, Any] | None = None  # of the recording that tracker reads; None: it is whole
    try:
        for file in files:
            with RecordingReader(file, warn=warn) as source:
                is_next = True
                while is_next:
                    header = source.header
                    chosen = None if header.is_whole else header.filters
                    is_next_part = header.host == host and chosen == filters and header.started_ns >= totals.until_ns
                    if tracker is not None and not is_next_part:
                        finish(tracker, wanted, sinks, totals)
                        tracker = None
                    opened(header)
                    if tracker is None:
                        totals.until_ns = 0
                        tracker = _tracker(header, wanted, silences, ends_only=ends_only)
                        host, filters = header.host, chosen
                    run(source, wanted, tracker, sinks, totals)
                    if source.is_cut:
                        tracker.missed()
                    is_next = source.begin_next()
    finally:
        if tracker is not None:
            finish(tracker, wanted, sinks, totals)
        for sink in sinks:
            sink.close()
    return totals


def _tracker(header: Header, wanted: Filter, silences: Silences, *, ends_only: bool) -> StallTracker | RecordedStalls:
    """What finds the stalls of a recording or, if it is not whole, takes them from it. --min-idle is what is long."""
    if not header.is_whole:
        min_idle_ms = wanted.min_idle_ms or header.min_idle_ms or MIN_IDLE_MS
        return RecordedStalls(min_idle_ms=min_idle_ms, silences=silences)
    min_idle_ms = wanted.min_idle_ms or MIN_IDLE_MS
    return StallTracker(hz=header.hz or HZ, min_idle_ms=min_idle_ms, silences=silences, ends_only=ends_only)
