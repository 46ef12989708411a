"""Kernel tests that failed while a process out of BPF's sight was running are run again (see blindness.py)."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

PLUGIN = "hidden-process"
RERUN = pytest.mark.flaky(reruns=2, condition=f"config.pluginmanager.get_plugin('{PLUGIN}').was_at_work()")
"""pytest-rerunfailures evaluates the condition after each failed attempt."""

# Measured on an idle virtual machine: 4 ms of CPU time once a second, which is 0.4 % of one CPU.
_IDLE_SHARE = 0.01
_IDLE_NS = 5_000_000


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
        self._began_ns = self._used_ns = 0

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self) -> None:
        """Called before each attempt, the second and third included."""
        self._began_ns, self._used_ns = time.monotonic_ns(), self._cpu_ns()

    def was_at_work(self) -> bool:
        """Whether it used more CPU time since the attempt began than an idle one does."""
        idle_ns = _IDLE_NS + _IDLE_SHARE * (time.monotonic_ns() - self._began_ns)
        return self._cpu_ns() - self._used_ns > idle_ns
