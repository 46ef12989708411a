"""Connections that a test needs as a background: short ones, and many."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tracer.lab.namespace import Namespace
from tracer.lab.network import SERVER, Lab
from tracer.lab.peers import Server, embedded_client


def talk(lab: Lab, times: int = 1) -> None:
    """Open a connection, ask one query, close it; `times` times."""
    with Server(lab.server, SERVER, 3306):
        for _ in range(times):
            with embedded_client(lab.client, SERVER, 3306) as client:
                client.ask("query")


def storm(namespace: Namespace, seconds: float, per_second: int | None = None) -> int:
    """Open and close short connections over loopback (storm.py). Returns their number."""
    rate = [] if per_second is None else [str(per_second)]
    shown = namespace.run(
        sys.executable, str(Path(__file__).with_name("storm.py")), str(seconds), *rate, stdin="go\n"
    )
    return int(shown.split()[-1])


@contextmanager
def crowd(namespace: Namespace, count: int, *arguments: str) -> Iterator[None]:
    """A process in the namespace that holds both ends of `count` connections (crowd.py)."""
    namespace.run("ip", "link", "set", "lo", "up")
    argv: list[str | Path] = [sys.executable, Path(__file__).with_name("crowd.py"), str(count), *arguments]
    with namespace.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == "ready\n"  # type: ignore[union-attr]
        yield
        process.stdin.close()  # type: ignore[union-attr]
