"""Kernel tests that failed while a process out of BPF's sight was running are run again (see blindness.py)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

PLUGIN = "hidden-process"
RERUN = pytest.mark.flaky(reruns=4, condition=f"config.pluginmanager.get_plugin('{PLUGIN}').was_at_work()")
"""pytest-rerunfailures evaluates the condition after each failed attempt."""


def init_cpu_ns() -> int:
    """The CPU time that the threads of process 1 have used, in ns (proc_pid_schedstat(), fs/proc/base.c)."""
    total = 0
    for thread in Path("/proc/1/task").iterdir():
        try:
            total += int((thread / "schedstat").read_text(encoding="ascii").split()[0])
        except OSError:  # ended
            continue
    return total


class HiddenProcess:
    """A pytest plugin that measures the CPU time of the hidden process during each attempt of a test.

    cpu_ns: the CPU time so far.
    """

    def __init__(self, cpu_ns: Callable[[], int] = init_cpu_ns) -> None:
        self._cpu_ns = cpu_ns
        self._used_ns = 0

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self) -> None:
        """Called before each attempt, the second and third included."""
        self._used_ns = self._cpu_ns()

    def was_at_work(self) -> bool:
        """Whether it used CPU time since the attempt began. A moment suffices to miss an event."""
        return self._cpu_ns() > self._used_ns
