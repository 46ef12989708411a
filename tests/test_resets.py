"""Received resets that were none: told by the reset that is sent in answer."""

from __future__ import annotations

from typing import Any

import pytest
from builders import event

from tracer.kernel.resets import AT_ONCE_NS, is_open, without_false
from tracer.model.events import Event


def reset(at: float, direction: str, **fields: Any) -> Event:
    return event("reset", at, direction=direction, **{"state": "FIN_WAIT1", "silent_ms": 0, "orphan": True, **fields})


CLOSED = event("state", 0.00001, old_state="FIN_WAIT1", new_state="CLOSE", state="CLOSE")


def test_a_reset_that_is_answered_was_none() -> None:
    answer = reset(0.00002, "sent", state="CLOSE")
    assert without_false([reset(0, "received"), CLOSED, answer]) == [CLOSED, answer]


@pytest.mark.parametrize(
    "events",
    [
        [reset(0, "received"), CLOSED],
        [reset(0, "received"), CLOSED, reset(0.001, "sent", lport=1)],
        [reset(0, "received"), CLOSED, reset(1, "sent")],
        [reset(0, "received", silent_ms=40), CLOSED, reset(0.001, "sent")],
        [reset(0, "received", state="ESTABLISHED"), reset(0.001, "sent")],
        [reset(0, "sent"), reset(0.001, "sent")],
    ],
)
def test_others_are_resets(events: list[Event]) -> None:
    assert without_false(events) == events


def test_the_answer_may_still_come_for_a_while() -> None:
    received = reset(0, "received")
    now_ns = received.ktime_ns + 1
    assert is_open([received, CLOSED], now_ns) and not is_open([received, CLOSED], now_ns + AT_ONCE_NS)
    assert not is_open([received, CLOSED, reset(0.001, "sent")], now_ns + 1_000_000)
    assert not is_open([CLOSED], now_ns) and not is_open([], now_ns)
