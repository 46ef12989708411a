from __future__ import annotations

import json

import pytest
from builders import record
from hypothesis import given
from hypothesis import strategies as st

from tracer.kernel.owners import Owners
from tracer.kernel.wire import Decoder, Owner
from tracer.model.events import Event
from tracer.model.lazy import LazyEvent
from tracer.model.validation import from_json, to_json
from tracer.recordings.encoding import to_line
from tracer.recordings.lines import MAX_SHARED, line_event

DECODER = Decoder(hz=250, reasons={}, key=b"k" * 16)


def line_of(pid: int = 7, cgroup: int = 9, comm: bytes = b"php", **members: int) -> bytes:
    event, _ = DECODER.decode(record(**members), 1_800_000_000_000_000_000)
    Owners(lambda _: {}, cgroup_path=lambda _: '/a"ä').complete((event, Owner(0, cgroup, pid, comm)))
    return to_line(event).encode()


def read_at_once(line: bytes) -> Event:
    return from_json(json.loads(line))


@given(
    st.integers(1, 7),
    st.sampled_from([0, 7]),
    st.sampled_from([0, 9]),
    st.binary(max_size=16),
    st.sampled_from([0, 3, 0xFFFFFFFF]),
    st.sampled_from([0, 1, 40_000]),
)
def test_as_what_is_read_at_once(kind: int, pid: int, cgroup: int, comm: bytes, silent: int, port: int) -> None:
    line = line_of(pid, cgroup, comm, type=kind, silent=silent, lport=port)
    event = line_event(line)
    assert type(event) is LazyEvent
    assert event.ktime_ns == 5_000_000_000 and event.sock is not None
    assert to_line(event).encode() == line
    assert to_json(event) == to_json(read_at_once(line))


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(line_of()[:-1], id="without its newline"),
        pytest.param(line_of(flags=0), id="of no full socket"),
        pytest.param(line_of().replace(b'"family"', b'"colour":1,"family"'), id="of a later version"),
        pytest.param(line_of().replace(b'"event":"retransmit"', b'"event":"dance"'), id="of an unknown kind"),
        pytest.param(line_of().replace(b'{"time"', b'{"format":"tcpwatch","time"'), id="a header"),
        pytest.param(line_of().replace(b',"laddr"', b',"rto_ms":1,"laddr"'), id="with a field in a strange place"),
        pytest.param(line_of().replace(b',"unacked', b',"pid":8,"unacked'), id="with a field twice"),
        pytest.param(line_of().replace(b'"family":4', b'"family":4.5'), id="with a number that is none"),
        pytest.param(line_of().replace(b',"state"', b"," + b" " * MAX_SHARED + b'"state"'), id="with a long part"),
        pytest.param(line_of().replace(b'"time":"2', b'"time":"x'), id="with a time that is none"),
    ],
)
def test_anything_else_is_left_to_others(line: bytes) -> None:
    assert line_event(line_of()) is not None
    assert line_event(line) is None


@pytest.mark.parametrize(
    ("valid", "invalid"),
    [
        pytest.param(b'"silent_ms":8212', b'"silent_ms":08212', id="a leading zero"),
        pytest.param(b'"silent_ms":8212', b'"silent_ms":', id="no number"),
        pytest.param(b'"silent_ms":8212', b'"silent_ms8":212', id="a digit in a name"),
        pytest.param(b'"silent_ms":8212', b'"silent_ms":8212.5', id="a fraction of an int"),
        pytest.param(b'"silent_ms":8212', b'"silent_ms":' + b"9" * 19, id="a number beyond 64 bits"),
        pytest.param(b'"srtt_ms":0.039', b'"srtt_ms":.039', id="no digit before the point"),
        pytest.param(b'"srtt_ms":0.039', b'"srtt_ms":0.', id="no digit after the point"),
        pytest.param(b'"srtt_ms":0.039', b'"srtt_ms":00.39', id="a leading zero of a fraction"),
        pytest.param(b'"kind":"tlp"', b'5"kind":"tlp"', id="a digit before a name"),
        pytest.param(b'"kind":"tlp"', b'"kind":5"tlp"', id="a digit before a text"),
        pytest.param(b'"family":4', b'"family":04', id="a leading zero of a connection"),
        pytest.param(b'"lport":33356', b'"lport3":3356', id="a digit in a name of a connection"),
        pytest.param(b'"netns":4026532000', b'"netns":', id="no number of a connection"),
    ],
)
def test_other_digits_of_a_line_that_was_read(valid: bytes, invalid: bytes) -> None:
    """A line whose text is known, digits aside, is refused where these make no valid number."""
    for _ in range(2):
        assert line_event(line_of()) is not None
    assert valid in line_of()
    assert line_event(line_of().replace(valid, invalid)) is None


def test_other_numbers_of_a_line_that_was_read() -> None:
    assert line_event(line_of()) is not None
    line = line_of(silent=1, srtt_us=7_000, lport=1)
    event = line_event(line)
    assert event is not None and isinstance(event.own, str), "not parsed"
    assert (event.silent_ms, event.srtt_ms, event.lport) == (4, 7.0, 1)
    assert to_json(event) == to_json(read_at_once(line))


SNIPPETS = [
    b"", b",", b'"', b"}", b"{", b"\\", b"\xff", b"\xc3\xa4", b"NaN", b"-1", b"1e999", b"null", b"true", b"]", b"[",
    b',"family":', b',"state":', b',"unacked_bytes":', b',"pids":', b',"cgroup":', b',"pid":1', b',"netns":2',
    b'"time":"2027', b"9" * 30, b" ", b"\n", b'},{"a":1', b'{"time":"',
]  # fmt: skip


@given(st.data())
def test_what_it_sees_is_what_the_line_says(data: st.DataObject) -> None:
    """Of any line: it was cut in the right places, or nothing was seen."""
    line = line_of(type=data.draw(st.integers(1, 7)))
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(line)))
        end = data.draw(st.integers(start, min(len(line), start + 40)))
        line = line[:start] + data.draw(st.sampled_from(SNIPPETS)) + line[end:]
    event = line_event(line)
    if event is not None:
        assert to_json(event) == to_json(read_at_once(line))
