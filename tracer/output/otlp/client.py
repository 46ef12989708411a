"""Posts requests to an OTLP/HTTP receiver over one connection, which stays open between them.

It asks no proxy, whatever the environment names, and follows no redirect: headers may hold secrets, and go to the
receiver that was named and nowhere else.
"""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email.utils import parsedate_to_datetime
from enum import Enum, auto
from typing import Any, NamedTuple

from tracer import __version__
from tracer.output.otlp.endpoint import Endpoint

MAX_ANSWER = 1 << 16
"""Bytes of an answer that are read."""
MAX_DETAIL = 200
"""Characters of what a receiver answers that are shown."""
_RETRYABLE = frozenset({429, 502, 503, 504})
"""Retryable response codes of the OTLP specification. All others are final."""


class Result(Enum):
    """What became of a request."""

    ACCEPTED = auto()
    UNREACHABLE = auto()
    """There was no answer. It may succeed later."""
    BUSY = auto()
    """The receiver asks to try again later."""
    REFUSED = auto()
    """The same request would be refused again."""


class Answer(NamedTuple):
    """The answer to a request.

    detail: why it was not accepted, or what the receiver remarks. rejected: records or points of an accepted request
    that were rejected. retry_after_s: when to try again, if the receiver named it. status: of HTTP, if there was one.
    """

    result: Result
    detail: str = ""
    rejected: int = 0
    retry_after_s: float | None = None
    status: int | None = None


class Client:
    """One receiver. For one thread. No method raises an error of the network or of the receiver."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._tls = ssl.create_default_context() if endpoint.is_tls else None
        self._connection: http.client.HTTPConnection | None = None

    def post(self, signal: str, message: Any, timeout_s: float) -> Answer:
        """Post a message as JSON to the URL of the signal. timeout_s: for the exchange as a whole."""
        body = gzip.compress(json.dumps(message, separators=(",", ":"), allow_nan=False).encode("ascii"), 6, mtime=0)
        deadline_s = time.monotonic() + timeout_s
        is_kept = self._connection is not None
        try:
            return self._exchange(signal, body, deadline_s)
        except (http.client.RemoteDisconnected, ConnectionError) as error:
            self.close()
            if not is_kept:
                return _unreachable(error)
        except http.client.HTTPException as error:
            self.close()
            if _is_truncated(error):
                return Answer(Result.UNREACHABLE, "it closes the connection in the middle of an answer")
            return Answer(Result.REFUSED, f"it does not speak HTTP ({type(error).__name__})")
        except (OSError, ValueError, RuntimeError) as error:  # a name that cannot be, a thread that cannot start
            self.close()
            return _unreachable(error)
        # The receiver has closed the connection since the last request.
        return self.post(signal, message, max(0.0, deadline_s - time.monotonic()))

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _exchange(self, signal: str, body: bytes, deadline_s: float) -> Answer:
        is_new = self._connection is None
        connection = self._connection = self._connection or self._connect(deadline_s)
        with _until(connection, deadline_s):
            if is_new and isinstance(connection.sock, ssl.SSLSocket):
                connection.sock.do_handshake()
            connection.request("POST", self._endpoint.path + signal, body, self._headers())
            response = connection.getresponse()
            content = _content(response)
        if response.will_close or not response.isclosed():
            self.close()
        return _answer(response, content)

    def _connect(self, deadline_s: float) -> http.client.HTTPConnection:
        """A connection without an own TLS handshake, so that a deadline holds for that, too."""
        host, port = self._endpoint.host, self._endpoint.port
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            raise socket.timeout("timed out")
        connection = http.client.HTTPConnection(host, port)
        connection.auto_open = 0  # it would connect without TLS
        connection.default_port = 443 if self._endpoint.is_tls else 80  # of the Host header
        connected = socket.create_connection((host, port), left_s)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # What is closed while the receiver is silent does not go on retransmitting for a quarter of an hour.
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, int(left_s * 1000)))
        if self._tls is not None:
            connected = self._tls.wrap_socket(connected, server_hostname=host, do_handshake_on_connect=False)
        connection.sock = connected
        return connection

    def _headers(self) -> dict[str, str]:
        return {
            "user-agent": f"tcpwatch/{__version__}",
            "accept": "application/json",
            **self._endpoint.headers,
            "content-type": "application/json",
            "content-encoding": "gzip",
        }


def _content(response: http.client.HTTPResponse) -> bytes:
    """The body, up to MAX_ANSWER bytes. Empty if it is truncated: the status is what counts."""
    try:
        content = response.read(MAX_ANSWER)
    except (OSError, http.client.HTTPException):
        return b""
    return content if not response.length or len(content) == MAX_ANSWER else b""


@contextmanager
def _until(connection: http.client.HTTPConnection, deadline_s: float) -> Iterator[None]:
    """Shut the socket down at the deadline: a receiver may send a byte now and then for ever.

    Raises socket.timeout if that came first.
    """
    connected, is_late = connection.sock, threading.Event()

    def end() -> None:
        is_late.set()
        with suppress(OSError):
            socket.socket.shutdown(connected, socket.SHUT_RDWR)  # below TLS, which another thread uses

    timer = threading.Timer(max(0.0, deadline_s - time.monotonic()), end)
    timer.daemon = True
    timer.start()
    try:
        yield
    except (OSError, http.client.HTTPException):
        if is_late.is_set():
            raise socket.timeout("timed out") from None
        raise
    finally:
        timer.cancel()


def _answer(response: http.client.HTTPResponse, content: bytes) -> Answer:
    status = response.status
    if 200 <= status < 300:
        return _accepted(response, content)
    detail = f"{status} {response.reason}".strip() + _message(content)
    if status in _RETRYABLE:
        return Answer(Result.BUSY, detail, retry_after_s=_retry_after_s(response), status=status)
    return Answer(Result.REFUSED, detail, status=status)


def _accepted(response: http.client.HTTPResponse, content: bytes) -> Answer:
    """The answer is an Export…ServiceResponse. Some receivers leave it empty, or answer in Protocol Buffers."""
    status = response.status
    if not content.strip() or response.headers.get_content_type() == "application/x-protobuf":
        return Answer(Result.ACCEPTED, status=status)
    message = _json_object(content)
    if message is None:
        return Answer(Result.REFUSED, f"{status}, but what it answers is not OTLP", status=status)
    partial = message.get("partialSuccess")
    partial = partial if isinstance(partial, dict) else {}
    rejected = [_count(partial.get(name)) for name in ("rejectedLogRecords", "rejectedDataPoints")]
    remark = partial.get("errorMessage")
    return Answer(
        Result.ACCEPTED, remark[:MAX_DETAIL] if isinstance(remark, str) else "", max(rejected), status=status
    )


def _message(content: bytes) -> str:
    """`: too many requests`, the message of a google.rpc.Status; empty without one."""
    message = (_json_object(content) or {}).get("message")
    return f": {message[:MAX_DETAIL]}" if isinstance(message, str) and message else ""


def _json_object(content: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _count(value: object) -> int:
    """A 64-bit integer, which JSON may have as a text. 0 for anything else."""
    try:
        return max(0, int(value)) if isinstance(value, (int, str)) else 0
    except ValueError:
        return 0


def _retry_after_s(response: http.client.HTTPResponse) -> float | None:
    """The seconds of Retry-After, which has a number or a date (RFC 9110, 10.2.3). None without a valid one."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdecimal():
        return float(text[:9])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError, IndexError, OverflowError):
        return None


def _is_truncated(error: http.client.HTTPException) -> bool:
    """Whether the connection ended within the status line. Of what follows that, nothing is needed."""
    line = str(error.args[0]) if isinstance(error, http.client.BadStatusLine) else "\n"
    return not line.endswith("\n") and line[:5] == "HTTP/"[: len(line)]


def _unreachable(error: Exception) -> Answer:
    """The reason in the words of the system."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return Answer(Result.UNREACHABLE, f"its certificate is not valid: {error.verify_message}")
    if isinstance(error, (socket.timeout, TimeoutError)):
        return Answer(Result.UNREACHABLE, "it does not answer in time")
    if isinstance(error, (http.client.RemoteDisconnected, ConnectionResetError)):
        return Answer(Result.UNREACHABLE, "it closes the connection without an answer")
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return Answer(Result.UNREACHABLE, text)
