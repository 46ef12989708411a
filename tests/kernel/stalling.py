"""The stall tracker on the running kernel, with a threshold of idleness that a test can wait for."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from watching import PATIENCE_S

from tracer.analysis.stalls import StallTracker
from tracer.kernel import host
from tracer.kernel.clocks import boottime_ns
from tracer.kernel.live import LiveSource
from tracer.lab.network import Lab
from tracer.model.events import Event
from tracer.model.filters import Filter
from tracer.model.validation import to_json
from tracer.recordings.header import Header
from tracer.recordings.reader import RecordingReader
from tracer.recordings.writer import RecordingWriter
from tracer.run.live import make_header, with_lookups
from tracer.run.pipeline import Totals, finish, run

IDLE_S = 2.0
"""The threshold of idleness in these tests, and how long connections are left idle for it at least."""
GRAIN_NS = 4_000_000


class Sink:
    """Keeps events, and when they came."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.came_ns: dict[str, int] = {}
        self.changed = threading.Condition()

    def opened(self, header: Header) -> None:
        pass

    def write(self, events: Sequence[Event]) -> None:
        with self.changed:
            self.events += events
            for event in events:
                if event.event == "stall" and event.phase == "begin" and event.id is not None:
                    self.came_ns[event.id] = boottime_ns()
            self.changed.notify_all()

    def flush(self, until_ns: int) -> None:
        pass

    def close(self) -> None:
        pass


class Stalls:
    """Traces a lab's two hosts from construction to `stop`, records it, and finds the stalls.

    lab: or the inodes of other network namespaces instead. own_netns: the host's own network namespace.
    `stop` finds them again in the recording, and insists that they are the same.
    """

    def __init__(
        self,
        lab: Lab | Collection[int],
        directory: Path,
        *,
        resume: bool = True,
        min_idle_s: float = IDLE_S,
        own_netns: int = 0,
    ) -> None:
        self._own_netns = own_netns
        self._over = False
        self._sink = Sink()
        self._recording = directory / "stalls.tw"
        self._hz = host.hz()
        self._min_idle_ms = round(min_idle_s * 1000)
        namespaces = {lab.client.netns, lab.server.netns} if isinstance(lab, Lab) else lab
        wanted = Filter(netns=frozenset(namespaces))
        self._writer = RecordingWriter(self._recording, make_header(wanted, "0"))
        self.source = LiveSource(wanted, lambda: self._over, resume=resume, resume_after_s=min_idle_s)
        self.tracker = self._tracker()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __enter__(self) -> Stalls:
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        self._thread.join(PATIENCE_S)
        self.source.close()
        self._writer.close()

    def _tracker(self) -> StallTracker:
        return StallTracker(hz=self._hz, min_idle_ms=self._min_idle_ms, own_netns=self._own_netns)

    def _run(self) -> None:
        totals = Totals()
        run(with_lookups(self.source, self.tracker), Filter(), self.tracker, [self._writer, self._sink], totals)
        finish(self.tracker, Filter(), [self._writer, self._sink], totals)

    def of(self, event: str = "stall", **fields: Any) -> list[Event]:
        """The events so far, stalls unless told otherwise, that have these fields with these values."""
        return [
            each
            for each in list(self._sink.events)
            if each.event == event and all(getattr(each, name) == value for name, value in fields.items())
        ]

    def wait_for(self, event: str = "stall", count: int = 1, **fields: Any) -> Event:
        """Wait for that many such events, and return the last of them."""
        deadline = time.monotonic() + PATIENCE_S
        with self._sink.changed:
            while len(found := self.of(event, **fields)) < count:
                left = deadline - time.monotonic()
                if left <= 0 or not self._thread.is_alive():
                    seen = "\n".join(str(to_json(each)) for each in self._sink.events)
                    raise AssertionError(f"no {count} of {event} {fields}\n{seen}")
                self._sink.changed.wait(min(left, 0.5))
        return found[-1]

    def delay_ms(self, begin: Event) -> float:
        """From the kernel's stamp of the first sign to our being told of the stall."""
        return (self._sink.came_ns[begin.id or ""] - begin.ktime_ns) / 1e6

    def stop(self) -> list[Event]:
        """End it; the stalls, as `phase verdict outcome` can be read off them."""
        self.__exit__()
        again = Sink()
        with RecordingReader(self._recording, print) as reader:
            tracker, totals = self._tracker(), Totals()
            run(reader, Filter(), tracker, [again], totals)
            finish(tracker, Filter(), [again], totals)
        stalls = [each for each in again.events if each.event == "stall"]
        assert [to_json(each) for each in stalls] == [to_json(each) for each in self.of()], "live and recorded alike"
        return stalls


def ended(stalls: list[Event]) -> list[str]:
    """How they ended: `verdict outcome` of each."""
    return [f"{each.verdict} {each.outcome}" for each in stalls if each.phase == "end"]
