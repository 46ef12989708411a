"""A sink that fails alone, so that the other sinks of the run get everything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from tracer.model.events import Event
from tracer.output.sink import Sink
from tracer.recordings.header import Header

E = TypeVar("E", bound=Exception)


class IsolatedSink(Generic[E]):
    """Passes events to a sink until that fails, and ignores them from then on.

    contained: types of errors that are kept in `error` instead of raised. on_failure: called once, with the error.
    """

    def __init__(self, sink: Sink, contained: tuple[type[E], ...], on_failure: Callable[[E], None]) -> None:
        self.error: E | None = None
        self._sink = sink
        self._contained = contained
        self._on_failure = on_failure

    def opened(self, header: Header) -> None:
        """Pass the header on."""
        self._do(lambda: self._sink.opened(header))

    def write(self, events: Sequence[Event]) -> None:
        """Pass events on."""
        self._do(lambda: self._sink.write(events))

    def flush(self, until_ns: int) -> None:
        """Flush the sink."""
        self._do(lambda: self._sink.flush(until_ns))

    def close(self) -> None:
        """Close the sink."""
        self._do(self._sink.close)

    def _do(self, action: Callable[[], None]) -> None:
        if self.error is not None:
            return
        try:
            action()
        except self._contained as error:
            self.error = error
            self._on_failure(error)
