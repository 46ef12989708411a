from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

import pytest
from builders import record
from hypothesis import given
from hypothesis import strategies as st

from tracer.kernel.owners import Owners
from tracer.kernel.wire import Decoder, Owner
from tracer.model.events import Event
from tracer.model.json_members import members
from tracer.model.lazy import LazyEvent, Part
from tracer.model.validation import to_json
from tracer.recordings.encoding import to_line

DECODER = Decoder(hz=250, reasons={}, key=b"k" * 16)
NAMES = [field.name for field in fields(Event)]


def parted() -> LazyEvent:
    """An event without an owner so far."""
    connection: dict[str, Any] = {"family": 4, "laddr": "10.0.0.1", "lport": 5, "raddr": "10.0.0.2", "rport": 3306}
    connection |= {"netns": 1, "sock": "aa"}
    socket = {"state": "ESTABLISHED", "backoff": 0, "orphan": True}
    own = {"silent_ms": 8000, "srtt_ms": 0.5}
    return LazyEvent(1_000, 2, "state", "aa", Part(connection), Part(socket), own)


def owned() -> LazyEvent:
    event = parted()
    event.owner = Part({"pids": [7], "pid": 7, "comm": 'a"ä'})
    return event


def as_read() -> LazyEvent:
    """The same event, of JSON that is not parsed yet."""
    event = owned()
    assert isinstance(event.own, dict)
    event.own = members(event.own)
    for name in ("connection", "socket", "owner"):
        setattr(event, name, Part(json=members(getattr(event, name).fields)))
    return event


def test_filters_and_totals_leave_json_unparsed() -> None:
    event = as_read()
    assert (event.time_ns, event.ktime_ns, event.event, event.lport, event.sock) == (1_000, 2, "state", 5, "aa")
    assert isinstance(event.own, str)


@pytest.mark.parametrize(
    ("name", "value"), [("silent_ms", 8000), ("comm", 'a"ä'), ("orphan", True), ("error", None), ("advice", None)]
)
@pytest.mark.parametrize("made", [owned, as_read])
def test_a_field_of_any_part(made: Callable[[], LazyEvent], name: str, value: object) -> None:
    event = made()
    assert getattr(event, name) == getattr(event.whole(), name) == value
    assert (event.silent_ms, event.state, event.rport) == (8000, "ESTABLISHED", 3306)


@pytest.mark.parametrize("made", [owned, as_read])
def test_a_field_of_its_own_can_be_set(made: Callable[[], LazyEvent]) -> None:
    event = made()
    event.silent_ms, event.srtt_ms = 9000, None
    assert (event.silent_ms, event.whole().silent_ms, event.comm) == (9000, 9000, 'a"ä')
    assert '"silent_ms":9000' in to_line(event) and "srtt_ms" not in to_line(event)


def test_a_field_that_others_share_cannot_be_set() -> None:
    with pytest.raises(AttributeError, match="lport is shared"):
        owned().lport = 1


def test_the_event_put_together_is_another_one() -> None:
    event = owned()
    event.whole().silent_ms = 9000
    assert event.silent_ms == 8000
    assert event.whole().whole().silent_ms == 8000


def test_without_an_owner() -> None:
    assert to_line(parted()).endswith(',"silent_ms":8000,"srtt_ms":0.5}\n')
    assert parted().pid is None


def test_equal_to_the_same_event_put_together() -> None:
    assert owned() == owned().whole() == as_read() == owned()
    assert owned() != parted()


def wire_members() -> Iterator[tuple[str, st.SearchStrategy[int | bytes]]]:
    for name in ("type", "state", "old_state", "new_state", "ca_state", "direction", "cause", "pending"):
        yield name, st.integers(1 if name == "type" else 0, 7)
    for name in ("keepalive_idle", "keepalive_probes", "silent", "rto", "srtt_us", "unsent", "soft_error", "error"):
        yield name, st.sampled_from([0, 1, 110, 2**31 - 1])
    yield "silent", st.sampled_from([0, 3, 0xFFFFFFFF])
    yield "flags", st.integers(0, 127)
    yield "orphan", st.integers(0, 1)
    yield "sk", st.integers(0, 2)
    yield "lport", st.sampled_from([0, 1, 65535])


@given(st.fixed_dictionaries(dict(wire_members())), st.integers(0, 2), st.binary(max_size=16))
def test_an_event_says_the_same_in_parts_and_put_together(known: dict[str, int], pid: int, comm: bytes) -> None:
    def made() -> LazyEvent:
        event, _ = DECODER.decode(record(**known), 0)
        Owners(lambda _: {}, cgroup_path=lambda _: "/ä").complete((event, Owner(0, pid, pid, comm)))
        assert isinstance(event, LazyEvent)
        return event

    line = to_line(made())
    together = made()
    present = [name for name in NAMES if getattr(together, name) is not None]
    assert to_line(together) == to_line(together.whole()) == line
    assert list(together.known()) == present, "in the order of Event's fields"
    assert to_json(made()) == to_json(together)
