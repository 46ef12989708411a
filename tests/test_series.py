"""The files of a rotation: which are its own, in which order they go, and who may write to them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders import SECOND, START, event
from recording_files import HEADER, read
from sinks import Shown

from tracer.cli.live import rotation_of
from tracer.cli.quantities import parse_size
from tracer.lab.namespace import wait_until
from tracer.model.errors import TcpwatchError, UsageError
from tracer.model.filters import Filter
from tracer.model.times import format_time
from tracer.recordings import file, rotating_writer, series
from tracer.recordings.header import Header, header_from_line
from tracer.recordings.rotating_writer import RotatingWriter
from tracer.recordings.rotation import Rotation
from tracer.recordings.series import Series
from tracer.recordings.series_order import in_order
from tracer.recordings.writer import RecordingWriter
from tracer.run.replay import play

ROOT = Path(__file__).resolve().parent.parent
STAMP = "20300101T00000{}.000Z"


def recorded(directory: Path, second: int, header: Header = HEADER, events: int = 1) -> Path:
    """A file of the series r.tw, stamped in the future."""
    path = directory / f"r-{STAMP.format(second)}.tw"
    with RecordingWriter(path, header) as made:
        made.write([event(attempt=number, kind="rto") for number in range(events)])
    return path


def numbered(number: int) -> Header:
    return replace(HEADER, series="r.tw", number=number)


def run(directory: Path, chosen: Rotation, events: int = 1, said: list[str] | None = None) -> Path:
    """One run that records so many events; the file that it used last."""
    recorder = RotatingWriter(
        directory / "r.tw", lambda: HEADER, chosen, say=(said if said is not None else []).append
    )
    for number in range(events):
        recorder.write([event(at=number, attempt=number, kind="rto")])
        recorder.flush()
    recorder.close()
    return recorder.path


def test_the_order_is_that_of_the_numbers_and_not_of_the_clock(tmp_path: Path) -> None:
    first, second, third = (
        recorded(tmp_path, 9, numbered(1)),
        recorded(tmp_path, 5, numbered(2)),
        recorded(tmp_path, 1, numbered(3)),
    )
    last = run(tmp_path, Rotation(every_s=3600, keep=3))
    assert set(tmp_path.iterdir()) == {second, third, last} and not first.exists()
    assert header_from_line(last.read_bytes().splitlines()[0]).number == 4


def test_files_without_a_number_are_older_than_all_with_one(tmp_path: Path) -> None:
    one, unnumbered, later = recorded(tmp_path, 1, numbered(1)), recorded(tmp_path, 9), recorded(tmp_path, 8)
    last = run(tmp_path, Rotation(every_s=3600, keep=2))
    assert set(tmp_path.iterdir()) == {one, last} and not unnumbered.exists() and not later.exists()


def test_older_readers_ignore_the_new_fields() -> None:
    """As version 1 always said: what a reader does not know it ignores."""
    line = numbered(7).to_line()
    assert '"series":"r.tw","number":7' in line
    assert header_from_line(line.replace('"series"', '"x"').replace('"number"', '"y"').encode()) == HEADER
    assert "series" not in json.loads(HEADER.to_line())


@pytest.mark.parametrize("value", [-5, 1 << 70, 2.5, "3", None, True])
def test_a_number_that_is_none(value: object) -> None:
    record = {**json.loads(numbered(7).to_line()), "number": value}
    assert 0 <= header_from_line(json.dumps(record).encode()).number < 1 << 63


def of_another_user(path: Path) -> None:
    os.chown(path, 65534, 65534)


FOREIGN: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "something else": lambda path: path.write_text("hello\n"),
    "hard link": lambda path: os.link(path, path.with_name("backup")),
    "symbolic link": lambda path: (path.rename(path.with_name("backup")), path.symlink_to("backup")),
    "directory": lambda path: (path.unlink(), path.mkdir()),
    "FIFO": lambda path: (path.unlink(), os.mkfifo(path)),
    "another host": lambda path: (path.unlink(), recorded(path.parent, 1, replace(HEADER, host="db2"))),
    "another series": lambda path: (path.unlink(), recorded(path.parent, 1, replace(numbered(1), series="s.tw"))),
    "another user": of_another_user,
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_it_did_not_write_stays(tmp_path: Path, kind: str) -> None:
    if kind == "another user" and os.geteuid() != 0:
        pytest.skip("only root can give files away")
    path = recorded(tmp_path, 1)
    FOREIGN[kind](path)
    before = unchanging(path)
    others = set(tmp_path.iterdir())
    for _ in range(3):
        said: list[str] = []
        run(tmp_path, Rotation(size=4096, keep=1, keep_size=20_000), events=60, said=said)
        why = "a link, empty, damaged, or of another user, host or series"
        assert said[0] == f"not counted for --keep and --keep-size, and never removed: {path} ({why})"
    assert unchanging(path) == before
    assert len(set(tmp_path.iterdir()) - others) == 1


def test_files_to_which_no_limit_applies_are_counted_where_there_is_a_limit(tmp_path: Path) -> None:
    for second in range(1, 4):
        recorded(tmp_path, second, replace(HEADER, host="former-name"))
    said: list[str] = []
    run(tmp_path, Rotation(every_s=3600), said=said)
    assert said == []
    run(tmp_path, Rotation(every_s=3600, keep=5), said=said)
    (sentence,) = said
    first = tmp_path / f"r-{STAMP.format(1)}.tw"
    assert sentence.startswith(f"not counted for --keep, and never removed: {first} and 2 others (")


def test_a_file_that_is_taken_away_at_once_says_nothing_about_its_filesystem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(path: Path) -> os.stat_result:
        raise FileNotFoundError(2, os.strerror(2), str(path))

    monkeypatch.setattr(Path, "lstat", gone)
    said: list[str] = []
    run(tmp_path, Rotation(every_s=3600, keep=5), said=said)
    assert not any("filesystem" in each for each in said)


@pytest.mark.parametrize("change", ["owner", "inode"])
def test_a_filesystem_that_changes_files_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """As with the option uid= of CIFS and VFAT, and with some filesystems in user space."""
    if change == "owner":
        user = os.geteuid() + 1
        monkeypatch.setattr(os, "geteuid", lambda: user)
    else:
        lstat = Path.lstat

        def another_inode(path: Path) -> os.stat_result:
            status = lstat(path)
            return os.stat_result((status.st_mode, status.st_ino + 1, *status[2:]))

        monkeypatch.setattr(Path, "lstat", another_inode)
    said: list[str] = []
    run(tmp_path, Rotation(every_s=3600), said=said)
    assert said == []
    run(tmp_path, Rotation(every_s=3600, keep_size=20_000), said=said)
    why = f"the filesystem of {tmp_path} changes the owners or inode numbers of files"
    assert said[0] == f"no file will be removed for --keep-size: {why}"


def test_a_file_as_large_as_the_limit_stays_until_another_one_holds_events(tmp_path: Path) -> None:
    """It grew so large because no other file could be started."""
    large = recorded(tmp_path, 1, numbered(1), events=60)
    limit = large.stat().st_size
    recorder = RotatingWriter(tmp_path / "r.tw", lambda: HEADER, Rotation(size=4096, keep_size=limit), say=print)
    recorder.flush()
    assert large.exists(), "it is worth more than a header"
    recorder.write([event(kind="rto")])
    recorder.flush()
    assert list(tmp_path.iterdir()) == [recorder.path]
    recorder.close()


def unchanging(path: Path) -> tuple[int, ...]:
    """Without the time of the last access: the recorder reads the header."""
    status = path.lstat()
    return status.st_mode, status.st_ino, status.st_nlink, status.st_uid, status.st_size, status.st_mtime_ns


def test_a_file_that_becomes_somebody_elses_while_it_runs_stays(tmp_path: Path) -> None:
    recorder = RotatingWriter(tmp_path / "r.tw", lambda: HEADER, Rotation(size=4096, keep=1), say=print)
    recorder.write([event(kind="rto")])
    recorder.flush()
    first = recorder.path
    first.rename(tmp_path / "mine")
    first.write_text("not yours\n")
    for number in range(100):
        recorder.write([event(attempt=number, kind="rto")])
        recorder.flush()
    recorder.close()
    assert first.read_text() == "not yours\n" and (tmp_path / "mine").exists()


@pytest.mark.parametrize("suffix", ["tw", "tw.gz", "tw.zst"])
def test_files_without_events_push_nothing_out_and_go(tmp_path: Path, suffix: str) -> None:
    history = recorded(tmp_path, 1)
    (tmp_path / f"r.{suffix}").write_bytes(b"")  # not of the pattern
    program = """
import os, sys
from pathlib import Path
from recording_files import HEADER
from tracer.recordings.rotating_writer import RotatingWriter
from tracer.recordings.rotation import Rotation
from tracer.recordings.series_order import in_order
RotatingWriter(Path(sys.argv[1]), lambda: HEADER, Rotation(every_s=3600, keep=1), say=print)
os.kill(os.getpid(), 9)
"""
    for _ in range(3):
        subprocess.run(
            [sys.executable, "-c", program, tmp_path / f"r.{suffix}"], check=False, timeout=60,
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        )  # fmt: skip
    files = list(tmp_path.glob(f"r-*.{suffix}"))
    assert history.exists() and len(files) == (2 if suffix == "tw" else 1)


def test_a_file_in_doubt_is_history(tmp_path: Path) -> None:
    """Whatever follows the header, whole or not by much, is not removed as if it were nothing."""
    path = recorded(tmp_path, 1, numbered(1), events=0)
    with path.open("ab") as file:
        file.write(b'{"event":"of a later version"}\n')
    run(tmp_path, Rotation(every_s=3600))
    assert path.exists()


@pytest.mark.parametrize("number", [28, 122], ids=["ENOSPC", "EDQUOT"])
def test_a_failed_start_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def full(_fd: int, _data: bytes) -> int:
        raise OSError(number, os.strerror(number))

    history = recorded(tmp_path, 1, numbered(1))
    monkeypatch.setattr(file, "_write", full)
    for chosen in (Rotation(), Rotation(every_s=60)):
        with pytest.raises(TcpwatchError, match=r"cannot create .*: (No space left|Disk quota)"):
            RotatingWriter(tmp_path / "r.tw", lambda: HEADER, chosen, say=print)
    assert list(tmp_path.iterdir()) == [history]


def test_without_a_library_a_rotation_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(TcpwatchError, match="zstandard"):
        RotatingWriter(tmp_path / "r.tw.zst", lambda: HEADER, Rotation(every_s=60), say=print)
    assert list(tmp_path.iterdir()) == []


def test_the_new_file_is_there_before_an_old_one_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unlink = Path.unlink

    def watched(path: Path) -> None:
        assert sum(bool(read(each)[0]) for each in tmp_path.iterdir()) > 2
        unlink(path)

    monkeypatch.setattr(Path, "unlink", watched)
    run(tmp_path, Rotation(size=4096, keep=2), events=100)
    assert len(list(tmp_path.iterdir())) <= 3


@pytest.mark.parametrize("suffix", ["tw", "tw.gz"])
@pytest.mark.parametrize("size", [None, 20_000])
def test_keep_size_bounds_all_files_at_any_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, size: int | None
) -> None:
    monkeypatch.setattr(file, "COMPRESSED_FLUSH_S", 0.0)
    most = 0
    written = os.write

    def watched(fd: int, data: bytes) -> int:
        nonlocal most
        done = written(fd, data)
        most = max(most, sum(each.stat().st_size for each in tmp_path.iterdir()))
        return done

    monkeypatch.setattr(file, "_write", watched)
    recorder = RotatingWriter(
        tmp_path / f"r.{suffix}", lambda: HEADER, Rotation(size=size, keep_size=50_000), say=print
    )
    for start in range(0, 2000, 50):
        recorder.write(
            [event(attempt=number, kind="rto", sock=os.urandom(8).hex()) for number in range(start, start + 50)]
        )
        recorder.flush()
    recorder.close()
    assert 25_000 < most <= 50_000


@pytest.mark.parametrize("suffix", ["tw", "tw.gz"])
@pytest.mark.parametrize("rotation", [Rotation(keep_size=8192), Rotation(size=4096, keep_size=8192)])
def test_the_smallest_keep_size_costs_only_the_oldest(tmp_path: Path, suffix: str, rotation: Rotation) -> None:
    said: list[str] = []
    recorder = RotatingWriter(tmp_path / f"r.{suffix}", lambda: HEADER, rotation, say=said.append)
    for start in range(0, 1000, 100):
        recorder.write([event(attempt=number, kind="rto") for number in range(start, start + 100)])
        recorder.flush()
        assert sum(each.stat().st_size for each in tmp_path.iterdir()) <= 8192
    recorder.close()
    kept = [each.attempt for path in sorted(tmp_path.iterdir()) for each in read(path)[0]]
    assert kept == [*range(1000 - len(kept), 1000)] and len(kept) > 3
    assert all(text.startswith("recording to ") for text in said)


def test_an_event_that_is_larger_than_keep_size_is_counted(tmp_path: Path) -> None:
    said: list[str] = []
    recorder = RotatingWriter(tmp_path / "r.tw", lambda: HEADER, Rotation(keep_size=8192), say=said.append)
    for number in range(3):
        recorder.write([event(attempt=number, kind="rto", pids=[*range(5000 * (number == 1))])])
        recorder.flush()
    recorder.close()
    assert "--keep-size has no room for the next events; events are only counted" in said[0]
    assert [(each.event, each.count) for each in read(recorder.path)[0]] == [("lost", 2)]


def test_a_disk_without_inodes_is_named_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`df -h` shows free space then."""
    said: list[str] = []
    recorder = RotatingWriter(tmp_path / "r.tw", lambda: HEADER, Rotation(size=4096), say=said.append)
    create, refusals = Series.create, [OSError(28, "No space left on device")]

    def refused(self: Series) -> tuple[Path, int]:
        if len(list(tmp_path.iterdir())) > 1 and refusals:
            raise refusals.pop()
        return create(self)

    monkeypatch.setattr(Series, "create", refused)
    monkeypatch.setattr(rotating_writer, "has_inodes", lambda _: False)
    for number in range(60):
        recorder.write([event(attempt=number, kind="rto")])
        recorder.flush()
    recorder.close()
    assert any(text.endswith("the oldest file of this recording: no inode left on the disk") for text in said)


def test_two_that_start_at_once(tmp_path: Path) -> None:
    program = """
import sys, time
from pathlib import Path
from recording_files import HEADER
from tracer.recordings.rotating_writer import RotatingWriter
from tracer.recordings.rotation import Rotation
from tracer.recordings.series_order import in_order
while time.time() < float(sys.argv[2]):
    pass
RotatingWriter(Path(sys.argv[1]), lambda: HEADER, Rotation(every_s=3600), say=print)
print("mine", flush=True)
sys.stdin.read()
"""
    at = str(time.time() + 2)
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program, tmp_path / "r.tw", at], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        )
        for _ in range(4)
    ]  # fmt: skip
    wait_until(lambda: sum(each.poll() is not None for each in started) == 3, 60, "three of four have ended")
    shown = [each.communicate(timeout=60) for each in started]
    assert sum("mine" in out for out, _ in shown) == 1, shown
    assert sum("another tcpwatch is recording" in said for _, said in shown) == 3, shown


def test_a_lock_of_another_user_is_none(tmp_path: Path) -> None:
    """He cannot open our files, and whatever he locks is none of ours."""
    squatted = tmp_path / f"r-{STAMP.format(1)}.tw"
    with squatted.open("w") as file:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX)
        if os.geteuid() == 0:
            of_another_user(squatted)
        else:
            file.write("something else\n")
            file.flush()
        run(tmp_path, Rotation(every_s=60))


def test_the_directory_locked_by_somebody_delays_a_start_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    monkeypatch.setattr(series, "_WAIT_S", 0.1)
    fd = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    run(tmp_path, Rotation(every_s=60))
    os.close(fd)


def test_hang_ups_without_events_make_no_file(tmp_path: Path) -> None:
    recorder = RotatingWriter(tmp_path / "r.tw", lambda: HEADER, Rotation(every_s=60), say=print)
    for _ in range(50):
        recorder.hang_up()
        recorder.flush()
    recorder.close()
    assert len(list(tmp_path.iterdir())) == 1


def test_a_file_that_would_fill_the_disk_alone_is_followed_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else there is no older one that could go when it is full."""
    monkeypatch.setattr(rotating_writer, "MIN_SPLIT_SIZE", 10_000)
    monkeypatch.setattr(rotating_writer, "bytes_left", lambda _: 12_000)
    run(tmp_path, Rotation(every_s=3600), events=100)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("size", "every_s", "keep", "keep_size", "complaint"),
    [
        (None, None, 3, None, "--keep needs"),
        (1 << 20, None, None, 1 << 20, "at least twice --rotate-size"),
        (None, None, None, 4096, "at least 8k"),
        (4096, None, None, 4096, "at least 8k"),
        (8192, None, None, 8192, "at least twice --rotate-size"),
    ],
)
def test_limits_that_cannot_be_meant(
    size: int | None, every_s: float | None, keep: int | None, keep_size: int | None, complaint: str
) -> None:
    with pytest.raises(UsageError, match=complaint) as caught:
        rotation_of(size, every_s, keep, keep_size)
    hint = caught.value.hint
    assert hint
    if hint.startswith("--rotate-size "):
        rotation_of(parse_size(hint.split()[1]), every_s, keep, keep_size)


def test_keep_size_alone_is_arotation_of() -> None:
    assert rotation_of(None, None, 3, 1 << 30).file_size == 1 << 27


def test_a_reader_takes_them_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    later, earlier = recorded(tmp_path, 1, numbered(8)), recorded(tmp_path, 2, numbered(7))
    other = recorded(tmp_path, 3, replace(HEADER, series="r.tw", number=1, host="another"))
    old = recorded(tmp_path, 4)
    unreadable = tmp_path / f"r-{STAMP.format(5)}.tw"
    os.mkfifo(unreadable)
    given = [Path("-"), later, other, old, earlier, unreadable, tmp_path / f"r-{STAMP.format(6)}.tw"]
    assert in_order(given) == [Path("-"), earlier, other, old, later, *given[5:]]


def test_a_stall_goes_on_in_the_next_file_though_the_clock_was_set_back(tmp_path: Path) -> None:
    """By the names the second file comes first."""
    offset_ns = START - SECOND
    begins: dict[str, Any] = {"filters": {}, "clock_offset_ns": offset_ns}
    parts = [
        [
            event(at=100, kind="tlp", attempt=0, silent_ms=90_000, unacked_bytes=5),
            event(at=100.3, kind="rto", attempt=1, silent_ms=90_300, unacked_bytes=5),
        ],
        [event("error", at=113, error="ETIMEDOUT", errno=110, state="CLOSE")],
    ]
    for number, (second, at) in enumerate(((9, 50), (1, 101)), 1):
        started = format_time(START + at * SECOND)
        path = tmp_path / f"r-{STAMP.format(second)}.tw"
        with RecordingWriter(path, replace(numbered(number), started=started, **begins)) as made:
            made.write(parts[number - 1])
    shown = Shown()
    play(sorted(tmp_path.iterdir()), Filter(), [shown], warn=print)
    assert [each.phase for each in shown.stalls] == ["begin", "end"]
    assert shown.stalls[1].outcome == "timed-out"
