"""tcpwatch as a running process beside real connections."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tracer.lab.network import Lab

ROOT = Path(__file__).resolve().parent.parent.parent
Json = dict[str, Any]

# Everything that a loaded machine may take to do something that is due at once.
PATIENCE_S = 60.0

_IMPORT_EVERYTHING = (
    "import importlib, os, pkgutil, tracer, tracer.lab.demo\n"
    "for each in pkgutil.walk_packages(tracer.__path__, 'tracer.'):\n"
    "    each.name.startswith('tracer.lab.') or importlib.import_module(each.name)\n"
)
AS_NOBODY = (sys.executable, "-c", f"{_IMPORT_EVERYTHING}os.setuid(65534); tracer.cli.main.main()")
"""`tcpwatch` as a user other than root. It drops root inside Python when everything is imported, because that user
may be unable to enter the directory of the tree or of the interpreter."""


_WALKING = "import tracer.kernel.walks as walks; walks.WALK_EVERY_S = {}; "
WITHOUT_KPROBES = "import tracer.kernel.probes as probes; probes.kprobes_available = lambda: False; "
"""A prelude: as on a kernel that has none."""
WITHOUT_ITERATOR = (
    "import tracer.kernel.live as live; from tracer.kernel.holders import ProcHolderFinder; "
    "live.holder_finder = lambda *_: ProcHolderFinder(); "
)
"""A prelude: as on a kernel that refuses the iterator over open files."""


class Watch:
    """`tcpwatch ARGUMENTS --json`, from its ready line to its summary.

    before: a command that runs it. walk_every_s: instead of the time that it takes between two walks. prelude: Python
    that is executed before it. command: the whole command, instead of tcpwatch from the tree.
    """

    def __init__(
        self,
        *arguments: str | Path,
        text: bool = False,
        before: Sequence[str] = (),
        walk_every_s: float | None = None,
        prelude: str = "",
        command: Sequence[str] = (),
    ) -> None:
        output = [] if text else ["--json"]
        if walk_every_s is not None:
            prelude += _WALKING.format(walk_every_s)
        program = ["-c", f"{prelude}from tracer.cli.main import main; main()"] if prelude else ["-m", "tracer"]
        self._process = subprocess.Popen(
            command or [*before, sys.executable, *program, *map(str, arguments), *output],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        self.lines: list[str] = []
        self.talk: list[str] = []
        self._changed = threading.Condition()
        self._readers = [
            threading.Thread(target=self._read, args=(self._process.stdout, self.lines), daemon=True),
            threading.Thread(target=self._read, args=(self._process.stderr, self.talk), daemon=True),
        ]
        for reader in self._readers:
            reader.start()
        self._wait(lambda: any("tracing" in line for line in self.talk), "tcpwatch is not ready")

    def _read(self, stream: Any, lines: list[str]) -> None:
        for line in stream:
            with self._changed:
                lines.append(line)
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def _wait(self, condition: Callable[[], bool], complaint: str, timeout_s: float = PATIENCE_S) -> None:
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not condition():
                left = deadline - time.monotonic()
                over = self._process.poll() is not None and not any(reader.is_alive() for reader in self._readers)
                if left <= 0 or over:
                    raise AssertionError(f"{complaint}\n{''.join(self.talk)}{''.join(self.lines)}")
                self._changed.wait(min(left, 0.5))

    @property
    def process_id(self) -> int:
        """Its own."""
        return self._process.pid

    @property
    def events(self) -> list[Json]:
        """Everything so far."""
        return [json.loads(line) for line in list(self.lines)]

    def of(self, **fields: Any) -> list[Json]:
        """The events so far that have these fields with these values."""
        return [each for each in self.events if all(each.get(name) == value for name, value in fields.items())]

    def wait_for(self, count: int = 1, timeout_s: float = PATIENCE_S, **fields: Any) -> list[Json]:
        """Wait until there are that many such events."""
        self._wait(lambda: len(self.of(**fields)) >= count, f"no {count} events with {fields}", timeout_s)
        return self.of(**fields)

    def stop(self, number: signal.Signals = signal.SIGINT) -> str:
        """End it, check that it ended well, and return what it said on stderr."""
        if self._process.poll() is None:
            self._process.send_signal(number)
        status = self._process.wait(PATIENCE_S)
        for reader in self._readers:
            reader.join(PATIENCE_S)
        talk = "".join(self.talk)
        assert status == 0, talk
        assert "Traceback" not in talk
        return talk

    def kill(self) -> None:
        """For a test that failed."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()


Start = Callable[..., Watch]


def both_ends(made: Lab) -> str:
    """What to give to --netns so that nothing but the lab is seen."""
    return f"{made.client.netns},{made.server.netns}"
