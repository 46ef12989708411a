"""A recording of a long run: a new file when one is full, old or moved away, and only so many files or bytes kept.

Whatever happens to the disk, the run goes on. A full disk costs the oldest files of the series. Without any, events
are counted until there is space, and the next file begins with that count. If a new file cannot be created, the old
one stays in use.
"""

from __future__ import annotations

import errno
import os
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tracer.model.errors import TcpwatchError
from tracer.model.events import Event
from tracer.recordings.header import Header
from tracer.recordings.series import Series
from tracer.recordings.writer import FULL, Missing, RecordingFile, cannot_create, cannot_write, create

FULL_AGAIN_S, FAILED_AGAIN_S = 1.0, 10.0
"""When to try again what failed: for lack of space, or for another reason."""
ENOUGH = 1 << 16
"""Bytes that have to be free before a recording that ran out of space goes on."""
LEAST_SHARE = 1 << 20
"""A file of at least so many bytes is followed by another one when it is larger than the space left on the disk."""
AT_ONCE, PER_SECOND = 4.0, 1.0
"""SIGHUP, or a short --rotate-every, begins so many files in a row, then so many a second."""
PIECE, SMALL_PIECE = 4096, 16
"""Events after which a file may be followed by another one; the latter where files are smaller than LEAST_SHARE."""
PARTS = 8
"""--keep-size alone makes files of this fraction of it."""


@dataclass(frozen=True, slots=True)
class Rotation:
    """When a file is followed by another, and what is kept. None: no limit.

    size: bytes on disk. every_s: seconds. keep: files that hold events, the one in use included. keep_size: bytes of
    all files, the one in use included; alone it implies a size.
    """

    size: int | None = None
    every_s: float | None = None
    keep: int | None = None
    keep_size: int | None = None

    @property
    def file_size(self) -> int | None:
        """Bytes after which a file is followed by another."""
        if self.size is None and self.keep_size is not None:
            return max(4096, self.keep_size // PARTS)
        return self.size

    @property
    def is_wanted(self) -> bool:
        """Whether there will ever be a second file."""
        return self.file_size is not None or self.every_s is not None


class RotatingWriter:
    """A sink that writes recordings one after the other, each with a header of its own.

    With a rotation each file's name has the millisecond at which it was begun, in UTC: x.tw.gz becomes
    x-20261125T020000.123Z.tw.gz. Without one the file is path. header makes the header of a file that begins now. say
    is given a sentence about each file but the first, each that was removed for lack of space, and each failure.
    Raises TcpwatchError where the first file cannot be begun, and where events are missing at the end; without a
    rotation also where the file cannot be written.
    """

    def __init__(
        self,
        path: Path,
        header: Callable[[], Header],
        rotation: Rotation,
        *,
        say: Callable[[str], None],
    ) -> None:
        self._path = path
        self._header = header
        self._rotation = rotation
        self._say = say
        self._series = Series(path, say) if rotation.is_wanted else None
        self._missing = Missing()
        self._limit = _Limit()
        self._complaint = (False, "")  # what was said last about a failure that lasts
        self._not_before = float("-inf")  # when to try again to begin a file, CLOCK_MONOTONIC
        self._hung_up = self._is_starved = self._is_closed = False
        self._file: RecordingFile | None = None
        first = header()
        try:
            if self._series is not None:
                with self._series.claimed(first.host):
                    self._file = self._begin(first)
            else:
                self._file = self._begin(first)
        except OSError as error:
            raise cannot_create(path, error) from error

    def hang_up(self) -> None:
        """Someone moved the file away, or wants a new one (SIGHUP): with the next flush. Safe in a signal handler."""
        self._hung_up = True

    @property
    def path(self) -> Path:
        """The file in use."""
        return self._in_use.path

    @property
    def missing(self) -> int:
        """Events that are in no file, and that no file counts as lost."""
        return self._missing.count

    def opened(self, header: Header) -> None:
        """Each file has a header of its own."""

    def write(self, events: Sequence[Event]) -> None:
        """Take events."""
        size = self._rotation.file_size
        piece = SMALL_PIECE if size is not None and size < LEAST_SHARE else PIECE
        for start in range(0, len(events), piece):
            if start:
                self.flush()
            self._add(events[start : start + piece])

    def flush(self, until_ns: int = 0) -> None:
        """Hand everything to the kernel, and go on in a new file where it is time."""
        if self._is_starved:
            self._try_to_go_on()
            self._forget()
            return
        try:
            self._in_use.flush()
        except OSError as error:
            self._starve(error)
            return
        self._forget()
        if self._is_over():
            self._go_on()

    def close(self) -> None:
        """Flush and close. Closing again does nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._is_starved:
            self._not_before = float("-inf")
            self._try_to_go_on()
        if not self._is_starved:
            self._finish(self._in_use)
        self._in_use.release()
        self._forget()
        if self._missing.count:
            raise TcpwatchError(
                f"the recording lacks its last {self._missing.count:,} events: {self._complaint[1]}",
                hint=f"the files are intact up to this point; df -h {shlex.quote(str(self._path.parent))}",
            )

    @property
    def _in_use(self) -> RecordingFile:
        assert self._file is not None
        return self._file

    def _add(self, events: Sequence[Event]) -> None:
        if self._is_starved:
            self._missing.add(events[-1], len(events))
            return
        try:
            self._in_use.add(events)
        except OSError as error:
            self._starve(error)

    def _starve(self, error: OSError) -> None:
        """The file in use cannot be written: it keeps what was flushed, and what comes is counted."""
        file = self._in_use
        last, given_up = file.last, file.cut()
        if self._series is None:
            self._is_closed = True
            file.release()
            raise cannot_write(file.path, error) from error
        self._missing.add(last, given_up)
        self._is_starved = True
        self._complain(f"cannot write {file.path}", error, "until that is over events are only counted")

    def _try_to_go_on(self) -> None:
        """The next file begins with a count of what is missing. The lock is held by one file or the other."""
        if time.monotonic() < self._not_before or _space_left(self._path.parent) < ENOUGH:
            return
        lost = self._missing.count
        file = self._begin_beside(self._missing)
        if file is None:
            return
        self._is_starved, self._missing = False, Missing()
        self._replace(file)
        self._say(f"recording to {file.path}, which begins with a count of the {lost:,} events that are missing")

    def _go_on(self) -> None:
        """The file in use is closed once the next one is there."""
        file = self._begin_beside()
        if file is None:
            return
        self._hung_up = False
        self._finish(self._in_use)
        self._replace(file)
        if self._missing.count:
            file.add_missing(self._missing)
            self._missing = Missing()
        self._say(f"recording to {file.path}")

    def _finish(self, file: RecordingFile) -> None:
        try:
            file.close()
        except OSError as error:
            last, given_up = file.last, file.cut()
            self._missing.add(last, given_up)
            if self._series is None:
                raise cannot_write(file.path, error) from error
            lacks = f"it lacks its last {given_up:,} events" if given_up else "it has all events"
            self._complaint = (self._is_starved, "")  # said whatever was said before: it is about this file
            self._complain(f"cannot finish {file.path}", error, lacks)

    def _replace(self, file: RecordingFile) -> None:
        """Take another file into use. The old one is finished."""
        old, self._file = self._in_use, file
        old.release()
        if self._series is not None:
            self._series.add(old)
        self._forget()

    def _begin_beside(self, missing: Missing | None = None) -> RecordingFile | None:
        """The next file, or None: what failed is said once, and tried again later."""
        try:
            file = self._begin(self._header(), missing)
        except (OSError, TcpwatchError) as error:
            self._complain("cannot begin another file", error, f"{self.path} stays in use" if missing is None else "")
            return None
        self._complaint = (self._is_starved, "")
        return file

    def _begin(self, header: Header, missing: Missing | None = None) -> RecordingFile:
        self._since, series = time.monotonic(), self._series
        if series is None:
            return RecordingFile.begin(self._path, create(self._path), header, missing=missing)
        while True:
            try:
                path, fd = series.create()
                break
            except OSError as error:  # neither an inode nor a block for the directory's entry is left
                if error.errno not in FULL or not self._make_room():
                    raise
        return RecordingFile.begin(
            path, fd, series.next_header(header), missing=missing,
            before_write=lambda size: self._keep_below(size, path), make_room=self._make_room,
        )  # fmt: skip

    def _make_room(self) -> bool:
        """The disk is full: the oldest file goes. Returns whether there was one."""
        assert self._series is not None
        removed = self._series.remove_oldest(spare_last=not self._holds_events)
        if removed is not None:
            self._say(f"removed {removed}, the oldest file of this recording: no space left on the disk")
        return removed is not None

    @property
    def _holds_events(self) -> bool:
        """Whether the file in use does: else the youngest of the others is worth more."""
        return self._file is not None and self._file.kept > 0

    def _keep_below(self, size: int, path: Path) -> None:
        """--keep-size: the file is about to grow by so many bytes. Raises OSError if it may not.

        That is so when nothing is left to remove but the file in use, because no other could be started for long.
        """
        limit, series = self._rotation.keep_size, self._series
        if limit is None or series is None:
            return
        in_use = self._file.size if self._file is not None else 0
        while series.size + in_use + size > limit:
            if series.remove_oldest(spare_last=not self._holds_events) is None:
                is_in_use = self._file is not None and self._file.path == path
                if is_in_use and self._holds_events:
                    raise OSError(errno.EDQUOT, "--keep-size is reached, and another file cannot be started")
                return

    def _forget(self) -> None:
        """--keep: files without events push nothing out."""
        keep, series = self._rotation.keep, self._series
        if keep is None or series is None:
            return
        while series.with_events + self._holds_events > keep:
            if series.remove_oldest(spare_last=False) is None:
                return

    def _is_over(self) -> bool:
        now, file, rotation = time.monotonic(), self._in_use, self._rotation
        if now < self._not_before:
            return False
        if not rotation.is_wanted or not file.taken:
            # Without events there is nothing to follow, unless the file was moved away.
            if self._hung_up and file.is_in_place:
                self._hung_up = False
            return self._hung_up and self._limit.allows(now)
        if rotation.file_size is not None and file.size >= rotation.file_size:
            return True
        if file.size >= LEAST_SHARE and not self._others and file.size > _space_left(self._path.parent):
            return True  # else it would fill the disk alone, and there would be no older one that could go
        is_old = rotation.every_s is not None and now - self._since >= rotation.every_s
        return (self._hung_up or is_old) and self._limit.allows(now)

    @property
    def _others(self) -> int:
        return self._series.with_events if self._series is not None else 0

    def _complain(self, what: str, error: OSError | TcpwatchError, so: str) -> None:
        """Say what failed, once, and decide when to try again."""
        is_full = isinstance(error, OSError) and error.errno in FULL
        self._not_before = time.monotonic() + (FULL_AGAIN_S if is_full else FAILED_AGAIN_S)
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        if (self._is_starved, why) != self._complaint:
            self._complaint = (self._is_starved, why)
            self._say(f"{what}: {why}" + (f"; {so}" if so else ""))


class _Limit:
    """How often something may happen: AT_ONCE times in a row, PER_SECOND on average."""

    def __init__(self) -> None:
        self._left = AT_ONCE
        self._at = time.monotonic()

    def allows(self, now: float) -> bool:
        """Whether it may happen now; then it counts."""
        self._left = min(AT_ONCE, self._left + (now - self._at) * PER_SECOND)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


def _space_left(directory: Path) -> float:
    """Bytes that a file in it may grow by, as far as the filesystem tells."""
    try:
        status = os.statvfs(directory)
    except OSError:
        return float("inf")  # the next attempt tells more
    return status.f_bavail * status.f_frsize if status.f_blocks else float("inf")
