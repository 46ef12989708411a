"""Non-blocking standard output: a background thread writes, so that a slow reader never stalls tracing."""

from __future__ import annotations

import threading
from typing import Protocol, TextIO

OUTPUT = "output"
"""The hook of a `lost` event that counts events which were traced but not printed."""


class Stream(Protocol):
    """What lines are written to: a text stream, or a BackgroundWriter."""

    @property
    def encoding(self) -> str:
        """The encoding of the text."""

    def write(self, text: str, /) -> int:
        """Take text."""

    def flush(self) -> None:
        """Hand everything to the reader."""


class BackgroundWriter:
    """A stream that a thread writes to. A pipe that is not read, or a terminal after ^S, blocks only the thread.

    It accepts any amount of text; `has_room` becomes false when max_waiting characters wait for the reader. An error
    of the thread, such as a closed pipe or a full disk, is raised by the next `flush` or by `close`.
    """

    def __init__(self, stream: TextIO, max_waiting: int) -> None:
        self.encoding = stream.encoding
        self._stream = stream
        self._max_waiting = max_waiting
        self._fresh: list[str] = []
        self._waiting: list[str] = []
        self._taken = 0  # characters so far
        self._written = 0  # of these; only the thread changes it
        self._changed = threading.Condition()
        self._is_closed = False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._write_all, name="output", daemon=True)
        self._thread.start()

    @property
    def has_room(self) -> bool:
        """Whether fewer than max_waiting characters wait for the reader."""
        return self._taken - self._written < self._max_waiting

    def write(self, text: str, /) -> int:
        """Take text. The next `flush` hands it to the thread."""
        self._fresh.append(text)
        self._taken += len(text)
        return len(text)

    def flush(self) -> None:
        """Hand the text to the thread. Raises the error that ended it."""
        if self._error is not None:
            raise self._error
        if self._fresh:
            with self._changed:
                self._waiting += self._fresh
                self._changed.notify_all()
            self._fresh = []

    def close(self) -> None:
        """Wait until the reader has taken everything."""
        self.flush()
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _write_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_closed)
                if not self._waiting:
                    return
                text, self._waiting = "".join(self._waiting), []
            try:
                self._stream.write(text)
                self._stream.flush()
            except Exception as error:  # a closed pipe, a full disk, no memory: `flush` raises it
                self._error = error
                return
            self._written += len(text)
