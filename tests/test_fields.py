"""Every field of an event: kernel side, event, both readers, writer, validation and docs agree."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import field_tables
import pytest
from builders import event, record

from tracer.kernel.details import ROWS, TYPES
from tracer.kernel.owners import Owners
from tracer.kernel.wire import Decoder
from tracer.model.events import DECLARATIONS, Event, names_of
from tracer.model.fields import MAX_NUMBER, json_types
from tracer.model.kinds import EVENTS, Kind
from tracer.model.sockets import Socket
from tracer.model.validation import InvalidEvent, from_json, to_json
from tracer.recordings.encoding import to_line
from tracer.recordings.lines import line_event

JSON_TYPES = json_types(Event)
NAMES = [name for name in DECLARATIONS if name not in ("time_ns", "ktime_ns", "event")]
FROM_THE_WIRE = names_of("connection", "state", "settings", "numbers", "details")
VALUES: dict[str, Any] = {
    "int": 7, "float": 0.5, "str": 'a"ä\\', "bool": True, "list[int]": [7, 8], "list[str]": ["do: this", "ä"],
    "dict[str, int]": {"keepalive": True, "user_timeout_ms": 7},
}  # fmt: skip
DECODER = Decoder(hz=250, reasons={1: "NO_SOCKET"}, key=b"k" * 16)
EVERYTHING = {
    "flags": 1 | 2 | 8 | 16 | 64 | 128 | 256, "old_state": 2, "new_state": 1, "orphan": 1, "user_timeout_ms": 9,
    "unsent": 7, "soft_error": 113, "retrying_ms": 9, "stuck_ms": 8, "syn_linear": 4, "attempt": 2, "error": 110,
    "reason": 1, "direction": 1, "cause": 1, "timer_in": 5, "since_sent": 5, "probes_out": 3, "found_like": 1,
    "cgroup": 1, "pid": 8, "comm": b"php",
}  # fmt: skip


def test_each_field_is_declared() -> None:
    assert list(DECLARATIONS) == [field.name for field in fields(Event)]


def from_wire(number: int) -> Event:
    decoded, owner = DECODER.decode(record(**{**EVERYTHING, "type": number}), 0)
    Owners(lambda _: {}, cgroup_path=lambda _: "/x").fill(decoded, owner)
    return decoded


@pytest.mark.parametrize("name", FROM_THE_WIRE)
def test_from_the_wire_to_lines_and_back(name: str) -> None:
    """Each event that may have the field has it, no other does, and both readers see what was decoded."""
    found = set()
    for number, kind in TYPES.items():
        if kind not in EVENTS:
            continue
        decoded = from_wire(number)
        value = getattr(decoded, name)
        if value is None:
            continue
        found.add(kind)
        assert type(value) in {"float": (int, float), "int": (int,), "str": (str,), "bool": (bool,)}[JSON_TYPES[name]]
        line = to_line(from_wire(number))
        assert json.loads(line)[name] == value
        quick = line_event(line.encode())
        assert quick is not None and getattr(quick, name) == value
        assert from_json(json.loads(line)) == quick == decoded
        assert to_line(quick) == to_line(from_json(json.loads(line))) == line
    kinds = set(DECLARATIONS[name].kinds) & set(TYPES.values())
    assert found <= kinds
    if name in ROWS:
        assert found == kinds - ({Kind.FOUND} if name == "probes_out" else set())


def test_each_detail_has_one_row() -> None:
    assert tuple(ROWS) == names_of("details")


@pytest.mark.parametrize("name", NAMES)
def test_a_line_and_both_readers(name: str) -> None:
    value = "ab" if name == "sock" else VALUES[JSON_TYPES[name]]
    before = Event(**{**event(unacked_bytes=1).known(), name: value})
    line = to_line(before)
    assert json.loads(line) == to_json(before)
    assert getattr(from_json(json.loads(line)), name) == value
    quick = line_event(line.encode())
    assert quick is not None, "read by splitting the line"
    assert getattr(quick, name) == value
    assert quick == before == from_json(json.loads(line))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "time_ns"])
def test_another_type_is_refused_by_both_readers(name: str) -> None:
    wrong: list[Any] = [{}, ["x", 1], [[]]]
    json_type = JSON_TYPES[name]
    wrong += [
        value for each, value in VALUES.items() if each not in (json_type, "int" if json_type == "float" else "")
    ]
    if json_type in ("int", "float"):
        wrong += [-1, MAX_NUMBER + 1]
    if json_type == "str":
        wrong.append("x" * (DECLARATIONS[name].max_length + 1))
    for value in wrong:
        written = {**to_json(event(unacked_bytes=1)), name: value}
        written = {each: written[each] for each in ("time", *JSON_TYPES) if each in written}
        with pytest.raises(InvalidEvent, match=name):
            from_json(written)
        assert line_event(json.dumps(written, separators=(",", ":")).encode() + b"\n") is None


def test_the_longest_text_is_accepted() -> None:
    for name in (name for name in NAMES if JSON_TYPES[name] == "str"):
        text = "x" * DECLARATIONS[name].max_length
        assert getattr(from_json({**to_json(event()), name: text}), name) == text


@pytest.mark.parametrize("name", NAMES)
def test_the_docs_have_a_row(name: str) -> None:
    tables = {*DECLARATIONS[name].docs}
    assert tables
    for table in tables:
        assert table == "every" or table in DECLARATIONS[name].kinds, f"{name} is not a field of {table}"
        assert any(f"`{name}`" in row and len(row) > len(name) + 12 for row in field_tables.rows(table))


def test_the_page_is_made_from_the_declarations() -> None:
    page = field_tables.PAGE.read_text()
    assert field_tables.with_tables(page) == page, "run: python scripts/field_tables.py --write"
    for table in ("every", "sockets", *EVENTS):
        assert f"<!-- fields: {table} -->" in page, table


def test_sockets_share_the_types_of_events() -> None:
    sockets = json_types(Socket)
    assert {name: sockets[name] for name in sockets if name in JSON_TYPES} == {
        name: JSON_TYPES[name] for name in sockets if name in JSON_TYPES
    }


@pytest.mark.parametrize("kind", Kind)
def test_a_kind_behaves_as_its_string(kind: Kind) -> None:
    plain = kind.value
    assert type(plain) is str
    assert (str(kind), f"{kind}", f"{kind:>14}", "".join([kind])) == (plain, plain, f"{plain:>14}", plain)
    by_kind: dict[str, int] = {kind: 1}
    assert kind == plain and hash(kind) == hash(plain) and {plain: 1}[kind] == 1 and by_kind[plain] == 1
    assert json.dumps({"event": kind}) == json.dumps({"event": plain})
