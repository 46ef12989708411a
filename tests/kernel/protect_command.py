"""`tcpwatch protect` as a process, once and with --follow, and what it has set."""

from __future__ import annotations

import json
import os
import re
import socket as sockets
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from watching import PATIENCE_S, ROOT, Json

from tracer.lab.namespace import Namespace, wait_until

START_S = 240
"""What compiling may take on an emulated processor."""
_ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def _command(before: Sequence[str], arguments: Sequence[str | int]) -> list[str]:
    return [*before, sys.executable, "-m", "tracer", "protect", *map(str, arguments)]


def protect(*arguments: str | int, before: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """Run it to its end. before: a command that runs it."""
    done = subprocess.run(
        _command(before, arguments), capture_output=True, text=True, cwd=ROOT, env=_ENVIRONMENT, timeout=PATIENCE_S
    )
    assert "Traceback" not in done.stderr and "bug in tcpwatch" not in done.stderr, done.stderr
    return done


def protected(*arguments: str | int) -> list[Json]:
    """The objects of `protect --json`, which has to succeed."""
    done = protect(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


class Following:
    """`tcpwatch protect --follow --json`, which writes to files."""

    def __init__(self, process: subprocess.Popen[str], output: Path, talk: Path) -> None:
        self._process = process
        self._output = output
        self._talk = talk

    @property
    def rows(self) -> list[Json]:
        """What it has printed, without a line that is still incomplete."""
        lines = self._output.read_text(encoding="utf-8").splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    @property
    def talk(self) -> str:
        """What it has said on stderr."""
        return self._talk.read_text(encoding="utf-8")

    def wait_for(self, count: int, timeout_s: float = PATIENCE_S) -> list[Json]:
        """Wait until it has printed so many connections."""
        wait_until(lambda: len(self.rows) >= count, timeout_s, f"{count} connections are protected")
        return self.rows

    def is_ready(self) -> bool:
        """Whether it follows. Fails if it has ended."""
        assert self._process.poll() is None, self.talk
        return "protecting each connection" in self.talk

    def stop(self) -> int:
        """^C. Returns its exit status."""
        self._process.send_signal(2)
        return self._process.wait(PATIENCE_S)

    def kill(self) -> None:
        """SIGKILL: it ends without any last act."""
        self._process.kill()
        self._process.wait()

    @property
    def process_id(self) -> int:
        """Its own."""
        return self._process.pid


@contextmanager
def following(directory: Path, *arguments: str | int, before: Sequence[str] = ()) -> Iterator[Following]:
    """Run it until the block ends. directory: where its output goes."""
    output, talk = directory / "output", directory / "talk"
    with output.open("w", encoding="utf-8") as out, talk.open("w", encoding="utf-8") as err:
        process = subprocess.Popen(
            _command(before, (*arguments, "--follow", "--json")),
            stdin=subprocess.DEVNULL, stdout=out, stderr=err, text=True, cwd=ROOT, env=_ENVIRONMENT,
        )  # fmt: skip
    try:
        made = Following(process, output, talk)
        wait_until(made.is_ready, START_S, "it follows")
        yield made
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def timers(namespace: Namespace) -> dict[int, tuple[str, float]]:
    """The armed timer of each connection, and the seconds until it is due, by local port."""
    found = {}
    for line in namespace.run("ss", "-tnoHO").splitlines():
        local = line.split()[3]
        if timer := re.search(r"timer:\((\w+),(?:(\d+)min)?(?:([\d.]+)sec|(\d+)ms|([\d.]+)ms)?,", line):
            name, minutes, seconds, milliseconds, _ = timer.groups()
            due_s = 60 * int(minutes or 0) + float(seconds or 0) + int(milliseconds or 0) / 1000
            found[int(local.rpartition(":")[2])] = name, due_s
    return found


def settings_of(connection: sockets.socket) -> Json:
    """What its own process reads."""
    tcp = sockets.IPPROTO_TCP
    return {
        "keepalive": bool(connection.getsockopt(sockets.SOL_SOCKET, sockets.SO_KEEPALIVE)),
        "keepalive_idle_s": connection.getsockopt(tcp, sockets.TCP_KEEPIDLE),
        "keepalive_interval_s": connection.getsockopt(tcp, sockets.TCP_KEEPINTVL),
        "keepalive_probes": connection.getsockopt(tcp, sockets.TCP_KEEPCNT),
        "user_timeout_ms": connection.getsockopt(tcp, sockets.TCP_USER_TIMEOUT),
    }


def be_silent(seconds: float) -> None:
    """The silence itself is what is tested."""
    until = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() > until, PATIENCE_S, "silence")


def lport(connection: sockets.socket) -> int:
    """Its local port."""
    return int(connection.getsockname()[1])
