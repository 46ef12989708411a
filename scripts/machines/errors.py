"""Errors of scripts/vm."""

from __future__ import annotations


class MachineError(Exception):
    """Something failed; the message is for a person. hint: what to type, empty where nothing is known."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class NotThere(MachineError):
    """The archive no longer has this kernel: reported, and not a failure."""
