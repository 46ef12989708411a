"""Fixtures of the tests on the running kernel."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from watching import Start, Watch

from tracer.lab.network import Lab


@pytest.fixture
def watch() -> Iterator[Start]:
    """Start tcpwatch; whatever was started is gone after the test."""
    started: list[Watch] = []

    def start(*arguments: str | Path, text: bool = False) -> Watch:
        started.append(Watch(*arguments, text=text))
        return started[-1]

    yield start
    for each in started:
        each.kill()


@pytest.fixture
def lab() -> Iterator[Lab]:
    """Client, firewall and server, port 3306 open; sessions live for a minute unless a test says otherwise."""
    with Lab(ttl_s=60) as made:
        yield made
