"""When to end: ^C, SIGTERM, --duration, or when nobody reads any more."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import TextIO


class Stop:
    """Asked between batches: is it time to end?

    Construct it before anything slow, in the main thread: from then on ^C and SIGTERM end the run in
    order instead of in the middle of something. A second ^C ends the process at once, unless what
    is being tidied up must not be left half done (at_once=False).
    """

    def __init__(
        self, duration_s: float | None = None, output: TextIO | None = None, *, at_once: bool = True
    ) -> None:
        self._at_once = at_once
        self._duration_s = duration_s
        self._deadline = float("inf")
        self._signalled = False
        self._reader = _watch_reader(output)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    def start_clock(self) -> None:
        """The duration counts from here."""
        if self._duration_s is not None:
            self._deadline = time.monotonic() + self._duration_s

    def __call__(self) -> bool:
        """Whether to end."""
        if self._signalled or time.monotonic() >= self._deadline:
            return True
        # A pipe that nobody reads tells so before anything is written to it.
        return self._reader is not None and self._reader()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._signalled = True
        if self._at_once:
            signal.signal(number, signal.SIG_DFL)


def _watch_reader(output: TextIO | None) -> Callable[[], bool] | None:
    if output is None:
        return None
    try:
        fd = output.fileno()
    except (OSError, ValueError):
        return None
    poll = select.poll()
    poll.register(fd, 0)  # POLLERR and POLLHUP come unasked
    return lambda: any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))


def discard(stream: TextIO) -> None:
    """Point a stream that cannot be written at /dev/null, so that Python's flush at exit does not complain."""
    try:
        sink = os.open(os.devnull, os.O_WRONLY)
    except OSError:  # a system without /dev/null: memory takes the little that waits in the stream
        sink = os.memfd_create("discarded")
    os.dup2(sink, stream.fileno())
    os.close(sink)
