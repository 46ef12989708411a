"""What the stall tracker keeps about connections, in bounded memory, and when each open stall is due."""

from __future__ import annotations

import heapq
from collections import OrderedDict
from itertools import islice

from tracer.analysis.stall_state import ConnectionHistory, StallState
from tracer.model.recent import RecentSet

MAX_OPEN = 65536
MAX_OPEN_BYTES = 72 << 20
"""Memory for open stalls: enough for some twelve thousand."""
MANY = 256
"""Up to this number of open stalls, their texts do not count towards the memory."""
MAX_REMEMBERED = 65536
"""Connections with a history, stalls that may be revoked, and at least as many connections that are not followed."""
MAX_REVOCABLE_BYTES = 6 << 20


class OpenStalls:
    """The stalls that have not ended, by socket, the oldest first."""

    def __init__(self) -> None:
        self.by_sock: OrderedDict[str, StallState] = OrderedDict()
        self._bytes = 0
        self.schedule: list[tuple[int, str]] = []  # a heap; an entry is valid while its time is the stall's due_ns

    def get(self, sock: str | None) -> StallState | None:
        """The open stall of that socket."""
        return self.by_sock.get(sock) if sock is not None else None

    def add(self, sock: str, stall: StallState) -> None:
        """Add it as the newest."""
        self.by_sock[sock] = stall
        self._bytes += stall.size

    def remove(self, sock: str) -> None:
        """Remove it; it is there."""
        self._bytes -= self.by_sock.pop(sock).size

    def weigh(self, stall: StallState) -> None:
        """Count the memory of an open stall again, after its events have changed."""
        self._bytes += stall.weigh(is_one_of_many=len(self.by_sock) > MANY)

    @property
    def are_too_many(self) -> bool:
        """Whether the oldest has to end. The newest always stays."""
        return len(self.by_sock) > 1 and (len(self.by_sock) > MAX_OPEN or self._bytes > MAX_OPEN_BYTES)

    def oldest(self, number: int | None = None) -> list[tuple[str, StallState]]:
        """The oldest stalls, all where no number is given."""
        return list(islice(self.by_sock.items(), number))

    def set_due(self, sock: str, stall: StallState, due_ns: int) -> None:
        """Schedule it, instead of when it was due before."""
        stall.due_ns = due_ns
        heapq.heappush(self.schedule, (due_ns, sock))
        if len(self.schedule) > 4 * len(self.by_sock) + 1024:
            self.schedule[:] = [(each.due_ns, key) for key, each in self.by_sock.items() if each.due_ns]
            heapq.heapify(self.schedule)

    def take_due(self, until_ns: int) -> tuple[int, str, StallState] | None:
        """When the next stall is due, its socket and itself; None where none is by then. It stays open."""
        while self.schedule and self.schedule[0][0] <= until_ns:
            due_ns, sock = heapq.heappop(self.schedule)
            stall = self.by_sock.get(sock)
            if stall is not None and stall.due_ns == due_ns:
                return due_ns, sock, stall
        return None


class RevocableStalls:
    """Stalls that ended without evidence, by socket. A later event may show that one of them goes on."""

    def __init__(self) -> None:
        self.by_sock: OrderedDict[str, StallState] = OrderedDict()
        self._bytes = 0

    def add(self, sock: str, stall: StallState) -> None:
        """Add it as the newest; the oldest make room."""
        self.by_sock[sock] = stall
        self._bytes += stall.size
        while len(self.by_sock) > MAX_REMEMBERED or self._bytes > MAX_REVOCABLE_BYTES:
            self.pop(next(iter(self.by_sock)))

    def pop(self, sock: str) -> StallState | None:
        """Remove and return it; None where it is not there."""
        stall = self.by_sock.pop(sock, None)
        if stall is not None:
            self._bytes -= stall.size
        return stall


class StallStore:
    """Everything that is kept about connections, by socket.

    unfollowed: connections with an open stall that had to end for lack of memory. What comes of them begins no other
    stall, until the peer sends something or the connection closes.
    """

    def __init__(self) -> None:
        self.open = OpenStalls()
        self.revocable = RevocableStalls()
        self.histories: OrderedDict[str, ConnectionHistory] = OrderedDict()
        self.unfollowed = RecentSet(MAX_REMEMBERED)
        self.unfollowed_count = 0

    def knows(self, sock: str | None) -> bool:
        """Whether anything is kept about that socket."""
        return (
            sock in self.open.by_sock
            or sock in self.histories
            or sock in self.revocable.by_sock
            or (self.unfollowed_count > 0 and sock in self.unfollowed)
        )

    def history(self, sock: str) -> ConnectionHistory:
        """The history of that connection, kept from now on; the one that was used longest ago is forgotten."""
        history = self.histories.setdefault(sock, ConnectionHistory())
        self.histories.move_to_end(sock)
        if len(self.histories) > MAX_REMEMBERED:
            self.histories.popitem(last=False)
        return history

    def stop_following(self, sock: str) -> None:
        """Begin no other stall of this connection."""
        self.unfollowed_count += 1
        self.unfollowed.add(sock)
