"""A sink that writes a recording of a long run, in one file or in a series of files.

Whatever happens to the disk, the run continues. When the disk is full, the oldest files of the series are removed. If
there are none, events are counted until there is space, and the next file begins with their count. If a new file
cannot be created, the old one stays in use.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tracer.model.errors import TcpwatchError, as_argument
from tracer.model.events import Event
from tracer.recordings.failures import FULL, cannot_create, cannot_write
from tracer.recordings.file import RecordingFile, create
from tracer.recordings.free_space import bytes_left, has_inodes
from tracer.recordings.header import Header
from tracer.recordings.missing import Missing
from tracer.recordings.rotation import Rotation, StartLimit
from tracer.recordings.series import Series

RETRY_FULL_S, RETRY_FAILED_S = 1.0, 10.0
"""Seconds until a failed step is tried again: after a lack of space, after another error."""
MIN_FREE = 1 << 16
"""Free bytes with which a recording that ran out of space continues."""
MIN_SPLIT_SIZE = 1 << 16
"""A file of this many bytes is followed by a new one when it is larger than the free space of the disk."""
MAX_BATCH, MIN_BYTES_OF_EVENT = 4096, 1024
"""Events between two checks of the file's size: at most as many as such a file has room for."""


class RotatingWriter:
    """Writes recordings one after the other, each with a header of its own.

    With a rotation each file's name has the millisecond at which it was started, in UTC: x.tw.gz becomes
    x-20261125T020000.123Z.tw.gz. Without one the file is path. header makes the header of a file that starts now. say
    gets a sentence about each file but the first, each file that is removed for lack of space, and each failure.
    Raises TcpwatchError if the first file cannot be started, and if events are missing at the end; without a rotation
    also if the file cannot be written.
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
        self._limit = StartLimit()
        self._complaint = (False, "")  # the last message about a failure that lasts
        self._not_before = float("-inf")  # when to try again to start a file, CLOCK_MONOTONIC
        self._hung_up = self._is_starved = self._is_closed = False
        self._file: RecordingFile | None = None
        first = header()
        try:
            if self._series is not None:
                with self._series.claimed(first.host):
                    self._file = self._begin(first)
                self._say_what_stays(self._series, self._file)
            else:
                self._file = self._begin(first)
        except OSError as error:
            raise cannot_create(path, error) from error

    def hang_up(self) -> None:
        """Start a new file at the next flush (SIGHUP). Safe in a signal handler."""
        self._hung_up = True

    @property
    def path(self) -> Path:
        """The file in use."""
        return self._in_use.path

    @property
    def missing(self) -> int:
        """Events that are in no file, and not yet counted in one."""
        return self._missing.count

    def opened(self, header: Header) -> None:
        """Each file has a header of its own."""

    def write(self, events: Sequence[Event]) -> None:
        """Take events."""
        size = self._rotation.file_size
        batch = MAX_BATCH if size is None else min(MAX_BATCH, size // MIN_BYTES_OF_EVENT)
        for start in range(0, len(events), batch):
            if start:
                self.flush()
            self._add(events[start : start + batch])

    def flush(self, until_ns: int = 0) -> None:
        """Hand everything to the kernel, and start a new file if it is due."""
        self._check_file()
        if self._is_starved:
            self._try_to_continue()
            self._remove_old()
            return
        try:
            self._in_use.flush()
            self._keep_below(0, self.path)  # a file without events spares the last one that holds some
        except OSError as error:
            self._starve(error)
            return
        self._remove_old()
        if self._is_over():
            self._start_next()

    def close(self) -> None:
        """Flush and close. Closing again does nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        self._check_file()
        if self._is_starved:
            self._not_before = float("-inf")
            self._try_to_continue()
        if not self._is_starved:
            self._finish(self._in_use)
        self._in_use.release()
        self._remove_old()
        if self._missing.count:
            raise TcpwatchError(
                f"the recording lacks its last {self._missing.count:,} events: {self._complaint[1]}",
                hint=f"the files are intact up to this point; df -h {as_argument(self._path.parent)}",
            )

    @property
    def _in_use(self) -> RecordingFile:
        assert self._file is not None
        return self._file

    def _say_what_stays(self, series: Series, file: RecordingFile) -> None:
        """Report files to which the limits do not apply."""
        limits = {"--keep": self._rotation.keep, "--keep-size": self._rotation.keep_size}
        given = " and ".join(name for name, limit in limits.items() if limit is not None)
        if not given:
            return
        if not series.can_remove(file):
            changes = f"the filesystem of {file.path.parent} changes the owners or inode numbers of files"
            self._say(f"no file will be removed for {given}: {changes}")
        if series.foreign:
            others = len(series.foreign) - 1
            more = f" and {others:,} other{'' if others == 1 else 's'}" if others else ""
            what = "a link, empty, damaged, or of another user, host or series"
            self._say(f"not counted for {given}, and never removed: {min(series.foreign)}{more} ({what})")

    def _add(self, events: Sequence[Event]) -> None:
        self._check_file()
        if self._is_starved:
            self._missing.add(events[-1], len(events))
            return
        try:
            self._in_use.add(events)
        except OSError as error:
            self._starve(error)

    def _check_file(self) -> None:
        """See whether another program removed or truncated the file in use, and record what goes on from there."""
        file = self._in_use
        if self._is_starved:
            return
        if file.is_truncated:
            try:
                header = self._header()
            except (OSError, TcpwatchError):
                return
            self._say(f"another program truncated {file.path}; the recording starts again in it")
            self._missing.add(
                file.last, file.start_again(header if self._series is None else self._series.next_header(header))
            )
            self._put_missing(file)
        elif file.is_deleted and self._limit.allows(time.monotonic()):
            lost = file.forget()
            self._say(f"another program removed {file.path}, which had {lost:,} events")
            self._missing.add(file.last, lost)
            self._is_starved, self._not_before = True, float("-inf")

    def _starve(self, error: OSError) -> None:
        """The file in use cannot be written: keep what was flushed, and count further events."""
        file = self._in_use
        last, discarded = file.last, file.cut()
        if self._series is None:
            self._is_closed = True
            file.release()
            raise cannot_write(file.path, error) from error
        self._missing.add(last, discarded)
        self._is_starved = True
        self._complain(f"cannot write {file.path}", error, "events are only counted until it can")

    def _try_to_continue(self) -> None:
        """Start a file that begins with the count of missing events. One of the two files always holds the lock."""
        if time.monotonic() < self._not_before or bytes_left(self._path.parent) < MIN_FREE:
            return
        lost = self._missing.count
        file = self._begin_beside(self._missing)
        if file is None:
            return
        self._is_starved, self._missing = False, Missing()
        self._replace(file)
        begins = f", which begins with a count of the {lost:,} missing events" if lost else ""
        self._say(f"recording to {file.path}{begins}")

    def _start_next(self) -> None:
        """Start the next file, then close the one in use."""
        file = self._begin_beside()
        if file is None:
            return
        self._hung_up = False
        self._finish(self._in_use)
        self._replace(file)
        self._put_missing(file)
        self._say(f"recording to {file.path}")

    def _put_missing(self, file: RecordingFile) -> None:
        if self._missing.count:
            file.add_missing(self._missing)
            self._missing = Missing()

    def _finish(self, file: RecordingFile) -> None:
        try:
            file.close()
        except OSError as error:
            last, discarded = file.last, file.cut()
            self._missing.add(last, discarded)
            if self._series is None:
                raise cannot_write(file.path, error) from error
            lacks = f"it lacks its last {discarded:,} events" if discarded else "no event is missing"
            self._complaint = (self._is_starved, "")  # another file: report it in any case
            self._complain(f"cannot finish {file.path}", error, lacks)

    def _replace(self, file: RecordingFile) -> None:
        """Use another file. The old one is finished."""
        old, self._file = self._in_use, file
        old.release()
        if self._series is not None:
            self._series.add(old)
        self._keep_below(0, file.path)  # the end of the old file was written after the header of this one
        self._remove_old()

    def _begin_beside(self, missing: Missing | None = None) -> RecordingFile | None:
        """The next file. None if it failed, which is reported once and tried again later."""
        try:
            file = self._begin(self._header(), missing)
        except (OSError, TcpwatchError) as error:
            self._complain("cannot start another file", error, f"{self.path} stays in use" if missing is None else "")
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
            except OSError as error:  # no inode, or no block for the directory entry, is left
                if error.errno not in FULL or not self._make_room():
                    raise
        return RecordingFile.begin(
            path, fd, series.next_header(header), missing=missing,
            before_write=lambda size: self._keep_below(size, path), make_room=self._make_room,
        )  # fmt: skip

    def _make_room(self) -> bool:
        """Remove the oldest file because the disk is full. Returns whether there was one."""
        assert self._series is not None
        what = "space" if has_inodes(self._path.parent) else "inode"
        removed = self._series.remove_oldest(spare_last=not self._holds_events)
        if removed is not None:
            self._say(f"removed {removed}, the oldest file of this recording: no {what} left on the disk")
        return removed is not None

    @property
    def _holds_events(self) -> bool:
        """Whether the file in use holds events. If not, the newest of the others is worth more."""
        return self._file is not None and self._file.kept > 0

    def _keep_below(self, size: int, path: Path) -> None:
        """Remove old files for --keep-size, because the file is about to grow by size bytes.

        Raises OSError if only the file in use is left, which happens when no other file could be started for long,
        and for events that are too large.
        """
        limit, series = self._rotation.keep_size, self._series
        if limit is None or series is None:
            return
        size += self._file.size if self._file is not None else 0
        if series.size + size > limit:
            series.forget_absent()
        while series.size + size > limit:
            if series.remove_oldest(spare_last=not self._holds_events) is None:
                is_in_use = self._file is not None and self._file.path == path
                if is_in_use and self._holds_events:
                    raise OSError(errno.EDQUOT, "--keep-size has no room for the next events")
                return

    def _remove_old(self) -> None:
        """Remove old files for --keep, which counts files that hold events."""
        keep, series = self._rotation.keep, self._series
        if keep is None or series is None:
            return
        if series.with_events + self._holds_events > keep:
            series.forget_absent()
        while series.with_events + self._holds_events > keep:
            if series.remove_oldest(spare_last=False) is None:
                return

    def _is_over(self) -> bool:
        now, file, rotation = time.monotonic(), self._in_use, self._rotation
        if now < self._not_before:
            return False
        if not rotation.is_wanted or not file.added:
            # A file without events stays in use, unless it was moved away.
            if self._hung_up and file.is_in_place:
                self._hung_up = False
            return self._hung_up and self._limit.allows(now)
        if rotation.file_size is not None and file.size >= rotation.file_size:
            return True
        if file.size >= MIN_SPLIT_SIZE and not self._others and file.size > bytes_left(self._path.parent):
            return True  # otherwise this file fills the disk, and no older one could be removed
        is_old = rotation.every_s is not None and now - self._since >= rotation.every_s
        return (self._hung_up or is_old) and self._limit.allows(now)

    @property
    def _others(self) -> int:
        return self._series.with_events if self._series is not None else 0

    def _complain(self, what: str, error: OSError | TcpwatchError, consequence: str) -> None:
        """Report a failure once, and decide when to try again."""
        is_full = isinstance(error, OSError) and error.errno in FULL
        self._not_before = time.monotonic() + (RETRY_FULL_S if is_full else RETRY_FAILED_S)
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        if (self._is_starved, why) != self._complaint:
            self._complaint = (self._is_starved, why)
            self._say(f"{what}: {why}" + (f"; {consequence}" if consequence else ""))
