"""The two ends of a connection, started in their namespaces and spoken to from here."""

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
    """A child that is killed when it is closed, and at the latest when we end."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        """Of the process itself: nsenter becomes it."""
        return self._process.pid

    def kill(self) -> None:
        """As `kill -9`, with all that it started: it leads a session of its own."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        """It runs no further, as with ^Z or `kill -STOP`; its sockets stay, and the kernel goes on serving them."""
        os.kill(self._process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """End a `stop`."""
        os.kill(self._process.pid, signal.SIGCONT)

    def close(self) -> None:
        """End it. Closing again does nothing."""
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
    """A client that can be told to query: the embedded one, or MariaDB's."""

    connected: Answer

    def ask(self, command: str, timeout_s: float = 60) -> Answer:
        """Do it and wait for the answer."""

    def send(self, command: str) -> None:
        """Do it, without waiting."""

    def answered(self) -> bool:
        """Whether `answer` would return at once."""

    def answer(self, timeout_s: float = 60) -> Answer:
        """The answer to the oldest command that was sent."""


class Client(Process):
    """A client process that obeys commands and tells how they ended; see peer.py.

    connected: where it is connected, or with which errno connecting failed.
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
        """Do it and wait for the answer. TcpwatchError when there is none in time."""
        self.send(command)
        return self.answer(timeout_s)

    def send(self, command: str) -> None:
        """Do it, without waiting."""
        assert self._process.stdin is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()

    def answered(self) -> bool:
        """Whether `answer` would return at once."""
        return not self._answers.empty()

    def answer(self, timeout_s: float = 60) -> Answer:
        """The answer to the oldest command that was sent, or where it connected."""
        try:
            answer = self._answers.get(timeout=timeout_s)
        except queue.Empty:
            raise TcpwatchError(f"the client did not answer within {timeout_s:g} s") from None
        if answer is None:
            raise _failed(self, "the client ended")
        return answer


def embedded_client(namespace: Namespace, host: str, port: int, *options: str, wait: bool = True) -> Client:
    """The client of peer.py with its options. wait=False: return while it is still connecting."""
    argv: list[str | Path] = [sys.executable, _PEER, "client", host, str(port), "--comm", "worker", *options]
    return Client(namespace, argv, connect_timeout_s=60 if wait else None)


def _failed(process: Process, what: str) -> TcpwatchError:
    process._process.kill()
    _, said = process._process.communicate()
    return TcpwatchError(f"{what}: {(said or '').strip() or 'it said nothing'}")
