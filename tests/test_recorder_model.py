"""A recorder in any order of misfortunes: no event that was flushed is lost, but the oldest ones, and that is said.

What is on the disk after each step, as RecordingReader reads it, is compared with a model of what has to be there.
The disk is a directory that takes so many bytes; clocks are set at will. An hour of it:

    scripts/test tests/test_recorder_model.py --soak 3600
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from errno import EDQUOT
from pathlib import Path
from typing import Any

import pytest
from builders import event
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from recording_files import HEADER

from tracer.model.errors import TcpwatchError
from tracer.model.events import Event
from tracer.recordings import file, rotating_writer, rotation, series
from tracer.recordings.reader import RecordingReader
from tracer.recordings.rotating_writer import RotatingWriter
from tracer.recordings.rotation import Rotation
from tracer.recordings.series import Series
from tracer.recordings.writer import RecordingWriter

SECONDS = 10.0
ONE_WRITE = 1 << 14
"""Bytes that a file may grow by at once here."""
PLENTY = 1 << 40
DAY = 86400.0


class World:
    """The clocks, and a disk that takes so many bytes and may fail in other ways."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.capacity = PLENTY
        self.creating: int | None = None  # what creating a file fails with
        self.writing: int | None = None  # what writing fails with
        self.wall_ns = 1_800_000_000 * 10**9
        self.monotonic = 1000.0

    def used(self) -> int:
        return sum(each.lstat().st_size for each in self.directory.iterdir())

    def write(self, fd: int, data: bytes) -> int:
        if self.writing is not None:
            raise OSError(self.writing, os.strerror(self.writing))
        room = self.capacity - self.used()
        if room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return os.write(fd, data[:room])

    def create(self, path: Path) -> int:
        if self.creating is not None:
            raise OSError(self.creating, os.strerror(self.creating))
        return file_create(path)

    def is_full(self) -> bool:
        return self.creating == errno.ENOSPC or self.used() >= self.capacity

    def space_left(self, _directory: Path) -> float:
        return max(0, self.capacity - self.used())


file_create = file.create
unlink = Path.unlink


@dataclass
class Contents:
    """One file of the series as a reader finds it."""

    path: Path
    number: int
    pieces: list[range]  # of events, in order
    told: list[range]  # events that it counts as missing, by the numbers that they must have had
    size: int

    @property
    def numbers(self) -> list[int]:
        """Of all events that it has or counts."""
        return [number for piece in (*self.told, *self.pieces) for number in piece]


class Recorder(RuleBasedStateMachine):
    """Events are numbered; `attempt` of each is its number."""

    files: int

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="tcpwatch-model-"))
        self.world = World(self.directory)
        self.patch = pytest.MonkeyPatch()
        # Each flush reaches the disk.
        self.patch.setattr(file, "_write", self.world.write)
        self.patch.setattr(series, "create", self.world.create)
        self.patch.setattr(rotating_writer, "create", self.world.create)
        self.patch.setattr(rotating_writer, "bytes_left", self.world.space_left)
        self.patch.setattr(series, "wall_ns", lambda: self.world.wall_ns)
        self.patch.setattr(Path, "unlink", lambda path: self.unlink(path))
        self.patch.setattr(time, "monotonic", lambda: self.world.monotonic)
        self.given = 0  # events so far
        self.flushed = 0  # of these: must be on disk or be counted
        self.forgotten = 0  # events below are of files that were removed, with a reason
        self.gaps: set[int] = set()  # of a run that was killed while it could not write; it had said so
        self.killed: set[Path] = set()  # in use then
        self.unfinished: set[Path] = set()  # without room for the end of the compressed data; the error said so
        self.said: list[str] = []
        self.has_to_say: list[str] = []
        self.foreign: dict[Path, tuple[object, ...]] = {}
        self.before: list[Contents] = []
        self.recorder: RotatingWriter | None = None

    def teardown(self) -> None:
        self.kill()
        self.patch.undo()
        shutil.rmtree(self.directory)

    @initialize(
        suffix=st.sampled_from(["tw", "tw.gz", "tw.zst"]),
        size=st.sampled_from([None, 4096, 8192]),
        every=st.sampled_from([None, 5.0, 3600.0]),
        keep=st.sampled_from([None, 1, 2, 3]),
        keep_size=st.sampled_from([None, 1 << 15, 1 << 16]),
    )
    def configure(
        self, suffix: str, size: int | None, every: float | None, keep: int | None, keep_size: int | None
    ) -> None:
        if size is None and every is None and keep_size is None:
            size = 8192
        self.path = self.directory / f"r.{suffix}"
        self.packed = suffix != "tw"
        self.rotation = Rotation(size, every, keep, keep_size)
        self.start()

    # What the recorder does.

    @precondition(lambda self: self.recorder is None)
    @rule()
    def start(self) -> None:
        before = set(self.directory.iterdir())
        try:
            self.recorder = RotatingWriter(self.path, lambda: HEADER, self.rotation, say=self.said.append)
        except TcpwatchError as error:
            assert self.world.creating or self.world.writing or "No space" in str(error), error
            assert set(self.directory.iterdir()) <= before, "a failed start leaves nothing behind"

    @precondition(lambda self: self.recorder is not None)
    @rule(count=st.integers(1, 60), flushes=st.booleans())
    def write(self, count: int, flushes: bool) -> None:
        assert self.recorder is not None
        numbers = range(self.given, self.given + count)
        self.given += count
        self.recorder.write([event(at=number / 1000, attempt=number, kind="rto") for number in numbers])
        if flushes:
            self.flush()

    @precondition(lambda self: self.recorder is not None)
    @rule()
    def flush(self) -> None:
        """A compressed file has everything a second later."""
        assert self.recorder is not None
        self.world.monotonic += 1.5
        self.recorder.flush()
        self.flushed = self.given

    @precondition(lambda self: self.recorder is not None)
    @rule(times=st.integers(1, 12))
    def hang_up(self, times: int) -> None:
        assert self.recorder is not None
        before = len(list(self.directory.iterdir()))
        for _ in range(times):
            self.recorder.hang_up()
            self.recorder.flush()
        assert len(list(self.directory.iterdir())) <= before + rotation.MAX_BURST

    @precondition(lambda self: self.recorder is not None)
    @rule(files=st.integers(1, 6), days=st.sampled_from([-30, -0.01, 0, 30]), restarts=st.booleans())
    def fill_files(self, files: int, days: float, restarts: bool) -> None:
        """Several files, while the clock goes one way or the other."""
        for _ in range(files):
            self.write(30, flushes=True)
            self.set_clock(days)
            self.wait(11.0)
            self.hang_up(1)
        if restarts:
            self.stop()
            self.start()

    @precondition(lambda self: self.recorder is not None)
    @rule(spare=st.sampled_from([0, 400, 3000]))
    def fill_disk_behind_a_new_file(self, spare: int) -> None:
        self.write(5, flushes=True)
        self.wait(11.0)
        self.hang_up(1)
        self.fill_disk(spare)
        self.write(30, flushes=True)

    @precondition(lambda self: self.recorder is not None)
    @rule()
    def stop(self) -> None:
        assert self.recorder is not None
        self.flushed = self.given
        recorder, self.recorder = self.recorder, None
        try:
            recorder.close()
        except TcpwatchError as error:
            assert recorder.missing and f"{recorder.missing:,} events" in str(error)
            self.unfinished.add(recorder.path)
        else:
            assert not recorder.missing
        self.gaps |= set(range(self.flushed - recorder.missing, self.flushed))

    @precondition(lambda self: self.recorder is not None)
    @rule()
    def kill(self) -> None:
        """kill -9: nothing is written any more. The kernel closes the descriptor."""
        if self.recorder is None:
            return
        recorder, self.recorder = self.recorder, None
        self.killed.add(recorder.path)
        os.close(recorder._in_use._fd)
        recorder._in_use._is_open = False
        # What was not flushed may be there or not.
        self.gaps |= set(range(min(self.flushed, self.given - recorder.missing), self.given))
        self.flushed = self.given

    @precondition(lambda self: self.recorder is not None and self.recorder.path.exists())  # it is the lock
    @rule()
    def another_recorder(self) -> None:
        names = sorted(self.directory.iterdir())
        with pytest.raises(TcpwatchError, match="another tcpwatch"):
            RotatingWriter(self.path, lambda: HEADER, self.rotation, say=self.said.append)
        assert sorted(self.directory.iterdir()) == names

    # What befalls it.

    @rule(days=st.sampled_from([-400, -1, -0.001, 0, 0.001, 1, 1200]))
    def set_clock(self, days: float) -> None:
        self.world.wall_ns = max(10**18, self.world.wall_ns + round(days * DAY * 10**9))

    @rule(seconds=st.sampled_from([0.01, 1.1, 11.0, 4000.0]))
    def wait(self, seconds: float) -> None:
        self.world.monotonic += seconds
        self.world.wall_ns += round(seconds * 10**9)

    @rule(spare=st.sampled_from([0, 100, 3000, 20_000, 80_000]))
    def fill_disk(self, spare: int) -> None:
        self.world.capacity = self.world.used() + spare

    @rule()
    def free_disk(self) -> None:
        self.world.capacity = PLENTY

    @rule(error=st.sampled_from([errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EMFILE, errno.ENOENT, errno.EDQUOT]))
    def break_directory(self, error: int) -> None:
        self.world.creating = error

    @rule(error=st.sampled_from([errno.EIO, errno.EROFS, errno.EDQUOT]))
    def break_writing(self, error: int) -> None:
        self.world.writing = error

    @rule()
    def mend(self) -> None:
        self.world.creating = self.world.writing = None

    @precondition(lambda self: self.recorder is not None and not self.recorder._is_starved)
    @rule()
    def remove_the_file_in_use(self) -> None:
        """Its events are counted."""
        assert self.recorder is not None
        os.unlink(self.recorder.path)  # noqa: PTH108  Path.unlink is the recorder's here
        self.wait(11.0)
        self.flush()

    @rule(kind=st.sampled_from(["empty", "host", "series", "link", "fifo", "directory", "text"]))
    def foreign_file(self, kind: str) -> None:
        path = self.directory / self.path.name.replace("r.", f"r-2030010{len(self.foreign) % 9 + 1}T000000.000Z.", 1)
        if path.exists() or path.is_symlink() or len(self.foreign) > 8:
            return
        world, self.world.capacity = self.world.capacity, PLENTY
        self.patch.setattr(file, "_write", os.write)
        if kind == "empty":
            path.touch()
        elif kind == "text":
            path.write_text("something else\n")
        elif kind in ("host", "series"):
            head = replace(HEADER, host="db2") if kind == "host" else replace(HEADER, series="s.tw", number=7)
            with RecordingWriter(path, head) as other:
                other.write([event(attempt=0, kind="rto")])
        elif kind == "link":
            path.symlink_to(self.directory / "nowhere")
        elif kind == "fifo":
            os.mkfifo(path)
        else:
            path.mkdir()
        self.patch.setattr(file, "_write", self.world.write)
        self.world.capacity = world + path.lstat().st_size
        status = path.lstat()
        self.foreign[path] = (status.st_ino, status.st_size, status.st_mtime_ns)

    # What has to hold.

    @invariant()
    def others_are_untouched(self) -> None:
        for path, was in self.foreign.items():
            status = path.lstat()
            assert (status.st_ino, status.st_size, status.st_mtime_ns) == was, path

    @invariant()
    def what_was_flushed_is_there(self) -> None:
        if not hasattr(self, "path"):
            return
        now = self.contents()
        there = {number for each in now for number in each.numbers}
        assert all(any(words in text for text in self.said) for words in self.has_to_say)
        must = set(range(self.forgotten, self.promised())) - self.gaps
        assert must <= there, f"lost: {sorted(must - there)[:5]}"
        assert max(there, default=-1) < self.given
        self.before = now
        self.limits_hold()
        self.no_more_than_one_file_is_empty()

    def promised(self) -> int:
        """Events below were flushed, or have to be counted in a file."""
        missing = self.recorder.missing if self.recorder is not None else 0
        return min(self.flushed, self.given - missing)

    def unlink(self, path: Path) -> None:
        """Whatever the recorder removes: the oldest that holds events, for a reason, or one without events."""
        there = self.contents(being_begun=True)
        gone = next((each for each in there if each.path == path), None)
        if gone is not None and gone.numbers:
            holding = [each for each in there if each.numbers]
            assert gone is holding[0], "the oldest goes first"
            assert len(holding) > 1, "something is always left"
            keep, keep_size = self.rotation.keep, self.rotation.keep_size
            is_full = EDQUOT in (self.world.writing, self.world.creating) or self.world.is_full()
            by_count = keep is not None and len(holding) > keep
            by_size = keep_size is not None and sum(other.size for other in there) > keep_size - ONE_WRITE
            assert is_full or by_count or by_size, f"{path} went for no reason"
            self.forgotten = max(gone.numbers) + 1
            if is_full and not by_count and not by_size:
                self.has_to_say.append(f"removed {path}, ")
        unlink(path)

    def limits_hold(self) -> None:
        if self.recorder is None:
            return
        holding = [each for each in self.before if each.numbers]
        if self.rotation.keep is not None:
            assert len(holding) <= self.rotation.keep
        if self.rotation.keep_size is not None:
            # The last file with events does not go for a header.
            spared = self.before[-1].size if len(holding) == 1 and not self.before[-1].numbers else 0
            assert sum(each.size for each in self.before) - spared <= self.rotation.keep_size

    def no_more_than_one_file_is_empty(self) -> None:
        assert sum(not (each.numbers) for each in self.before) <= 1 + (self.recorder is None)

    def contents(self, *, being_begun: bool = False) -> list[Contents]:
        """The files of the series, oldest first."""
        members = Series(self.path, print)._named()
        found = [each for path in members if path not in self.foreign and (each := self.read(path, being_begun))]
        found.sort(key=lambda each: each.number)
        end = None
        for each in found:
            for number, piece in enumerate(each.told):
                # It counts what came last before the next event, or before the end.
                stop = each.pieces[0].start if each.pieces else piece.stop
                each.told[number] = range(stop - len(piece), stop)
            numbers = each.numbers
            assert numbers == sorted(set(numbers)), "in order, and once"
            if numbers:
                assert end is None or numbers[0] > end, "no event is in two files"
                end = numbers[-1]
        return found

    def read(self, path: Path, being_begun: bool) -> Contents | None:
        """being_begun: a file without a whole header is one that the recorder has just created."""
        pieces: list[range] = []
        told: list[range] = []
        try:
            warnings: list[str] = []
            reader = RecordingReader(path, warnings.append)
        except TcpwatchError:
            assert being_begun
            return None
        with reader:
            for each in self.events(reader):
                number = each.attempt
                if each.event == "lost":
                    assert each.hook == "recording" and each.count and not pieces and not told, "at the beginning"
                    last = round((each.time_ns - event().time_ns) / 1e6)
                    told.append(range(last + 1 - each.count, last + 1))
                elif pieces and pieces[-1].stop == number:
                    pieces[-1] = range(pieces[-1].start, number + 1)
                else:
                    assert number is not None
                    pieces.append(range(number, number + 1))
            found = Contents(path, reader.header.number, pieces, told, path.stat().st_size)
        assert not warnings or self.may_be_cut(path) or being_begun, f"{path} is whole: {warnings} {self.said}"
        return found

    def may_be_cut(self, path: Path) -> bool:
        """One in use, or that was when the recorder was killed; a compressed one that could not be completed."""
        is_in_use = self.recorder is not None and self.recorder.path == path and not self.recorder._is_starved
        could_not = self.packed and any("cannot write" in text or "cannot finish" in text for text in self.said)
        could_not = could_not or (self.packed and path in self.unfinished)
        return path in self.killed or is_in_use or could_not or (self.packed and self.world.writing is not None)

    @staticmethod
    def events(reader: RecordingReader) -> Iterator[Event]:
        for batch in reader:
            yield from batch.events


@pytest.mark.timeout(0)
def test_no_event_is_lost_but_the_oldest(request: pytest.FixtureRequest) -> None:
    soak = request.config.getoption("--soak")
    clock = time.monotonic
    over = clock() + (soak or SECONDS)
    quiet: dict[str, Any] = {
        "report_multiple_bugs": False,
        "database": None,
        "suppress_health_check": list(HealthCheck),
    }
    rounds = 0
    while rounds == 0 or clock() < over:
        # The first round is the same each time.
        run_state_machine_as_test(
            Recorder,
            settings=settings(max_examples=60, stateful_step_count=40, derandomize=rounds == 0 and not soak, **quiet),
        )
        rounds += 1
