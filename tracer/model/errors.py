"""The one error that a person is meant to read."""

from __future__ import annotations


class TcpwatchError(Exception):
    """Something went wrong that the user can act on.

    ``str(error)`` says what is wrong; ``hint`` is something to type, or what to
    look at, or empty where there is nothing to advise. ``exit_status`` is 1 for a
    failure and 2 for wrong usage (docs/events.md lists them).
    """

    def __init__(self, message: str, *, hint: str = "", exit_status: int = 1) -> None:
        super().__init__(message)
        self.hint = hint
        self.exit_status = exit_status


class UsageError(TcpwatchError):
    """What was typed cannot be meant: an unknown port, address, duration, event."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint, exit_status=2)
