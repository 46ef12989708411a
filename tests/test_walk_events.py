from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from builders import SECOND, event, mapped, record

from tracer.kernel import walks
from tracer.kernel.owners import Owners
from tracer.kernel.program import syscalls
from tracer.kernel.program.requests import IdleService
from tracer.kernel.walks import Walks, move_to_later
from tracer.kernel.wire import Decoder
from tracer.model.events import Event

WAITING = {"type": 10, "flags": 1 | 64, "since_sent": 2053, "pid": 7, "comm": b"php"}


class Kernel:
    """A kernel side whose walks find what they are given."""

    def __init__(self) -> None:
        self.prepared: list[tuple[bool, bool]] = []
        self.services: list[IdleService | None] = []
        self.finds: list[bytes] = []
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def request_walk(self, *, trouble: bool, all_waiting: bool, service: IdleService | None = None) -> None:
        self.prepared.append((trouble, all_waiting))
        self.services.append(service)

    def read(self, _link: int) -> bytes:
        self.may_go_on.wait()
        if not self.finds:
            raise OSError(12, "Cannot allocate memory")
        return self.finds.pop(0)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel()
    monkeypatch.setattr(syscalls, "read_iterator", made.read)
    monkeypatch.setattr(walks, "WALK_EVERY_S", 0.0)
    return made


def begin(kernel: Kernel) -> Callable[..., list[Event]]:
    """The function that hands over what was found at a time, nanoseconds, with events of the ring."""
    program: Any = kernel
    made = Walks(program, 0, Decoder(hz=250, reasons={}, key=b"k"), Owners(lambda _: {}, cgroup_path=lambda _: None))

    def look(now_ns: int = 9 * SECOND, *events: Event, is_drained: bool = True) -> list[Event]:
        if made._thread is not None and kernel.may_go_on.is_set():
            made._thread.join()
        return made.merge(list(events), now_ns, 0, is_drained=is_drained)[0]

    look.walks = made  # type: ignore[attr-defined]
    return look


def test_holders_of_one_socket_are_one_event(kernel: Kernel) -> None:
    kernel.finds = [b"".join(record(**{**WAITING, "pid": pid, "comm": b"%d" % pid}) for pid in (9, 7, 7))]
    (found,) = begin(kernel)()
    assert (found.pids, found.pid, found.comm, found.asked_ms) == ([7, 9], 7, "7", 8212)


def test_the_first_walk_keeps_its_time_and_the_order_of_the_ring(kernel: Kernel) -> None:
    kernel.finds = [record(**WAITING, sk=1, ktime_ns=5 * SECOND) + record(**WAITING, sk=2, ktime_ns=7 * SECOND), b""]
    look = begin(kernel)
    ring = [event(at=each - 1) for each in (4, 6)]
    times = [each.ktime_ns // SECOND for each in look(9 * SECOND, *ring, is_drained=False)]
    assert times == [4, 5, 6]
    assert [each.ktime_ns // SECOND for each in look()] == [7]
    assert kernel.prepared[0] == (True, True)


def test_a_later_walk_tells_of_the_moment_of_its_handing_over(kernel: Kernel) -> None:
    kernel.finds = [b"", record(**WAITING, ktime_ns=5 * SECOND)]
    look = begin(kernel)
    assert look() == []
    (found,) = look(8 * SECOND)
    assert (found.ktime_ns, found.silent_ms, found.asked_ms) == (8 * SECOND, 11_212, 11_212)
    assert kernel.prepared == [(True, True), (False, False)]


def test_of_a_socket_that_was_told_of_meanwhile_nothing_older_is_told(kernel: Kernel) -> None:
    kernel.finds = [b"", record(**WAITING, sk=1) + record(**WAITING, sk=2)]
    look = begin(kernel)
    kernel.may_go_on.clear()
    assert look() == []
    sock = Decoder(hz=250, reasons={}, key=b"k").decode(record(sk=1), 0)[0].sock
    assert look(9 * SECOND, event("resume", sock=sock))[0].event == "resume"
    kernel.may_go_on.set()
    (found,) = look()
    assert found.sock != sock


def test_a_storm_comes_first(kernel: Kernel) -> None:
    kernel.finds = [b"", record(**WAITING)]
    look = begin(kernel)
    look()
    assert [each.event for each in look(9 * SECOND, event(), is_drained=False)] == ["retransmit"]
    assert [each.event for each in look()] == ["waiting"]


@pytest.mark.parametrize("change", ["it fails", "the host slept", "events were lost"])
def test_what_the_next_walk_looks_for(kernel: Kernel, change: str) -> None:
    kernel.finds = [b""] if change == "it fails" else [b"", record(**WAITING), b""]
    look = begin(kernel)
    look()
    if change == "the host slept":
        look.walks.restart()  # type: ignore[attr-defined]
    elif change == "events were lost":
        look.walks.search_trouble()  # type: ignore[attr-defined]
    assert len(look()) == (change == "events were lost")
    look()
    assert kernel.prepared[2] == (True, change != "events were lost")


def test_all_clocks_of_an_event_go_on() -> None:
    found = event(
        "found",
        silent_ms=1000,
        retrying_ms=900,
        stuck_ms=950,
        asked_ms=990,
        jiffies=2**32 - 1,
        timer_ms=300,
        rto_ms=400,
    )
    before = dict(found.known())
    move_to_later(found, 200_000_999, 250)
    changed = {name: value for name, value in found.known().items() if value != before[name]}
    assert changed == {
        "ktime_ns": before["ktime_ns"] + 200_000_999,
        "silent_ms": 1200, "retrying_ms": 1100, "stuck_ms": 1150, "asked_ms": 1190, "jiffies": 49, "timer_ms": 100,
    }  # fmt: skip
    move_to_later(found, SECOND, 250)
    assert found.timer_ms == 0


def test_a_service_is_asked_about_at_once_and_not_again_and_again(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walks, "WALK_EVERY_S", 1e9)
    other = record(type=9, found_like=8, sk=3, ktime_ns=5 * SECOND)
    kernel.finds = [b"", other, b""]
    look = begin(kernel)
    made: Walks = look.walks  # type: ignore[attr-defined]
    assert look() == [] and look() == []
    service = IdleService(1000, mapped("10.66.2.2"), 3306, is_local=False)
    for _ in range(3):
        made.search_service(service)
    made.search_service(service._replace(port=5432))
    assert look() == []
    (found,) = look(6 * SECOND)
    assert (found.event, found.kind, found.attempt, found.silent_ms) == ("found", "idle", None, 9212)
    assert [each and each.port for each in kernel.services] == [None, 3306]
    assert look() == [] and look() == []
    assert [each and each.port for each in kernel.services] == [None, 3306, 5432]


def test_a_connection_whose_sign_did_not_come_is_looked_for_soon(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walks, "WALK_EVERY_S", 1e9)
    monkeypatch.setattr(walks, "AGAIN_EVERY_S", 0.0)
    kernel.finds = [b"", record(**WAITING), b""]
    look = begin(kernel)
    made: Walks = look.walks  # type: ignore[attr-defined]
    assert look() == [] and look() == [] and len(kernel.prepared) == 1
    made.look_again()
    assert look() == []
    assert len(look()) == 1
    assert look() == []
    assert kernel.prepared == [(True, True), (True, False)], "and once"


def test_after_a_walk_that_found_many_the_next_urgent_one_waits(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walks, "WALK_EVERY_S", 1e9)
    monkeypatch.setattr(walks, "AGAIN_EVERY_S", 0.0)
    monkeypatch.setattr(walks, "FOUND_PER_S", 1e-6)
    kernel.finds = [b"", record(**WAITING), b""]
    look = begin(kernel)
    made: Walks = look.walks  # type: ignore[attr-defined]
    made.look_again()
    look()
    assert len(look()) == 1
    made.look_again()
    look()
    assert look() == [] and len(kernel.prepared) == 2


def test_what_a_walk_found_is_handed_over_in_slices(kernel: Kernel) -> None:
    """And of a socket that had an event between two slices nothing older is told."""
    kernel.finds = [b"", b"".join(record(**WAITING, sk=number) for number in range(1, 301))]
    look = begin(kernel)
    made: Walks = look.walks  # type: ignore[attr-defined]
    look()
    first = look(9 * SECOND)
    assert len(first) == walks.MAX_SLICE and made.has_more
    last = Decoder(hz=250, reasons={}, key=b"k").decode(record(sk=300), 0)[0].sock
    second = look(10 * SECOND, event("resume", sock=last, at=9))
    third = look(11 * SECOND)
    assert not made.has_more
    assert [each.event for each in second].count("waiting") == walks.MAX_SLICE
    assert {each.ktime_ns for each in third} == {11 * SECOND}
    socks = [each.sock for each in (*first, *second, *third) if each.event == "waiting"]
    assert len(socks) == len(set(socks)) == 299 and last not in socks
    assert len(kernel.prepared) == 2, "no walk begins before all of the one before it is handed over"


def test_the_reader_does_not_decode_what_a_walk_found(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []
    real = Decoder.decode

    def decode(self: Decoder, *arguments: Any) -> Any:
        threads.append(threading.current_thread())
        return real(self, *arguments)

    monkeypatch.setattr(Decoder, "decode", decode)
    kernel.finds = [b"", record(**WAITING)]
    look = begin(kernel)
    look()
    assert len(look()) == 1
    assert threads and threading.current_thread() not in threads
