"""Whoever waits for events is woken for what it must not miss, though not for each of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from traffic import talk

from tracer.kernel.live import LiveSource
from tracer.kernel.program.program import RING_BYTES
from tracer.kernel.program.ring import Ring
from tracer.lab.namespace import wait_until
from tracer.lab.network import Lab
from tracer.model.filters import Filter

SMALLEST_RING_BYTES = 1 << 16
LONG_S = 60.0
"""Of a wait that nothing ends but being woken."""


class Sleeper:
    """Waits for events in a thread, and has begun to when the constructor returns."""

    def __init__(self, ring: Ring) -> None:
        self._ring = ring
        self.slept_s = LONG_S
        self._thread = threading.Thread(target=self._sleep)
        self._thread.start()
        wait_until(self._sleeps, LONG_S, "the reader waits")

    def _sleep(self) -> None:
        began = time.monotonic()
        self._ring.wait(round(LONG_S * 1000))
        self.slept_s = time.monotonic() - began

    def _sleeps(self) -> bool:
        return "poll" in Path(f"/proc/self/task/{self._thread.native_id}/wchan").read_text()

    def was_woken(self) -> bool:
        self._thread.join()
        return self.slept_s < LONG_S - 1


@pytest.fixture
def source(lab: Lab) -> Iterator[LiveSource]:
    with LiveSource(Filter(netns=frozenset({lab.client.netns, lab.server.netns})), lambda: False) as made:
        yield made


def test_a_change_of_state_wakes_a_reader_that_has_slept(lab: Lab, source: LiveSource) -> None:
    sleeper = Sleeper(source._ring)
    talk(lab)
    assert sleeper.was_woken()


@pytest.mark.parametrize(("ring_bytes", "times"), [(RING_BYTES, 300), (SMALLEST_RING_BYTES, 30)])
def test_many_wake_it_however_soon_they_follow(lab: Lab, ring_bytes: int, times: int) -> None:
    wanted = Filter(netns=frozenset({lab.client.netns, lab.server.netns}))
    with LiveSource(wanted, lambda: False, ring_bytes=ring_bytes) as source:
        talk(lab)
        assert source._ring.take(1000)
        sleeper = Sleeper(source._ring)
        talk(lab, times=times)
        assert sleeper.was_woken()
