"""Completion in real shells: bash, zsh and fish."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from running import ROOT, tcpwatch

PATIENCE_S = 60.0
# As root, scripts/test installs every shell.
needs = {
    shell: pytest.mark.skipif(shutil.which(shell) is None and os.geteuid() != 0, reason=f"{shell} is not installed")
    for shell in ("bash", "zsh", "fish")
}


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A PATH with a tcpwatch to which bcc is missing, and a home without settings."""
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin/tcpwatch"
    program = "import sys; sys.modules['bcc'] = None; from tracer.__main__ import main; main()"
    command.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -c "{program}" "$@"\n')
    command.chmod(0o755)
    return {"HOME": str(tmp_path), "PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "TERM": "dumb", "LC_ALL": "C"}


class Terminal:
    """A shell on a terminal."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._screen = ""

    def type(self, text: str) -> None:
        """Press keys."""
        self._screen = ""
        os.write(self._descriptor, text.encode())

    def wait_for(self, pattern: str) -> None:
        """Read until the output matches."""
        deadline = time.monotonic() + PATIENCE_S
        while not re.search(pattern, self._screen):
            left = deadline - time.monotonic()
            assert left > 0, f"no {pattern!r} in {self._screen!r}"
            if select.select([self._descriptor], [], [], min(left, 0.5))[0]:
                self._screen += os.read(self._descriptor, 4096).decode(errors="replace")


@contextmanager
def shell_on_terminal(command: list[str], environment: dict[str, str]) -> Iterator[Terminal]:
    child, descriptor = pty.fork()
    if child == 0:
        try:
            os.chdir(environment["HOME"])
            os.execvpe(command[0], command, environment)
        finally:
            os._exit(127)  # a copy of pytest would run the other tests a second time
    try:
        yield Terminal(descriptor)
    finally:
        os.close(descriptor)
        os.kill(child, 9)
        os.waitpid(child, 0)


COMPLETED = [
    ("tcpwatch repl", "tcpwatch replay "),
    ("tcpwatch --form", "tcpwatch --format "),
    ("tcpwatch --format j", "tcpwatch --format json "),
    ("tcpwatch -e stall,retr", "tcpwatch -e stall,retransmit "),
    ("tcpwatch sockets --min-", "tcpwatch sockets --min-idle "),
    ("tcpwatch help comp", "tcpwatch help completion "),
    ("tcpwatch completion zs", "tcpwatch completion zsh "),
    ("tcpwatch report a-rec", "tcpwatch report a-recording.tw "),
    ("tcpwatch record -o a-rec", "tcpwatch record -o a-recording.tw "),
]


@pytest.mark.parametrize(
    ("command", "load"),
    [
        pytest.param(
            ["bash", "--norc", "--noprofile", "-i"], "source <(tcpwatch completion bash)", marks=needs["bash"]
        ),
        pytest.param(
            ["zsh", "-f", "-i"],
            "autoload -U compinit; compinit -u -D; source <(tcpwatch completion zsh)",
            marks=needs["zsh"],
        ),
    ],
    ids=["bash", "zsh"],
)
def test_completion_on_a_terminal(environment: dict[str, str], command: list[str], load: str) -> None:
    (Path(environment["HOME"]) / "a-recording.tw").touch()
    with shell_on_terminal(command, environment) as terminal:
        terminal.type(f"PS1='$ '; {load}; echo re''ady\n")
        terminal.wait_for("\nready")
        for typed, completed in COMPLETED:
            terminal.type(f"{typed}\t")
            terminal.wait_for(re.escape(completed))
            terminal.type("\x15echo do''ne\n")  # ^U empties the line
            terminal.wait_for("\ndone")


@needs["bash"]
def test_an_equals_sign_in_bash(environment: dict[str, str]) -> None:
    with shell_on_terminal(["bash", "--norc", "--noprofile", "-i"], environment) as terminal:
        terminal.type("PS1='$ '; source <(tcpwatch completion bash); echo re''ady\n")
        terminal.wait_for("\nready")
        terminal.type("tcpwatch --format=j\t")
        terminal.wait_for("--format=json ")


@needs["fish"]
def test_completion_in_fish(environment: dict[str, str]) -> None:
    (Path(environment["HOME"]) / "a-recording.tw").touch()
    for typed, completed in COMPLETED:
        program = f"tcpwatch completion fish | source; complete --do-complete '{typed}'"
        shown = subprocess.run(
            ["fish", "--no-config", "-c", program],
            capture_output=True, text=True, env=environment, cwd=environment["HOME"], timeout=PATIENCE_S, check=True,
        )  # fmt: skip
        words = [line.split("\t")[0] for line in shown.stdout.splitlines()]
        assert completed.split()[-1] in words, (typed, shown.stdout, shown.stderr)


@needs["zsh"]
def test_the_first_completion_of_an_installed_script_in_zsh(environment: dict[str, str], tmp_path: Path) -> None:
    functions = tmp_path / "functions"
    functions.mkdir()
    (functions / "_tcpwatch").write_text(tcpwatch("completion", "zsh").stdout)
    with shell_on_terminal(["zsh", "-f", "-i"], environment) as terminal:
        terminal.type(f"PS1='$ '; fpath=({functions} $fpath); autoload -U compinit; compinit -u -D; echo re''ady\n")
        terminal.wait_for("\nready")
        terminal.type("tcpwatch repl\t")
        terminal.wait_for("replay ")


def test_nothing_is_looked_up_while_a_line_is_completed() -> None:
    """Neither hosts nor namespaces, which may be slow or missing."""
    words = "tcpwatch --host no.invalid --netns nowhere -i eth0 --por"
    shown = tcpwatch(_TCPWATCH_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD="7")
    assert (shown.stdout, shown.stderr) == ("plain,--port\n", "")
