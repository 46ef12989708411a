"""A recording → events."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

from tracer.model.events import Batch, Event
from tracer.model.kinds import EVENTS
from tracer.model.validation import InvalidEvent, from_json
from tracer.recordings.header import FORMAT, HEADER_START, Header, InvalidHeader, NewerVersion, header_from_line
from tracer.recordings.input import MAX_LINE, Damaged, EndlessLine
from tracer.recordings.lines import line_event
from tracer.recordings.source_file import SourceFile, Unreadable

MAX_BATCH = 128
MAX_BATCH_BYTES = 1 << 20
"""A batch has at most MAX_BATCH lines, and ends after this many bytes of them."""
MAX_KINDS = 8
"""Unknown kinds of event that are named."""
MAX_NESTED = 16384
"""Objects and lists in a line. An event has at most three. A megabyte of empty ones takes forty times its memory."""
_BEGINNINGS = re.compile(b"(?=" + re.escape(HEADER_START) + rb'|\{"time":")')
"""The beginning of a header or an event. No text in a JSON line contains it, because quotation marks are escaped."""
_UPGRADE = "upgrade tcpwatch to read it; tcpwatch --version"
_MADE_BY = "a recording is made by: sudo tcpwatch record -o FILE"


REPORT_START = re.compile(rb'\{\s*"report"\s*:\s*"head"')
"""The beginning of the output of `report --json`, which another program may have written anew with blanks."""


class ReportOutput(Unreadable):
    """The file is not a recording, but the output of `report --json`.

    source: the open file, which the receiver has to close. lines: from its first line on.
    """

    def __init__(self, source: SourceFile, lines: Iterator[bytes]) -> None:
        reason = "the output of report --json, not a recording"
        super().__init__(source.name, reason, hint=f"tcpwatch report {source.argument}")
        self.source = source
        self.lines = lines


class RecordingReader:
    """The events of a file, plain or compressed, in batches. `-` is standard input.

    A file may contain several recordings, as after `cat`. The constructor reads the header of the first one.
    Iterating gives the batches of the recording of that header, and begin_next continues with the next one. A batch
    ends early when the input, a pipe or a terminal, has no more data right now.

    is_truncated: the last recording has no end. has_no_end: neither has the file's compressed data. damaged: number
    of skipped lines; first_damage names the first one, and first_reason has the reason. last_ns: time of the last
    event, wall clock; None if there was none. command: the tcpwatch command that reads, for hints.

    warn gets a sentence about a truncated last line, which is normal after a crash, and about events of unknown
    kinds, which a newer tcpwatch recorded. Raises Unreadable if nothing more can be read.
    """

    def __init__(self, path: Path, warn: Callable[[str], None], command: str = "replay") -> None:
        self.is_truncated = self.has_no_end = False
        self.damaged = 0
        self.first_damage = self.first_reason = ""
        self.last_ns: int | None = None
        self._warn = warn
        self._number = 1  # of the last line that was read
        self._first_damaged = 0
        self._next: Header | None = None
        self._unknown: Counter[str] = Counter()  # events, by kind
        self._source = SourceFile(path, warn, command)
        self.name = self._source.name
        try:
            self._lines = self._source.lines()
            self.header = self._read_header()
        except ReportOutput:
            raise
        except BaseException:
            self._source.close()
            raise

    def __enter__(self) -> RecordingReader:
        return self

    def __exit__(self, *_: object) -> None:
        if self._unknown:
            count, kinds = sum(self._unknown.values()), ", ".join(self._unknown)
            self._warn(
                f"{self.name}: skipped {count:,} event{'' if count == 1 else 's'} of a kind that this tcpwatch does "
                f"not know ({kinds}); a newer tcpwatch shows them"
            )
        self._source.close()

    @property
    def identity(self) -> tuple[int, int] | None:
        """Device and inode; None for a pipe or a terminal, which can be read only once."""
        return self._source.identity

    @property
    def first_damage_hint(self) -> str:
        """A command that shows the first damaged line; empty for standard input."""
        return self._source.line_hint(self._first_damaged)

    def begin_next(self) -> bool:
        """Continue with the next recording of the file, and its header. Returns whether there is one."""
        if self._next is None:
            return False
        self.header, self._next, self.is_truncated = self._next, None, False
        return True

    def __iter__(self) -> Iterator[Batch]:
        batch: list[Event] = []
        size, damaged = 0, self.damaged
        has_gap = False  # damage right before this batch
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
                            if batch:
                                yield self._batch(batch, has_gap)
                            batch, size, has_gap = [], 0, True
                        batch += taken
                        if self._next is not None:
                            break
                    if len(batch) < MAX_BATCH and size < MAX_BATCH_BYTES:
                        continue
                if batch:
                    yield self._batch(batch, has_gap)
                    batch, size, has_gap = [], 0, False
        except EOFError:
            self.is_truncated = self.has_no_end = True
            self._warn(f"{self.name}: compressed data is truncated; showing what precedes the cut")
        except (Damaged, EndlessLine, OSError) as error:
            yield self._batch(batch, has_gap)
            raise self._source.unreadable_rest(error, self._number + 1) from error
        except Unreadable:
            yield self._batch(batch, has_gap)
            raise
        yield self._batch(batch, has_gap)

    def _batch(self, events: list[Event], has_gap: bool) -> Batch:
        """The batch is complete up to its last event, because a file is in order of time."""
        if not events:
            return Batch(events, 0, has_gap)
        self.last_ns = events[-1].time_ns
        return Batch(events, events[-1].ktime_ns, has_gap)

    def _take(self, line: bytes) -> list[Event]:
        """The events of a line: one, none, or the remains of several that a crash or a torn write joined."""
        try:
            return self._parsed(line)
        except (ValueError, RecursionError) as error:
            pieces = [piece for piece in _BEGINNINGS.split(line) if piece]
            begins = line.lstrip(b"\0")[:1]  # zeros are blocks of a file that never reached the disk
            is_last = line[-1:] != b"\n" and len(line) <= MAX_LINE and begins in (b"{", b"")
            if len(pieces) == 1:
                self._skip(error, is_truncated=is_last)
                return []
        events: list[Event] = []
        for piece, after in zip(pieces, [*pieces[1:], b""]):
            try:
                if self._next is not None:
                    raise ValueError
                events += self._parsed(piece)
            except (ValueError, RecursionError) as error:
                self._skip(error, is_truncated=after.startswith(HEADER_START) or (is_last and not after))
        return events

    def _parsed(self, line: bytes) -> list[Event]:
        """The event of a line, or none for a header. Raises ValueError or RecursionError for anything else."""
        objects = line.count(b"{")
        if not objects or objects + line.count(b"[") > MAX_NESTED:
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
        """Count a damaged line, or warn about one that a crash truncated."""
        if is_truncated:
            self.is_truncated = True
            self._warn(f"{self.name}: line {self._number} is truncated, as after a crash; skipped")
            return
        if not self.damaged:
            why = f" ({error})" if isinstance(error, (InvalidEvent, InvalidHeader)) else ""
            self._first_damaged = self._number
            self.first_damage, self.first_reason = f"line {self._number}", why
        self.damaged += 1

    def _read_header(self) -> Header:
        source = self._source
        try:
            line = next((line for line in self._lines if line), b"")
        except EOFError:
            raise source.unreadable("compressed data is truncated before the end of the header", _MADE_BY) from None
        except Damaged as error:
            raise source.unreadable(f"compressed data is damaged ({error})", source.test_hint) from None
        except EndlessLine:
            line = b"\0"
        except OSError as error:
            raise source.cannot_open(error) from error
        if not line:
            raise source.unreadable("empty, without a header", _MADE_BY)
        if REPORT_START.match(line):
            raise ReportOutput(source, chain([line], self._lines))
        source.require_known_compression(line)
        try:
            return header_from_line(line)
        except NewerVersion as error:
            raise source.unreadable(str(error), _UPGRADE) from None
        except InvalidHeader as error:
            raise source.unreadable(f"not a recording: {error}", _MADE_BY) from None
