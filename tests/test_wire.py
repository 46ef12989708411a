from __future__ import annotations

import pytest
from builders import SECOND, mapped, record
from hypothesis import given
from hypothesis import strategies as st

from tracer.kernel import details, wire
from tracer.kernel.layout import OFFSETS, SIZE
from tracer.kernel.owners import Owners
from tracer.kernel.wire import Decoder, Owner, WireError, text
from tracer.model.errors import TcpwatchError
from tracer.model.events import Event
from tracer.model.validation import to_json
from tracer.recordings.encoding import to_line
from tracer.recordings.lines import line_event

DECODER = Decoder(hz=250, reasons={1: "NO_SOCKET"}, key=b"k" * 16)
PLACE = slice(OFFSETS["flags"], OFFSETS["silent"])  # of how the socket is


def decode(**members: object) -> tuple[Event, Owner]:
    return DECODER.decode(record(**members), 100 * SECOND)


def test_what_is_unpacked_by_place_is_in_the_order_of_the_layout() -> None:
    state = wire.socket_state(record(flags=1, state=1, ca_state=4, backoff=2, retries=15, syn_linear=3)[PLACE], 250)
    assert state[1:] == (True, False, details.SocketMembers(1, 1, 4, 2, 15, 3))


def test_tail_loss_probe_after_eight_seconds() -> None:
    event, owner = decode()
    assert owner == Owner(inode=4711, cgroup=0, pid=0, comm=b"\0" * 16)
    fields = to_json(event)
    assert len(fields.pop("sock")) == 16
    assert fields == {
        "time": "1970-01-01T00:01:45.000000Z",
        "ktime_ns": 5 * SECOND,
        "event": "retransmit",
        "family": 4,
        "laddr": "10.66.1.2",
        "lport": 33356,
        "raddr": "10.66.2.2",
        "rport": 3306,
        "netns": 4026532000,
        "state": "ESTABLISHED",
        "silent_ms": 8212,
        "unacked_bytes": 38,
        "rto_ms": 204,
        "srtt_ms": 0.039,
        "snd_wnd": 65536,
        "ca_state": "Open",
        "backoff": 0,
        "keepalive": True,
        "keepalive_idle_s": 7200,
        "keepalive_idle_own": False,
        "keepalive_interval_s": 75,
        "keepalive_probes": 9,
        "user_timeout_ms": 0,
        "jiffies": 4_294_967,
        "rto_max_ms": 120_000,
        "retries": 15,
        "kind": "tlp",
        "attempt": 0,
        "segments": 1,
    }


def test_jiffies_follow_the_kernels_hz() -> None:
    event, _ = Decoder(hz=1000, reasons={}, key=b"").decode(record(silent=61, rto=201, keepalive_idle=60_000), 0)
    assert (event.silent_ms, event.rto_ms, event.keepalive_idle_s) == (61, 201, 60)


def test_what_the_kernel_could_not_say_is_absent() -> None:
    event, _ = decode(silent=0xFFFFFFFF, rto=0, srtt_us=0, netns=0, lport=0)
    fields = to_json(event)
    assert not {"silent_ms", "rto_ms", "srtt_ms", "netns", "lport"} & fields.keys()


def test_an_event_without_a_full_socket_claims_nothing_about_it() -> None:
    event, _ = decode(type=4, direction=2, flags=8, reason=1, sk=0, state=0, inode=0)
    fields = to_json(event)
    assert (event.direction, event.reason) == ("sent", "NO_SOCKET")
    assert not {"sock", "state", "silent_ms", "unacked_bytes", "keepalive", "rto_ms"} & fields.keys()


def test_an_unknown_reset_reason_keeps_its_number() -> None:
    event, _ = decode(type=4, direction=2, flags=9, reason=99)
    assert event.reason == "reason 99"


def test_a_retransmission_that_could_not_be_sent_says_why() -> None:
    assert decode(error=113)[0].send_error == "EHOSTUNREACH"


def test_error_has_number_and_name() -> None:
    event, _ = decode(type=5, error=110, state=7)
    assert (event.errno, event.error, event.state, event.kind) == (110, "ETIMEDOUT", "CLOSE", None)


def test_state_change() -> None:
    event, _ = decode(type=3, old_state=1, new_state=7, state=7)
    assert (event.old_state, event.new_state) == ("ESTABLISHED", "CLOSE")


def test_ipv6() -> None:
    event, _ = decode(family=6, laddr=mapped("fd66:1::2"), raddr=mapped("fd66:2::2"))
    assert (event.laddr, event.raddr) == ("fd66:1::2", "fd66:2::2")


def test_a_socket_is_named_by_address_and_birth_and_never_by_its_address_alone() -> None:
    first, same, reused = (decode(sk=1, born=born)[0].sock for born in (5, 5, 6))
    assert first == same != reused
    other_run, _ = Decoder(hz=250, reasons={}, key=b"x" * 16).decode(record(sk=1, born=5), 0)
    assert other_run.sock != first


def test_process_name_of_any_bytes() -> None:
    assert text(decode(comm=b"\xffphp\0rest")[1].comm) == "\\xffphp"


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (record()[:-1], f"{SIZE - 1} bytes instead of {SIZE}"),
        (b"", f"0 bytes instead of {SIZE}"),
        (record(type=0), "event type 0"),
        (record(type=12), "event type 12"),
        (record(ktime_ns=1 << 63), "time 9223372036854775808"),
    ],
)
def test_what_is_no_record_says_to_install_it_again(data: bytes, what: str) -> None:
    with pytest.raises(WireError, match=what) as caught:
        DECODER.decode(data, 0)
    assert isinstance(caught.value, TcpwatchError) and "install tcpwatch again" in caught.value.hint


def test_what_the_ring_cannot_have_given_is_refused() -> None:
    with pytest.raises(WireError, match="5 bytes of records"):
        DECODER.decode_all(b"bytes", 0)


def test_what_comes_behind_a_record_is_padding() -> None:
    assert DECODER.decode(record() + b"padding", 0) == DECODER.decode(record(), 0)


@given(st.binary(max_size=2 * SIZE))
def test_any_bytes_are_an_event_or_a_wire_error(data: bytes) -> None:
    try:
        event, owner = DECODER.decode(data, 0)
    except WireError:
        return
    assert isinstance(event, Event)
    assert isinstance(owner, Owner)
    to_json(event)


TROUBLE = {"type": 9, "found_like": 1, "attempt": 8, "retrying_ms": 140_000, "stuck_ms": 145_000, "timer_in": 1250}


def test_found_in_trouble_has_the_fields_of_that_event_and_its_timer() -> None:
    fields = to_json(decode(**TROUBLE)[0])
    ordinary = to_json(decode(attempt=8, retrying_ms=140_000, stuck_ms=145_000)[0])
    assert fields.pop("timer_ms") == 5000
    assert {name for name in ordinary if ordinary[name] != fields.get(name)} == {"event", "kind", "segments"}
    assert (fields["event"], fields["kind"], fields["stuck_ms"]) == ("found", "retransmit", 145_000)


def test_found_probing_says_nothing_of_retransmissions() -> None:
    fields = to_json(
        decode(type=9, found_like=2, attempt=3, flags=1 | 2 | 64, since_sent=1000, timer_in=0xFFFFFFFF)[0]
    )
    assert (fields["kind"], fields["attempt"], fields["asked_ms"]) == ("keepalive", 3, 4000)
    assert not {"retries", "rto_max_ms", "stuck_ms", "timer_ms"} & fields.keys()


@pytest.mark.parametrize(("flags", "asked_ms"), [(1 | 64, 8212), (1, None), (1 | 32 | 64, None)])
def test_only_the_end_that_asked_has_asked(flags: int, asked_ms: int | None) -> None:
    for kind in (2, 10):
        assert decode(type=kind, flags=flags, since_sent=2053)[0].asked_ms == asked_ms
    assert decode(type=3, flags=flags, since_sent=2053)[0].asked_ms is None


def test_a_change_of_state_does_not_say_since_when_it_is_stuck() -> None:
    assert [decode(type=kind, stuck_ms=7)[0].stuck_ms for kind in (1, 3, 4, 5, 6, 7)] == [7, None, 7, 7, 7, 7]


@pytest.mark.parametrize("kind", [number for number, name in details.TYPES.items() if name != "socket"])
def test_fields_are_in_the_order_that_lines_are_read_quickly_in(kind: int) -> None:
    """Each event, with all that it may have to say."""
    everything = {
        "unsent": 7, "soft_error": 113, "retrying_ms": 9, "stuck_ms": 8, "syn_linear": 4, "attempt": 2, "error": 110,
        "flags": 1 | 2 | 8 | 64 | 128 | 256, "direction": 1, "cause": 1, "timer_in": 5, "probes_out": 3, "cgroup": 1,
    }  # fmt: skip
    for found_like in (1, 2, 7, 11):
        decoded, owner = decode(type=kind, **{**everything, "found_like": found_like})
        Owners(lambda _: {}, cgroup_path=lambda _: "/x").fill(decoded, owner)
        line = to_line(decoded)
        assert line_event(line.encode()) is not None, line
