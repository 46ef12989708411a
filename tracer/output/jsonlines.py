"""Events as JSON, one object per line: the lines of a recording without its header."""

from __future__ import annotations

from collections.abc import Sequence

from tracer.model.events import Event
from tracer.output.background_writer import Stream
from tracer.recordings.encoding import to_line
from tracer.recordings.header import Header


class JsonSink:
    """Writes a line for each event."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def opened(self, header: Header) -> None:
        """The header is not part of the output."""

    def write(self, events: Sequence[Event]) -> None:
        """Write a line for each event."""
        self._stream.write("".join(map(to_line, events)))

    def flush(self, until_ns: int) -> None:
        """Flush the stream."""
        self._stream.flush()

    def close(self) -> None:
        """Every line has been written."""
