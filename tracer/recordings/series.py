"""The files of one `record -o PATH` with a rotation: their owner, their order and their lock.

Only our own files are removed: regular files of our user with one link, a name of the series, and the header of a
recording of this host and this series. Their order is that of the number in the header, which does not depend on a
clock.

The lock is a flock(2) on the file that is being written. No other user can take it, because no other user can open
the file, and the kernel releases it with the process. In a directory such as /tmp any user could create a lock file.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

from tracer.model.dataclass import dataclass
from tracer.model.errors import TcpwatchError, as_argument
from tracer.recordings.compression import is_compressed
from tracer.recordings.file import RecordingFile, create
from tracer.recordings.header import Header
from tracer.recordings.series_order import STAMPED, beginning_of

_STAMP = "%Y%m%dT%H%M%S"
_MAX_NAMES = 1000
"""Names, of one millisecond each, that are tried for a new file."""
_WAIT_S = 2.0
"""Longest wait for another tcpwatch that starts in the same directory. Any user can lock the directory."""
wall_ns = time.time_ns


@dataclass(slots=True)
class Member:
    """A finished file of ours. size: bytes. holds_events: whether a complete line follows the header."""

    path: Path
    number: int
    identity: tuple[int, int]
    size: int
    holds_events: bool


class Series:
    """The finished files of a series, oldest first, without the one that is being written.

    say: gets a sentence about each file that cannot be removed. foreign: files with names of the series that are not
    ours, as `claimed` found them.
    """

    def __init__(self, path: Path, say: Callable[[str], None]) -> None:
        self.path = path
        self._say = say
        self._stem, self._suffix = _split(path)
        self._pattern = re.compile(re.escape(self._stem) + STAMPED + re.escape(self._suffix))
        self.foreign: list[Path] = []
        self._members: list[Member] = []
        self._number = 0
        self._named_ms = 0  # the last name, as UTC in milliseconds

    @property
    def size(self) -> int:
        """Bytes of all finished files."""
        return sum(member.size for member in self._members)

    @property
    def with_events(self) -> int:
        """Number of finished files that hold events."""
        return sum(member.holds_events for member in self._members)

    @contextmanager
    def claimed(self, host: str) -> Iterator[None]:
        """Find the files of the series. No other tcpwatch can start it until the context ends.

        Removes files of earlier runs without events. Raises TcpwatchError if another tcpwatch records to the series.
        """
        with _alone_in(self.path.parent):
            self._members, self.foreign = [], []
            for path in self._named():
                if (member := self._examine(path, host)) is not None:
                    self._members.append(member)
                else:
                    self.foreign.append(path)
            self._members.sort(key=lambda member: (member.number, member.path.name))
            self._number = max((member.number for member in self._members), default=0)
            for member in [each for each in self._members if not each.holds_events]:
                self._remove(member)
            yield

    def next_header(self, header: Header) -> Header:
        """The header of the next file."""
        self._number += 1
        return replace(header, series=self.path.name, number=self._number)

    def create(self) -> tuple[Path, int]:
        """Create a file. Returns its path and a descriptor that holds the lock. Raises OSError."""
        now_ms = wall_ns() // 1_000_000
        if now_ms <= self._named_ms < now_ms + _MAX_NAMES:  # never reuse the name of a removed file
            now_ms = self._named_ms + 1
        for later in range(_MAX_NAMES):
            path = self._named_after(now_ms + later)
            with suppress(FileExistsError):
                fd = create(path)
                with suppress(OSError):  # a filesystem without locks
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._named_ms = now_ms + later
                return path, fd
        raise FileExistsError(17, os.strerror(17), str(path))

    def can_remove(self, file: RecordingFile) -> bool:
        """Whether a file that was just created will be recognised. Some filesystems change the owner or the inode."""
        try:
            status = file.path.lstat()
        except OSError:  # taken away already, which says nothing about the filesystem
            return True
        return (status.st_dev, status.st_ino) == file.identity and _may_be_ours(status)

    def add(self, file: RecordingFile) -> None:
        """Add a finished file. Removes it if it has no events."""
        member = Member(file.path, file.number, file.identity, file.size, file.kept > 0)
        self._members.append(member)
        if not member.holds_events:
            self._remove(member)

    def forget_absent(self) -> None:
        """Forget files that somebody else has removed, moved or replaced."""
        self._members = [member for member in self._members if self._is_there(member)]

    def remove_oldest(self, *, spare_last: bool) -> Path | None:
        """Remove the oldest file that can be removed. Returns its path, or None if there is none.

        spare_last: keep the newest one that holds events.
        """
        self.forget_absent()
        last = max((number for number, each in enumerate(self._members) if each.holds_events), default=-1)
        for number, member in enumerate(list(self._members)):
            if not (spare_last and number == last) and self._remove(member):
                return member.path
        return None

    def _remove(self, member: Member) -> bool:
        self._members.remove(member)
        try:
            status = member.path.lstat()
            if (status.st_dev, status.st_ino) != member.identity or not _may_be_ours(status):
                return False
            member.path.unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            self._say(f"cannot remove {member.path}: {error.strerror}")
            return False
        return True

    @staticmethod
    def _is_there(member: Member) -> bool:
        try:
            status = member.path.lstat()
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == member.identity

    def _named(self) -> list[Path]:
        try:
            return [each for each in self.path.parent.iterdir() if self._pattern.fullmatch(each.name)]
        except OSError:  # reported when a file is created
            return []

    def _examine(self, path: Path, host: str) -> Member | None:
        """The file as a member; None if it is not ours. Raises TcpwatchError if another tcpwatch is writing it."""
        try:
            status = path.lstat()
            if not _may_be_ours(status):
                return None
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            opened = os.fstat(fd)
            if not os.path.samestat(status, opened):
                return None
            is_busy = _is_locked(fd)
            found = beginning_of(str(path), fd)
            if found is None and not (is_busy and opened.st_size == 0):
                return None
            if found is not None:
                header, holds_events = found
                if header.host != host or (header.number and header.series != self.path.name):
                    return None
            if found is None or is_busy:
                raise TcpwatchError(
                    f"another tcpwatch is recording to {self.path}: it is writing {path}",
                    hint=f"fuser -v {as_argument(path)}; or choose another name for -o",
                )
        finally:
            os.close(fd)
        return Member(path, header.number, (status.st_dev, status.st_ino), opened.st_size, holds_events)

    def _named_after(self, ms: int) -> Path:
        """The path with this time, UTC in milliseconds: x.tw.gz becomes x-20261125T020000.123Z.tw.gz."""
        moment = datetime.fromtimestamp(ms // 1000, timezone.utc)
        return self.path.with_name(f"{self._stem}-{moment.strftime(_STAMP)}.{ms % 1000:03}Z{self._suffix}")


def _may_be_ours(status: os.stat_result) -> bool:
    return stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and status.st_nlink == 1


def _is_locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    fcntl.flock(fd, fcntl.LOCK_UN)
    return False


@contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    """Lock the directory for a moment: two tcpwatch that start together would not see each other's files."""
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield
        return
    try:
        until = time.monotonic() + _WAIT_S
        while time.monotonic() < until:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.02)
            except OSError:
                break
        yield
    finally:
        os.close(fd)


def _split(path: Path) -> tuple[str, str]:
    """Split x.tw.gz into x and .tw.gz."""
    suffix = path.suffix
    if is_compressed(path):
        suffix = path.with_suffix("").suffix + suffix
    return path.name.removesuffix(suffix), suffix
