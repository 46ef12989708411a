"""Events as JSON, one object a line: the objects of a recording, without its header."""

from __future__ import annotations

from tracer.model.events import Event
from tracer.output.background_writer import Stream
from tracer.recordings.encoding import to_line


class JsonSink:
    """Writes lines."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def write(self, *events: Event) -> None:
        """A line of each."""
        self._stream.write("".join(map(to_line, events)))

    def flush(self, until_ns: int) -> None:
        """Show what was written."""
        self._stream.flush()

    def close(self) -> None:
        """Nothing is left to do."""
