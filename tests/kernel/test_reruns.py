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


# The clock is read when a module begins, and when a test failed.
HAPPENS_IN_A_FIXTURE = """
import pytest
from reruns import Gathered

lost = [True]
gathered = Gathered(lambda: lost.pop() if lost else False)

@pytest.fixture
def is_lost(request):
    return gathered.of(request)

def test_that_gathers(is_lost):
    pass

def test_that_finds_it_lost(is_lost):
    assert not is_lost
"""


@pytest.mark.parametrize(
    ("later", "outcomes"),
    [
        pytest.param("[1, 2]", {"passed": 2, "rerun": 1}, id="at work while it was gathered"),
        pytest.param("[1]", {"passed": 1, "failed": 1}, id="asleep"),
    ],
)
def test_what_a_module_shares_is_gathered_again(
    pytester: pytest.Pytester, later: str, outcomes: dict[str, int]
) -> None:
    readings = f"itertools.chain({later}, itertools.repeat({later}[-1])).__next__"
    pytester.makeconftest(CONFTEST.format(step_ns=0).replace("itertools.count(0, 0).__next__", readings))
    pytester.makepyfile(HAPPENS_IN_A_FIXTURE)
    assert pytester.runpytest("-p", "no:cacheprovider").parseoutcomes() == outcomes


def test_a_failure_where_nothing_is_hidden_is_final(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(PASSES_THE_THIRD_TIME)
    assert pytester.runpytest("-p", "no:cacheprovider").parseoutcomes() == {"failed": 1}
