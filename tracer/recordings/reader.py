"""A recording → events."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import select
import shlex
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from tracer.model.errors import TcpwatchError
from tracer.model.events import Batch, Event
from tracer.model.kinds import EVENTS
from tracer.model.validation import InvalidEvent, from_json
from tracer.recordings.compression import zstandard_library
from tracer.recordings.header import FORMAT, HEADER_START, Header, InvalidHeader, NewerVersion, header_from_line
from tracer.recordings.input import (
    GZIP,
    LONGEST_LINE,
    ZSTD,
    Damaged,
    EndlessLine,
    beginning,
    chunks,
    gunzipped,
    lines,
    unzstd,
)
from tracer.recordings.lines import line_event

BATCH = 128
BATCH_BYTES = 1 << 20
"""A batch has at most this many lines, and ends after this many bytes of them."""
MAX_KINDS = 8
"""Unknown kinds of event that are named."""
MAX_NESTED = 16384
"""Objects and lists in a line. An event has at most three; a megabyte of empty ones takes forty times its memory."""
FIFO_MS = 1000
"""How long a FIFO may have no data before that is worth a warning."""
_MAGIC = {b"\xfd7": ("xz", "xzcat"), b"BZ": ("bzip2", "bzcat")}
_BEGINS = re.compile(b"(?=" + re.escape(HEADER_START) + rb'|\{"time":")')
"""Where a header or an event begins. No text in a JSON line can contain it: there each quotation mark is escaped."""
_UPGRADE = "upgrade tcpwatch to read it; tcpwatch --version"


class Unreadable(TcpwatchError):
    """A file, or the rest of one, cannot be read. file: its name. reason: why, as a phrase without the name."""

    def __init__(self, file: str, reason: str, *, hint: str) -> None:
        super().__init__(f"{file}: {reason}", hint=hint)
        self.file = file
        self.reason = reason


class RecordingReader:
    """The events of a file, plain or compressed, in batches. `-` is standard input.

    A file may have several recordings, one after the other, as `cat` makes it. The constructor reads the first one's
    header; iterating gives the batches of the recording that this header begins, and begin_next goes on to the one
    after it. A batch ends early where the input, a pipe or a terminal, has nothing more right now.

    is_truncated: the recording that was read last has no end. has_no_end: so does the file's compressed data.
    damaged: how many lines were skipped; first_damage names the first, and first_reason says why. last_ns: when the
    last event was, wall clock; None where there was none. command: who reads, for hints.

    A truncated last line is normal after a crash, and events of an unknown kind come from a newer tcpwatch: warn gets
    a sentence about either. Raises Unreadable where nothing more can be read.
    """

    def __init__(self, path: Path, warn: Callable[[str], None], command: str = "replay") -> None:
        self.name = "standard input" if str(path) == "-" else str(path)
        self.is_truncated = self.has_no_end = False
        self.damaged = 0
        self.first_damage = self.first_reason = ""
        self.last_ns: int | None = None
        self._path = path
        self._warn = warn
        self._command = command
        self._number = 1  # of the line that was read last
        self._first_damaged = 0
        self._next: Header | None = None
        self._unknown: Counter[str] = Counter()  # events, by kind
        self._unpacker = ""  # the command that decompresses it
        self._file = self._open()
        try:
            self._lines = self._read()
            self.header = self._read_header()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> RecordingReader:
        return self

    def __exit__(self, *_: object) -> None:
        if self._unknown:
            count, kinds = self._unknown.total(), ", ".join(self._unknown)
            self._warn(
                f"{self.name}: skipped {count:,} event{'' if count == 1 else 's'} of a kind that this tcpwatch does "
                f"not know ({kinds}); a newer tcpwatch shows them"
            )
        self._file.close()

    @property
    def identity(self) -> tuple[int, int] | None:
        """The same for all names of a file; None for what can be read only once, such as a pipe."""
        status = os.fstat(self._file.fileno())
        return (status.st_dev, status.st_ino) if stat.S_ISREG(status.st_mode) else None

    @property
    def first_damage_hint(self) -> str:
        """A command that shows the first damaged line."""
        if self._path == Path("-"):
            return ""
        before = f"{self._unpacker} {self._argument()} | " if self._unpacker else ""
        after = "" if self._unpacker else f" {self._argument()}"
        return f"{before}sed -n {self._first_damaged}p{after} | cat -v | cut -c 1-300"

    def begin_next(self) -> bool:
        """Whether another recording follows the one whose events were read; header is its, then."""
        if self._next is None:
            return False
        self.header, self._next, self.is_truncated = self._next, None, False
        return True

    def __iter__(self) -> Iterator[Batch]:
        batch: list[Event] = []
        size, damaged = 0, self.damaged
        has_gap = False  # right before this batch
        try:
            for line in self._lines:
                if line:
                    self._number += 1
                    size += len(line)
                    event = line_event(line)
                    if event is not None:
                        batch.append(event)
                    else:
                        taken = self._take(line)
                        if self.damaged != damaged:
                            damaged = self.damaged
                            yield self._batch(batch, has_gap)
                            batch, size, has_gap = [], 0, True
                        batch += taken
                        if self._next is not None:
                            break
                    if len(batch) < BATCH and size < BATCH_BYTES:
                        continue
                if batch:
                    yield self._batch(batch, has_gap)
                    batch, size, has_gap = [], 0, False
        except EOFError:
            self.is_truncated = self.has_no_end = True
            self._warn(f"{self.name}: compressed data is truncated; showing what precedes the cut")
        except (Damaged, EndlessLine, OSError) as error:
            yield self._batch(batch, has_gap)
            raise self._unreadable_rest(error) from error
        except Unreadable:
            yield self._batch(batch, has_gap)
            raise
        yield self._batch(batch, has_gap)

    def _batch(self, events: list[Event], has_gap: bool) -> Batch:
        """As far as the file goes it is complete: what comes later in it is later."""
        if not events:
            return Batch(events, 0, has_gap)
        self.last_ns = events[-1].time_ns
        return Batch(events, events[-1].ktime_ns, has_gap)

    def _take(self, line: bytes) -> list[Event]:
        """The events of a line, one or none; also what a crash or a torn write left of several in one line."""
        try:
            return self._parsed(line)
        except (ValueError, RecursionError) as error:
            pieces = [piece for piece in _BEGINS.split(line) if piece]
            is_last = line[-1:] != b"\n" and len(line) <= LONGEST_LINE
            if len(pieces) == 1:
                self._skip(error, is_truncated=is_last)
                return []
        events: list[Event] = []
        for piece, after in zip(pieces, [*pieces[1:], b""], strict=True):
            try:
                if self._next is not None:
                    raise ValueError
                events += self._parsed(piece)
            except (ValueError, RecursionError) as error:
                self._skip(error, is_truncated=after.startswith(HEADER_START) or (is_last and not after))
        return events

    def _parsed(self, line: bytes) -> list[Event]:
        """Raises ValueError or RecursionError where it is neither an event nor a header."""
        if line.count(b"{") + line.count(b"[") > MAX_NESTED:
            raise ValueError
        record = json.loads(line)
        if isinstance(record, dict):
            if record.get("format") == FORMAT:
                try:
                    self._next = header_from_line(line)
                except NewerVersion as error:
                    reason = f"the recording from line {self._number} on is skipped: {error}"
                    raise Unreadable(self.name, reason, hint=_UPGRADE) from None
                return []
            kind = record.get("event")
            if isinstance(kind, str) and kind not in EVENTS:
                self._unknown[kind[:40] if len(self._unknown) < MAX_KINDS else "…"] += 1
                return []
        return [from_json(record)]

    def _skip(self, error: Exception, *, is_truncated: bool) -> None:
        """Count a damaged line, or warn about one that is truncated as a crash leaves it."""
        if is_truncated:
            self.is_truncated = True
            self._warn(f"{self.name}: line {self._number} is truncated, as after a crash; skipped")
            return
        if not self.damaged:
            why = f" ({error})" if isinstance(error, InvalidEvent | InvalidHeader) else ""
            self._first_damaged = self._number
            self.first_damage, self.first_reason = f"line {self._number}", why
        self.damaged += 1

    def _open(self) -> io.FileIO:
        try:
            if str(self._path) == "-":
                return io.FileIO(0, closefd=False)
            mode = self._path.stat().st_mode
            if stat.S_ISSOCK(mode):
                raise self._unreadable("a socket, not a recording", hint=f"ls -l {self._argument()}")
            if not stat.S_ISFIFO(mode):
                return io.FileIO(self._path)
            # To open one waits for its writer.
            file = io.FileIO(os.open(self._path, os.O_RDONLY | os.O_NONBLOCK))
            os.set_blocking(file.fileno(), True)
            poll = select.poll()
            poll.register(file, select.POLLIN)
            if not poll.poll(FIFO_MS):
                self._warn(f"{self.name}: waiting for somebody to write to this FIFO")
            return file
        except (OSError, ValueError) as error:
            raise self._cannot_open(error) from error

    def _read(self) -> Iterator[bytes]:
        try:
            start, pieces = beginning(chunks(self._file.fileno()), len(ZSTD))
            if start.startswith(GZIP):
                self._unpacker, pieces = "zcat", gunzipped(pieces)
            elif start == ZSTD:
                self._unpacker, pieces = "zstdcat", unzstd(pieces, zstandard_library(self.name))
        except TcpwatchError as error:
            raise Unreadable(self.name, "needs the Python package zstandard", hint=error.hint) from None
        except OSError as error:
            raise self._cannot_open(error) from error
        return lines(pieces)

    def _read_header(self) -> Header:
        made_by = "a recording is made by: sudo tcpwatch record -o FILE"
        try:
            line = next((line for line in self._lines if line), b"")
        except EOFError:
            raise self._unreadable("compressed data is truncated before the end of the header", made_by) from None
        except Damaged as error:
            raise self._unreadable(f"compressed data is damaged ({error})", self._unpack_hint()) from None
        except EndlessLine:
            line = b"\0"
        except OSError as error:
            raise self._cannot_open(error) from error
        if not line:
            raise self._unreadable("empty, without a header", made_by)
        for magic, (name, tool) in _MAGIC.items():
            if line.startswith(magic):
                command = f"{tool} {self._argument()} | tcpwatch {self._command} -"
                raise self._unreadable(f"compressed with {name}, which tcpwatch does not read", command)
        try:
            return header_from_line(line)
        except NewerVersion as error:
            raise self._unreadable(str(error), _UPGRADE) from None
        except InvalidHeader as error:
            raise self._unreadable(f"not a recording: {error}", made_by) from None

    def _unreadable_rest(self, error: Exception) -> Unreadable:
        if isinstance(error, OSError):
            reason = f"cannot be read ({error.strerror or error})"
        else:
            reason = f"compressed data is damaged ({error})" if isinstance(error, Damaged) else str(error)
        where = f"the rest from line {self._number + 1} on is skipped"
        return Unreadable(self.name, f"{reason}; {where}", hint=self._unpack_hint())

    def _unpack_hint(self) -> str:
        if not self._unpacker:
            return f"ls -l {self._argument()}"
        tool = {"zcat": "gzip", "zstdcat": "zstd"}[self._unpacker]
        return f"copy it again from where it was recorded; this tests it: {tool} -t {self._argument()}"

    def _cannot_open(self, error: OSError | ValueError) -> Unreadable:
        number = error.errno if isinstance(error, OSError) else None
        name, argument = str(self._path), self._argument()
        if number in (errno.EACCES, errno.EPERM) and name != "-" and os.geteuid() != 0:
            # The shell of the user expands no pattern in a directory that only root may read.
            command = f"sudo tcpwatch {self._command} {argument}"
            if not self._path.name.isprintable() or not _PATTERN.search(name):
                return self._unreadable("permission denied", command)
            return self._unreadable("permission denied", f"sudo sh -c {shlex.quote(_unquoted(self._command, name))}")
        if number == errno.EISDIR:
            return self._unreadable("a directory, not a recording", f"tcpwatch {self._command} {argument}/*.tw*")
        if number in (errno.ENOENT, errno.ENOTDIR):
            parent = next((each for each in self._path.parents if each.is_dir()), Path())
            what = "no file matches this pattern" if _PATTERN.search(name) else "no such file"
            return self._unreadable(what, f"ls -l {shlex.quote(str(parent))}")
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        return self._unreadable(f"cannot be read ({reason})", f"ls -l {argument}")

    def _unreadable(self, reason: str, hint: str) -> Unreadable:
        return Unreadable(self.name, reason, hint=hint)

    def _argument(self) -> str:
        """The file as a shell takes it, whatever its name."""
        return shlex.quote(str(self._path))


_PATTERN = re.compile(r"[*?[]")


def _unquoted(command: str, name: str) -> str:
    """The command for a pattern of the shell's: only what the shell expands is not quoted."""
    words = re.split(r"([*?]|\[[^]/]*\])", name)
    return f"tcpwatch {command} " + "".join(
        word if number % 2 else shlex.quote(word) if word else "" for number, word in enumerate(words)
    )
