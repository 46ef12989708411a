"""Standard output that nobody waits for: a slow reader is written to by a thread of its own."""

from __future__ import annotations

import threading
from typing import Protocol, TextIO

OUTPUT = "output"
"""The hook of a `lost` event that tells of events which were not shown, though seen and perhaps recorded."""


class Stream(Protocol):
    """What lines are written to: a text stream, or an outlet before one."""

    @property
    def encoding(self) -> str:
        """The encoding of the text."""

    def write(self, text: str, /) -> int:
        """Take a piece of text."""

    def flush(self) -> None:
        """Let it be seen."""


class Outlet:
    """A stream that a thread writes to, so that neither a pipe that is not read nor a terminal after ^S holds us.

    It takes whatever it is given; `has_room` says when it has enough. room: characters that may wait for the reader.
    An error of the thread, such as a closed pipe or a full disk, is raised by the next `flush` or by `close`.
    """

    def __init__(self, stream: TextIO, room: int) -> None:
        self.encoding = stream.encoding
        self._stream = stream
        self._room = room
        self._fresh: list[str] = []
        self._waiting: list[str] = []
        self._taken = 0  # characters so far
        self._written = 0  # likewise; only the thread counts here
        self._changed = threading.Condition()
        self._is_closed = False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._write_all, name="output", daemon=True)
        self._thread.start()

    @property
    def has_room(self) -> bool:
        """Whether the reader keeps up."""
        return self._taken - self._written < self._room

    def write(self, text: str, /) -> int:
        """Take a piece of text; it goes out with the next `flush`."""
        self._fresh.append(text)
        self._taken += len(text)
        return len(text)

    def flush(self) -> None:
        """Hand over what was written."""
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
            except Exception as error:  # a closed pipe, a full disk, no memory: whoever flushes raises it
                self._error = error
                return
            self._written += len(text)
