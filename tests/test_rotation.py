"""Recordings packed and in several files: nothing is lost at the seams, wherever they are cut."""

from __future__ import annotations

import builtins
import itertools
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders import SECOND, START, event
from recording_files import EVENTS, HEADER, read, write
from sinks import Shown

from tracer.model.errors import TcpwatchError
from tracer.model.events import Event
from tracer.model.filters import Filter
from tracer.model.times import format_time
from tracer.recordings.reader import RecordingReader
from tracer.recordings.rotating_writer import RotatingWriter
from tracer.recordings.rotation import Rotation
from tracer.recordings.writer import RecordingWriter
from tracer.run.replay import play

ROOT = Path(__file__).resolve().parent.parent
PACKED = [".gz", ".zst"]
MANY = [event(at=number, attempt=number, kind="rto") for number in range(200)]


@pytest.mark.parametrize("suffix", PACKED)
def test_packed_and_back(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.tw{suffix}"
    assert len(write(path, MANY)) < len(write(tmp_path / "x.tw", MANY)) / 4
    assert read(path) == (MANY, [])
    renamed = path.rename(tmp_path / "no-suffix")
    assert read(renamed) == (MANY, []), "told by its bytes"


@pytest.mark.parametrize("suffix", PACKED)
def test_cut_at_any_byte_it_gives_what_stood_before(tmp_path: Path, suffix: str) -> None:
    whole = write(tmp_path / f"x.tw{suffix}")
    cut = tmp_path / "cut"
    for length in range(1, len(whole)):
        cut.write_bytes(whole[:length])
        try:
            events, warnings = read(cut)
        except TcpwatchError as error:
            assert any(
                words in str(error)
                for words in ("before the end of the header", "empty", "not a recording", "damaged")
            )
        else:
            assert events == EVENTS[: len(events)]
            assert events == EVENTS or warnings


@pytest.mark.parametrize("suffix", PACKED)
def test_what_was_flushed_is_there_though_it_was_never_closed(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"x.tw{suffix}"
    writer = RecordingWriter(path, HEADER)
    writer.write([EVENTS[0]])
    writer.flush()
    assert read(path)[0] == [], "a flush a second is enough"
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 1.1)
    writer.flush()
    assert read(path)[0] == EVENTS[:1]
    writer.close()


def test_without_the_library_zst_is_an_error_that_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "zstandard":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(TcpwatchError, match="zstandard") as caught:
        RecordingWriter(tmp_path / "x.tw.zst", HEADER)
    assert "python3-zstandard" in (caught.value.hint or "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", ["", *PACKED])
def test_a_file_that_cannot_grow_is_an_error_and_nothing_else(tmp_path: Path, suffix: str) -> None:
    """In a process of its own: what a library says when it is collected would be on its stderr."""
    program = """
import gc, os, resource, sys
from pathlib import Path
from recording_files import HEADER
from builders import event
from tracer.model.errors import TcpwatchError
from tracer.recordings.writer import RecordingWriter
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
writer = RecordingWriter(Path(sys.argv[1]), HEADER)
try:
    while True:
        writer.write([event(comm=os.urandom(2000).hex())])
except TcpwatchError as error:
    print(error)
    print(error.hint.partition("; ")[2])
writer.close()
del writer
gc.collect()
"""
    path = tmp_path / f"x.tw{suffix}"
    done = subprocess.run(
        [sys.executable, "-c", program, path], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}, timeout=60,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == (
        f"cannot write {path}: File too large\nulimit -f unlimited\n",
        "",
    )
    events, _ = read(path)
    assert events, "what was written is good"


def rotated(path: Path, rotation: Rotation, events: list[Event], said: list[str] | None = None) -> list[Path]:
    """Write the events with a flush after each; the files there are, by name."""
    number = iter(range(10_000))
    writer = RotatingWriter(
        path,
        lambda: replace(HEADER, host=f"db{next(number)}"),
        rotation,
        say=(said if said is not None else []).append,
    )
    for each in events:
        writer.write([each])
        writer.flush()
    writer.close()
    return sorted(path.parent.glob("*"))


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_full_file_is_followed_by_another_and_nothing_is_lost(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracer.recordings.file.COMPRESSED_FLUSH_S", 0.0)
    said: list[str] = []
    files = rotated(tmp_path / f"x.y.tw{suffix}", Rotation(size=4096), MANY, said)
    assert len(files) >= 2 and all(
        re.fullmatch(rf"x\.y-\d{{8}}T\d{{6}}\.\d{{3}}Z\.tw{suffix}", each.name) for each in files
    )
    assert said == [f"recording to {each}" for each in files[1:]]
    assert [each for file in files for each in read(file)[0]] == MANY
    for number, file in enumerate(files):
        with RecordingReader(file, print) as reader:
            assert reader.header.host == f"db{number}", "a header of its own"


def test_an_old_file_is_followed_by_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hours = itertools.count(0, 3600)
    monkeypatch.setattr(time, "monotonic", lambda: next(hours))
    files = rotated(tmp_path / "x.tw", Rotation(every_s=7200), MANY[:5])
    assert len(files) > 1
    assert [each for file in files for each in read(file)[0]] == MANY[:5]


def test_only_the_newest_are_kept_and_nothing_else_is_touched(tmp_path: Path) -> None:
    others = [
        tmp_path / name for name in ("x.tw", "x-1.tw", "x-20260101T000000.000Z.tw.gz", "y-20260101T000000.000Z.tw")
    ]
    for other in others:
        other.touch()
    older = tmp_path / "x-20260101T000000.000Z.tw"
    with RecordingWriter(older, replace(HEADER, host="db0")) as writer:
        writer.write(EVENTS)
    files = set(rotated(tmp_path / "x.tw", Rotation(size=4096, keep=2), MANY))
    ours = sorted(files - set(others))
    assert set(others) <= files and len(ours) == 2 and older not in ours
    kept = [each for file in ours for each in read(file)[0]]
    assert kept == MANY[-len(kept) :]


def test_hanging_up_begins_another_file(tmp_path: Path) -> None:
    writer = RotatingWriter(tmp_path / "x.tw", lambda: HEADER, Rotation(size=1 << 30), say=lambda text: None)
    for number in range(3):
        writer.write([MANY[number]])
        writer.hang_up()
        writer.flush()
    writer.close()
    files = sorted(tmp_path.iterdir())
    assert [read(file)[0] for file in files] == [[MANY[0]], [MANY[1]], [MANY[2]], []]


def test_a_file_that_was_moved_away_is_made_again_when_told(tmp_path: Path) -> None:
    path = tmp_path / "x.tw"
    writer = RotatingWriter(path, lambda: HEADER, Rotation(), say=lambda text: None)
    writer.write([MANY[0]])
    writer.hang_up()
    writer.flush()
    writer.write([MANY[1]])
    moved = path.rename(tmp_path / "moved.tw")
    writer.flush()
    writer.hang_up()
    writer.flush()
    writer.write([MANY[2]])
    writer.close()
    assert (read(moved)[0], read(path)[0]) == (MANY[:2], [MANY[2]])


def test_a_link_in_a_directory_of_everybodys_is_not_followed(tmp_path: Path) -> None:
    """As it might be laid out for a root that records to /tmp."""
    public = tmp_path / "public"
    public.mkdir()
    public.chmod(0o1777)
    target = tmp_path / "target"
    os.mkfifo(target)
    (public / "x.tw").symlink_to(target)
    with pytest.raises(TcpwatchError, match="cannot create"):
        RecordingWriter(public / "x.tw", HEADER)
    (public / "y.tw").symlink_to(tmp_path / "nowhere")
    with pytest.raises(TcpwatchError, match="already exists"):
        RecordingWriter(public / "y.tw", HEADER)


def test_a_stall_goes_on_from_one_file_to_the_next(tmp_path: Path) -> None:
    offset_ns = START - SECOND
    events = [
        event(at=100, kind="tlp", attempt=0, silent_ms=90_000, unacked_bytes=5),
        event(at=100.3, kind="rto", attempt=1, silent_ms=90_300, unacked_bytes=5),
        event("error", at=113, error="ETIMEDOUT", errno=110, state="CLOSE"),
    ]
    begun = iter([START + 50 * SECOND, *(each.time_ns + SECOND // 100 for each in events)])
    writer = RotatingWriter(
        tmp_path / "x.tw",
        lambda: replace(HEADER, filters={}, started=format_time(next(begun)), clock_offset_ns=offset_ns),
        Rotation(size=1 << 20),
        say=lambda text: None,
    )
    for each in events:
        writer.write([each])
        writer.hang_up()
        writer.flush()
    writer.close()
    shown = Shown()
    files = sorted(tmp_path.iterdir())
    play(files, Filter(), [shown], warn=print)
    assert len(files) == 4
    assert [(each.phase, each.verdict) for each in shown.stalls] == [("begin", "idle-drop"), ("end", "idle-drop")]
    assert shown.stalls[1].outcome == "timed-out"


@pytest.mark.parametrize("suffix", ["", *PACKED])
def test_keep_size_holds_while_one_file_follows_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    """The end of the old file is written after the header of the new one."""
    now = itertools.count(step=11.0)
    monkeypatch.setattr(time, "monotonic", lambda: float(next(now)))
    limit = 1 << 15
    writer = RotatingWriter(tmp_path / f"x.tw{suffix}", lambda: HEADER, Rotation(keep_size=limit), say=lambda _: None)
    for number in range(400):
        writer.write([event(at=number + each / 100, attempt=number, kind="rto") for each in range(number % 37 + 1)])
        writer.flush()
        writer.hang_up()
        writer.flush()
        assert sum(each.stat().st_size for each in tmp_path.iterdir()) <= limit, number
    writer.close()
