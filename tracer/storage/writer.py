"""Events → a recording."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from types import TracebackType
from typing import TextIO

from tracer.errors import TcpwatchError
from tracer.events import Event, to_json
from tracer.storage.header import Header


class RecordingWriter:
    """A sink that writes a recording of mode 0600.

    An existing file is not overwritten: nothing recorded is lost. Raises TcpwatchError where the file
    cannot be made or written; what was written until then stays readable.
    """

    def __init__(self, path: Path, header: Header) -> None:
        self.path = path
        self._stream = _create(path)
        try:
            self._stream.write(header.to_line())
            self._stream.flush()
        except OSError as error:
            raise self._failure(error) from error

    def __enter__(self) -> RecordingWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def write(self, event: Event) -> None:
        """Take one event."""
        try:
            self._stream.write(json.dumps(to_json(event), separators=(",", ":")) + "\n")
        except OSError as error:
            raise self._failure(error) from error

    def flush(self, until_ns: int = 0) -> None:
        """Hand everything to the kernel, so that a reader sees it and killing us does not lose it."""
        try:
            self._stream.flush()
        except OSError as error:
            raise self._failure(error) from error

    def close(self) -> None:
        """Flush and close. Closing again does nothing."""
        try:
            self._stream.close()
        except OSError as error:
            raise self._failure(error) from error

    def _failure(self, error: OSError) -> TcpwatchError:
        self._abandon()
        return TcpwatchError(
            f"cannot write {self.path}: {error.strerror}",
            hint=f"what was written until then is good: tcpwatch replay {self.path}; df -h {self.path.parent}",
        )

    def _abandon(self) -> None:
        """Close without another try to write what is left: it would fail again, and hide the first error."""
        try:
            os.close(self._stream.fileno())
            self._stream.close()
        except (OSError, ValueError):
            pass


def _create(path: Path) -> TextIO:
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
    try:
        if not path.exists() or stat.S_ISREG(path.stat().st_mode):
            flags |= os.O_EXCL
        return os.fdopen(os.open(path, flags, 0o600), "w", encoding="utf-8")
    except FileExistsError:
        raise TcpwatchError(
            f"{path} exists already, and is not overwritten", hint="choose another name, or remove it first"
        ) from None
    except OSError as error:
        raise TcpwatchError(f"cannot create {path}: {error.strerror}", hint=f"ls -ld {path.parent}") from error
