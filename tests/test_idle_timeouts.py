"""The range of an idle timeout in words."""

from __future__ import annotations

from tracer.analysis.idle_timeouts import IdleTimeoutRange
from tracer.output.idle_timeouts import range_in_words

MINUTE_MS = 60_000


def test_nothing_is_said_where_no_silence_was_fatal() -> None:
    assert range_in_words(IdleTimeoutRange(None, None)) == range_in_words(IdleTimeoutRange(MINUTE_MS, None)) == []


def test_without_a_survived_silence_the_timeout_is_anywhere_below() -> None:
    assert range_in_words(IdleTimeoutRange(None, 240 * MINUTE_MS)) == [
        "A silence of 4h00m was fatal. No shorter one is known to have been survived, "
        "so an idle timeout on the path would be 4h00m or less."
    ]


def test_a_survived_silence_is_the_lower_end() -> None:
    assert range_in_words(IdleTimeoutRange(58 * MINUTE_MS, 61 * MINUTE_MS)) == [
        "If the path has an idle timeout, it is between 58m00s and 1h01m."
    ]


def test_a_longer_survived_silence_contradicts_an_idle_timeout() -> None:
    (sentence,) = range_in_words(IdleTimeoutRange(120 * MINUTE_MS, 61 * MINUTE_MS))
    assert "no single idle timeout explains both" in sentence
