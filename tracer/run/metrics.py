"""The metrics of a live run: who counts, and the threads that write the file, answer scrapes and export."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import tracer
from tracer.kernel import host, privileges
from tracer.model.dataclass import dataclass
from tracer.model.errors import TcpwatchError
from tracer.model.packages import installing
from tracer.model.threads import can_start, cannot_start
from tracer.output.metrics.counting import MetricsSink
from tracer.output.metrics.services import Places, Silences
from tracer.output.metrics.snapshot import Snapshot
from tracer.output.sink import Sink

if TYPE_CHECKING:
    from tracer.output.metrics.textfile import Textfile
    from tracer.output.otlp.endpoint import Endpoint
    from tracer.run.otlp import Otlp

WRITE_EVERY_S = 5.0


@dataclass(frozen=True)
class WantedMetrics:
    """Where metrics go. file: for node_exporter. address: host and port. services: at most this many have series.

    otlp: the receiver of OpenTelemetry, which also gets log records.
    """

    file: Path | None
    address: tuple[str, int] | None
    services: int
    otlp: Endpoint | None = None


class Metrics:
    """The metrics of one run. The constructor binds and checks, so that a mistake is found before anything starts.

    Raises TcpwatchError. `start` once the capabilities are dropped, `end` after the last event, then `close`.
    """

    def __init__(
        self, wanted: WantedMetrics, say: Callable[[str], None], complain: Callable[[TcpwatchError], None]
    ) -> None:
        if wanted.file is not None or wanted.address is not None:
            _require_library()
        self.silences = Silences(Places(wanted.services))
        self.sink: MetricsSink | None = None
        self.error: TcpwatchError | None = None  # of the latest attempt to write the file
        self._say, self._complain = say, complain
        self._stack = ExitStack()
        self._file = _textfile(wanted.file) if wanted.file is not None else None
        self._otlp = self._exported(wanted.otlp, complain) if wanted.otlp is not None else None
        self._socket: socket.socket | None = None
        self._ends = threading.Event()
        self._writer: threading.Thread | None = None
        self._is_started = False  # to write the file
        self._rendered: tuple[Snapshot, bytes] | None = None
        if wanted.address is not None:
            from tracer.output.metrics import listener

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
            unexported=self._otlp.dropped if self._otlp is not None else None,
        )
        self._write_file()
        if self.error is not None:
            raise self.error
        return self.sink

    @property
    def sinks(self) -> Sequence[Sink]:
        """What gets the events that are shown and recorded, beside the sink that counts."""
        return [self._otlp.sink] if self._otlp is not None else []

    @property
    def capabilities(self) -> Sequence[str]:
        """What writing the file again needs: nothing, unless its directory belongs to another user."""
        if self._file is None or privileges.is_free(self._replace_file):
            return ()
        return privileges.TO_BEGIN_FILES

    def start(self) -> None:
        """Start the threads. Where one cannot be started, the run goes on without it."""
        for start in (self._start_writing, self._start_listening, self._start_exporting):
            try:
                start()
            except TcpwatchError as error:
                self._complain(error)

    def _start_writing(self) -> None:
        if self._file is None:
            return
        self._is_started = True
        writer = threading.Thread(target=self._write_files, name="metrics-file", daemon=True)
        if not can_start(writer):
            raise cannot_start(f"{self._file.path} is written only at the end")
        self._writer = writer

    def _start_listening(self) -> None:
        if self._socket is None:
            return
        from tracer.output.metrics.listener import Listener, url

        where = url(self._socket)
        self._stack.callback(Listener(self._socket, self._render, _without_capabilities).close)
        self._say(f"metrics at {where}")

    def _start_exporting(self) -> None:
        if self._otlp is not None:
            self._otlp.start(self._say)

    def end(self) -> None:
        """No event follows, and the values are final."""
        if self._otlp is not None:
            self._otlp.end()

    def summary(self) -> Sequence[str]:
        """Lines about what was exported. Waits a few seconds at most for the rest to be sent."""
        return [self._otlp.close()] if self._otlp is not None else []

    def close(self) -> None:
        """Write the file for the last time, and stop listening."""
        self._ends.set()
        if self._writer is not None:
            self._writer.join()
            self._writer = None
        if self._is_started:
            self._is_started = False
            self._write_file()
        if self._file is not None:
            self._file.close()
        self._stack.close()

    def _exported(self, endpoint: Endpoint, complain: Callable[[TcpwatchError], None]) -> Otlp:
        from tracer.run.otlp import Otlp

        return Otlp(endpoint, self._latest, complain, _without_capabilities)

    def _latest(self) -> Snapshot:
        assert self.sink is not None
        return self.sink.latest

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

        snapshot, rendered = self._latest(), self._rendered
        if rendered is None or rendered[0] is not snapshot:
            rendered = self._rendered = snapshot, exposition(snapshot)
        return rendered[1]


def _textfile(path: Path) -> Textfile:
    from tracer.output.metrics.textfile import Textfile

    return Textfile(path)


def _without_capabilities() -> None:
    """Drop every capability of this thread: it opens no file that needs one."""
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
