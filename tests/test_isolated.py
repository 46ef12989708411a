"""A sink that fails beside others."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from builders import event
from recording_files import HEADER

from tracer.model.events import Event
from tracer.recordings.header import Header
from tracer.run.isolated import IsolatedSink


class Failing:
    """Fails with each call from the second `write` on."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def opened(self, header: Header) -> None:
        self._call("opened")

    def write(self, events: Sequence[Event]) -> None:
        self._call("write")

    def flush(self, until_ns: int) -> None:
        self._call("flush")

    def close(self) -> None:
        self._call("close")

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if self.calls.count("write") > 1:
            raise OSError(28, "No space left on device")


def test_after_its_first_error_a_sink_gets_nothing_more() -> None:
    sink = Failing()
    failures: list[OSError] = []
    isolated = IsolatedSink(sink, (OSError,), failures.append)
    isolated.opened(HEADER)
    for _ in range(3):
        isolated.write([event()])
        isolated.flush(1)
    isolated.close()
    assert sink.calls == ["opened", "write", "flush", "write"]
    assert failures == [isolated.error] and isinstance(isolated.error, OSError)


def test_other_errors_are_raised() -> None:
    isolated = IsolatedSink(Failing(), (ValueError,), lambda error: pytest.fail(str(error)))
    isolated.write([event()])
    with pytest.raises(OSError, match="No space left"):
        isolated.write([event()])
    assert isolated.error is None
