"""Fixtures of the tests on the running kernel."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from blindness import hidden_process
from counting import Witness
from reruns import PLUGIN, RERUN, HiddenProcess
from watching import Start, Watch

from tracer.lab.namespace import Namespace
from tracer.lab.network import Lab

_HIDDEN = pytest.StashKey["str | None"]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Allow reruns where a process is out of BPF's sight (see reruns.py). Anywhere else a failure is final."""
    here = [item for item in items if Path(__file__).parent in item.path.parents]
    # Only root can load the program that finds out.
    config.stash[_HIDDEN] = hidden_process() if here and os.geteuid() == 0 else None
    if config.stash[_HIDDEN]:
        config.pluginmanager.register(HiddenProcess(), PLUGIN)
        for item in here:
            item.add_marker(RERUN)


def pytest_report_collectionfinish(config: pytest.Config) -> list[str]:
    hidden = config.stash.get(_HIDDEN, None)
    return (
        [f"{hidden}, process 1, is out of BPF's sight: tests that fail while it runs are run again"] if hidden else []
    )


@pytest.fixture
def watch() -> Iterator[Start]:
    """Start tcpwatch. Whatever was started is killed after the test."""
    started: list[Watch] = []

    def start(*arguments: str | Path, **options: Any) -> Watch:
        started.append(Watch(*arguments, **options))
        return started[-1]

    yield start
    for each in started:
        each.kill()


@pytest.fixture
def lab() -> Iterator[Lab]:
    """A client, a firewall and a server. The firewall opens port 3306 and forgets a session after a minute."""
    with Lab(ttl_s=60) as made:
        yield made


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    """A network namespace with only the loopback device."""
    made = Namespace()
    try:
        made.run("ip", "link", "set", "lo", "up")
        yield made
    finally:
        made.close()


@pytest.fixture
def witness(namespace: Namespace) -> Iterator[Witness]:
    """Counts the kernel's events in `namespace`."""
    made = Witness(namespace.netns)
    yield made
    made.close()
