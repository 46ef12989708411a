"""Send what a command did to each tcpwatch that traces on this host. The command waits for them only at its end."""

from __future__ import annotations

import json
import os
import pwd
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from tracer.kernel.action_sockets import DIRECTORY, Outbox
from tracer.model.errors import TcpwatchError
from tracer.model.threads import can_start, cannot_start

PATIENCE_S = 1.0
"""How long a tracer may take no message. After that it gets no more."""
_PAUSE_S = 0.002
_UNSENT = frozenset({"would-end", "would-change", "unchanged"})
"""Results where nothing was done."""


class Announcer:
    """Sends what was done, in a thread of its own. A context manager, which waits for 2 × PATIENCE_S at most.

    complain: called where the thread cannot be started; then nothing is sent.
    """

    def __init__(
        self, directory: Path = DIRECTORY, complain: Callable[[TcpwatchError], None] = lambda _: None
    ) -> None:
        self._outbox = Outbox(directory)
        self._queue: SimpleQueue[bytes | None] = SimpleQueue()
        self._skipped: set[Path] = set()
        self._user = _user()
        self._thread = threading.Thread(target=self._run, name="announcing", daemon=True)
        self._is_sending = can_start(self._thread)
        if not self._is_sending:
            self._outbox.close()
            complain(cannot_start("no tcpwatch that traces gets to know what this command does"))

    def __enter__(self) -> Announcer:
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_sending:
            self._queue.put(None)
            self._thread.join(2 * PATIENCE_S)

    def add(self, line: str) -> None:
        """Send the object of a line of `--json`, if anything was done."""
        record: dict[str, Any] = json.loads(line)
        if record.get("result") not in _UNSENT:
            self._queue.put(json.dumps({**record, "by_user": self._user}).encode())

    def _run(self) -> None:
        with suppress(OSError):
            while (data := self._queue.get()) is not None:
                for tracer in self._outbox.tracers():
                    if tracer not in self._skipped:
                        self._send(data, tracer)
        self._outbox.close()

    def _send(self, data: bytes, tracer: Path) -> None:
        until_s = time.monotonic() + PATIENCE_S
        while not self._outbox.send(data, tracer):
            if time.monotonic() > until_s:
                self._skipped.add(tracer)
                return
            time.sleep(_PAUSE_S)


def _user() -> str:
    """The user who runs the command: with sudo, the one who called it. A number where it has no name."""
    number = os.environ.get("SUDO_UID", "")
    uid = int(number) if number.isascii() and number.isdecimal() and len(number) <= 10 else os.getuid()
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return str(uid)
