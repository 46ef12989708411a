"""--require-kernel: a run in which a test on the running kernel did not run is a failed run.

--write-golden: see test_samples.py.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tracer.kernel import host

# How long an example takes says more about the machine than about the code.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")

# What a test starts writes its output as it does for a user.
os.environ.pop("PYTHONUNBUFFERED", None)
os.environ.pop("COLUMNS", None)  # sets the width of output in a file

_KERNEL = Path(__file__).parent / "kernel"
_PROC = Path("/proc")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--require-kernel", action="store_true", help="fail if a test of tests/kernel did not run")
    parser.addoption(
        "--soak", type=float, metavar="SECONDS", help="how long test_soak.py and test_recorder_model.py take"
    )
    parser.addoption(
        "--write-golden", action="store_true", help="keep what is shown of tests/recordings as it is now"
    )


@pytest.fixture(autouse=True)
def _signals_are_handled_as_before() -> Iterator[None]:
    """Commands that a test runs in its own process install handlers."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def _in_the_pid_namespace_of_the_host(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the tests run, as in a container. Those on the kernel start processes, which see what there is."""
    if _KERNEL not in request.path.parents:
        real = host.is_in_pid_namespace
        monkeypatch.setattr(host, "is_in_pid_namespace", lambda proc=_PROC: proc != _PROC and real(proc))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _KERNEL in item.path.parents:
            item.add_marker(pytest.mark.kernel)


class _Ran:
    """Which kernel tests were collected, and which of them really ran."""

    def __init__(self) -> None:
        self.collected: set[str] = set()
        self.passed_or_failed: set[str] = set()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.collected = {item.nodeid for item in session.items if item.get_closest_marker("kernel")}

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        """Called for each process of --numprocesses, which collects the tests. This one collects none."""
        self.collected.update(each for each in ids if each.startswith("tests/kernel/"))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.outcome != "skipped":
            self.passed_or_failed.add(report.nodeid)

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        missing = self.collected - self.passed_or_failed
        if exitstatus == pytest.ExitCode.OK and (missing or not self.collected):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
            for nodeid in sorted(missing) or ["none was collected"]:
                print(f"\nkernel test did not run: {nodeid}", end="")


def pytest_configure(config: pytest.Config) -> None:
    # A shell starts what runs in the background with ^C ignored, and whatever a test starts would ignore it, too.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    is_worker = hasattr(config, "workerinput")  # of --numprocesses: it runs some of the tests only
    if config.getoption("--require-kernel") and not is_worker:
        config.pluginmanager.register(_Ran(), "kernel-tests-ran")
