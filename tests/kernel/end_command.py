"""`tcpwatch end` as a process: without a terminal, and on one where a test answers its question."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import threading
from collections.abc import Sequence

from acting import ENVIRONMENT, act
from watching import PATIENCE_S, ROOT

from tracer.lab.namespace import wait_until

_COMMAND = (sys.executable, "-m", "tracer", "end")


def end(*arguments: str | int, before: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """Run it where there is no terminal. before: a command that runs it."""
    return act("end", *arguments, before=before)


class Question:
    """`tcpwatch end ARGUMENTS` on a terminal of its own, from its question on. A context manager."""

    def __init__(self, *arguments: str | int) -> None:
        self._master, slave = pty.openpty()
        self._process = subprocess.Popen(
            ["setsid", "--ctty", *_COMMAND, *map(str, arguments)],
            stdin=slave, stdout=slave, stderr=slave, cwd=ROOT, env=ENVIRONMENT,
        )  # fmt: skip
        os.close(slave)
        self.screen = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        wait_until(lambda: "[y/N]" in self.screen or not self._reader.is_alive(), PATIENCE_S, "the question")
        assert "[y/N]" in self.screen, self.screen

    def _read(self) -> None:
        try:
            while data := os.read(self._master, 4096):
                self.screen += data.decode().replace("\r\n", "\n")
        except OSError:  # EIO: nobody has the other end any more
            pass

    def answer(self, typed: str) -> int:
        """Type this, and wait for the end. Returns the exit status."""
        os.write(self._master, typed.encode())
        status = self._process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        return status

    def __enter__(self) -> Question:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._reader.join(PATIENCE_S)
        os.close(self._master)
