"""Which failed tests are run again."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

# The clock of the hidden process advances by {step_ns} each time it is read.
CONFTEST = """
import itertools
import reruns

def pytest_configure(config):
    hidden = reruns.HiddenProcess(cpu_ns=itertools.count(0, {step_ns}).__next__)
    config.pluginmanager.register(hidden, reruns.PLUGIN)

def pytest_collection_modifyitems(items):
    for item in items:
        item.add_marker(reruns.RERUN)
"""
PASSES_THE_THIRD_TIME = """
times = []

def test_x():
    times.append(1)
    assert len(times) == 3
"""


@pytest.mark.parametrize(
    ("step_ns", "outcomes"),
    [
        pytest.param(10**12, {"passed": 1, "rerun": 2}, id="at work"),
        pytest.param(1, {"passed": 1, "rerun": 2}, id="for a moment"),
        pytest.param(0, {"failed": 1}, id="asleep"),
    ],
)
def test_a_failure_is_run_again_if_the_hidden_process_was_at_work_meanwhile(
    pytester: pytest.Pytester, step_ns: int, outcomes: dict[str, int]
) -> None:
    pytester.makeconftest(CONFTEST.format(step_ns=step_ns))
    pytester.makepyfile(PASSES_THE_THIRD_TIME)
    shown = pytester.runpytest("-p", "no:cacheprovider")
    assert shown.parseoutcomes() == outcomes


def test_a_failure_where_nothing_is_hidden_is_final(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(PASSES_THE_THIRD_TIME)
    assert pytester.runpytest("-p", "no:cacheprovider").parseoutcomes() == {"failed": 1}
