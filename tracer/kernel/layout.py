"""The layout of struct event: the mirror of bpf/event.h, member by member."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from tracer.kernel.program.ring import HEADER_BYTES

Layout = Sequence[tuple[str, str]]
"""Names of members, and their codes for the module struct."""

WHEN: Layout = (("ktime_ns", "Q"),)
CONNECTION: Layout = (
    *((name, "Q") for name in ("sk", "born")),
    *((name, "16s") for name in ("laddr", "raddr")),
    ("netns", "I"),
    *((name, "H") for name in ("lport", "rport")),
    ("family", "B"),
)
WHAT: Layout = (("type", "B"),)
SOCKET: Layout = (
    ("flags", "H"),
    *((name, "B") for name in ("state", "old_state", "new_state", "ca_state", "backoff", "orphan")),
    *((name, "B") for name in ("retries", "syn_linear")),
    *((name, "I") for name in ("keepalive_idle", "keepalive_interval", "keepalive_probes", "user_timeout_ms")),
)
NUMBERS: Layout = (
    ("silent", "I"),
    *((name, "Q") for name in ("inode", "cgroup")),
    *((name, "I") for name in ("rto", "srtt_us", "unacked", "snd_wnd", "unsent", "soft_error", "pid")),
    ("comm", "16s"),
)
DETAILS: Layout = (
    ("reason", "I"),
    ("error", "i"),
    *((name, "I") for name in ("jiffies", "retrying_ms", "rto_max", "stuck_ms", "since_sent", "timer_in")),
    *((name, "H") for name in ("found_like", "probes_out", "attempt", "segments")),
    *((name, "B") for name in ("pending", "direction", "cause")),
)
WALKS: Layout = (("timer", "B"), *((name, "I") for name in ("unread", "since_data")))
"""Members that only `tcpwatch sockets` reads."""
LAYOUT: Layout = (*WHEN, *CONNECTION, *WHAT, *SOCKET, *NUMBERS, *DETAILS, *WALKS)


def _codes(layout: Layout) -> str:
    return "".join(code for _, code in layout)


def struct_of(layout: Layout) -> struct.Struct:
    """The members as module struct packs them, without padding."""
    return struct.Struct("<" + _codes(layout))


_EVENT_CODES = (
    f"{_codes(WHEN)}{struct_of(CONNECTION).size}s{_codes(WHAT)}{struct_of(SOCKET).size}s"
    f"{_codes(NUMBERS)}{struct_of(DETAILS).size}s{struct_of(WALKS).size}x"
)
"""What many events share, or few need, is left as bytes."""
RECORD = struct.Struct("<" + _EVENT_CODES)
"""A record, as `Decoder` unpacks it first."""
SIZE = RECORD.size
"""Bytes of a record."""
SLOT = struct.Struct(f"<{HEADER_BYTES}x{_EVENT_CODES}{-SIZE % 8}x")
"""A record with its header and padding in the ring buffer."""

OFFSETS = {name: struct.calcsize("<" + _codes(LAYOUT[:index])) for index, (name, _) in enumerate(LAYOUT)}
"""Bytes from the start of the record to each member. tests/kernel/test_layout.py compares them with the C."""
