from __future__ import annotations

import contextlib
import json

import pytest
from builders import event
from hypothesis import given
from hypothesis import strategies as st

from tracer.model.events import Event
from tracer.model.validation import InvalidEvent, from_json, to_json


def test_json_leaves_out_what_is_unknown() -> None:
    assert to_json(event(attempt=0, kind="tlp", lport=None)) == {
        "time": "2027-01-15T08:00:00.000000Z",
        "ktime_ns": 1_000_000_000,
        "event": "retransmit",
        "family": 4,
        "laddr": "10.66.1.2",
        "raddr": "10.66.2.2",
        "rport": 3306,
        "netns": 4026532000,
        "sock": "00112233445566aa",
        "state": "ESTABLISHED",
        "kind": "tlp",
        "attempt": 0,
    }


def test_json_there_and_back_is_the_same_event() -> None:
    before = event("keepalive", at=1.5, pids=[7, 8], pid=7, comm="php", keepalive=True, srtt_ms=0.039, attempt=2)
    assert from_json(json.loads(json.dumps(to_json(before)))) == before


def test_unknown_fields_and_unknown_events_are_read() -> None:
    record = {**to_json(event("of a later version")), "colour": "red"}
    assert from_json(record).event == "of a later version"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"time": None}, "time is missing"),
        ({"time": "yesterday"}, "time is 'yesterday'"),
        ({"time": "2027-13-01T00:00:00.000000Z"}, "time is"),
        ({"event": None}, "event is missing"),
        ({"event": 7}, "event is 7"),
        ({"lport": "3306"}, "lport is '3306'"),
        ({"lport": True}, "lport is True"),
        ({"keepalive": 1}, "keepalive is 1"),
        ({"pids": ["a"]}, "pids has something else"),
        ({"pids": [True]}, "pids has something else"),
        ({"advice": [1]}, "advice has something else"),
        ({"pids": [-1]}, "pids has something else"),
        ({"advice": ["x" * 5000]}, "advice has something else"),
        ({"silent_ms": 10**400}, "silent_ms is 1000"),
        ({"silent_ms": -1}, "silent_ms is -1"),
        ({"srtt_ms": float("nan")}, "srtt_ms is nan"),
        ({"srtt_ms": float("inf")}, "srtt_ms is inf"),
        ({"comm": "x" * 5000}, "comm has more than 4096 characters"),
    ],
)
def test_what_is_no_event_is_named(change: dict[str, object], complaint: str) -> None:
    with pytest.raises(InvalidEvent, match=complaint):
        from_json({**to_json(event()), **change})


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=5))
def test_any_json_is_an_event_or_an_invalid_one(value: object) -> None:
    for candidate in (value, {**to_json(event()), "pids": value}, {**to_json(event()), "time": value}):
        with contextlib.suppress(InvalidEvent):
            assert isinstance(from_json(candidate), Event)  # type: ignore[arg-type]


ODD = st.sampled_from([None, True, 0, -1, 7, 2**63 - 1, 2**63, 10**400, 0.5, -0.5, float("nan"), float("inf")])
ODD |= st.sampled_from(["", "x", "x" * 4096, "x" * 4097, [], [1], [True], [-1], ["x"], ["x" * 4097], {}])


@given(st.dictionaries(st.sampled_from(["time", *vars(event())]), ODD), st.sets(st.sampled_from(["time", "event"])))
def test_a_field_of_a_later_version_changes_nothing(odd: dict[str, object], missing: set[str]) -> None:
    """Nor does it that a record without one is checked in a quicker way."""

    def read(**more: object) -> Event | str:
        record = {**to_json(event(srtt_ms=0.5, pids=[7], advice=["…"], orphan=True)), **odd, **more}
        try:
            return from_json({name: value for name, value in record.items() if name not in missing})
        except InvalidEvent as error:
            return str(error)

    assert read() == read(colour="red")
