"""^C, SIGTERM and SIGHUP during a command that does something and ends. Those of a run are in stopping.py."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(KeyboardInterrupt):
    """As after ^C, but by the signal `number`. Its name is the text."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def interrupt_on_signals() -> None:
    """Have SIGTERM and SIGHUP end a command as ^C does: it cleans up. A Stop replaces that. What is ignored stays so.

    The installed command begins with the system's handling of ^C, which ends Python at once.
    """

    def interrupt(number: int, _frame: FrameType | None) -> None:
        raise Interrupted(number)

    for number in _heeded():
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else interrupt)


def end_at_once_on_signals() -> None:
    """The opposite, once nothing is left to clean up."""
    for number in _heeded():
        signal.signal(number, signal.SIG_DFL)


@contextmanager
def noting() -> Iterator[list[Interrupted]]:
    """Have signals only be noted in the list meanwhile, so that what was begun is finished."""
    noted: list[Interrupted] = []
    before = {number: signal.getsignal(number) for number in _heeded()}
    for number in before:
        signal.signal(number, lambda number, _: noted.append(Interrupted(number)))
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _heeded() -> list[int]:
    """The signals that ask for the end, without those that are ignored (nohup). Windows has no SIGHUP."""
    numbers = [getattr(signal, name, None) for name in ("SIGINT", "SIGTERM", "SIGHUP")]
    return [each for each in numbers if each is not None and signal.getsignal(each) != signal.SIG_IGN]


def interrupted_by(error: KeyboardInterrupt) -> str:
    """`^C`, `SIGTERM`."""
    return str(error) or "^C"


def exit_status_after(error: KeyboardInterrupt) -> int:
    """The exit status of a shell command that this signal ended, for commands that have not done what was asked."""
    return 128 + (error.number if isinstance(error, Interrupted) else signal.SIGINT)
