"""What the kernel counts, beside what the events say of the same."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path

import pytest
from builders import event

from tracer.kernel.counters import KernelCounters
from tracer.kernel.namespaces import Members
from tracer.model import counts
from tracer.model.counts import NOTHING, Counts, Tally, counts_of


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
    monkeypatch.setattr(counts, "MAX_NAMESPACES", 2)
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

    def count(
        self, pid: int, segments: int, keepalives: int = 0, timeouts: int = 0, *, identity: int | None = 17
    ) -> int:
        """Set what it counts, and return its namespace. identity: the inode of its rtnetlink socket."""
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
        if identity is not None:
            (self.path / f"{pid}/net/netlink").write_text(
                "sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode\n"
                "000000007ee7cacd 0   4711       00000000 0        0        0     2        0        10315   \n"
                "000000007d18b85d 15  0          00000000 0        0        0     2        0        10314   \n"
                f"0000000027b70d2d 0   0          00000000 0        0        0     2        0        {identity}   \n"
            )
        return namespace.stat().st_ino


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    return Proc(tmp_path)


def test_what_each_namespace_counts_from_now_on(proc: Proc) -> None:
    first, second = proc.count(1, 100, 10, 5), proc.count(2, 7)
    counters = KernelCounters(proc=proc.path)
    proc.count(1, 103, 11, 6)
    assert counters.newly() == {first: Counts(3, 1, 1)}
    proc.count(1, 104, 11, 6)
    later = proc.count(3, 2)
    assert counters.newly() == {first: Counts(1), later: Counts(2)}
    assert counters.newly() == {}
    assert counters.since_start == {first: Counts(4, 1, 1), second: NOTHING, later: Counts(2)}


@pytest.mark.parametrize(
    ("before", "after", "segments"),
    [(17, 18, 3), (17, 18, 150), (None, None, 3)],
    ids=["fewer than before", "more than before", "fewer, and without an identity"],
)
def test_another_namespace_with_the_same_inode_begins_with_nothing(
    proc: Proc, before: int | None, after: int | None, segments: int
) -> None:
    netns = proc.count(1, 100, 10, identity=before)
    counters = KernelCounters(proc=proc.path)
    assert counters.from_start == {netns}
    proc.count(1, segments, 10, identity=after)
    assert counters.newly() == {netns: Counts(segments, 10)}
    assert counters.from_start == frozenset()


def test_namespaces_are_asked_in_a_thread_and_taken_in_slices(proc: Proc) -> None:
    found = {proc.count(pid, 100): pid for pid in range(1, 6)}
    counters = KernelCounters(proc=proc.path)
    may_go_on = threading.Event()
    real = counters._find

    def find_members() -> dict[int, Members]:
        may_go_on.wait()
        return real()

    counters._find = find_members
    for pid in found.values():
        proc.count(pid, 100 + pid)
    counters.begin()
    assert counters.is_counting and counters.take(2) == []
    may_go_on.set()
    counters.close()
    slices = [counters.take(2) for _ in range(4)]
    assert [len(each) for each in slices] == [2, 2, 1, 0]
    assert dict(itertools.chain(*slices)) == {netns: Counts(pid) for netns, pid in found.items()}


def test_a_number_that_is_another_process_by_now_does_not_tell_of_its_old_namespace(proc: Proc) -> None:
    netns, other = proc.count(1, 100), proc.count(2, 7)
    counters = KernelCounters(lambda: {netns: Members([2, 1], 5), other: Members([2], 6)}, proc.path)
    proc.count(1, 101)
    assert counters.newly() == {netns: Counts(1)}


def test_a_cookie_tells_two_namespaces_with_the_same_inode_apart(proc: Proc) -> None:
    netns = proc.count(1, 100)
    cookies = iter([5, 5, 6, 6])
    counters = KernelCounters(lambda: {netns: Members([1], next(cookies))}, proc.path)
    proc.count(1, 101, identity=18)
    assert counters.newly() == {netns: Counts(1)}, "which need not be asked for its rtnetlink socket"
    assert counters.newly() == {netns: Counts(101)} and not counters.is_from_start(netns)
    assert counters.newly() == {}


def test_namespaces_that_cannot_be_found_now_are_as_they_were(proc: Proc) -> None:
    netns = proc.count(1, 100)
    members = [Members([1])]

    def find_members() -> dict[int, Members]:
        if not members:
            raise OSError(12, "Cannot allocate memory")
        return {netns: members[0]}

    counters = KernelCounters(find_members, proc.path)
    known = members.pop()
    proc.count(1, 103)
    assert counters.newly() == {}
    members.append(known)
    assert counters.newly() == {netns: Counts(3)}


def test_a_namespace_that_ends_is_left_out(proc: Proc) -> None:
    netns = proc.count(1, 100)
    counters = KernelCounters(proc=proc.path)
    proc.count(1, 103)
    assert counters.newly() == {netns: Counts(3)}
    (proc.path / "1/net/snmp").unlink()
    assert counters.newly() == {}
    assert counters.since_start == {}


def test_a_namespace_that_is_out_of_sight_for_a_while_is_not_counted_twice(proc: Proc) -> None:
    """Between two processes nobody lives in it, and a name or a descriptor keeps it."""
    netns = proc.count(1, 100)
    counters = KernelCounters(proc=proc.path)
    (proc.path / "1/net/snmp").unlink()
    assert counters.newly() == {}
    proc.count(1, 102)
    assert counters.newly() == {netns: Counts(2)}


def test_a_kernel_that_does_not_count_is_none_the_worse(proc: Proc) -> None:
    proc.count(1, 5)
    (proc.path / "1/net/netstat").write_text("IpExt: A\nIpExt: 1\n")
    counters = KernelCounters(proc=proc.path)
    proc.count(1, 6)
    (proc.path / "1/net/netstat").write_text("IpExt: A\nIpExt: 1\n")
    assert list(counters.newly().values()) == [Counts(1)]
