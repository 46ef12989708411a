"""How much is measured: everything, or a quick selection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Scale:
    """quick: a few minutes for all rows, good to see that they work; its figures are rough."""

    quick: bool = False

    def of(self, full: T, quick: T) -> T:
        """One or the other."""
        return quick if self.quick else full
