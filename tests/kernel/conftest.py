"""Fixtures of the tests on the running kernel."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from blindness import hidden_process
from counting import Witness
from watching import Start, Watch

from tracer.lab.namespace import Namespace
from tracer.lab.network import Lab

_HIDDEN = pytest.StashKey["str | None"]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A test that failed for what BPF is not shown here is tried again; anywhere else it has failed."""
    here = [item for item in items if Path(__file__).parent in item.path.parents]
    # Without root nothing can be found out, and each test fails by itself.
    config.stash[_HIDDEN] = hidden_process() if here and os.geteuid() == 0 else None
    if config.stash[_HIDDEN]:
        for item in here:
            item.add_marker(pytest.mark.flaky(reruns=2))


def pytest_report_collectionfinish(config: pytest.Config) -> list[str]:
    hidden = config.stash.get(_HIDDEN, None)
    return [f"{hidden}, process 1, is out of BPF's sight: kernel tests that fail are tried again"] if hidden else []


@pytest.fixture
def watch() -> Iterator[Start]:
    """Start tcpwatch; whatever was started is gone after the test."""
    started: list[Watch] = []

    def start(*arguments: str | Path, **options: Any) -> Watch:
        started.append(Watch(*arguments, **options))
        return started[-1]

    yield start
    for each in started:
        each.kill()


@pytest.fixture
def lab() -> Iterator[Lab]:
    """Client, firewall and server, port 3306 open; sessions live for a minute unless a test says otherwise."""
    with Lab(ttl_s=60) as made:
        yield made


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    """Nothing but loopback."""
    made = Namespace()
    try:
        made.run("ip", "link", "set", "lo", "up")
        yield made
    finally:
        made.close()


@pytest.fixture
def witness(namespace: Namespace) -> Iterator[Witness]:
    """Counts what happens in that namespace."""
    made = Witness(namespace.netns)
    yield made
    made.close()
