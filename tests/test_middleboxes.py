"""Known idle timeouts against what was seen to survive and to die."""

from __future__ import annotations

import pytest

from tracer.analysis.idle_timeouts import IdleTimeoutRange
from tracer.analysis.middleboxes import KNOWN, MAX_MATCHES, matching

MINUTE_MS = 60_000


def timeouts(bracket: IdleTimeoutRange) -> list[int]:
    return [each.timeout_s for each in matching(bracket)]


def test_survived_58_minutes_and_died_after_62() -> None:
    found = matching(IdleTimeoutRange(58 * MINUTE_MS, 62 * MINUTE_MS))
    assert {each.timeout_s for each in found} == {3600}
    assert any("FortiGate" in each.name for each in found)


def test_the_nearest_to_the_fatal_silence_comes_first() -> None:
    assert timeouts(IdleTimeoutRange(16 * MINUTE_MS, 31 * MINUTE_MS)) == [1800, 1200]


def test_a_timeout_that_was_survived_is_no_suspect_and_one_that_was_just_reached_is() -> None:
    assert timeouts(IdleTimeoutRange(300_000, 600_000)) == [600, 350, 350, 350]
    assert timeouts(IdleTimeoutRange(350_000, 600_000)) == [600]
    assert 240 not in timeouts(IdleTimeoutRange(240_000, 300_000))


@pytest.mark.parametrize("fatal_ms", [420_000, 600_000, 900_000, 4 * 3_600_000, 12 * 3_600_000])
@pytest.mark.parametrize("part", [None, 0, 10, 3])
def test_a_range_that_nothing_narrows_names_nobody(fatal_ms: int, part: int | None) -> None:
    survived_ms = None if part is None else fatal_ms // part if part else 0
    assert matching(IdleTimeoutRange(survived_ms, fatal_ms)) == []


@pytest.mark.parametrize(
    "bracket",
    [IdleTimeoutRange(None, None), IdleTimeoutRange(7_200_000, None), IdleTimeoutRange(7_200_000, 3_700_000)],
)
def test_nothing_fatal_or_a_contradiction_names_nobody(bracket: IdleTimeoutRange) -> None:
    assert matching(bracket) == []


def test_every_row_is_found_by_its_own_timeout_and_tells_its_source() -> None:
    for box in KNOWN:
        found = matching(IdleTimeoutRange(box.timeout_s * 1000 - 1, box.timeout_s * 1000))
        assert {each.timeout_s for each in found} == {box.timeout_s}
        assert len(found) <= MAX_MATCHES
        assert box.source and box.name.isprintable()
    assert list(KNOWN) == sorted(KNOWN, key=lambda each: each.timeout_s)
