"""What was added last, in bounded memory: no input decides how much is kept."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, ItemsView, Iterator
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """A dictionary of what was put there last.

    most: entries. most_bytes: their memory. size_of: that of a value, bytes; it has to stay the same.
    """

    def __init__(self, most: int, most_bytes: int, size_of: Callable[[V], int]) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._size_of = size_of
        self._bytes = 0
        self._entries: OrderedDict[K, V] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, key: K, value: V) -> list[tuple[K, V]]:
        """Add it as the newest. Returns the oldest entries that had to make room; the newest always stays."""
        self.pop(key)
        self._entries[key] = value
        self._bytes += self._size_of(value)
        removed = []
        while len(self._entries) > 1 and (len(self._entries) > self._most or self._bytes > self._most_bytes):
            removed.append(self._entries.popitem(last=False))
            self._bytes -= self._size_of(removed[-1][1])
        return removed

    def pop(self, key: K) -> V | None:
        """Remove and return it; None where it is not there."""
        value = self._entries.pop(key, None)
        if value is not None:
            self._bytes -= self._size_of(value)
        return value

    def items(self) -> ItemsView[K, V]:
        """The entries, the oldest first."""
        return self._entries.items()

    def take_all(self) -> Iterator[tuple[K, V]]:
        """Remove each entry, the oldest first."""
        while self._entries:
            yield self._entries.popitem(last=False)
        self._bytes = 0


class RecentSet:
    """Texts: of those that were added last at least so many, and at most twice as many.

    It keeps their hashes, in an eighth of the memory. Two texts have the same one once in 2⁶⁴ times.
    """

    def __init__(self, least: int) -> None:
        self._least = least
        self._new: set[int] = set()
        self._old: set[int] = set()

    def __contains__(self, text: object) -> bool:
        key = hash(text)
        return key in self._new or key in self._old

    def add(self, text: str) -> None:
        """Remember it as the newest."""
        if len(self._new) >= self._least:
            self._old, self._new = self._new, set()
        self._new.add(hash(text))

    def discard(self, text: str) -> None:
        """Forget it."""
        key = hash(text)
        self._new.discard(key)
        self._old.discard(key)
