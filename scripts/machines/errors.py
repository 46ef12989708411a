"""What goes wrong with machines."""

from __future__ import annotations


class MachineError(Exception):
    """Something failed; the message is for a person."""


class NotThere(MachineError):
    """The archive has no such kernel any more: said, and no failure."""
