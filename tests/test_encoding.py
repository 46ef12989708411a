from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import pytest
from builders import event
from hypothesis import given
from hypothesis import strategies as st

from tracer.model.events import Event
from tracer.model.validation import to_json
from tracer.recordings.encoding import to_line

TEXTS = st.text(max_size=8) | st.text("abc", max_size=8)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "int": st.integers() | st.integers(0, 2**63 - 1),
    "str": TEXTS | st.text(st.characters(), max_size=4),  # with surrogates, as an undecodable name may have
    "bool": st.booleans(),
    "float": st.floats(allow_nan=False, allow_infinity=False) | st.integers(),
    "list[int]": st.lists(st.integers(), max_size=3),
    "list[str]": st.lists(TEXTS, max_size=3),
    "dict[str, int]": st.dictionaries(TEXTS, st.integers() | st.booleans(), max_size=3),
}
FIELDS = {field.name: VALUES[str(field.type).removesuffix(" | None")] for field in fields(Event)}
FIELDS["time_ns"] = st.integers(0, 253_402_300_799_999_999_000)
REQUIRED = {name: FIELDS.pop(name) for name in ("time_ns", "ktime_ns", "event")}


def as_ever(of: Event) -> str:
    return json.JSONEncoder(separators=(",", ":")).encode(to_json(of)) + "\n"


@given(st.fixed_dictionaries(REQUIRED, optional=FIELDS))
def test_a_line_is_what_json_makes_of_an_event(known: dict[str, Any]) -> None:
    made = Event(**known)
    assert to_line(made) == as_ever(made)
    in_order = Event.of({name: value for name, value in vars(made).items() if value is not None})
    assert to_line(in_order) == as_ever(made)


@given(st.fixed_dictionaries(REQUIRED, optional={name: st.none() | values for name, values in FIELDS.items()}))
def test_what_is_none_is_left_out(known: dict[str, Any]) -> None:
    in_order = Event.of({name: known[name] for name in vars(Event(**known)) if name in known})
    assert to_line(in_order) == as_ever(in_order)


@given(st.permutations(["ktime_ns", "time_ns", "comm", "event", "lport"]))
def test_time_comes_first_and_the_rest_in_the_order_of_the_event(names: list[str]) -> None:
    known = {name: vars(event(comm="php"))[name] for name in names}
    assert to_line(Event.of(known)) == as_ever(Event.of(known))


@pytest.mark.parametrize("comm", ["", '"', "\\", "\x7f", "\n", "ä", "%s", "\ud800", "😀", "</script>", " "])
def test_a_name_of_any_characters(comm: str) -> None:
    line = to_line(event(comm=comm))
    assert line == as_ever(event(comm=comm))
    assert line.rstrip("\n").isascii() and line.rstrip("\n").isprintable()


def test_two_texts_are_not_taken_for_one() -> None:
    """A surrogate pair that stands in two fields is not a character."""
    assert to_line(event(laddr="\ud83d", raddr="\ude00")) == as_ever(event(laddr="\ud83d", raddr="\ude00"))


def test_a_name_that_is_not_a_field_is_refused() -> None:
    with pytest.raises(KeyError):
        to_line(Event.of({"time_ns": 0, "ktime_ns": 0, "event": "state", "%s": 1}))
