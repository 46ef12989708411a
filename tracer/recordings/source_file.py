"""The file that a recording is read from: opened, decompressed, and named in errors and hints."""

from __future__ import annotations

import errno
import io
import os
import re
import select
import shlex
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from tracer.model.errors import TcpwatchError, as_argument
from tracer.recordings.compression import zstandard_library
from tracer.recordings.input import GZIP, ZSTD, Damaged, beginning, chunks, gunzipped, lines, unzstd

FIFO_WAIT_MS = 1000
"""Time without data after which the wait for the writer of a FIFO is reported."""
STDIN = Path("-")
_OTHER_COMPRESSION = {b"\xfd7": ("xz", "xzcat"), b"BZ": ("bzip2", "bzcat")}
_PATTERN = re.compile(r"[*?[]")


class Unreadable(TcpwatchError):
    """A file, or the rest of one, cannot be read. file: its name. reason: a phrase without the name."""

    def __init__(self, file: str, reason: str, *, hint: str) -> None:
        super().__init__(f"{file}: {reason}", hint=hint)
        self.file = file
        self.reason = reason


class SourceFile:
    """A file, plain or compressed. `-` is standard input. The constructor raises Unreadable.

    warn gets a sentence if the writer of a FIFO is waited for. command: the tcpwatch command that reads, for hints.
    """

    def __init__(self, path: Path, warn: Callable[[str], None], command: str) -> None:
        self.name = "standard input" if path == STDIN else str(path)
        self._path = path
        self._command = command
        self._decompressor = ""  # the program that decompresses it
        self._file = self._open(warn)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def identity(self) -> tuple[int, int] | None:
        """Device and inode; None for a pipe or a terminal, which can be read only once."""
        status = os.fstat(self._file.fileno())
        return (status.st_dev, status.st_ino) if stat.S_ISREG(status.st_mode) else None

    def lines(self) -> Iterator[bytes]:
        """The decompressed lines, and an empty one when the input has no more data right now.

        Raises Unreadable. The iterator raises EOFError, Damaged, EndlessLine and OSError.
        """
        try:
            start, pieces = beginning(chunks(self._file.fileno()), len(ZSTD))
            if start.startswith(GZIP):
                self._decompressor, pieces = "zcat", gunzipped(pieces)
            elif start == ZSTD:
                self._decompressor, pieces = "zstdcat", unzstd(pieces, zstandard_library(self.name))
        except TcpwatchError as error:
            raise self.unreadable("needs the Python package zstandard", error.hint) from None
        except OSError as error:
            raise self.cannot_open(error) from error
        return lines(pieces)

    def unreadable(self, reason: str, hint: str) -> Unreadable:
        """The error with this reason."""
        return Unreadable(self.name, reason, hint=hint)

    def require_known_compression(self, line: bytes) -> None:
        """Raise Unreadable if the first line is compressed in a way that tcpwatch does not read."""
        for magic, (name, program) in _OTHER_COMPRESSION.items():
            if line.startswith(magic):
                hint = f"{program} {self.argument} | tcpwatch {self._command} -"
                raise self.unreadable(f"compressed with {name}, which tcpwatch does not read", hint)

    def unreadable_rest(self, error: Exception, line: int) -> Unreadable:
        """The error if lines from this one on cannot be read."""
        if isinstance(error, OSError):
            reason = f"cannot be read ({error.strerror or error})"
        else:
            reason = f"compressed data is damaged ({error})" if isinstance(error, Damaged) else str(error)
        return self.unreadable(f"{reason}; the rest from line {line} on is skipped", self.test_hint)

    @property
    def test_hint(self) -> str:
        """A command that tests compressed data."""
        if not self._decompressor:
            return f"ls -l {self.argument}"
        program = {"zcat": "gzip", "zstdcat": "zstd"}[self._decompressor]
        return f"copy the file again from the recorded host, and test it: {program} -t {self.argument}"

    def line_hint(self, number: int) -> str:
        """A command that shows a line; empty for standard input."""
        if self._path == STDIN:
            return ""
        shown = f"sed -n {number}p"
        if self._decompressor:
            shown = f"{self._decompressor} {self.argument} | {shown}"
        else:
            shown = f"{shown} {self.argument}"
        return f"{shown} | cat -v | cut -c 1-300"

    def cannot_open(self, error: OSError | ValueError) -> Unreadable:
        """The error if the file cannot be opened or its beginning cannot be read."""
        number = error.errno if isinstance(error, OSError) else None
        name = str(self._path)
        if number in (errno.EACCES, errno.EPERM) and self._path != STDIN and not _is_root():
            return self.unreadable("permission denied", self._as_root(name))
        if number == errno.EISDIR:
            return self.unreadable("a directory, not a recording", f"tcpwatch {self._command} {self.argument}/*.tw*")
        if number in (errno.ENOENT, errno.ENOTDIR):
            parent = next((each for each in self._path.parents if each.is_dir()), Path())
            what = "no file matches this pattern" if _PATTERN.search(name) else "no such file"
            return self.unreadable(what, f"ls -l {as_argument(parent)}")
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        hint = f"tcpwatch {self._command} FILE" if self._path == STDIN else f"ls -l {self.argument}"
        return self.unreadable(f"cannot be read ({reason})", hint)

    def _open(self, warn: Callable[[str], None]) -> io.FileIO:
        try:
            if self._path == STDIN:
                return io.FileIO(0, closefd=False)
            mode = self._path.stat().st_mode
            if stat.S_ISSOCK(mode):
                raise self.unreadable("a socket, not a recording", f"ls -l {self.argument}")
            if not stat.S_ISFIFO(mode):
                return io.FileIO(self._path)
            # A blocking open would wait for the writer.
            file = io.FileIO(os.open(self._path, os.O_RDONLY | os.O_NONBLOCK))
            os.set_blocking(file.fileno(), True)
            poll = select.poll()
            poll.register(file, select.POLLIN)
            if not poll.poll(FIFO_WAIT_MS):
                warn(f"{self.name}: waiting for a writer of this FIFO")
            return file
        except (OSError, ValueError) as error:
            raise self.cannot_open(error) from error

    def _as_root(self, name: str) -> str:
        """The command as root. A shell of the user expands no pattern in a directory that only root can read."""
        if not self._path.name.isprintable() or not _PATTERN.search(name):
            return f"sudo tcpwatch {self._command} {self.argument}"
        words = re.split(r"([*?]|\[[^]/]*\])", name)
        pattern = "".join(
            word if number % 2 else shlex.quote(word) if word else "" for number, word in enumerate(words)
        )
        return f"sudo sh -c {shlex.quote(f'tcpwatch {self._command} {pattern}')}"

    @property
    def argument(self) -> str:
        """The path, quoted for a shell."""
        return "-" if self._path == STDIN else as_argument(self._path)


def _is_root() -> bool:
    """Whether a command as root would do no more."""
    return not hasattr(os, "geteuid") or os.geteuid() == 0
