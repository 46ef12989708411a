from __future__ import annotations

import os
import struct
import time
from pathlib import Path

import pytest
from fake_proc import Proc

from tracer.kernel.holders import _HOLDER, ProcHolderFinder, _held
from tracer.kernel.processes import Process, process_named, process_of, started_ns


def test_proc(tmp_path: Path) -> None:
    proc = Proc(tmp_path)
    proc.add(20, "php-fpm", 7, 8, 7)
    proc.add(3, "php-fpm-main", 7, exe="/usr/sbin/php-fpm8.2 (deleted)")
    proc.add(4, "cat", exe="/bin/cat")
    (tmp_path / "5").mkdir()  # not ours to see
    main, child = Process(3, "php-fpm-main", "php-fpm8.2"), Process(20, "php-fpm", None)
    assert ProcHolderFinder(tmp_path)(None) == {7: (main, child), 8: (child,)}
    assert ProcHolderFinder(tmp_path)({8, 9}) == {8: (child,)}


def test_a_process_that_ends_meanwhile_is_left_out(tmp_path: Path) -> None:
    proc = Proc(tmp_path)
    proc.add(20, "php-fpm", 7)
    (tmp_path / "20" / "comm").unlink()
    assert ProcHolderFinder(tmp_path)(None) == {}


@pytest.mark.parametrize(
    ("comm", "exe", "shown"),
    [
        ("gunicorn", "/usr/bin/python3.11", ("gunicorn", "python3.11")),
        ("MainThread", "/usr/bin/node", ("MainThread", "node")),
        ("systemd-resolve", "/lib/systemd/systemd-resolved", ("systemd-resolve", None)),
        ("python3", "/usr/bin/python3.11", ("python3", "python3.11")),
        ("nginx", "/usr/sbin/nginx (deleted)", ("nginx", None)),
        ("kworker/0:1", None, ("kworker/0:1", None)),
        ("two\nlines", "/opt/two\nlines", ("two\nlines", None)),
    ],
)
def test_the_names_of_a_process(tmp_path: Path, comm: str, exe: str | None, shown: tuple[str, str | None]) -> None:
    Proc(tmp_path).add(7, comm, exe=exe)
    assert process_of(7, tmp_path) == (7, *shown)
    assert process_of(8, tmp_path) is None


def test_a_process_without_a_number_is_not_looked_for(tmp_path: Path) -> None:
    Proc(tmp_path).add(0, "x", exe="/bin/y")
    assert process_named(0, b"x".ljust(16, b"\0"), tmp_path) == (0, "x", None)


def test_what_the_iterator_reports() -> None:
    records = b"".join(
        _HOLDER.pack(inode, pid, comm, exe)
        for inode, pid, comm, exe in [
            (7, 20, b"php-fpm", b"php-fpm"),
            (7, 20, b"php-fpm", b"php-fpm"),
            (8, 20, b"php-fpm", b"php-fpm"),
            (7, 3, b"php-fpm-main", b"php-fpm8.2"),
            (9, 4, b"\xff\0x", b"name-longer-than-there-is-room-for-\0"),
        ]
    )
    child, main = Process(20, "php-fpm", None), Process(3, "php-fpm-main", "php-fpm8.2")
    other = Process(4, "\\xff", "name-longer-than-there-is-room-for-")
    assert _held(_HOLDER.iter_unpack(records)) == {7: (main, child), 8: (child,), 9: (other,)}
    with pytest.raises(struct.error):
        _held(_HOLDER.iter_unpack(records[1:]))


def test_when_a_process_started() -> None:
    started = started_ns(os.getpid())
    assert started is not None and started > 0
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert started_ns(child) is None, "a zombie"
    os.waitpid(child, 0)
    assert started_ns(child) is None


def test_a_listener_of_thousands_of_processes_is_folded_in_a_moment() -> None:
    """As often as there are processes it was sorted anew: of 5,000 that took two seconds."""
    records = b"".join(_HOLDER.pack(7, pid, b"worker", b"worker") for pid in reversed(range(1, 5001)))
    began = time.thread_time()
    held = _held(_HOLDER.iter_unpack(records))
    assert time.thread_time() - began < 0.5
    assert [process.pid for process in held[7]] == list(range(1, 5001))
