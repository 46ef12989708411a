"""Commands as a person types them: with bash, exactly as they are printed."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

from watching import PATIENCE_S, ROOT

from tracer.analysis.advice.commands import split
from tracer.lab.namespace import Namespace

SHIMS = Path(__file__).with_name("shims")
PATH = os.pathsep.join([str(SHIMS), "/usr/local/sbin", "/usr/sbin", "/sbin", os.environ.get("PATH", os.defpath)])
"""With a sudo that keeps the environment, and with the tcpwatch under test."""


def environment() -> dict[str, str]:
    """What the command finds."""
    return {**os.environ, "PATH": PATH, "TCPWATCH_PYTHON": sys.executable, "PYTHONPATH": str(ROOT), "COLUMNS": "80"}


def command_of(lines: list[str], contains: str) -> str:
    """The command of the one line that has it."""
    found = [line for line in lines if contains in line]
    assert len(found) == 1, f"{contains!r} is in {len(found)} of {lines}"
    text, command = split(found[0])
    assert command, found[0]
    assert f"{text}: {command}" == found[0]
    return command


def run(command: str, namespace: Namespace | None = None, *, status: int = 0) -> str:
    """Type it, in that network namespace or in this one. Returns what it prints, on both streams.

    status: the exit status that it must have.
    """
    argv = ["bash", "-c", command]
    done = subprocess.run(
        argv if namespace is None else namespace.command(argv),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT,
        env=environment(), timeout=PATIENCE_S,
    )  # fmt: skip
    assert done.returncode == status, f"{command}: {done.returncode}\n{done.stdout}"
    return done.stdout


def sysctl(namespace: Namespace, name: str) -> str:
    """A net.ipv4 setting of that namespace."""
    return namespace.run("cat", "/proc/sys/net/ipv4/" + name).strip()


def run_on_terminal(command: str, answer: str) -> str:
    """Type it on a terminal, and then the answer to its question. Returns what is on the screen."""
    master, slave = pty.openpty()
    try:
        process = subprocess.Popen(
            ["setsid", "--ctty", "bash", "-c", command],
            stdin=slave, stdout=slave, stderr=slave, cwd=ROOT, env=environment(),
        )  # fmt: skip
        os.close(slave)
        os.write(master, answer.encode())  # the terminal keeps it until it is read
        screen = b""
        try:
            while data := os.read(master, 4096):
                screen += data
        except OSError:  # EIO: nobody has the other end any more
            pass
        assert process.wait(PATIENCE_S) == 0, screen.decode()
    finally:
        os.close(master)
    return screen.decode().replace("\r\n", "\n")
