"""Requests to the iterators, in the memory of maps that they share with Python.

A request is written through mmap(), because the privileges have been dropped by then and bpf(2) would need CAP_BPF.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Collection
from typing import NamedTuple

_WALK, _WALK_OFFSET = struct.Struct("<II16sHH"), 24  # struct walk in bpf/walk.h, from flags on
_TROUBLE, _ALL_WAITING, _SERVICE = 1, 2, 4  # enum walk_flags

REQUESTED_BYTES = 8 * 1024
"""Size of the map `requested` in bpf/holder.h: a bitmap by inode."""


class IdleService(NamedTuple):
    """A service, to find its connections with at least this silence."""

    silent_jiffies: int
    raddr: bytes  # 16 bytes, as in struct event
    port: int  # remote, or local with is_local
    is_local: bool  # this host is the server


def request_walk(walks: mmap.mmap, *, trouble: bool, all_waiting: bool, service: IdleService | None) -> None:
    """Choose what the next walk reports (bpf/walk.h). walks: the memory of the map of that name.

    trouble: connections in trouble. all_waiting: all connections that wait, even those of earlier walks. service: its
    idle connections.
    """
    flags = _TROUBLE * trouble | _ALL_WAITING * all_waiting | _SERVICE * (service is not None)
    values = (0, b"", 0, False) if service is None else service
    _WALK.pack_into(walks, _WALK_OFFSET, flags, *values)


def request_holders(requested: mmap.mmap, inodes: Collection[int] | None) -> None:
    """Choose the sockets that report_holder reports (bpf/holder.h). requested: the memory of that map. None: all."""
    if inodes is None:
        requested[:] = b"\xff" * REQUESTED_BYTES
        return
    bits = bytearray(REQUESTED_BYTES)
    for inode in inodes:
        bits[inode // 8 % REQUESTED_BYTES] |= 1 << inode % 8
    requested[:] = bytes(bits)
