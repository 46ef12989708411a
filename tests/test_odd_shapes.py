"""JSON of any shape where an event is expected: an event comes of it or InvalidEvent, and nothing else."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from builders import event
from hypothesis import given, settings
from hypothesis import strategies as st
from recording_files import HEADER

from tracer.model.events import Event
from tracer.model.validation import InvalidEvent, from_json, to_json
from tracer.recordings.encoding import to_line
from tracer.recordings.header import FORMAT, VERSION, Header, InvalidHeader, NewerVersion, header_from_line
from tracer.recordings.reader import RecordingReader

NAMES = ["time", *(field.name for field in fields(Event) if field.name != "time_ns")]
TEXT = st.text(st.characters(), max_size=8) | st.sampled_from(["\ud800", "\0", "x" * 5000, "\U0001f600" * 70])
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT
    | st.sampled_from([2**63, -1, 10**400, 1e308, -0.0, 1.5])
)  # fmt: skip
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=6
)


@settings(max_examples=1500)
@given(st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=5), st.sets(st.sampled_from(NAMES), max_size=2))
def test_any_value_in_any_field(changes: dict[str, Any], missing: set[str]) -> None:
    record = {**to_json(event(pid=1, pids=[1], comm="php", advice=["x"])), **changes}
    for name in missing:
        record.pop(name, None)
    try:
        made = from_json(record)
    except InvalidEvent as error:
        assert str(error)
        return
    assert from_json(json.loads(to_line(made))) == made


@given(VALUES)
def test_anything_instead_of_an_object(value: Any) -> None:
    with suppress(InvalidEvent):
        assert isinstance(from_json(value), Event)


@given(st.dictionaries(st.sampled_from([field.name for field in fields(Header)]), VALUES))
def test_any_value_in_a_header(changes: dict[str, Any]) -> None:
    line = json.dumps({"format": FORMAT, "version": VERSION, **changes}).encode()
    try:
        header = header_from_line(line)
    except InvalidHeader:
        return
    assert header_from_line(header.to_line().encode()) == header
    assert isinstance(header.started_ns, int) and isinstance(header.is_whole, bool)


def test_a_version_with_thousands_of_digits() -> None:
    """More than a float has: only int() limits their number, to 4300 digits."""
    line = f'{{"format":"tcpwatch","version":{"9" * 4000}}}'
    with pytest.raises(NewerVersion, match="is newer than this tcpwatch reads"):
        header_from_line(line.encode())


LINES = {
    "deep nesting": b'{"a":' + b"[" * 200_000,
    "closed deep nesting": b'{"time":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "many lists": b"[" + b"[]," * 300_000 + b"[]]",
    "a huge number": b'{"time":"2027-01-15T08:00:00.000000Z","ktime_ns":' + b"9" * 100_000 + b',"event":"state"}',
    "NaN": b'{"time":"2027-01-15T08:00:00.000000Z","ktime_ns":NaN,"event":"state"}',
    "infinity": b'{"time":"2027-01-15T08:00:00.000000Z","ktime_ns":1,"event":"state","srtt_ms":1e999}',
    "bytes that are not UTF-8": b'{"time":"2027-01-15T08:00:00.000000Z","ktime_ns":1,"event":"state","comm":"\xff"}',
    "an event that is a list": b'{"time":"2027-01-15T08:00:00.000000Z","ktime_ns":1,"event":["state"]}',
    "a format that is a list": b'{"format":["tcpwatch"],"event":{}}',
    "UTF-16": '{"event":"state"}'.encode("utf-16"),
}


@pytest.mark.parametrize("name", LINES)
def test_a_line_of_an_odd_shape_is_skipped(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.tw"
    good = to_line(event()).encode()
    path.write_bytes(HEADER.to_line().encode() + good + LINES[name] + b"\n" + good)
    with RecordingReader(path, pytest.fail) as reader:
        assert sum(len(batch.events) for batch in reader) == 2
        assert (reader.damaged, reader.first_damage) == (1, "line 3")


def test_the_last_of_duplicate_keys_counts_and_a_lone_surrogate_stays_one(tmp_path: Path) -> None:
    path = tmp_path / "x.tw"
    line = to_line(event(comm="php")).replace('"comm":"php"', '"comm":"php","comm":"\\ud800"')
    path.write_bytes(HEADER.to_line().encode() + line.encode())
    with RecordingReader(path, pytest.fail) as reader:
        ((found,),) = [batch.events for batch in reader if batch.events]
    assert found.comm == "\ud800" and '"comm":"\\ud800"' in to_line(found)
