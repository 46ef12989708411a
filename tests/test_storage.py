from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recording_files import EVENTS, HEADER, read, write

from tracer.model.errors import TcpwatchError
from tracer.model.events import Event
from tracer.model.filters import Filter
from tracer.recordings.header import describe_filter
from tracer.recordings.input import MAX_LINE
from tracer.recordings.reader import RecordingReader
from tracer.recordings.writer import RecordingWriter


def test_there_and_back(tmp_path: Path) -> None:
    path = tmp_path / "x.tw"
    write(path)
    assert read(path) == (EVENTS, [])
    with RecordingReader(path, print) as reader:
        assert reader.header == HEADER


def test_only_the_owner_may_read_it(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        write(tmp_path / "x.tw")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "x.tw").stat().st_mode) == 0o600


def test_what_is_there_already_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "x.tw"
    before = write(path)
    with pytest.raises(TcpwatchError, match="already exists"):
        RecordingWriter(path, HEADER)
    assert path.read_bytes() == before


def test_every_flush_can_be_read_by_others(tmp_path: Path) -> None:
    path = tmp_path / "x.tw"
    with RecordingWriter(path, HEADER) as writer:
        writer.write([EVENTS[0]])
        writer.flush()
        assert read(path) == (EVENTS[:1], [])


def test_a_full_disk_is_an_error_for_people(tmp_path: Path) -> None:
    with pytest.raises(TcpwatchError, match="No space left on device") as caught:
        RecordingWriter(Path("/dev/full"), HEADER)
    assert "df -h" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "hint"),
    [("no/such/directory/x.tw", "mkdir -p {directory}"), ("x" * 300, "choose a shorter name")],
    ids=["no-directory", "long-name"],
)
def test_a_place_where_nothing_can_be_written(tmp_path: Path, name: str, hint: str) -> None:
    path = tmp_path / name
    with pytest.raises(TcpwatchError, match="cannot create") as caught:
        RecordingWriter(path, HEADER)
    assert caught.value.hint == hint.format(directory=path.parent)


def test_cut_off_anywhere_it_gives_what_was_whole(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.tw")
    header_end = whole.index(b"\n") + 1
    first_end = whole.index(b"\n", header_end) + 1
    path = tmp_path / "cut.tw"
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        if length < header_end - 1:
            with pytest.raises(TcpwatchError):
                read(path)
            continue
        events, warnings = read(path)
        # The newline itself may be what is missing.
        complete = (length >= first_end - 1) + (length >= len(whole) - 1)
        assert events == EVENTS[:complete], length
        partial = length not in (header_end - 1, header_end, first_end - 1, first_end, len(whole) - 1, len(whole))
        assert bool(warnings) == partial, length


def test_a_damaged_line_costs_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "x.tw"
    lines = write(path).splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1] + b'{"time": 12}\n' + lines[2])
    with RecordingReader(path, pytest.fail) as reader:
        batches = list(reader)
        assert [each for batch in batches for each in batch.events] == EVENTS
        assert [batch.has_gap for batch in batches if batch.events] == [False, True], "no answer is concluded across"
        assert (reader.damaged, reader.first_damage, reader.first_reason) == (1, "line 3", " (ktime_ns is missing)")
        assert reader.first_damage_hint == f"sed -n 3p {path} | cat -v | cut -c 1-300"


def change(**values: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda record: {**record, **values}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "empty, without a header"),
        (b"hello\n", "not a recording"),
        (b"[]\n", "not a recording"),
        (b'{"format":"pcap"}\n', "not a recording"),
        (b'{"format":"tcpwatch"}\n', "no version"),
        (b'{"format":"tcpwatch","version":true}\n', "no version"),
        (b'{"format":"tcpwatch","version":2}\n', "format version 2 is newer"),
        (b"\x1f\x8b\x08\x00", "truncated before the end of the header"),
        (b"\x1f\x8bnonsense that is no gzip", "compressed data is damaged"),
        (b"\x28\xb5\x2f\xfdnonsense that is no zstd", "compressed data is damaged"),
        (b"\xfd7zXZ\x00", "compressed with xz"),
        (b"[" * 100_000, "not a recording"),
        (b"x" * (MAX_LINE + 5), "not a recording"),
    ],
)
def test_what_is_no_recording(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "x.tw"
    path.write_bytes(content)
    with pytest.raises(TcpwatchError, match=complaint) as caught:
        read(path)
    assert caught.value.hint
    assert caught.value.exit_status == 1


def test_a_line_without_end_does_not_fill_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "x.tw"
    write(path)
    with path.open("ab") as stream:
        stream.write(b"9" * (3 * MAX_LINE))
    with RecordingReader(path, pytest.fail) as reader:
        assert [each for batch in reader for each in batch.events] == EVENTS
        assert (reader.damaged, reader.first_damage) == (1, "line 4")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_are_events_or_an_error(tmp_path: Path, data: bytes, after_header: bool) -> None:
    path = tmp_path / "any.tw"
    path.write_bytes((HEADER.to_line().encode() if after_header else b"") + data)
    try:
        events, _ = read(path)
    except TcpwatchError:
        return
    assert all(isinstance(each, Event) for each in events)


def test_header_of_any_values_is_readable(tmp_path: Path) -> None:
    path = tmp_path / "x.tw"
    odd = {"format": "tcpwatch", "version": 1, "host": 5, "hz": "x", "utc_offset_s": 1 << 70, "filters": [], "new": 1}
    path.write_text(json.dumps(odd) + "\n")
    with RecordingReader(path, print) as reader:
        assert reader.header.host == ""
        assert reader.header.utc_offset_s == 86399


def test_header_tells_the_filter() -> None:
    wanted = Filter(ports=frozenset({11300, 3306}), family=4)
    assert describe_filter(wanted) == {"ports": [3306, 11300], "family": 4}
