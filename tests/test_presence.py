"""Filters that name what this host does not have."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from tracer.kernel.presence import absent
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
    assert rest == "and 96 more that --pid or --netns names"
