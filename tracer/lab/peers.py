"""The two ends of a connection as processes in namespaces, and the commands to them."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from tracer.lab.namespace import Namespace
from tracer.model.errors import TcpwatchError

_PEER = Path(__file__).with_name("peer.py")
Answer = dict[str, Any]


class Process:
    """A child process that `close` kills."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        """The process id of the command itself: nsenter executes it in its own place."""
        return self._process.pid

    def kill(self) -> None:
        """Kill it with SIGKILL, and its children: it leads a process group."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        """Suspend it (SIGSTOP). The kernel goes on serving its sockets."""
        os.kill(self._process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """Resume it after `stop`."""
        os.kill(self._process.pid, signal.SIGCONT)

    def close(self) -> None:
        """Kill it if it runs. Closing again does nothing."""
        if self._process.poll() is None:
            self.kill()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Server(Process):
    """An embedded server that answers lines; see peer.py for its options."""

    def __init__(self, namespace: Namespace, host: str, port: int, *options: str) -> None:
        super().__init__(
            namespace.popen(
                [sys.executable, _PEER, "server", host, str(port), "--comm", "server", *options],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "listening\n":
            raise _failed(self, "the embedded server did not start")

    def __enter__(self) -> Server:
        return self


class Talker(Protocol):
    """A client that obeys commands: the embedded one, or MariaDB's."""

    connected: Answer

    def ask(self, command: str, timeout_s: float = 60) -> Answer:
        """Send a command and wait for the answer."""

    def send(self, command: str) -> None:
        """Send a command without waiting."""

    def answered(self) -> bool:
        """Whether `answer` would return at once."""

    def answer(self, timeout_s: float = 60) -> Answer:
        """The answer to the oldest command without one."""


class Client(Process):
    """A client process that obeys commands and prints their results; see peer.py.

    connected: its process id and both addresses, or the errno of the failed connect.
    """

    def __init__(
        self, namespace: Namespace, argv: Sequence[str | Path], *, connect_timeout_s: float | None = 60
    ) -> None:
        super().__init__(namespace.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        self._answers: queue.SimpleQueue[Answer | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()
        self.connected: Answer = {}
        if connect_timeout_s is not None:
            self.connected = self.answer(connect_timeout_s)

    def __enter__(self) -> Client:
        return self

    def _read(self) -> None:
        assert self._process.stdout is not None
        with suppress(ValueError):  # closed while we read
            for line in self._process.stdout:
                self._answers.put(json.loads(line))
        self._answers.put(None)

    def ask(self, command: str, timeout_s: float = 60) -> Answer:
        """Send a command and wait for the answer. Raises TcpwatchError if none comes in time."""
        self.send(command)
        return self.answer(timeout_s)

    def send(self, command: str) -> None:
        """Send a command without waiting."""
        assert self._process.stdin is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()

    def answered(self) -> bool:
        """Whether `answer` would return at once."""
        return not self._answers.empty()

    def answer(self, timeout_s: float = 60) -> Answer:
        """The answer to the oldest command without one, or the result of connecting."""
        try:
            answer = self._answers.get(timeout=timeout_s)
        except queue.Empty:
            raise TcpwatchError(f"the client did not answer within {timeout_s:g} s") from None
        if answer is None:
            raise _failed(self, "the client ended")
        return answer


def embedded_client(namespace: Namespace, host: str, port: int, *options: str, wait: bool = True) -> Client:
    """Start the client of peer.py with these options. wait=False: return while it is connecting."""
    argv: list[str | Path] = [sys.executable, _PEER, "client", host, str(port), "--comm", "worker", *options]
    return Client(namespace, argv, connect_timeout_s=60 if wait else None)


def _failed(process: Process, what: str) -> TcpwatchError:
    process._process.kill()
    _, errors = process._process.communicate()
    return TcpwatchError(f"{what}: {(errors or '').strip() or 'no error message'}")
