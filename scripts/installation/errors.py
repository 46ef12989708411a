"""The error that ends scripts/install."""

from __future__ import annotations


class InstallError(Exception):
    """The message says what failed; hint: what to type."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint
