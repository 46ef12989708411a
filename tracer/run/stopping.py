"""The end of a run: ^C, SIGTERM, --duration, a terminal that hangs up, or a closed pipe."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import TextIO

_HANG_UP_S = 5.0
"""Seconds after the terminal has hung up in which a SIGHUP is caused by that."""


class Stop:
    """Whether to end the run; called between batches.

    Construct it in the main thread before anything slow. From then on ^C, SIGTERM and the end of the terminal end the
    run in order. A second ^C ends the process at once, unless at_once is False because the clean-up has to be
    completed. reopens: SIGHUP starts a new file (`on_hang_up`), unless the terminal has hung up.
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
        # nohup(1) ignores SIGHUP: the run outlives the terminal.
        is_ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        self._terminal = _Terminal(is_watched=not is_ignored)
        if reopens or not is_ignored:
            signal.signal(signal.SIGHUP, self._on_hang_up)

    def start_clock(self) -> None:
        """Start the duration."""
        if self._duration_s is not None:
            self._deadline = time.monotonic() + self._duration_s

    def on_hang_up(self, reopen: Callable[[], None]) -> None:
        """Set the function that SIGHUP calls, in the signal handler; call it now if SIGHUP came before."""
        self._reopen = reopen
        if self._reopen_asked:
            reopen()

    @property
    def terminal_is_gone(self) -> bool:
        """Whether the controlling terminal has hung up recently."""
        return self._terminal.is_gone()

    def request(self) -> None:
        """End the run."""
        self._requested = True

    def __call__(self) -> bool:
        """Whether to end the run."""
        self._terminal.check()
        if self.was_asked or self._requested or time.monotonic() >= self._deadline:
            return True
        # A closed pipe is noticed before anything is written to it.
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
    drivers/tty/tty_io.c). A shell sends SIGHUP to its jobs after that.
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
            self._poll.register(fd, 0)  # POLLHUP is always reported

    def check(self) -> None:
        """Check it. Some seconds after it has hung up, it is no longer watched."""
        if self.is_gone():
            now = time.monotonic()
            self._gone_at = self._gone_at if self._gone_at is not None else now
            if now - self._gone_at > _HANG_UP_S:
                self._poll = None

    def is_gone(self) -> bool:
        """Whether it has hung up recently."""
        return self._poll is not None and any(events & select.POLLHUP for _, events in self._poll.poll(0))


def _watch_reader(output: TextIO | None) -> Callable[[], bool] | None:
    if output is None:
        return None
    try:
        fd = output.fileno()
    except (OSError, ValueError):
        return None
    poll = select.poll()
    poll.register(fd, 0)  # POLLERR and POLLHUP are always reported
    return lambda: any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))


def discard(stream: TextIO) -> None:
    """Redirect a stream that cannot be written to /dev/null, so that Python can flush it at exit."""
    try:
        sink = os.open(os.devnull, os.O_WRONLY)
    except OSError:  # no /dev/null: write the rest to memory
        sink = os.memfd_create("discarded")
    os.dup2(sink, stream.fileno())
    os.close(sink)
