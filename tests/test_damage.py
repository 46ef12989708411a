"""Recordings that are not as they were written: cut, damaged, glued together, endless, or no files at all."""

from __future__ import annotations

import gzip
import json
import os
import resource
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard
from builders import SECOND, event
from recording_files import EVENTS, HEADER, header, read, record, write
from running import ROOT, tcpwatch
from stall_events import a_night, close, freeze

from tracer.model.errors import TcpwatchError
from tracer.model.events import Event
from tracer.model.validation import to_json
from tracer.recordings.failures import cannot_write
from tracer.recordings.header import VERSION, Header
from tracer.recordings.reader import RecordingReader

PACK: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": lambda data: gzip.compress(data, mtime=0),
    ".zst": zstandard.compress,
}
LATER = replace(HEADER, host="db2", utc_offset_s=0)
NEWER = HEADER.to_line().replace(f'"version":{VERSION}', f'"version":{VERSION + 1}').encode()


def read_all(path: Path) -> tuple[list[tuple[Header, list[Event]]], list[str], TcpwatchError | None]:
    """Every recording of a file, as far as it can be read; what was warned of; and the error that ended it."""
    warnings: list[str] = []
    recordings: list[tuple[Header, list[Event]]] = []
    try:
        with RecordingReader(path, warnings.append) as reader:
            is_next = True
            while is_next:
                recordings.append((reader.header, []))
                for batch in reader:
                    recordings[-1][1].extend(batch.events)
                is_next = reader.begin_next()
    except TcpwatchError as error:
        return recordings, warnings, error
    return recordings, warnings, None


def damaged(data: bytes, place: int) -> Iterator[bytes]:
    """What may happen to one byte."""
    before, after = data[:place], data[place + 1 :]
    yield before + bytes([data[place] ^ 0x01]) + after
    yield before + bytes([data[place] ^ 0x80]) + after
    yield before + b"\0" + after
    yield before + b"\n" + after
    yield before + after
    yield before + b'"' + data[place:]
    yield before + b"\n" + data[place:]
    yield before + after[15:]


@pytest.mark.parametrize("suffix", PACK)
def test_damage_at_any_place_gives_events_or_an_error_and_leaves_alone_what_stands_before(
    tmp_path: Path, suffix: str
) -> None:
    plain = write(tmp_path / "x.tw")
    whole = PACK[suffix](plain)
    path = tmp_path / "damaged"
    for place in range(len(whole)):
        for data in damaged(whole, place):
            path.write_bytes(data)
            recordings, warnings, error = read_all(path)
            assert error is None or (error.hint and error.exit_status == 1)
            events = [each for _, events in recordings for each in events]
            if not suffix:
                before = max(0, plain[:place].count(b"\n") - 1)
                assert events[:before] == EVENTS[:before], (place, data)
            assert all(each.isprintable() for each in warnings), "nothing of it is quoted"


def test_one_recording_after_another_is_both(tmp_path: Path) -> None:
    path = tmp_path / "x.tw"
    first = write(path)
    path.write_bytes(first + LATER.to_line().encode() + first)
    assert read_all(path) == ([(HEADER, EVENTS), (LATER, []), (HEADER, EVENTS)], [], None)


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_packed_ones_too(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "x.tw"
    whole = PACK[suffix](write(path))
    path.write_bytes(whole + whole)
    assert read_all(path) == ([(HEADER, EVENTS), (HEADER, EVENTS)], [], None)


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_what_stands_before_damaged_packed_data_is_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "x.tw"
    pack = PACK[suffix]
    many = [event(at=number, kind="rto", attempt=number, comm=os.urandom(50).hex()) for number in range(300)]
    path.write_bytes(pack(write(path, many)) + pack(b"") + b"something else" * 100)
    recordings, warnings, error = read_all(path)
    assert (recordings, warnings) == ([(HEADER, many)], [])
    assert "compressed data is damaged (" in str(error) and "the rest from line 302 on is skipped" in str(error)


def test_a_wrong_checksum_costs_no_event_before_it(tmp_path: Path) -> None:
    """Also of a file that is decompressed in one step."""
    path = tmp_path / "x.tw"
    whole = gzip.compress(write(path))
    path.write_bytes(whole[:-8] + b"0000" + whole[-4:])
    recordings, _, error = read_all(path)
    assert recordings == [(HEADER, EVENTS)]
    assert "compressed data is damaged (" in str(error) and "the rest from line 4 on is skipped" in str(error)


@pytest.mark.parametrize("line", [b"\n", b"nonsense\n", b"{}\n"])
def test_damaged_lines_in_a_row_are_one_gap(tmp_path: Path, line: bytes) -> None:
    """A batch for each of them would cost minutes: a few KB of compressed data are millions of empty lines."""
    path = tmp_path / "x.tw"
    first, second, third = write(path).splitlines(keepends=True)
    path.write_bytes(first + second + line * 1000 + third)
    with RecordingReader(path, print) as reader:
        batches = [(len(batch.events), batch.has_gap) for batch in reader]
    assert (batches, reader.damaged) == ([(1, False), (1, True)], 1000)


@pytest.mark.parametrize("place", [0.3, 0.6, 0.9])
def test_events_before_damaged_deflate_data_are_read(tmp_path: Path, place: float) -> None:
    path = tmp_path / "x.tw"
    many = [event(at=number, kind="rto", attempt=number, comm=os.urandom(20).hex()) for number in range(300)]
    plain = write(path, many)
    deflate = zlib.compressobj(6, zlib.DEFLATED, 31)
    at = plain.index(b"\n", int(len(plain) * place)) + 1
    path.write_bytes(deflate.compress(plain[:at]) + deflate.flush(zlib.Z_FULL_FLUSH) + b"\xff" * 100)
    recordings, _, error = read_all(path)
    assert recordings == [(HEADER, many[: plain[:at].count(b"\n") - 1])]
    assert "compressed data is damaged (" in str(error)


def test_after_one_that_was_cut_off_anywhere_the_next_one_is_whole(tmp_path: Path) -> None:
    whole = write(tmp_path / "x.tw")
    path = tmp_path / "cut.tw"
    header_end = whole.index(b"\n") + 1
    for length in range(header_end, len(whole)):
        path.write_bytes(whole[:length] + LATER.to_line().encode() + whole[header_end:])
        (first, last), warnings, error = read_all(path)
        complete = whole[:length].count(b"\n") - 1
        assert error is None
        assert last == (LATER, EVENTS)
        # The newline itself may be all that is missing.
        assert first[1] in (EVENTS[:complete], EVENTS[: complete + 1])
        assert warnings or whole[length - 1 : length] == b"\n" or first[1] == EVENTS[: complete + 1], length


def test_what_is_missing_between_two_is_not_taken_for_an_answer(tmp_path: Path) -> None:
    night = freeze()
    first = record(tmp_path / "1.tw", night[:4]).read_bytes()
    head = replace(header(), started="2027-01-15T08:00:02.000000Z")
    rest = record(tmp_path / "2.tw", [*night[5:], *close(13.4)], head).read_bytes()
    for joined in (first, first[:-9]):
        shown = tcpwatch("report", "-", "--json", stdin=joined + rest).stdout
        (stall,) = [json.loads(line) for line in shown.splitlines() if '"stall"' in line]
        assert (stall["outcome"], stall["retransmits"]) == ("timed-out", 5)


def test_a_cut_header_costs_only_its_own_recording(tmp_path: Path) -> None:
    whole = write(tmp_path / "x.tw")
    path = tmp_path / "cut.tw"
    start = LATER.to_line().encode()
    for length in range(1, len(start) - 1):
        path.write_bytes(whole + start[:length])
        recordings, warnings, error = read_all(path)
        assert (recordings, error) == ([(HEADER, EVENTS)], None)
        assert "line 4 is truncated" in warnings[0]


def test_what_is_no_line_at_all_at_the_end_is_damage(tmp_path: Path) -> None:
    """A compressed recording behind a plain one has no newline, and is not a line that a crash truncated."""
    whole, packed = write(tmp_path / "x.tw"), write(tmp_path / "x.tw.gz")
    path = tmp_path / "joined.tw"
    path.write_bytes(whole + packed.replace(b"\n", b""))
    with RecordingReader(path, print) as reader:
        assert [each for batch in reader for each in batch.events] == EVENTS
        assert (reader.damaged, reader.is_truncated, reader.first_damage) == (1, False, "line 4")
    path.write_bytes(whole + bytes(5000))  # of a file that had grown when the power failed
    with RecordingReader(path, print) as reader:
        assert [each for batch in reader for each in batch.events] == EVENTS
        assert (reader.damaged, reader.is_truncated) == (0, True)


def test_a_newer_one_in_the_middle_says_to_upgrade_after_what_stands_before(tmp_path: Path) -> None:
    path = tmp_path / "x.tw"
    path.write_bytes(write(path) + NEWER + b"whatever\n")
    recordings, _, error = read_all(path)
    assert recordings == [(HEADER, EVENTS)]
    assert "from line 4 on" in str(error) and f"version {VERSION + 1}" in str(error)
    assert error is not None and "upgrade" in error.hint


def test_files_of_different_versions(tmp_path: Path) -> None:
    write(tmp_path / "a.tw")
    (tmp_path / "b.tw").write_bytes(NEWER)
    for command in ("replay", "report"):
        shown = tcpwatch(command, tmp_path / "a.tw", tmp_path / "b.tw")
        assert shown.returncode == 1
        assert "10.66.1.2" in shown.stdout or "db1: no stall, 2 events" in shown.stdout
        assert f"b.tw: format version {VERSION + 1} is newer" in shown.stderr and "upgrade" in shown.stderr


@pytest.mark.parametrize("arguments", [["report"], ["report", "--json"], ["replay"], ["replay", "--json"]])
def test_what_cat_joins_is_shown_like_the_files(tmp_path: Path, arguments: list[str]) -> None:
    night = sorted(a_night(), key=lambda each: each.ktime_ns)
    middle = replace(header(), started="2027-01-15T08:00:15.000000Z")
    files = [
        record(tmp_path / "1.tw", [each for each in night if each.ktime_ns < 15 * SECOND]),
        record(tmp_path / "2.tw", [each for each in night if each.ktime_ns >= 15 * SECOND], middle),
        record(tmp_path / "3.tw", night, replace(header(host="db2"), utc_offset_s=-3600)),
    ]
    joined = b"".join(file.read_bytes() for file in files)
    apart, together = tcpwatch(*arguments, *files), tcpwatch(*arguments, "-", stdin=joined)
    assert (together.returncode, together.stderr) == (0, "")
    assert together.stdout == apart.stdout and "timed out" in apart.stdout.replace("-", " ")


def test_kinds_of_event_that_are_unknown_are_counted_and_left_out(tmp_path: Path) -> None:
    path = tmp_path / "x.tw"
    newer = [b'{"event":"kind%d","count":"many"}\n' % (number % 12) for number in range(20)]
    whole = write(path)
    path.write_bytes(whole + b"".join(newer))
    recordings, (warning,), error = read_all(path)
    assert (recordings, error) == ([(HEADER, EVENTS)], None)
    assert "20 events of a kind" in warning and "kind7, …" in warning and "kind8" not in warning


def test_kinds_that_are_unknown_are_told_where_damage_follows_too(tmp_path: Path) -> None:
    path = tmp_path / "x.tw"
    path.write_bytes(write(path) + b'{"event":"new"}\n{}\n')
    said: list[str] = []
    with RecordingReader(path, said.append) as reader:
        list(reader)
        assert reader.first_damage == "line 5"
    assert "1 event of a kind" in said[0]


@pytest.mark.parametrize(
    ("name", "complaint"),
    [("/dev/null", "/dev/null: empty"), ("/dev/zero", "its first line is not"),
     ("/", "/: a directory, not a recording"),
     ("/proc/self/mem", "Input/output error"), ("no/such", "no/such: no such file")],
)  # fmt: skip
def test_what_is_no_ordinary_file(name: str, complaint: str) -> None:
    for command in ("replay", "report"):
        shown = limited(command, name)
        assert (shown.returncode, shown.stdout) == (1, "")
        assert complaint in shown.stderr and "Hint: " in shown.stderr and "Traceback" not in shown.stderr


@pytest.mark.parametrize("suffix", PACK)
def test_a_pipe_with_a_name_whose_bytes_come_one_by_one(tmp_path: Path, suffix: str) -> None:
    data = PACK[suffix](write(tmp_path / "x.tw"))
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    def feed() -> None:
        with fifo.open("wb", buffering=0) as stream:
            for byte in data:
                stream.write(bytes([byte]))

    writer = threading.Thread(target=feed)
    writer.start()
    try:
        assert read(fifo) == (EVENTS, [])
    finally:
        writer.join()


def test_standard_input_that_is_closed() -> None:
    shown = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m tracer replay - <&-"],
        capture_output=True, text=True, cwd=ROOT, timeout=60,
    )  # fmt: skip
    assert shown.returncode == 1
    assert "standard input: cannot be read (Bad file descriptor)" in shown.stderr
    assert "Hint: tcpwatch replay FILE" in shown.stderr


def test_the_hint_can_be_typed_whatever_the_file_is_called(tmp_path: Path) -> None:
    path = tmp_path / "x; $(touch pwned) 'y'.tw"
    path.write_bytes(write(tmp_path / "x.tw") + b"{}\n")
    with RecordingReader(path, pytest.fail) as reader:
        list(reader)
        command = reader.first_damage_hint
    shown = subprocess.run(["bash", "-c", command], capture_output=True, cwd=tmp_path, check=True)
    assert shown.stdout == b"{}\n"
    assert not (tmp_path / "pwned").exists()


def test_a_file_that_is_called_like_an_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("-x.tw")
    path.write_bytes(write(tmp_path / "x.tw") + b"{}\n")
    with RecordingReader(path, pytest.fail) as reader:
        list(reader)
        command = reader.first_damage_hint
    assert subprocess.run(["bash", "-c", command], capture_output=True, check=True).stdout == b"{}\n"
    hint = cannot_write(path, OSError(5, "Input/output error")).hint
    assert hint == "the file is intact up to this point: tcpwatch replay ./-x.tw; df -h ."


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_the_hint_unpacks_what_is_packed(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.tw{suffix}"
    path.write_bytes(PACK[suffix](write(tmp_path / "x.tw") + b"{}\n"))
    with RecordingReader(path, pytest.fail) as reader:
        list(reader)
        command = reader.first_damage_hint
    assert command.startswith(f"{'zcat' if suffix == '.gz' else 'zstdcat'} {path} | sed -n 4p | cat -v")


MEMORY = 400 << 20
"""Address space that reading anything has to do with."""


def limited(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tracer", *map(str, arguments)],
        capture_output=True, text=True, cwd=ROOT, timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY)),
    )  # fmt: skip


@pytest.mark.parametrize("start", [b"", HEADER.to_line().encode()])
def test_ten_gigabytes_without_an_end_of_line(tmp_path: Path, start: bytes) -> None:
    path = tmp_path / "x.tw"
    path.write_bytes(start)
    os.truncate(path, 10 << 30)
    shown = limited("replay", path)
    assert (shown.returncode, shown.stdout) == (1, "")
    assert ("no end of line within 64 MB; the rest from line 2 on" if start else "not a recording") in shown.stderr


def bomb(suffix: str, start: bytes, part: bytes, count: int) -> Iterator[bytes]:
    """Packed: the start, then the part so many times. Both formats may be joined without unpacking."""
    pack = PACK[suffix]
    yield pack(start)
    packed = pack(part)
    for _ in range(count):
        yield packed


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("start", [b"", HEADER.to_line().encode()])
def test_a_gigabyte_of_zeros_in_a_megabyte(tmp_path: Path, suffix: str, start: bytes) -> None:
    path = tmp_path / f"x.tw{suffix}"
    path.write_bytes(b"".join(bomb(suffix, start, bytes(1 << 24), 64)))
    assert path.stat().st_size < 2 << 20
    shown = limited("report", path)
    assert shown.returncode == 1
    assert ("no end of line within 64 MB; the rest from line 2 on" if start else "not a recording") in shown.stderr


def test_long_lines_in_any_number_take_no_more_memory_than_one(tmp_path: Path) -> None:
    """Each an event of a socket that a hundred thousand processes share."""
    path = tmp_path / "x.tw.gz"
    line = json.dumps(to_json(event(pids=list(range(1000, 130_000))))).encode() + b"\n"
    path.write_bytes(b"".join(bomb(".gz", HEADER.to_line().encode(), line, 150)))
    shown = limited("report", path)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "150 events" in shown.stdout
