"""The listener that Prometheus scrapes: GET /metrics over HTTP/1.1, and nothing else.

It has a thread of its own. Every connection has one deadline for request and answer together, there are never more
than MAX_CONNECTIONS, and no more than one is accepted every PAUSE_S. A client that is slow, or that opens many
connections, loses its own; it delays neither another client for long nor the events.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from tracer.model.errors import TcpwatchError
from tracer.model.threads import can_start, cannot_start
from tracer.output.metrics.exposition import CONTENT_TYPE

PATH = "/metrics"
MAX_CONNECTIONS = 16
"""Where one more comes, the oldest is closed."""
MAX_REQUEST = 8192
"""Bytes of a request line with its headers."""
MAX_DISCARDED = 1 << 20
"""Bytes of a body that nobody reads. They are discarded, so that the client gets the answer before it is cut."""
DEADLINE_S = 5.0
PAUSE_S = 0.01
BACKLOG = 16


class Address(NamedTuple):
    """Where to listen. host: an IPv4 or IPv6 address. port: 0 lets the kernel choose one."""

    host: str
    port: int


def bind(address: Address) -> socket.socket:
    """A socket that listens there. Raises TcpwatchError."""
    try:
        # The address with the number of its zone, which `fe80::1%eth0` names.
        family, _, _, _, full = socket.getaddrinfo(*address, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)[0]
        listening = socket.create_server(
            full,
            family=family,
            backlog=BACKLOG,
            dualstack_ipv6=address.host == "::" and socket.has_dualstack_ipv6(),
        )
    except OSError as error:
        raise _cannot_listen(address, error) from error
    listening.setblocking(False)
    return listening


def url(listening: socket.socket) -> str:
    """`http://127.0.0.1:9718/metrics`."""
    # With the zone of a link-local address, which getsockname() has as a number.
    host, port = socket.getnameinfo(listening.getsockname(), socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)
    return f"http://{f'[{host}]' if ':' in host else host}:{port}{PATH}"


def _cannot_listen(address: Address, error: OSError) -> TcpwatchError:
    where = f"[{address.host}]:{address.port}" if ":" in address.host else f"{address.host}:{address.port}"
    if error.errno == errno.EADDRINUSE:
        return TcpwatchError(
            f"cannot listen on {where}: another program uses this port",
            hint=f"sudo ss -ltnp 'sport = :{address.port}'; or another port for --metrics-listen",
        )
    if error.errno in (errno.EADDRNOTAVAIL, socket.EAI_NONAME):
        return TcpwatchError(f"cannot listen on {where}: this host lacks the address", hint="ip -brief address")
    if error.errno == errno.EAFNOSUPPORT:
        return TcpwatchError(
            f"cannot listen on {where}: this process may not open such a socket",
            hint="in the systemd unit, use --metrics FILE.prom instead",
        )
    # Not strerror, to which create_server() adds the address as a tuple.
    return TcpwatchError(
        f"cannot listen on {where}: {os.strerror(error.errno or 0)}", hint="--metrics-listen 127.0.0.1:9718"
    )


class Listener:
    """Answers scrapes until `close`, in a thread of its own.

    render: makes the text of the metrics; called in that thread. prepare: called first in that thread. Raises
    TcpwatchError, and closes the socket, where the thread cannot be started.
    """

    def __init__(self, listening: socket.socket, render: Callable[[], bytes], prepare: Callable[[], None]) -> None:
        self._listening = listening
        self._render = render
        self._prepare = prepare
        self._loop = asyncio.new_event_loop()
        # A client that goes away, or a process out of descriptors: the scrape fails, and nothing else.
        self._loop.set_exception_handler(lambda _loop, _context: None)
        self._open: OrderedDict[asyncio.Task[None], socket.socket] = OrderedDict()  # the oldest first
        self._thread = threading.Thread(target=self._run, name="metrics-listener", daemon=True)
        if not can_start(self._thread):
            where = url(listening)
            self._loop.close()
            listening.close()
            raise cannot_start(f"nothing answers at {where}")

    def close(self) -> None:
        """Close every connection, and stop listening."""
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._accepting_ends)
        self._thread.join()
        self._listening.close()

    def _accepting_ends(self) -> None:
        for task in asyncio.all_tasks(self._loop):
            task.cancel()

    def _run(self) -> None:
        self._prepare()
        with suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._accept())
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
            with suppress(asyncio.CancelledError):
                self._loop.run_until_complete(task)
        self._loop.close()

    async def _accept(self) -> None:
        while True:
            with suppress(OSError):  # the client is gone already, or there is no descriptor left
                connection, _ = await self._loop.sock_accept(self._listening)
                task = self._loop.create_task(self._serve(connection))
                self._open[task] = connection
                task.add_done_callback(lambda done: self._open.pop(done, None))
                if len(self._open) > MAX_CONNECTIONS:
                    self._open.popitem(last=False)[0].cancel()
            await asyncio.sleep(PAUSE_S)

    async def _serve(self, connection: socket.socket) -> None:
        with connection:
            reader, writer = await asyncio.open_connection(sock=connection, limit=MAX_REQUEST)
            try:
                await asyncio.wait_for(self._answer(reader, writer), DEADLINE_S)
            except (OSError, EOFError, asyncio.TimeoutError):
                pass
            finally:
                writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            response = _response("431 Request Header Fields Too Large", b"the request is too long\n")
        else:
            response = self._response_to(request)
            if request.startswith(b"HEAD "):  # its answer has no body (RFC 9110, 9.3.2)
                response = response.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
        writer.write(response)
        await writer.drain()
        writer.write_eof()
        discarded = 0
        while discarded < MAX_DISCARDED and (data := await reader.read(MAX_REQUEST)):
            discarded += len(data)

    def _response_to(self, request: bytes) -> bytes:
        words = request.partition(b"\r\n")[0].decode("latin-1").split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return _response("400 Bad Request", b"not a request of HTTP/1.1\n")
        method, target, _ = words
        if method != "GET":
            return _response("405 Method Not Allowed", b"only GET is allowed\n", "Allow: GET\r\n")
        if target.partition("?")[0] != PATH:
            return _response("404 Not Found", f"the metrics are at {PATH}\n".encode())
        return _response("200 OK", self._render(), content_type=CONTENT_TYPE)


def _response(status: str, body: bytes, headers: str = "", content_type: str = "text/plain; charset=utf-8") -> bytes:
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
        f"{headers}Connection: close\r\n\r\n"
    ).encode() + body
