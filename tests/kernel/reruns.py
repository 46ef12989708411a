"""Kernel tests that failed while a process out of BPF's sight was running are run again (see blindness.py)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

import pytest

T = TypeVar("T")

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
    """A pytest plugin that measures the CPU time of the hidden process while the tests of a module run.

    Not of one test alone: what a test looks at may have happened before it, in a fixture for all tests of its module.

    cpu_ns: the CPU time so far.
    """

    def __init__(self, cpu_ns: Callable[[], int] = init_cpu_ns) -> None:
        self._cpu_ns = cpu_ns
        self._module: Path | None = None
        self._used_ns = 0

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Called before each attempt, the second and third included."""
        if item.path != self._module:
            self._module = item.path
            self._used_ns = self._cpu_ns()

    def was_at_work(self) -> bool:
        """Whether it used CPU time since the module's first test began. A moment suffices to miss an event."""
        return self._cpu_ns() > self._used_ns


class Gathered(Generic[T]):
    """What all tests of a module look at: gathered once, and anew for a test that is tried again.

    Its reruns see other events than its first attempt (see HiddenProcess).
    """

    def __init__(self, gather: Callable[[], T]) -> None:
        self._gather = gather
        self._all: list[T] = []

    def of(self, request: pytest.FixtureRequest) -> T:
        """For the test of this function fixture."""
        while len(self._all) < getattr(request.node, "execution_count", 1):
            self._all.append(self._gather())
        return self._all[-1]
