"""A full and a compact recording of the same run, as live tracing writes them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from recording_files import header

from tracer.analysis.stalls import MIN_IDLE_MS, StallTracker
from tracer.model.events import Batch, Event
from tracer.model.filters import Filter
from tracer.recordings.header import Header, describe_filter
from tracer.recordings.reader import RecordingReader
from tracer.recordings.writer import RecordingWriter
from tracer.run.compact import Compact
from tracer.run.pipeline import Totals, finish, run

NOT_COMPARED = frozenset(
    {
        "events",
        "compact",
        "first",
        "last",
        "sent_again_us",
        "sent_again_left_out",
        "predicted",
        "survived",
        "left_out",
    }
)
"""What a report cannot know from a compact recording, and what says that it is one."""
NOT_HELD = frozenset({"recorded", "end", "other-end"})
"""Lines about what was received, of which a compact recording holds less."""
Report = Callable[..., list[dict[str, Any]]]


class Pair(NamedTuple):
    """The two recordings of one run."""

    full: Path
    compact: Path


def compact_header(full: Header) -> Header:
    """The header of the compact recording beside a full one."""
    kinds = {"events": describe_filter(Filter(), is_compact=True)["events"]}
    return replace(full, compact=True, filters={**full.filters, **kinds})


def record_both(directory: Path, events: Iterable[Event], suffix: str = "", head: Header | None = None) -> Pair:
    """Trace these events, and write both recordings."""
    full_header, wanted = head or header(), Filter()
    pair = Pair(directory / f"full.tw{suffix}", directory / f"compact.tw{suffix}")
    tracker = StallTracker(hz=full_header.hz or 250, own_netns=full_header.netns)
    full = RecordingWriter(pair.full, full_header)
    compact = Compact(RecordingWriter(pair.compact, compact_header(full_header)), MIN_IDLE_MS)
    in_order = sorted(events, key=lambda each: each.ktime_ns)
    totals = Totals()
    run([Batch([each], each.ktime_ns) for each in in_order], wanted, tracker, [full, compact], totals)
    finish(tracker, wanted, [full, compact], totals)
    full.close()
    compact.close()
    return pair


def raw_events(recording: Path) -> tuple[Header, list[Event]]:
    """The header and the events of a recording, without its stalls."""
    with RecordingReader(recording, lambda _: None) as reader:
        return reader.header, [each for batch in reader for each in batch.events if each.event != "stall"]


def comparable(records: Iterable[dict[str, Any]]) -> list[str]:
    """The lines of `report --json`, without what a compact recording does not hold."""
    return sorted(json.dumps(compared(record)) for record in records if record.get("report") not in NOT_HELD)


def compared(record: dict[str, Any]) -> dict[str, Any]:
    """The members that both reports have."""
    # The range that was known when a stall ended: ends without evidence count later where they cannot be found again.
    left_out = NOT_COMPARED | ({"survived_ms", "fatal_ms"} if record.get("event") == "stall" else set())
    return {name: value for name, value in record.items() if name not in left_out}
