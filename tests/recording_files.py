"""Recordings as files of a test: a header, some events, writing and reading."""

from __future__ import annotations

from pathlib import Path

from builders import SECOND, event

from tracer.model.events import Event
from tracer.model.filters import Filter
from tracer.recordings.header import Header, describe_filter
from tracer.recordings.reader import RecordingReader
from tracer.recordings.writer import RecordingWriter

HEADER = Header(
    tool="0.1.0", kernel="6.18", host="db1", started="2027-01-15T08:00:00.000000Z",
    clock_offset_ns=5, utc_offset_s=3600, hz=250, filters={"ports": [3306]}, sysctls={"net.ipv4.tcp_retries2": 15},
)  # fmt: skip
EVENTS = [
    event(kind="fast", attempt=0, silent_ms=9),
    event("state", at=1, old_state="ESTABLISHED", new_state="CLOSE"),
]


def write(path: Path, events: list[Event] = EVENTS) -> bytes:
    """Record these events under HEADER; the bytes of the file."""
    with RecordingWriter(path, HEADER) as writer:
        for each in events:
            writer.write([each])
    return path.read_bytes()


def read(path: Path) -> tuple[list[Event], list[str]]:
    """The events of a recording, and the warnings about it."""
    warnings: list[str] = []
    with RecordingReader(path, warnings.append) as reader:
        return [each for batch in reader for each in batch.events], warnings


def header(wanted: Filter | None = None, host: str = "db1", clock_offset_ns: int | None = None) -> Header:
    """The header of a recording that began at 08:00 UTC on a host at UTC+1."""
    return Header(
        tool="0.1.0", kernel="6.18", host=host, started="2027-01-15T08:00:00.000000Z",
        clock_offset_ns=1_800_000_000 * SECOND - SECOND if clock_offset_ns is None else clock_offset_ns,
        utc_offset_s=3600, hz=250, filters=describe_filter(wanted or Filter()),
    )  # fmt: skip


def record(path: Path, events: list[Event], head: Header | None = None) -> Path:
    """Record these events in the order of time, under `head` or `header()`."""
    with RecordingWriter(path, head or header()) as writer:
        for each in sorted(events, key=lambda each: each.ktime_ns):
            writer.write([each])
    return path
