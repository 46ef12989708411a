"""A recording of a long run: a new file when one is full, old or moved away, and only the newest kept."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from tracer.events import Event
from tracer.storage.compression import is_packed
from tracer.storage.header import Header
from tracer.storage.writer import RecordingWriter

_STAMP = "%Y%m%dT%H%M%S"
_STAMPED = r"-\d{8}T\d{6}\.\d{3}Z"


@dataclass(frozen=True, slots=True)
class Rotation:
    """When a file is followed by another. None: never for that reason.

    size: bytes on disk. every_s: seconds. keep: this many files stay, the one in use included; None: all.
    """

    size: int | None = None
    every_s: float | None = None
    keep: int | None = None

    @property
    def is_wanted(self) -> bool:
        """Whether there will ever be a second file."""
        return self.size is not None or self.every_s is not None


class RotatingWriter:
    """A sink that writes recordings one after the other, each with a header of its own.

    With a rotation each file's name has the millisecond at which it was begun, in UTC: x.tw.gz becomes
    x-20261125T020000.123Z.tw.gz, and names sort by time. Without one the file is path. header makes the header of a
    file that begins now. say is told of each file but the first, and what could not be removed. Raises TcpwatchError
    as RecordingWriter does.
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
        self._hung_up = False
        self._writer = self._begin()

    def hang_up(self) -> None:
        """Someone moved the file away, or wants a new one (SIGHUP): with the next flush. Safe in a signal handler."""
        self._hung_up = True

    def write(self, *events: Event) -> None:
        """Take some events."""
        self._writer.write(*events)

    def flush(self, until_ns: int = 0) -> None:
        """Hand everything to the kernel, and go on in a new file where it is time."""
        self._writer.flush(until_ns)
        if self._is_over():
            self._writer.close()
            self._writer = self._begin()
            self._say(f"recording to {self.path}")

    @property
    def path(self) -> Path:
        """The file in use."""
        return self._writer.path

    def close(self) -> None:
        """Flush and close. Closing again does nothing."""
        self._writer.close()

    def _is_over(self) -> bool:
        hung_up, self._hung_up = self._hung_up, False
        rotation = self._rotation
        if not rotation.is_wanted:
            return hung_up and not self._writer.is_in_place
        is_full = rotation.size is not None and self._writer.size >= rotation.size
        is_old = rotation.every_s is not None and time.monotonic() - self._since >= rotation.every_s
        return hung_up or is_full or is_old

    def _begin(self) -> RecordingWriter:
        self._since = time.monotonic()
        writer = self._create()
        if self._rotation.is_wanted and self._rotation.keep is not None:
            self._forget(self._rotation.keep)
        return writer

    def _create(self) -> RecordingWriter:
        if not self._rotation.is_wanted:
            return RecordingWriter(self._path, self._header())
        while (path := self._stamped()).exists():
            time.sleep(0.001)
        return RecordingWriter(path, self._header())

    def _stamped(self) -> Path:
        stem, suffix = _split(self._path)
        now = datetime.now(timezone.utc)
        return self._path.with_name(f"{stem}-{now.strftime(_STAMP)}.{now.microsecond // 1000:03}Z{suffix}")

    def _forget(self, keep: int) -> None:
        stem, suffix = _split(self._path)
        ours = re.compile(re.escape(stem) + _STAMPED + re.escape(suffix))
        files = sorted(each for each in self._path.parent.iterdir() if ours.fullmatch(each.name))
        for old in files[:-keep]:
            try:
                with suppress(FileNotFoundError):
                    old.unlink()
            except OSError as error:
                self._say(f"cannot remove {old}: {error.strerror}")


def _split(path: Path) -> tuple[str, str]:
    """x.tw.gz is x and .tw.gz."""
    suffix = path.suffix
    if is_packed(path):
        suffix = path.with_suffix("").suffix + suffix
    return path.name.removesuffix(suffix), suffix
