"""When to end: ^C, SIGTERM, a terminal that hangs up, --duration, or when nobody reads any more."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import TextIO

_OUTLIVED_S = 5.0
"""A SIGHUP that comes so long after the terminal has hung up has another reason."""


class Stop:
    """Asked between batches: is it time to end?

    Construct it before anything slow, in the main thread: from then on ^C, SIGTERM and the end of the terminal end
    the run in order instead of in the middle of something. A second ^C ends the process at once, unless what is being
    tidied up must not be left half done (at_once=False). reopens: SIGHUP asks for another file (`on_hang_up`), unless
    the terminal has hung up.
    """

    def __init__(
        self,
        duration_s: float | None = None,
        output: TextIO | None = None,
        *,
        at_once: bool = True,
        reopens: bool = False,
    ) -> None:
        self.was_asked = False  # by a signal
        self._at_once = at_once
        self._duration_s = duration_s
        self._deadline = float("inf")
        self._requested = False
        self._reader = _watch_reader(output)
        self._reopens = reopens
        self._reopen: Callable[[], None] | None = None
        self._reopen_asked = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)
        # nohup(1): the end of the terminal is nothing to us.
        is_ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        self._terminal = _Terminal(is_watched=not is_ignored)
        if reopens or not is_ignored:
            signal.signal(signal.SIGHUP, self._on_hang_up)

    def start_clock(self) -> None:
        """The duration counts from here."""
        if self._duration_s is not None:
            self._deadline = time.monotonic() + self._duration_s

    def on_hang_up(self, reopen: Callable[[], None]) -> None:
        """What a SIGHUP that does not end the run calls; one that came before, too. It runs in a signal handler."""
        self._reopen = reopen
        if self._reopen_asked:
            reopen()

    @property
    def terminal_is_gone(self) -> bool:
        """Whether the controlling terminal has just hung up."""
        return self._terminal.is_gone()

    def request(self) -> None:
        """End the run."""
        self._requested = True

    def __call__(self) -> bool:
        """Whether to end."""
        self._terminal.look()
        if self.was_asked or self._requested or time.monotonic() >= self._deadline:
            return True
        # A pipe that nobody reads tells so before anything is written to it.
        return self._reader is not None and self._reader()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self.was_asked = True
        if self._at_once:
            signal.signal(number, signal.SIG_DFL)

    def _on_hang_up(self, _number: int, _frame: FrameType | None) -> None:
        if not self._reopens or self._terminal.is_gone():
            self.was_asked = True
        elif self._reopen is not None:
            self._reopen()
        else:
            self._reopen_asked = True


class _Terminal:
    """The controlling terminal, if there is one.

    When it hangs up, the kernel first marks its descriptors and then sends SIGHUP (__tty_hangup(),
    drivers/tty/tty_io.c); a shell sends SIGHUP to its jobs after that. What is left of them outlives it.
    """

    def __init__(self, *, is_watched: bool) -> None:
        self._gone_at: float | None = None
        self._poll: select.poll | None = None
        if is_watched:
            try:
                fd = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError:
                return
            self._poll = select.poll()
            self._poll.register(fd, 0)  # POLLHUP comes unasked

    def look(self) -> None:
        """Notice when it hangs up, and forget it some time after that."""
        if self.is_gone():
            now = time.monotonic()
            self._gone_at = self._gone_at if self._gone_at is not None else now
            if now - self._gone_at > _OUTLIVED_S:
                self._poll = None

    def is_gone(self) -> bool:
        """Whether it has hung up, not long ago."""
        return self._poll is not None and any(events & select.POLLHUP for _, events in self._poll.poll(0))


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
