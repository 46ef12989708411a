from __future__ import annotations

import threading
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
from builders import event

from tracer.kernel import owners as module
from tracer.kernel import processes
from tracer.kernel.holders import Held
from tracer.kernel.owners import FRESH_NS, MAX_CHECKED, Owners
from tracer.kernel.processes import Process
from tracer.kernel.searches import BURST_S
from tracer.kernel.wire import Owner
from tracer.model.events import Event

MS = 1_000_000
START_NS = 100_000_000_000
PHP, WORKER, SHELL = Process(3, "php-fpm", None), Process(20, "php-fpm", None), Process(50, "sh", "busybox")


class Host:
    """Processes, the sockets that they hold, and a clock. What was asked is remembered."""

    def __init__(self, proc: Path) -> None:
        self.proc = proc
        self.now_ns = START_NS
        self.held: Held = {}
        self.asked: list[Collection[int] | None] = []
        self.is_ready = threading.Event()
        self.is_ready.set()
        self.owners = Owners(
            self._look_up, proc=proc, clock_ns=lambda: self.now_ns, cgroup_path=lambda cgroup: f"/slice/{cgroup}"
        )

    def _look_up(self, inodes: Collection[int] | None) -> Held:
        self.asked.append(inodes)
        self.is_ready.wait()
        return {inode: held for inode, held in self.held.items() if inodes is None or inode in inodes}

    def begin(self, *processes: Process) -> None:
        """They start at this moment."""
        for process in processes:
            directory = self.proc / str(process.pid)
            directory.mkdir(exist_ok=True)
            ticks = self.now_ns // 10_000_000
            (directory / "stat").write_text(f"{process.pid} (a) b) S {' 0' * 18} {ticks} 0\n")
            (directory / "comm").write_text(process.comm + "\n")
            (directory / "exe").unlink(missing_ok=True)
            (directory / "exe").symlink_to(f"/usr/bin/{process.exe or process.comm} (deleted)")

    def end(self, process: Process) -> None:
        """It is gone."""
        directory = self.proc / str(process.pid)
        for file in directory.iterdir():
            file.unlink()
        directory.rmdir()
        self.held = {inode: tuple(p for p in held if p != process) for inode, held in self.held.items()}
        self.held = {inode: held for inode, held in self.held.items() if held}

    def pass_ms(self, ms: int) -> None:
        self.now_ns += ms * MS

    def see(
        self, inode: int, kind: str = "retransmit", *, sock: str = "aa", connected: Process | None = None,
        cgroup: int = 0, may_wait: bool = True, born_ns: int | None = None,
    ) -> Event:  # fmt: skip
        born = self.now_ns if born_ns is None else born_ns
        comm = connected.comm.encode().ljust(16, b"\0") if connected else bytes(16)
        owner = Owner(inode, cgroup, connected.pid if connected else 0, comm, born)
        (seen,) = self.owners.complete((event(kind, sock=sock), owner), may_wait=may_wait)
        return seen


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def named(seen: Event) -> tuple[list[int] | None, int | None, str | None, str | None]:
    return seen.pids, seen.pid, seen.comm, seen.exe


def test_every_process_that_shares_the_socket(host: Host) -> None:
    host.begin(PHP, WORKER)
    host.held = {7: (PHP, WORKER)}
    seen = host.see(7, cgroup=55)
    assert named(seen) == ([3, 20], 3, "php-fpm", None) and seen.cgroup == "/slice/55"
    assert host.asked == [{7}]


def test_what_all_sockets_were_looked_up_for_is_known_without_another_look(host: Host) -> None:
    host.begin(SHELL)
    host.held = {7: (SHELL,)}
    host.owners.search_all()
    assert named(host.see(7)) == ([50], 50, "sh", "busybox")
    assert host.asked == [None]


def test_after_the_last_process_has_gone_its_name_stays_and_its_number_is_no_holder(host: Host) -> None:
    host.begin(PHP, WORKER)
    host.held = {7: (PHP, WORKER)}
    host.see(7)
    host.end(PHP)
    host.end(WORKER)
    host.pass_ms(60_000)
    assert named(host.see(0)) == (None, 3, "php-fpm", None), "an orphan"
    assert named(host.see(7)) == (None, 3, "php-fpm", None), "not yet noticed by the kernel"
    assert named(host.see(0, sock="bb")) == (None, None, None, None)


def test_who_has_closed_it_before_it_was_looked_up_held_it(host: Host) -> None:
    """An error wakes the process, which closes the socket before the event is here. It lives on."""
    host.begin(PHP, SHELL)
    host.held = {7: (PHP,)}
    host.see(7)
    host.held = {}
    host.pass_ms(2_000)
    assert named(host.see(7, "error")) == ([3], 3, "php-fpm", None)
    assert named(host.see(0, "state")) == (None, 3, "php-fpm", None)
    assert named(host.see(8, "error", sock="bb", connected=SHELL)) == ([50], 50, "sh", "busybox")


def test_the_holders_that_are_left(host: Host) -> None:
    host.begin(PHP, WORKER)
    host.held = {7: (PHP, WORKER)}
    host.see(7)
    host.end(PHP)
    host.pass_ms(2_000)
    assert named(host.see(7)) == ([20], 20, "php-fpm", None)


@pytest.mark.parametrize("is_reused", [False, True])
def test_a_number_that_is_gone_is_no_holder_even_if_nothing_could_be_looked_up(host: Host, is_reused: bool) -> None:
    host.begin(PHP)
    host.held = {7: (PHP,)}
    host.see(7)
    host.end(PHP)
    host.pass_ms(2_000)
    if is_reused:
        host.begin(Process(PHP.pid, "other", None))
    host.is_ready.clear()
    assert named(host.see(7, may_wait=False)) == (None, 3, "php-fpm", None)
    host.is_ready.set()


def test_who_connects_is_known_at_once(host: Host) -> None:
    host.begin(SHELL)
    assert named(host.see(7, "state", connected=SHELL)) == ([50], 50, "sh", "busybox")
    assert not host.asked[1:], "at most one look in the background"


def test_who_connected_and_handed_the_socket_on(host: Host) -> None:
    host.begin(SHELL, WORKER)
    host.held = {7: (WORKER,)}
    assert named(host.see(7, connected=SHELL)) == ([20], 20, "php-fpm", None)


def test_who_connected_and_has_ended(host: Host) -> None:
    host.begin(SHELL)
    born_ns = host.now_ns
    host.see(7, "state", connected=SHELL)
    host.end(SHELL)
    host.pass_ms(2_000)
    host.begin(Process(SHELL.pid, "other", None))
    host.is_ready.clear()
    seen = host.see(7, connected=SHELL, born_ns=born_ns, may_wait=False)
    assert named(seen) == (None, 50, "sh", "busybox")
    host.is_ready.set()


def test_a_process_out_of_sight_has_a_name_and_no_number(host: Host) -> None:
    assert named(host.see(7, "state", connected=Process(0, "hidden", None))) == (None, None, "hidden", None)
    host.held = {8: (Process(0, "sh", "busybox"),)}
    assert named(host.see(8, sock="bb")) == (None, None, "sh", "busybox")


def test_events_do_not_wait_for_long(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """And those that come after the look-up have what it found."""
    host.begin(PHP)
    host.held = {7: (PHP,)}
    host.is_ready.clear()
    monkeypatch.setattr(module, "UNKNOWN_WAIT_S", 0.001)
    assert named(host.see(7)) == (None, None, None, None)
    search = host.owners._searches.running
    assert search is not None
    host.is_ready.set()
    search.join()
    assert named(host.see(7, may_wait=False)) == ([3], 3, "php-fpm", None)
    assert host.asked == [{7}]


def test_no_event_waits_for_what_takes_longer_than_it_may(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.begin(PHP)
    host.held = {7: (PHP,)}
    host.is_ready.clear()
    monkeypatch.setattr(module, "UNKNOWN_WAIT_S", 100.0)
    host.owners._searches.took_s = 200.0  # as on a host with very many sockets
    began = time.monotonic()
    assert host.see(7).pid is None
    assert time.monotonic() - began < 50
    search = host.owners._searches.running
    assert search is not None
    host.is_ready.set()
    search.join()
    assert host.see(7).pid == 3


def test_a_new_socket_is_looked_for_at_once_and_an_old_answer_is_renewed(host: Host) -> None:
    host.begin(PHP, WORKER)
    host.held = {7: (PHP,)}
    host.see(7)
    host.held = {7: (PHP, WORKER), 9: (WORKER,)}
    assert host.see(7).pids == [3], "known, and less than a second old"
    assert host.see(9, sock="cc").pids == [20], "unknown"
    host.pass_ms(1_001)
    assert host.see(7).pids == [3, 20]
    assert host.asked == [{7}, {9}, {7}]


def test_nobody_is_asked_about_again_and_again(host: Host) -> None:
    for _ in range(3):
        assert host.see(7).pid is None
    assert host.asked == [{7}]
    host.pass_ms(FRESH_NS // MS + 1)
    host.see(7)
    assert host.asked == [{7}, {7}]


def test_looking_up_takes_no_more_than_its_share_and_trouble_comes_first(host: Host) -> None:
    host.begin(PHP)
    host.held = {7: (PHP,)}
    host.owners._searches.allowance_s = BURST_S / 4
    assert host.see(7, "state").pid is None, "what is left is for trouble"
    assert host.see(7).pid == 3
    host.owners._searches.allowance_s = -0.05
    host.held = {9: (PHP,)}
    host.pass_ms(900)
    assert host.see(9, sock="bb").pid is None
    host.pass_ms(200)
    assert host.see(9, sock="bb").pid == 3


def test_what_is_remembered_has_an_end(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SOCKETS", 10)
    host.begin(PHP)
    host.held = {7: (PHP,)}
    host.owners.search_all()
    for inode in range(100, 120):
        host.see(inode, sock=str(inode))
    assert len(host.owners._found) <= 14 and len(host.owners._last) <= 10
    assert host.see(7).pid == 3


def test_a_look_up_that_fails_is_made_again(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.begin(PHP)
    host.held = {7: (PHP,)}

    def fail(_inodes: Collection[int] | None) -> Held:
        raise OSError(12, "no memory")

    monkeypatch.setattr(host.owners._searches, "_find", fail)
    assert host.see(7).pid is None
    monkeypatch.undo()
    assert host.see(7).pid == 3


def test_a_socket_of_a_thousand_workers_costs_an_event_no_more_than_one_of_a_few(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = tuple(Process(pid, "gunicorn", None) for pid in range(100, 1100))
    host.begin(*workers)
    host.held = {7: workers}
    host.see(7)
    asked: list[int] = []

    def started_ns(pid: int, proc: Path) -> int | None:
        asked.append(pid)
        return processes.started_ns(pid, proc)

    monkeypatch.setattr(module, "started_ns", started_ns)
    host.pass_ms(1_001)
    host.is_ready.clear()
    assert host.see(7, may_wait=False).pids == [each.pid for each in workers], "all of the first ones live"
    assert len(asked) <= MAX_CHECKED
    host.end(workers[1])
    host.pass_ms(1_001)
    assert host.see(7, may_wait=False).pids == [100, *range(102, 100 + MAX_CHECKED)], "no other is known to live"
    assert len(asked) <= 2 * MAX_CHECKED
    host.is_ready.set()


@pytest.mark.parametrize("uses_cpu", [True, False])
def test_the_share_of_a_look_up_is_processor_time(
    host: Host, monkeypatch: pytest.MonkeyPatch, uses_cpu: bool
) -> None:
    """A host that is busy with something else makes a look-up longer, not dearer."""

    def look_up(_inodes: Collection[int] | None) -> Held:
        if uses_cpu:
            while time.thread_time() < 0.1:
                pass
        else:
            time.sleep(0.1)
        return {7: (PHP,)}

    host.begin(PHP)
    monkeypatch.setattr(host.owners._searches, "_find", look_up)
    host.owners.search_all()
    used_s = BURST_S - host.owners._searches.allowance_s
    assert (used_s >= 0.1) == uses_cpu and (used_s < 0.05) != uses_cpu
    assert host.owners._searches.took_s >= 0.1


def test_what_was_found_is_sorted_out_in_the_thread(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever takes longer with more sockets is done in the thread of the search."""
    threads: set[threading.Thread] = set()
    real = host.owners._searches._sort

    def sort(*arguments: Any) -> Any:
        threads.add(threading.current_thread())
        return real(*arguments)

    monkeypatch.setattr(host.owners._searches, "_sort", sort)
    host.held = dict.fromkeys(range(1, 1000), (PHP,))
    host.owners.search_all()
    host.see(7)
    assert threads and threading.current_thread() not in threads
