"""Debian's Prometheus as a running server, and tcpwatch beside it."""

from __future__ import annotations

import json
import socket
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from watching import PATIENCE_S, ROOT

from tracer.lab.namespace import wait_until


def free_port() -> int:
    """A port of the loopback device that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@contextmanager
def running(
    command: Sequence[str | Path], log: Path, *, ends: int = 0, is_over: bool = False, **options: Any
) -> Iterator[Any]:
    """A process whose output goes to the log. SIGTERM ends it, unless it is over by itself. ends: its status."""
    with log.open("w") as output:
        process = subprocess.Popen(
            [*map(str, command)],
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            cwd=ROOT,
            **options,
        )
    try:
        yield process
        if not is_over:
            assert process.poll() is None, log.read_text()
            process.terminate()
        assert process.wait(PATIENCE_S) == ends, log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def get(url: str) -> str:
    """The body of what is there."""
    with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
        return str(answer.read().decode())


def api(base: str, path: str, **query: str) -> Any:
    """What Prometheus's API answers; None while it does not answer."""
    try:
        answer = json.loads(get(f"{base}/api/v1/{path}?{urllib.parse.urlencode(query)}"))
    except OSError:
        return None
    return answer["data"] if answer["status"] == "success" else None


def wait_for_line(log: Path, words: str) -> None:
    """Wait until the log has these words."""
    wait_until(lambda: words in log.read_text(), PATIENCE_S, f"{log} has {words}")
