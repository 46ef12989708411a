from __future__ import annotations

import io
from typing import Any

from builders import event
from hypothesis import given
from hypothesis import strategies as st

from tracer.model.events import Event
from tracer.model.kinds import EVENTS
from tracer.output.text import TextSink


def lines(*events: Event, colour: bool = False, utc_offset_s: int = 0) -> list[str]:
    stream = io.StringIO()
    sink = TextSink(stream, colour=colour, utc_offset_s=utc_offset_s)
    for each in events:
        sink.write([each])
    return stream.getvalue().splitlines()


OWNED: dict[str, Any] = {"pid": 8506, "comm": "php", "pids": [8506]}


def test_the_incident_on_eighty_columns() -> None:
    shown = lines(
        event(kind="tlp", attempt=0, silent_ms=3_720_204, unacked_bytes=527, **OWNED),
        event(at=0.2, kind="rto", attempt=1, silent_ms=3_720_410, unacked_bytes=527, **OWNED),
        event("state", at=928, old_state="ESTABLISHED", new_state="CLOSE", **OWNED),
        event("error", at=928, errno=110, error="ETIMEDOUT", silent_ms=4_648_000, unacked_bytes=527, **OWNED),
    )
    assert shown == [
        "2027-01-15   LOCAL           REMOTE          EVENT        SILENT UNACK OWNER",
        "08:00:00.000 10.66.1.2:33356 10.66.2.2:3306  tlp           1h02m   527 php[8506]",
        "08:00:00.200 10.66.1.2:33356 10.66.2.2:3306  rto 1         1h02m   527 php[8506]",
        "08:15:28.000 10.66.1.2:33356 10.66.2.2:3306  ESTABLISHED → CLOSE       php[8506]",
        "08:15:28.000 10.66.1.2:33356 10.66.2.2:3306  ETIMEDOUT     1h17m   527 php[8506]",
    ]
    assert max(map(len, shown)) <= 80


def test_columns_grow_and_never_shrink() -> None:
    shown = lines(
        event(laddr="172.16.100.193", lport=42724, kind="tlp", attempt=0),
        event(laddr="10.1.1.1", lport=1, kind="tlp", attempt=0),
    )
    assert len({line.index("10.66.2.2:3306") for line in shown[1:]}) == 1


def test_the_heading_comes_again_on_another_day() -> None:
    shown = lines(event(at=0), event(at=86400))
    assert [line[:10] for line in shown if "LOCAL" in line] == ["2027-01-15", "2027-01-16"]


def test_local_time_is_a_fixed_offset() -> None:
    assert lines(event(), utc_offset_s=-9 * 3600)[1].startswith("23:00:00.000")


def test_shared_sockets_unknown_owners_and_details() -> None:
    shown = lines(
        event("keepalive", attempt=1, pid=7, comm="php", pids=[7, 8, 9]),
        event("reset", direction="sent", reason="NO_SOCKET"),
        event("reset", direction="received", reason="NOT_SPECIFIED"),
        event(kind="rto", attempt=2, send_error="EHOSTUNREACH"),
        event("lost", count=12, hook="tcp_retransmit_skb"),
    )
    assert shown[1].endswith("keepalive 1       -     - php[7] +2")
    assert shown[2].endswith("RST sent          -     - - (NO_SOCKET)")
    assert shown[3].endswith("RST received      -     - -")
    assert shown[4].endswith("- (not sent: EHOSTUNREACH)")
    assert shown[5] == "08:00:00.000 12 events lost at tcp_retransmit_skb: too many at once; see --buffer-size"


def test_lost_events_have_a_time_a_place_and_a_cause() -> None:
    circumstances: dict[str, Any] = {
        "duration_ms": 2504,
        "count": 1268,
        "hook": "inet_sock_set_state",
        "ring_percent": 2,
    }
    shown = lines(
        event("lost", cause="full", **circumstances, ring_peak_percent=100, unread_ms=2310),
        event("lost", cause="reentered", **circumstances, ring_peak_percent=3, unread_ms=12),
        event("lost", cause="of a later version", **circumstances),
    )
    lost = "08:00:00.000 1,268 events lost at inet_sock_set_state"
    assert shown[1:] == [
        f"{lost} in the last 2.5s: the ring buffer was full and was not read for up to 2.3s; see --buffer-size",
        f"{lost} in the last 2.5s: they occurred while the hook was running on the same CPU; "
        "the ring buffer was at most 3% full",
        f"{lost}: too many at once; see --buffer-size",
    ]


def test_colour_only_where_wanted() -> None:
    assert "\x1b[" not in "".join(lines(event("error", error="ETIMEDOUT")))
    assert "\x1b[31m" in lines(event("error", error="ETIMEDOUT"), colour=True)[1]


class Ascii(io.StringIO):
    encoding = "ascii"


def test_a_terminal_without_arrows() -> None:
    stream = Ascii()
    TextSink(stream, colour=False, utc_offset_s=0).write([event("state", old_state="CLOSE", new_state="SYN_SENT")])
    assert stream.getvalue().isascii()


@given(st.text().filter(lambda word: word not in EVENTS), st.text())
def test_whatever_a_recording_holds_it_stays_one_printable_line(word: str, name: str) -> None:
    hostile = [
        event(word, laddr=word, raddr=word, comm=name, pid=1),
        event("retransmit", kind=word, send_error=name, attempt=-5),
        event("state", old_state=word, new_state=name),
        event("reset", direction=word, reason=name),
        event("error", error=word),
        event("lost", hook=word),
    ]
    for each in hostile:
        shown = lines(each)
        assert len(shown) == 2 and all(line.isprintable() for line in shown)


def test_a_stall_that_ended_at_once_lasted_no_time() -> None:
    ended = event("stall", phase="end", verdict="packet-loss", outcome="reset", duration_ms=0, silent_ms=7_000)
    assert " 0ms" in lines(ended)[1] and "7.0s" not in lines(ended)[1]
