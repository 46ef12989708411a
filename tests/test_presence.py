"""Filters that name what this host does not have."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

from tracer.kernel.presence import absent, ports_in_use
from tracer.model.filters import Filter

NETNS = Path("/proc/self/ns/net").stat().st_ino


def test_what_is_there_needs_no_line() -> None:
    assert absent(Filter()) == []
    assert absent(Filter(pids=frozenset({os.getpid()}), netns=frozenset({NETNS}))) == []


def test_what_is_not_there() -> None:
    assert absent(Filter(pids=frozenset({4194304, os.getpid()}), netns=frozenset({1, NETNS}))) == [
        "no process has the id 4194304 now (pgrep -l NAME shows ids)",
        "no process is in network namespace 1 now (lsns -t net shows all)",
    ]


def test_a_thread_has_no_sockets_of_its_own() -> None:
    ready, end = threading.Event(), threading.Event()
    thread = threading.Thread(target=lambda: (ready.set(), end.wait()))
    thread.start()
    try:
        assert ready.wait(60)
        number = thread.native_id
        assert number is not None
        assert absent(Filter(pids=frozenset({number}))) == [
            f"{number} is a thread of process {os.getpid()}, which has its sockets (--pid {os.getpid()})"
        ]
    finally:
        end.set()
        thread.join()


def test_very_many_are_not_all_named() -> None:
    *named, rest = absent(Filter(netns=frozenset(range(1, 101))))
    assert len(named) == 4
    assert rest == "and 96 more that --pid, --comm or --netns names"


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """Two processes, one with a thread's name, in one network namespace with three sockets."""
    for pid, comm, exe in ((17369, "php8.2", "php8.2"), (40, "MainThread", "node")):
        directory = tmp_path / str(pid)
        (directory / "net").mkdir(parents=True)
        (directory / "ns").mkdir()
        (directory / "ns/net").touch()
        (directory / "comm").write_text(f"{comm}\n")
        (directory / "status").write_text(f"Name:\t{comm}\nTgid:\t{pid}\n")
        (directory / "exe").symlink_to(f"/usr/bin/{exe}")
        header = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt\n"
        (directory / "net/tcp").write_text(f"{header}   0: 0100007F:0CEA 00000000:0000 0A 00000000:00000000\n")
        (directory / "net/tcp6").write_text(f"{header}   0: {'0' * 32}:1F90 {'0' * 32}:0028 01 00000000:00000000\n")
    return tmp_path


def test_names_of_no_process(proc: Path) -> None:
    assert absent(Filter(comms=frozenset({"php8.2", "MainThread", "node"})), proc) == []
    wanted = Filter(comms=frozenset({"PHP", "mysqld"}))
    assert absent(wanted, proc) == [
        "no process is named PHP now (similar: --comm php8.2)",
        "no process is named mysqld now (ps -eo pid,comm shows names)",
    ]
    assert absent(wanted, proc, waits=True)[1] == (
        "no process is named mysqld now; waiting for one (ps -eo pid,comm shows names)"
    )


def test_a_name_that_is_longer_than_the_kernel_keeps(proc: Path) -> None:
    (proc / "40/comm").write_text("systemd-resolve\n")
    assert absent(Filter(comms=frozenset({"systemd-resolved"})), proc) == []


@pytest.mark.parametrize("option", ["ports", "lports", "rports"])
def test_a_process_id_that_was_typed_as_a_port(proc: Path, option: str) -> None:
    def warnings(*ports: int) -> list[str]:
        return absent(Filter(**{option: frozenset(ports)}), proc)  # type: ignore[arg-type]

    assert warnings(17369) == [
        "no socket uses port 17369 now, but process 17369 is php8.2 (for its connections: --pid 17369)"
    ]
    assert warnings(3306, 17370) == []  # no process has these ids
    assert warnings(40) == []  # a socket has this port
    assert warnings(*range(17300, 17400)) == []  # a range is not of process ids
    (proc / "17369/exe").unlink()
    assert warnings(17369) == []  # a thread of the kernel


def test_a_socket_of_any_network_namespace_uses_its_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert {server.getsockname()[1], client.getsockname()[1]} <= ports_in_use()


def test_a_pid_namespace_that_hides_processes(tmp_path: Path) -> None:
    """Any other inode than that of the host's first one."""
    assert absent(Filter(), tmp_path) == []
    (tmp_path / "self/ns").mkdir(parents=True)
    (tmp_path / "self/ns/pid").touch()
    (line,) = absent(Filter(), tmp_path)
    assert line.startswith("this PID namespace hides processes of the host") and "hostPID: true" in line
