"""Errors that are reported to the user."""

from __future__ import annotations

import shlex
from pathlib import Path


class TcpwatchError(Exception):
    """A failure that the user can act on.

    ``str(error)`` names what failed and the value. ``hint`` is something to type, or empty. ``exit_status`` is 1 for
    a failure and 2 for wrong usage.
    """

    def __init__(self, message: str, *, hint: str = "", exit_status: int = 1) -> None:
        super().__init__(message)
        self.hint = hint
        self.exit_status = exit_status


class UsageError(TcpwatchError):
    """Invalid arguments on the command line."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint, exit_status=2)


def as_argument(path: Path) -> str:
    """The path in a command of a hint: quoted for a shell, and never taken for an option."""
    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)
