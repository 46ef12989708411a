"""Threads that a run can do without: where none can be started, it goes on, and says what it lacks."""

from __future__ import annotations

import threading

from tracer.model.errors import TcpwatchError

HINT = "ulimit -u; ulimit -v; cat /sys/fs/cgroup/pids.max"


def can_start(thread: threading.Thread) -> bool:
    """Start the thread. False where the system starts no further one: RLIMIT_NPROC, pids.max, or memory."""
    try:
        thread.start()
    except RuntimeError:
        return False
    return True


def cannot_start(consequence: str) -> TcpwatchError:
    """The error for people. consequence: a clause, as `the file is written only at the end`."""
    return TcpwatchError(f"cannot start a thread, so {consequence}", hint=HINT)
