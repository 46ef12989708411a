"""A receiver of OTLP/HTTP that does what a test wants: an HTTP server on the loopback device."""

from __future__ import annotations

import gzip
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

Json = dict[str, Any]
Behaviour = Callable[[socket.socket], bool]
"""Answers a request. Returns whether the connection stays open."""
PATIENCE_S = 30.0


class Request(NamedTuple):
    path: str
    headers: dict[str, str]
    body: bytes  # uncompressed

    @property
    def message(self) -> Any:
        return json.loads(self.body)


def answer(status: str = "200 OK", body: bytes = b"{}", *headers: str, kind: str = "application/json") -> Behaviour:
    """A complete answer, after which the connection stays open."""
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {len(body)}", *headers]

    def send(connection: socket.socket) -> bool:
        connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        return True

    return send


def raw(data: bytes) -> Behaviour:
    """These bytes, and then the connection is closed."""

    def send(connection: socket.socket) -> bool:
        connection.sendall(data)
        return False

    return send


def silence(connection: socket.socket) -> bool:
    """Nothing at all, until the client closes the connection."""
    with suppress(OSError):
        connection.settimeout(PATIENCE_S)
        connection.recv(1)
    return False


def drip(connection: socket.socket) -> bool:
    """A first line that never ends, byte by byte."""
    with suppress(OSError):
        connection.sendall(b"HTTP/1.1 20")
        while True:
            connection.sendall(b"0")
            time.sleep(0.02)
    return False


OK = answer()


class Receiver:
    """Answers the first requests as the script has it, and the others with `then`."""

    def __init__(
        self,
        *script: Behaviour,
        then: Behaviour = OK,
        listening: socket.socket | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.requests: list[Request] = []
        self.connections = 0
        self._script, self._then, self._tls = list(script), then, tls
        self._open: list[socket.socket] = []
        self._listening = listening or socket.create_server(("127.0.0.1", 0))
        host, self.port = self._listening.getsockname()
        self.url = f"{'https' if tls else 'http'}://{host}:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Receiver:
        return self

    def __exit__(self, *_: object) -> None:
        for each in (self._listening, *self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def of(self, path: str) -> list[Request]:
        return [each for each in list(self.requests) if each.path == path]

    def records(self) -> list[Json]:
        """All log records of the requests so far, those that were refused, too."""
        return [record for each in self.of("/v1/logs") for record in records_of(each.message)]

    def wait_for(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, self.requests
            time.sleep(0.005)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                self.connections += 1
                self._open.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError), connection:
            served = self._tls.wrap_socket(connection, server_side=True) if self._tls else connection
            with served, served.makefile("rb") as stream:
                while (request := _read(stream)) is not None:
                    behaviour = self._script.pop(0) if self._script else self._then
                    self.requests.append(request)
                    if not behaviour(served):
                        return


def _read(stream: Any) -> Request | None:
    first = stream.readline().split()
    if not first:
        return None
    headers = {}
    while (line := stream.readline().strip()) != b"":
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.lower()] = value.strip()
    if "content-length" not in headers:  # a handshake of TLS, not HTTP
        return None
    body = stream.read(int(headers["content-length"]))
    assert first[0] == b"POST" and headers["content-encoding"] == "gzip", first
    return Request(first[1].decode(), headers, gzip.decompress(body))


def records_of(message: Json) -> Iterator[Json]:
    """The log records of an ExportLogsServiceRequest."""
    for each in message["resourceLogs"]:
        for scope in each["scopeLogs"]:
            yield from scope["logRecords"]


def metrics_of(message: Json) -> Iterator[Json]:
    """The metrics of an ExportMetricsServiceRequest."""
    for each in message["resourceMetrics"]:
        for scope in each["scopeMetrics"]:
            yield from scope["metrics"]


def plain(value: Json) -> Any:
    """The value of an AnyValue."""
    [(kind, content)] = value.items()
    if kind == "arrayValue":
        return [plain(each) for each in content["values"]]
    if kind == "kvlistValue":
        return attributes_of(content["values"])
    return int(content) if kind == "intValue" else content


def attributes_of(listed: list[Json]) -> Json:
    """Attributes by their keys."""
    return {each["key"]: plain(each["value"]) for each in listed}


def series_of_metrics(message: Json) -> dict[str, dict[tuple[str, ...], float]]:
    """The values as metrics_comparison.series_of has those of Prometheus's text."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for metric in metrics_of(message):
        [kind] = {"sum", "gauge", "histogram"} & set(metric)
        for point in metric[kind]["dataPoints"]:
            named = attributes_of(point["attributes"])
            for name, labels, value in _samples(metric["name"], named, point):
                key = tuple(text for _, text in sorted(labels.items()))
                found.setdefault(name, {})[key] = value
    return found


def _samples(name: str, labels: Json, point: Json) -> Iterator[tuple[str, Json, float]]:
    if "bucketCounts" not in point:
        yield name, labels, float(point["asInt"] if "asInt" in point else point["asDouble"])
        return
    total = 0
    for bound, count in zip([*map(str, point["explicitBounds"]), "+Inf"], point["bucketCounts"]):
        total += int(count)
        yield f"{name}_bucket", {**labels, "le": bound}, float(total)
    yield f"{name}_count", labels, float(point["count"])
    yield f"{name}_sum", labels, float(point["sum"])
