"""A sink that records to standard output, a FIFO, a terminal or a device, where the reader may be slow or go away."""

from __future__ import annotations

import os
import select
import socket
import stat
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from tracer.model.errors import TcpwatchError, as_argument
from tracer.model.events import Event
from tracer.recordings.compression import compressor_for, is_compressed
from tracer.recordings.encoding import to_line
from tracer.recordings.file import COMPRESSED_FLUSH_S
from tracer.recordings.header import Header
from tracer.recordings.missing import Missing
from tracer.recordings.targets import STANDARD_OUTPUT

MAX_WAITING = 8 << 20
"""Bytes that wait for the reader, approximately."""
CLOSE_S = 5.0
"""Seconds that the end of the run waits for the reader."""


class StreamWriter:
    """Writes a recording without waiting for the reader, except in `close`.

    Events that find no room are counted. A `lost` event with the count precedes the next event that finds room. fd:
    open and non-blocking; this object closes it. gone: called when the reader has closed its end. Raises
    TcpwatchError for any other failure, and in `close` if the reader did not take everything within CLOSE_S.
    """

    def __init__(
        self,
        path: Path,
        fd: int,
        header: Header,
        *,
        say: Callable[[str], None],
        gone: Callable[[], None],
    ) -> None:
        self.path = path
        self._fd = fd
        self._say = say
        self._gone = gone
        mode = os.fstat(fd).st_mode
        self._has_reader_end = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
        self._write = writer_of(fd)
        self._compressor = compressor_for(path)
        self._is_compressed = is_compressed(path)
        self._flushed = time.monotonic()
        self._waiting: deque[tuple[bytes, int]] = deque()  # pieces, and the number of events that end with each
        self._size = 0  # bytes in these
        self._inside = 0  # events in the compressor
        self._missing = Missing()
        self._is_closed = self._is_gone = False
        self._put(header.to_line(), 0)
        self._put_flushed()
        self._drain()

    def opened(self, header: Header) -> None:
        """Each file has a header of its own."""

    def write(self, events: Sequence[Event]) -> None:
        """Take events, or count those that find no room."""
        if self._is_gone or not events:
            return
        if self._size >= (MAX_WAITING // 2 if self._missing.count else MAX_WAITING):
            self._missing.add(events[-1], len(events))
            return
        self._put_missing()
        for count, text in _pieces([to_line(event) for event in events]):
            self._put(text, count)

    def flush(self, until_ns: int = 0) -> None:
        """Write as much as the reader takes now."""
        if self._is_gone:
            return
        now = time.monotonic()
        if self._is_compressed and now - self._flushed >= COMPRESSED_FLUSH_S:
            self._flushed = now
            self._put_flushed()
        self._drain()

    def close(self) -> None:
        """Wait for the reader up to CLOSE_S, and close. Closing again does nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            self._finish()
        finally:
            os.close(self._fd)

    def _finish(self) -> None:
        if self._is_gone:
            return
        self._put_missing()
        self._put_flushed()
        self._append(self._compressor.end(), 0)
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        until = time.monotonic() + CLOSE_S
        self._drain()
        while self._waiting and (left := until - time.monotonic()) > 0:
            poll.poll(left * 1000)
            self._drain()
        if self._waiting:
            count = sum(events for _, events in self._waiting)
            raise TcpwatchError(
                f"the reader of {self.path} did not take the last {count:,} events within {CLOSE_S:.0f}s",
                hint=f"record to a file and read that: tail -n +1 -F {as_argument(self.path)}.tw",
            )

    def _put_missing(self) -> None:
        if self._missing.count:
            self._put(to_line(self._missing.event()), self._missing.count)
            self._missing = Missing()

    def _put(self, text: str, events: int) -> None:
        self._inside += events
        if data := self._compressor.compress(text.encode()):
            self._append(data, self._inside)
            self._inside = 0

    def _put_flushed(self) -> None:
        self._append(self._compressor.flush(), self._inside)
        self._inside = 0

    def _append(self, data: bytes, events: int) -> None:
        if data:
            self._waiting.append((data, events))
            self._size += len(data)

    def _drain(self) -> None:
        if self._has_reader_end and _has_no_reader(self._fd):
            self._lose_reader()
        while self._waiting:
            data, events = self._waiting[0]
            try:
                written = self._write(data)
            except BlockingIOError:
                return
            except (BrokenPipeError, ConnectionResetError):
                self._lose_reader()
                return
            except OSError as error:
                self._is_gone = True
                raise TcpwatchError(
                    f"cannot write {self.path}: {error.strerror}",
                    hint=f"df -h {as_argument(self.path.parent)}" if self.path != STANDARD_OUTPUT else "df -h",
                ) from error
            self._size -= written
            if written < len(data):
                self._waiting[0] = data[written:], events
            else:
                self._waiting.popleft()

    def _lose_reader(self) -> None:
        self._is_gone = True
        self._waiting.clear()
        if self.path != STANDARD_OUTPUT:  # as with any command before `| head`
            self._say(f"the reader of {self.path} closed it: the recording ends here")
        self._gone()


def writer_of(fd: int) -> Callable[[bytes], int]:
    """Writes a part of the data, and raises BlockingIOError if there is no room.

    A socket may be shared with other programs, as the standard output of a command of ssh is, so it stays blocking.
    """
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        return lambda data: os.write(fd, data)
    connection = socket.socket(fileno=os.dup(fd))
    return lambda data: connection.send(data, socket.MSG_DONTWAIT)


def _pieces(lines: list[str]) -> list[tuple[int, str]]:
    """Join lines to pieces of PIPE_BUF, which a pipe takes as a whole or not at all (pipe(7)), with their number."""
    pieces: list[tuple[int, str]] = []
    begin = size = 0
    for number, line in enumerate(lines):
        if size and size + len(line) > select.PIPE_BUF:
            pieces.append((number - begin, "".join(lines[begin:number])))
            begin, size = number, 0
        size += len(line)
    pieces.append((len(lines) - begin, "".join(lines[begin:])))
    return pieces


def _has_no_reader(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, 0)  # POLLERR and POLLHUP are always reported
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))
