"""The destination of a live recording, checked before anything is attached."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import field
from pathlib import Path
from typing import Protocol

from tracer.model.dataclass import dataclass
from tracer.model.durations import duration
from tracer.model.errors import TcpwatchError, UsageError, as_argument
from tracer.output.sink import Sink
from tracer.recordings.failures import cannot_create
from tracer.recordings.header import Header
from tracer.recordings.rotating_writer import RotatingWriter
from tracer.recordings.rotation import Rotation
from tracer.recordings.series import Series
from tracer.recordings.stream import StreamWriter
from tracer.recordings.targets import is_stream, open_stream
from tracer.run.stopping import Stop

_POLL_EVERY_S = 0.05


class Writer(Sink, Protocol):
    """A sink that writes a recording."""

    @property
    def path(self) -> Path:
        """The file in use."""


@dataclass(frozen=True, slots=True)
class Recording:
    """What to record to.

    rotation: when to start a new file. reopens: start one at SIGHUP, too. is_compact: leave out the events that
    stalls follow from.
    """

    path: Path
    rotation: Rotation = field(default_factory=Rotation)
    reopens: bool = False
    is_compact: bool = False


class Destination:
    """The file, FIFO or device that will be recorded to. A FIFO or device is opened by the constructor.

    The constructor waits for a reader of the FIFO until `stop`; is_ready is False if none came. shows: events are
    printed on standard output as well. Raises TcpwatchError for what cannot be recorded to.
    """

    def __init__(
        self, recording: Recording, stop: Stop, host: str, *, shows: bool, say: Callable[[str], None]
    ) -> None:
        self._recording = recording
        self._stop = stop
        self._say = say
        self._fd: int | None = None
        self.is_ready = True
        path, quoted = recording.path, as_argument(recording.path)
        if recording.rotation.is_wanted:
            _require_directory(path)
            if is_stream(path):
                raise UsageError(
                    f"a recording to {path} cannot continue in another file: it is a FIFO or a device",
                    hint=f"tcpwatch record -o {quoted}",
                )
            with Series(path, say).claimed(host):
                pass
        elif is_stream(path):
            if shows and _is_standard_output(path):
                raise UsageError(
                    f"-w {path} is standard output, where events are printed", hint=f"tcpwatch record -o {quoted}"
                )
            self._fd = self._opened()
            self.is_ready = self._fd is not None
        else:
            _require_directory(path)
            try:
                path.lstat()
            except FileNotFoundError:
                return
            except OSError as error:
                raise cannot_create(path, error) from error
            raise cannot_create(path, FileExistsError())

    def __enter__(self) -> Destination:
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd is not None:
            os.close(self._fd)

    def begin(self, header: Callable[[], Header]) -> Writer:
        """Start the recording. header: makes the header of a file that starts now. Raises TcpwatchError."""
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
        is_reported = False
        while (fd := open_stream(path)) is None:
            if self._stop():
                if self._stop.was_asked:
                    return None
                raise TcpwatchError(
                    f"no reader opened {path} within {duration((time.monotonic() - began) * 1000)}",
                    hint=f"start the reader first: cat {as_argument(path)}",
                )
            if not is_reported:
                self._say(f"waiting for a reader of {path}")
                is_reported = True
            time.sleep(_POLL_EVERY_S)
        return fd


def _require_directory(path: Path) -> None:
    try:
        os.stat(f"{path.parent}/.")  # noqa: PTH116  pathlib drops the dot, which fails for a file
    except OSError as error:
        raise cannot_create(path, error) from error


def _is_standard_output(path: Path) -> bool:
    """Whether path is standard output, /dev/null aside."""
    try:
        status = path.stat()
        return os.path.samestat(status, os.fstat(1)) and not os.path.samestat(status, Path(os.devnull).stat())
    except OSError:
        return False
