"""Where a live run records to: what can be wrong with that is found out before anything is attached."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tracer.model.durations import duration
from tracer.model.errors import TcpwatchError, UsageError
from tracer.model.events import Event
from tracer.recordings.header import Header
from tracer.recordings.rotation import RotatingWriter, Rotation
from tracer.recordings.series import Series
from tracer.recordings.stream import StreamWriter
from tracer.recordings.targets import is_stream, open_stream
from tracer.recordings.writer import cannot_create
from tracer.run.stopping import Stop

_LOOK_EVERY_S = 0.05


class Writer(Protocol):
    """A sink that writes a recording."""

    @property
    def path(self) -> Path:
        """Where to, now."""

    def write(self, *events: Event) -> None:
        """Take some events."""

    def flush(self, until_ns: int) -> None:
        """Hand everything over."""

    def close(self) -> None:
        """Nothing comes any more."""


@dataclass(frozen=True, slots=True)
class Recording:
    """Where to. rotation: when it goes on in another file. reopens: SIGHUP asks for one."""

    path: Path
    rotation: Rotation = field(default_factory=Rotation)
    reopens: bool = False


class Destination:
    """What a recording will be written to, checked, and opened if it is there already: a FIFO, a terminal, a device.

    The constructor waits for the reader of a FIFO until `stop`. is_ready: whether there is one. shows: whether
    standard output is written to as well. Raises TcpwatchError for what cannot be recorded to.
    """

    def __init__(
        self, recording: Recording, stop: Stop, host: str, *, shows: bool, say: Callable[[str], None]
    ) -> None:
        self._recording = recording
        self._stop = stop
        self._say = say
        self._fd: int | None = None
        self.is_ready = True
        path = recording.path
        if recording.rotation.is_wanted:
            _require_directory(path)
            with Series(path, say).claimed(host):
                pass
        elif is_stream(path):
            if shows and _is_standard_output(path):
                raise UsageError(
                    f"-w {path} would mix the recording with what is shown", hint=f"tcpwatch record -o {path}"
                )
            self._fd = self._opened()
            self.is_ready = self._fd is not None
        else:
            _require_directory(path)
            if path.is_symlink() or path.exists():
                raise cannot_create(path, FileExistsError())

    def __enter__(self) -> Destination:
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd is not None:
            os.close(self._fd)

    def begin(self, header: Callable[[], Header]) -> Writer:
        """The recording begins now. header: makes the header of a file that does. Raises TcpwatchError."""
        path = self._recording.path
        if self._fd is None:
            rotating = RotatingWriter(path, header, self._recording.rotation, say=self._say)
            if self._recording.reopens:
                self._stop.on_hang_up(rotating.hang_up)
            return rotating
        gone = self._stop.request if self._recording.reopens else lambda: None
        writer = StreamWriter(path, self._fd, header(), say=self._say, gone=gone)
        self._fd = None
        return writer

    def _opened(self) -> int | None:
        path, began = self._recording.path, time.monotonic()
        is_said = False
        while (fd := open_stream(path)) is None:
            if self._stop():
                if self._stop.was_asked:
                    return None
                raise TcpwatchError(
                    f"nobody opened {path} for reading within {duration((time.monotonic() - began) * 1000)}",
                    hint=f"start the reader first: cat {path}",
                )
            if not is_said:
                self._say(f"waiting for a reader of {path}")
                is_said = True
            time.sleep(_LOOK_EVERY_S)
        return fd


def _require_directory(path: Path) -> None:
    try:
        os.stat(f"{path.parent}/.")  # noqa: PTH116  pathlib drops the dot, which fails for a file
    except OSError as error:
        raise cannot_create(path, error) from error


def _is_standard_output(path: Path) -> bool:
    """Whether this is what standard output is, unless that swallows everything."""
    try:
        status = path.stat()
        return os.path.samestat(status, os.fstat(1)) and not os.path.samestat(status, Path(os.devnull).stat())
    except OSError:
        return False
