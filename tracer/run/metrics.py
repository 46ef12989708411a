"""The metrics of a live run: who counts, and the threads that write the file and answer scrapes."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import tracer
from tracer.kernel import host, privileges
from tracer.model.dataclass import dataclass
from tracer.model.errors import TcpwatchError
from tracer.model.packages import installing
from tracer.output.metrics.counting import MetricsSink
from tracer.output.metrics.services import Places, Silences
from tracer.output.metrics.snapshot import Snapshot

WRITE_EVERY_S = 5.0


@dataclass(frozen=True)
class WantedMetrics:
    """Where metrics go. file: for node_exporter. address: host and port. services: at most this many have series."""

    file: Path | None
    address: tuple[str, int] | None
    services: int


class Metrics:
    """The metrics of one run. The constructor binds and checks, so that a mistake is found before anything starts.

    Raises TcpwatchError. `start` once the capabilities are dropped, then `close`.
    """

    def __init__(self, wanted: WantedMetrics, say: Callable[[str], None]) -> None:
        _require_library()
        from tracer.output.metrics import listener, textfile

        self.silences = Silences(Places(wanted.services))
        self.sink: MetricsSink | None = None
        self.error: TcpwatchError | None = None  # of the latest attempt to write the file
        self._say = say
        self._stack = ExitStack()
        self._file = textfile.Textfile(wanted.file) if wanted.file is not None else None
        self._socket: socket.socket | None = None
        self._ends = threading.Event()
        self._writer: threading.Thread | None = None
        self._rendered: tuple[Snapshot, bytes] | None = None
        if wanted.address is not None:
            self._socket = self._stack.enter_context(listener.bind(listener.Address(*wanted.address)))

    def __enter__(self) -> Metrics:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def count(self, *, hooks: Mapping[str, bool], min_idle_ms: int, sees_resumes: bool) -> MetricsSink:
        """The sink that counts. Raises TcpwatchError if the file cannot be written."""
        self.sink = MetricsSink(
            self.silences,
            min_idle_ms=min_idle_ms,
            hooks=hooks,
            version=tracer.__version__,
            kernel=host.kernel_release(),
            sees_resumes=sees_resumes,
        )
        self._write_file()
        if self.error is not None:
            raise self.error
        return self.sink

    @property
    def capabilities(self) -> Sequence[str]:
        """What writing the file again needs: nothing, unless its directory belongs to another user."""
        if self._file is None or privileges.is_free(self._replace_file):
            return ()
        return privileges.TO_BEGIN_FILES

    def start(self) -> None:
        """Start the threads."""
        if self._file is not None:
            self._writer = threading.Thread(target=self._write_files, name="metrics-file", daemon=True)
            self._writer.start()
        if self._socket is not None:
            from tracer.output.metrics.listener import Listener, url

            self._say(f"metrics at {url(self._socket)}")
            self._stack.callback(Listener(self._socket, self._render, _without_capabilities).close)

    def close(self) -> None:
        """Write the file for the last time, and stop listening."""
        self._ends.set()
        if self._writer is not None:
            self._writer.join()
            self._writer = None
            self._write_file()
        if self._file is not None:
            self._file.close()
        self._stack.close()

    def _write_files(self) -> None:
        while not self._ends.wait(WRITE_EVERY_S):
            self._write_file()

    def _write_file(self) -> None:
        if self._file is None:
            return
        from tracer.output.metrics.textfile import cannot_write

        before, self.error = self.error, None
        try:
            self._replace_file()
        except OSError as error:
            self.error = cannot_write(self._file.path, error)
            if self._writer is not None and before is None:
                self._say(f"{self.error}; trying again every {WRITE_EVERY_S:.0f}s")

    def _replace_file(self) -> None:
        assert self._file is not None
        self._file.write(self._render())

    def _render(self) -> bytes:
        """The text of the newest snapshot, made once."""
        from tracer.output.metrics.exposition import exposition

        assert self.sink is not None
        snapshot, rendered = self.sink.latest, self._rendered
        if rendered is None or rendered[0] is not snapshot:
            rendered = self._rendered = snapshot, exposition(snapshot)
        return rendered[1]


def _without_capabilities() -> None:
    """Drop every capability of this thread: it opens nothing."""
    with suppress(OSError):  # forbidden in some sandboxes
        privileges.keep_only(())


def _require_library() -> None:
    try:
        import prometheus_client  # noqa: F401
    except ImportError:
        raise TcpwatchError(
            "metrics need the Python package prometheus_client",
            hint=installing("python3-prometheus-client"),
        ) from None
