from __future__ import annotations

from builders import START
from hypothesis import given
from hypothesis import strategies as st

from tracer.model.times import format_time, parse_time


@given(st.integers(min_value=0, max_value=4_000_000_000_000_000))
def test_time_there_and_back(microseconds: int) -> None:
    assert parse_time(format_time(microseconds * 1000)) == microseconds * 1000


def test_time_is_cut_to_microseconds() -> None:
    assert format_time(START + 1999) == "2027-01-15T08:00:00.000001Z"
