"""What the kernel counts, beside what the events say of the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from builders import event

from tracer import counts
from tracer.counts import NOTHING, Counts, Tally, counts_of
from tracer.kernel.counters import KernelCounters


@pytest.mark.parametrize(
    ("seen", "counted"),
    [
        (event(kind="rto", attempt=1, segments=1), Counts(segments=1, timeouts=1)),
        (event(kind="tlp", attempt=0, segments=3), Counts(segments=3)),
        (event(kind="fast", attempt=0, segments=2), Counts(segments=2)),
        (event(kind="synack", attempt=1, segments=1), Counts(segments=1, timeouts=1)),
        (event(kind="synack", attempt=0, segments=1), Counts(segments=1)),
        (event(kind="rto", attempt=1, segments=0, send_error="EHOSTUNREACH"), Counts(timeouts=1)),
        (event(kind="syn", attempt=2, segments=1), Counts(segments=1, timeouts=1)),
        (event(kind="rto", attempt=1, segments=1, snd_wnd=0), Counts(segments=1)),
        (event(kind="rto", attempt=1, segments=1, snd_wnd=0, orphan=True), Counts(segments=1, timeouts=1)),
        (event(kind="rto", attempt=1), Counts(segments=1, timeouts=1)),
        (event("keepalive", attempt=2), Counts(keepalives=1)),
        (event("error", error="ETIMEDOUT", unacked_bytes=38, silent_ms=9), Counts(timeouts=1)),
        (event("error", error="ETIMEDOUT", unacked_bytes=0), Counts(timeouts=1)),
        (event("error", error="ETIMEDOUT", unacked_bytes=0, silent_ms=9), NOTHING),
        (event("error", error="EHOSTUNREACH", soft_error="EHOSTUNREACH", unacked_bytes=38), Counts(timeouts=1)),
        (event("error", error="ETIMEDOUT", old_state="FIN_WAIT1", unacked_bytes=0, silent_ms=9), Counts(timeouts=1)),
        (
            event("error", error="ETIMEDOUT", old_state="LAST_ACK", unacked_bytes=0, unsent_bytes=1, silent_ms=9),
            NOTHING,
        ),
        (event("error", error="ECONNRESET", unacked_bytes=38), NOTHING),
        (event("window-probe", attempt=1), NOTHING),
        (event("state"), NOTHING),
    ],
)
def test_by_how_much_the_kernels_counters_grow_with_an_event(seen: object, counted: Counts) -> None:
    assert counts_of(seen) == counted  # type: ignore[arg-type]


def test_a_tally_tells_a_limited_number_of_namespaces_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counts, "MOST_NAMESPACES", 2)
    tally = Tally()
    for netns in range(5):
        tally.add(netns, Counts(segments=1))
    assert tally.total() == Counts(segments=5)
    assert set(tally.namespaces()) == {0, 1, None}
    assert tally.total(without={0}) == Counts(segments=4)


class Proc:
    """A /proc with one process in each namespace, and its counters."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "self").mkdir()

    def count(self, pid: int, segments: int, keepalives: int = 0, timeouts: int = 0) -> int:
        """Set what it counts, and return its namespace."""
        (self.path / f"{pid}/ns").mkdir(parents=True, exist_ok=True)
        (self.path / f"{pid}/net").mkdir(exist_ok=True)
        namespace = self.path / f"{pid}/ns/net"
        namespace.touch()
        (self.path / f"{pid}/net/snmp").write_text(
            f"Ip: Forwarding\nIp: 1\nTcp: RtoAlgorithm RetransSegs InErrs\nTcp: 1 {segments} 0\n"
        )
        (self.path / f"{pid}/net/netstat").write_text(
            f"TcpExt: TCPKeepAlive X TCPTimeouts\nTcpExt: {keepalives} 7 {timeouts}\nIpExt: A\nIpExt: 1\n"
        )
        return namespace.stat().st_ino


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    return Proc(tmp_path)


def test_what_each_namespace_counts_from_now_on(proc: Proc) -> None:
    first, second = proc.count(1, 100, 10, 5), proc.count(2, 7)
    counters = KernelCounters(proc.path)
    proc.count(1, 103, 11, 6)
    assert counters.newly() == {first: Counts(3, 1, 1)}
    proc.count(1, 104, 11, 6)
    later = proc.count(3, 2)
    assert counters.newly() == {first: Counts(1), later: Counts(2)}
    assert counters.newly() == {}
    assert counters.since_start == {first: Counts(4, 1, 1), second: NOTHING, later: Counts(2)}


def test_a_namespace_that_ends_is_left_out_and_its_inode_may_come_again(proc: Proc) -> None:
    netns = proc.count(1, 100)
    counters = KernelCounters(proc.path)
    proc.count(1, 3)  # fewer than before: it is another namespace
    assert counters.newly() == {netns: Counts(3)}
    (proc.path / "1/net/snmp").unlink()
    assert counters.newly() == {}
    assert counters.since_start == {}


def test_a_namespace_that_is_out_of_sight_for_a_while_is_not_counted_twice(proc: Proc) -> None:
    """Between two processes nobody lives in it, and a name or a descriptor keeps it."""
    netns = proc.count(1, 100)
    counters = KernelCounters(proc.path)
    (proc.path / "1/net/snmp").unlink()
    assert counters.newly() == {}
    proc.count(1, 102)
    assert counters.newly() == {netns: Counts(2)}


def test_a_kernel_that_does_not_count_is_none_the_worse(proc: Proc) -> None:
    proc.count(1, 5)
    (proc.path / "1/net/netstat").write_text("IpExt: A\nIpExt: 1\n")
    counters = KernelCounters(proc.path)
    proc.count(1, 6)
    (proc.path / "1/net/netstat").write_text("IpExt: A\nIpExt: 1\n")
    assert list(counters.newly().values()) == [Counts(1)]
