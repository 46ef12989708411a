"""Containers that keep the last entries, in bounded memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, ItemsView, Iterator
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """A dictionary of the last entries.

    max_entries: their number. max_bytes: their memory. size_of: the memory of a value, bytes, which must not change.
    """

    def __init__(self, max_entries: int, max_bytes: int, size_of: Callable[[V], int]) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._size_of = size_of
        self._bytes = 0
        self._entries: OrderedDict[K, V] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K) -> V | None:
        """The value of an entry; None if there is none."""
        return self._entries.get(key)

    def put(self, key: K, value: V) -> list[tuple[K, V]]:
        """Add an entry as the newest. Returns the oldest entries, removed to make room."""
        self.pop(key)
        self._entries[key] = value
        self._bytes += self._size_of(value)
        removed = []
        while len(self._entries) > 1 and (len(self._entries) > self._max_entries or self._bytes > self._max_bytes):
            removed.append(self._entries.popitem(last=False))
            self._bytes -= self._size_of(removed[-1][1])
        return removed

    def pop(self, key: K) -> V | None:
        """Remove an entry and return its value; None if there is none."""
        value = self._entries.pop(key, None)
        if value is not None:
            self._bytes -= self._size_of(value)
        return value

    def items(self) -> ItemsView[K, V]:
        """The entries, the oldest first."""
        return self._entries.items()

    def take_all(self) -> Iterator[tuple[K, V]]:
        """Remove all entries, the oldest first."""
        while self._entries:
            yield self._entries.popitem(last=False)
        self._bytes = 0


class RecentSet:
    """The texts that were added last: at least `least`, at most twice as many.

    Keeps hashes of 64 bits instead of the texts, in an eighth of the memory.
    """

    def __init__(self, least: int) -> None:
        self._least = least
        self._new: set[int] = set()
        self._old: set[int] = set()

    def __contains__(self, text: object) -> bool:
        key = hash(text)
        return key in self._new or key in self._old

    def add(self, text: str) -> None:
        """Add a text as the newest."""
        if len(self._new) >= self._least:
            self._old, self._new = self._new, set()
        self._new.add(hash(text))

    def discard(self, text: str) -> None:
        """Remove a text."""
        key = hash(text)
        self._new.discard(key)
        self._old.discard(key)
