"""When a recording continues in a new file, and which files are kept."""

from __future__ import annotations

import time

from tracer.model.dataclass import dataclass

FILES_PER_KEEP_SIZE = 8
"""--keep-size alone starts a new file at this fraction of it."""
MIN_FILE_SIZE = 4096
MAX_BURST, FILES_PER_SECOND = 4.0, 1.0
"""SIGHUP, or a short --rotate-every, starts this many files in a row, then this many a second."""


@dataclass(frozen=True, slots=True)
class Rotation:
    """The limits of a series of files. None: no limit.

    size: bytes on disk. every_s: seconds. keep: files that hold events, the one in use included. keep_size: bytes of
    all files, the one in use included; alone it implies a size.
    """

    size: int | None = None
    every_s: float | None = None
    keep: int | None = None
    keep_size: int | None = None

    @property
    def file_size(self) -> int | None:
        """Bytes on disk at which a new file is started."""
        if self.size is None and self.keep_size is not None:
            return max(MIN_FILE_SIZE, self.keep_size // FILES_PER_KEEP_SIZE)
        return self.size

    @property
    def is_wanted(self) -> bool:
        """Whether there can be a second file."""
        return self.file_size is not None or self.every_s is not None


class StartLimit:
    """Limits the starts of files: MAX_BURST in a row, FILES_PER_SECOND on average."""

    def __init__(self) -> None:
        self._left = MAX_BURST
        self._at = time.monotonic()

    def allows(self, now: float) -> bool:
        """Whether a file may be started at this time (CLOCK_MONOTONIC, seconds). If so, it is counted."""
        self._left = min(MAX_BURST, self._left + (now - self._at) * FILES_PER_SECOND)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
