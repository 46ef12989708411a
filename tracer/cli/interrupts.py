"""What ^C, SIGTERM and SIGHUP do to a command that acts."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

SIGNALLED = 128
"""The exit status of a shell command that a signal ended is this and the number of the signal."""


@contextmanager
def handling(handler: Callable[[int, object], None]) -> Iterator[None]:
    """Have these signals call the handler in the main thread, except one that is ignored (nohup)."""
    before: dict[int, Callable[..., Any] | int | None] = {}
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for changed, old in before.items():
            signal.signal(changed, old)


@contextmanager
def noting() -> Iterator[list[int]]:
    """Have these signals only add their numbers to the list, so that what was begun is finished."""
    numbers: list[int] = []
    with handling(lambda number, _: numbers.append(number)):
        yield numbers
