"""The records of the walk over open files: of the sockets that processes hold, by network namespace."""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path

from tracer.kernel.layout import OFFSETS, SIZE
from tracer.kernel.socket_records import sk_of


class HeldRecords:
    """The records of the sockets that processes hold, by network namespace."""

    def __init__(self, data: bytes) -> None:
        self._by_netns: dict[int, dict[int, dict[int, bytes]]] = {}
        for start in range(0, len(data), SIZE):
            record = data[start : start + SIZE]
            # Several processes may hold one socket. One in trouble has two records.
            of_socket = self._by_netns.setdefault(_netns_of(record), {}).setdefault(sk_of(record), {})
            of_socket[_type_of(record)] = record

    @property
    def namespaces(self) -> Set[int]:
        """Those of the sockets."""
        return self._by_netns.keys()

    def records(self, netns: int) -> bytes:
        """The records of connections that the filters accept."""
        of_sockets = self._by_netns.get(netns, {}).values()
        return b"".join(record for each in of_sockets for number, record in each.items() if number)

    def all_records(self) -> bytes:
        """Those of every namespace."""
        return b"".join(map(self.records, self._by_netns))

    def are_all(self, netns: int) -> bool:
        """Whether these are all sockets of the namespace, which this thread has entered, by the kernel's count."""
        counted = _sockets_in_use()
        return counted is not None and counted == len(self._by_netns.get(netns, {}))


def _netns_of(record: bytes) -> int:
    return int.from_bytes(record[OFFSETS["netns"] : OFFSETS["netns"] + 4], "little")


def _type_of(record: bytes) -> int:
    return record[OFFSETS["type"]]


def _sockets_in_use(net: Path = Path("/proc/thread-self/net")) -> int | None:
    """The number of TCP sockets in a hash table of this network namespace (inet_hash(), net/ipv4/inet_hashtables.c).

    With listeners, without TIME_WAIT and request sockets. None if unknown.
    """
    count = 0
    for file, prefix in (("sockstat", b"TCP: inuse "), ("sockstat6", b"TCP6: inuse ")):
        try:
            lines = (net / file).read_bytes().splitlines()
        except OSError:
            if file == "sockstat":
                return None
            continue  # a kernel without IPv6
        count += sum(int(line.removeprefix(prefix).split()[0]) for line in lines if line.startswith(prefix))
    return count
