from __future__ import annotations

from pathlib import Path

from builders import event

from tracer.events import Event
from tracer.kernel.owners import Owners, socket_holders
from tracer.kernel.wire import Owner


class Proc:
    """A /proc of our own making."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def add(self, pid: int, comm: str, *inodes: int) -> None:
        fds = self.root / str(pid) / "fd"
        fds.mkdir(parents=True)
        (self.root / str(pid) / "comm").write_text(comm + "\n")
        (fds / "0").symlink_to("/dev/null")
        for number, inode in enumerate(inodes, 3):
            (fds / str(number)).symlink_to(f"socket:[{inode}]")

    def remove(self, pid: int) -> None:
        for path in sorted((self.root / str(pid)).rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        (self.root / str(pid)).rmdir()


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def owned(owners: Owners, owner: Owner, sock: str = "aa") -> Event:
    (completed,) = owners.complete((event(sock=sock), owner))
    return completed


def build(root: Path) -> tuple[Proc, Clock, Owners]:
    clock = Clock()
    return Proc(root), clock, Owners(root, clock, lambda cgroup: f"/slice/{cgroup}")


def test_every_process_that_shares_the_socket(tmp_path: Path) -> None:
    proc, _, owners = build(tmp_path)
    proc.add(20, "php-fpm", 7, 8, 7)
    proc.add(3, "php-fpm-main", 7)
    assert socket_holders(tmp_path) == {7: [3, 20], 8: [20]}
    seen = owned(owners, Owner(7, 55, 0, b""))
    assert (seen.pid, seen.comm, seen.pids, seen.cgroup) == (3, "php-fpm-main", [3, 20], "/slice/55")


def test_who_held_it_last_after_the_process_is_gone(tmp_path: Path) -> None:
    proc, clock, owners = build(tmp_path)
    proc.add(3, "php", 7)
    owned(owners, Owner(7, 0, 0, b""))
    proc.remove(3)
    clock.now += 60
    assert owned(owners, Owner(0, 0, 0, b"")).pids == [3]
    assert owned(owners, Owner(0, 0, 0, b""), sock="bb").pids is None


def test_what_was_seen_at_connect_when_nothing_else_is_known(tmp_path: Path) -> None:
    _, _, owners = build(tmp_path)
    seen = owned(owners, Owner(7, 0, 42, b"curl"))
    assert (seen.pid, seen.comm, seen.pids) == (42, "curl", [42])


def test_a_new_socket_is_looked_for_at_once_and_an_old_answer_is_renewed(tmp_path: Path) -> None:
    proc, clock, owners = build(tmp_path)
    proc.add(3, "php", 7)
    owned(owners, Owner(7, 0, 0, b""))
    proc.add(4, "php", 7, 9)
    clock.now += 0.25
    assert owned(owners, Owner(7, 0, 0, b"")).pids == [3], "known, and less than a second old"
    assert owned(owners, Owner(9, 0, 0, b""), sock="cc").pids == [4], "unknown: walk again"
    assert owned(owners, Owner(7, 0, 0, b"")).pids == [3, 4]


def test_walking_never_takes_more_than_its_share(tmp_path: Path) -> None:
    proc, clock, owners = build(tmp_path)
    proc.add(3, "php", 7)
    owned(owners, Owner(7, 0, 0, b""))
    owners._walk_took = 1.0  # as on a host with a hundred thousand descriptors
    proc.add(4, "php", 9)
    clock.now += 19
    assert owned(owners, Owner(9, 0, 0, b""), sock="bb").pids is None
    clock.now += 1
    assert owned(owners, Owner(9, 0, 0, b""), sock="bb").pids == [4]
