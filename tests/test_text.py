"""The lines of events: columns, widths, what is left out, and what a terminal cannot show."""

from __future__ import annotations

import io
from typing import Any

import pytest
from builders import event
from hypothesis import given
from hypothesis import strategies as st

from tracer.model.events import Event
from tracer.model.kinds import EVENTS
from tracer.output.event_line import Columns
from tracer.output.page import Page
from tracer.output.text import TextSink

EVERYTHING = Page(shows_all=True)


def lines(*events: Event, page: Page = EVERYTHING, utc_offset_s: int = 0) -> list[str]:
    stream = io.StringIO()
    sink = TextSink(stream, page, utc_offset_s=utc_offset_s)
    for each in events:
        sink.write([each])
    sink.close()
    return stream.getvalue().splitlines()


OWNED: dict[str, Any] = {"pid": 8506, "comm": "php", "pids": [8506]}
INCIDENT = (
    event(kind="tlp", attempt=0, silent_ms=3_720_204, unacked_bytes=527, **OWNED),
    event(at=0.2, kind="rto", attempt=1, silent_ms=3_720_410, unacked_bytes=527, **OWNED),
    event("state", at=928, old_state="ESTABLISHED", new_state="CLOSE", **OWNED),
    event("error", at=928, errno=110, error="ETIMEDOUT", silent_ms=4_648_000, unacked_bytes=527, **OWNED),
)


def test_the_incident_in_a_file() -> None:
    ends = "10.66.1.2:33356 → 10.66.2.2:3306 "
    assert lines(*INCIDENT) == [
        "2027-01-15, times in UTC",
        "TIME         EVENT        SILENT UNACK LOCAL → REMOTE                                OWNER",
        f"08:00:00.000 tlp           1h02m   527 {ends:<45} php[8506]",
        f"08:00:00.200 rto 1         1h02m   527 {ends:<45} php[8506]",
        f"08:15:28.000 ESTABLISHED → CLOSE       {ends:<45} php[8506]",
        f"08:15:28.000 ETIMEDOUT     1h17m   527 {ends:<45} php[8506]",
    ]


def test_the_incident_on_eighty_columns() -> None:
    shown = lines(*INCIDENT, page=Page(columns=80, shows_all=True))
    assert shown[1:3] == [
        "TIME     EVENT        SILENT UNACK PORT → REMOTE                  OWNER",
        "08:00:00 tlp           1h02m   527 :33356 → 10.66.2.2:3306        php[8506]",
    ]
    assert max(map(len, shown)) <= 80


@pytest.mark.parametrize("columns", [80, 99, 100, 120])
def test_no_line_wraps_and_no_column_moves(columns: int) -> None:
    longest: dict[str, Any] = {"laddr": "255.255.255.255", "lport": 65535, "raddr": "255.255.255.255", "rport": 65535}
    name: dict[str, Any] = {"pid": 4194303, "comm": "a-name-of-fifteen", "pids": [4194303, 2]}
    events = [
        event(kind="rto", attempt=15, silent_ms=3_720_204, unacked_bytes=99_999, **longest, **name),
        event("state", old_state="ESTABLISHED", new_state="CLOSE_WAIT", **longest, **name),
        event("reset", direction="received", **longest, **name),
        event(kind="rto", attempt=1, silent_ms=5, unacked_bytes=1, **OWNED),
    ]
    shown = lines(*events, page=Page(width=columns, columns=columns, shows_all=True))
    assert max(map(len, shown)) <= columns
    assert len(shown) == 2 + len(events), "a pair of IPv4 addresses stays on its line"
    owner = shown[1].index("OWNER")
    assert shown[-1][owner:] == "php[8506]"
    assert all("[4194303]" in line[owner - 1 :] for line in shown[2:-1]), "the pid stays"


def test_a_terminal_of_sixty_columns_has_no_wrapped_line() -> None:
    shown = lines(*INCIDENT, page=Page(width=60, columns=60, shows_all=True))
    assert max(map(len, shown)) <= 60


@pytest.mark.parametrize("columns", [80, 120, None])
def test_a_long_pair_goes_on_a_line_of_its_own(columns: int | None) -> None:
    long: dict[str, Any] = {
        "family": 6,
        "laddr": "2001:db8:1234:5678:9abc:def0:1234:5678",
        "raddr": "2001:db8:1234:5678:9abc:def0:1234:9999",
    }
    shown = lines(
        event(kind="tlp", attempt=0, silent_ms=1000, **OWNED, **long),
        event(at=0.1, kind="rto", attempt=1, silent_ms=1000, **OWNED),
        page=Page(columns=columns, shows_all=True),
    )
    assert len(shown) == 5
    assert shown[2].endswith("php[8506]") and "2001" not in shown[2]
    assert shown[3].strip().endswith("[2001:db8:1234:5678:9abc:def0:1234:9999]:3306")
    assert shown[4].index("php") == shown[1].index("OWNER"), "it moves no column"


def test_the_heading_comes_again_on_another_day() -> None:
    shown = lines(event(at=0), event(at=86400))
    assert [line for line in shown if "times in" in line] == ["2027-01-15, times in UTC", "2027-01-16, times in UTC"]


@pytest.mark.parametrize(
    ("utc_offset_s", "zone", "time"),
    [(-9 * 3600, "UTC-09:00", "23:00:00.000"), (19_800, "UTC+05:30", "13:30:00.000")],
)
def test_local_time_is_a_fixed_offset(utc_offset_s: int, zone: str, time: str) -> None:
    shown = lines(event(), utc_offset_s=utc_offset_s)
    assert shown[0].endswith(f"times in {zone}") and shown[2].startswith(time)


def test_shared_sockets_unknown_owners_and_details() -> None:
    shown = lines(
        event("keepalive", attempt=1, pid=7, comm="php", pids=[7, 8, 9]),
        event("reset", direction="sent", reason="NO_SOCKET"),
        event("reset", direction="received", reason="NOT_SPECIFIED"),
        event(kind="rto", attempt=2, send_error="EHOSTUNREACH"),
        event("lost", count=12, hook="tcp_retransmit_skb"),
    )[1:]
    assert "keepalive 1       -     - " in shown[1] and shown[1].endswith(" php[7] +2")
    assert "RST sent          -     - " in shown[2] and shown[2].endswith(" - (NO_SOCKET)")
    assert "RST received      -     - " in shown[3] and shown[3].endswith(" -")
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
    assert shown[2:] == [
        f"{lost} in the last 2.5s: the ring buffer was full and was not read for up to 2.3s; see --buffer-size",
        f"{lost} in the last 2.5s: they occurred while the hook was running on the same CPU; "
        "the ring buffer was at most 3% full",
        f"{lost}: too many at once; see --buffer-size",
    ]


def opens_and_closes(sock: str, **fields: Any) -> list[Event]:
    changes = [
        ("CLOSE", "SYN_SENT"),
        ("SYN_SENT", "ESTABLISHED"),
        ("ESTABLISHED", "FIN_WAIT1"),
        ("FIN_WAIT1", "CLOSE"),
    ]
    return [
        event("state", at=number, sock=sock, old_state=old, new_state=new, **{"silent_ms": 3, **fields})
        for number, (old, new) in enumerate(changes)
    ]


def test_by_default_healthy_connections_that_open_and_close_are_left_out() -> None:
    assert lines(*opens_and_closes("a"), page=Page()) == []
    assert len(lines(*opens_and_closes("a"), page=Page(shows_all=True))) == 6


def test_by_default_a_change_of_state_is_shown_after_trouble_or_silence() -> None:
    after_loss = [event(sock="a", kind="rto", attempt=1), *opens_and_closes("a"), *opens_and_closes("b")]
    assert sum("→" in line and "ESTAB" in line for line in lines(*after_loss, page=Page())) == 2
    assert len(lines(*opens_and_closes("a", silent_ms=61_000), page=Page())) == 6
    recovered = event("stall", sock="a", id="1", phase="end", verdict="packet-loss", outcome="recovered")
    healthy_again = [event(sock="a", kind="rto", attempt=1), recovered, *opens_and_closes("a")]
    assert not any("ESTAB" in line for line in lines(*healthy_again, page=Page()))


@pytest.mark.parametrize(
    "shown",
    [
        event(kind="fast", attempt=0), event("keepalive", attempt=1), event("window-probe", attempt=1),
        event("unsent", attempt=1), event("reset", direction="received"), event("error", error="EPIPE"),
        event("resume", cause="data", silent_ms=61_000), event("found", kind="idle", silent_ms=61_000),
        event("lost", count=1, hook="x"),
    ],
    ids=lambda each: each.event,
)  # fmt: skip
def test_by_default_everything_else_is_shown(shown: Event) -> None:
    assert len(lines(shown, page=Page())) == 3


def test_a_burst_is_counted_on_a_terminal_and_whole_in_a_file() -> None:
    burst = [event("reset", at=number / 300, direction="received", lport=30000 + number) for number in range(3000)]
    terminal = lines(*burst, page=Page(folded=True, columns=80, rows=24))
    assert len(lines(*burst, page=Page())) == 3002
    assert len(terminal) < 20
    counted = sum(int(line.split()[2].replace(",", "")) for line in terminal if line.lstrip().startswith("… and"))
    assert counted + sum("RST received  " in line for line in terminal) == 3000, "none is forgotten"


def test_many_kinds_at_once_fit_a_screen() -> None:
    events = [
        event(at=number / 1000, kind="rto", attempt=1 + number % 15, raddr=f"10.9.{number % 200}.1", sock=str(number))
        for number in range(2000)
    ]
    assert len(lines(*events, page=Page(folded=True, columns=80, rows=24))) < 24


def test_a_single_other_kind_that_was_counted_is_named() -> None:
    def counts(kinds: int) -> list[str]:
        burst = [
            event("reset", at=number / 1000, direction="received", raddr=f"10.9.{number % kinds}.1")
            for number in range(400)
        ]
        return [line.strip() for line in lines(*burst, page=Page(folded=True, columns=80)) if "… and" in line]

    assert [" more RST received to 10.9." in line for line in counts(4)] == [True] * 4
    assert counts(5)[-1].endswith("more lines of 2 other kinds")


def test_colour_only_where_wanted() -> None:
    assert "\x1b[" not in "".join(lines(event("error", error="ETIMEDOUT")))
    assert "\x1b[31m" in lines(event("error", error="ETIMEDOUT"), page=Page(colour=True))[2]


class Ascii(io.StringIO):
    encoding = "ascii"


def test_a_terminal_without_arrows() -> None:
    stream = Ascii()
    TextSink(stream, EVERYTHING).write([event("state", old_state="CLOSE", new_state="SYN_SENT")])
    assert stream.getvalue().isascii() and "->" in stream.getvalue()


@given(st.text().filter(lambda word: word not in EVENTS), st.text(), st.sampled_from([None, 80]))
def test_whatever_a_recording_holds_its_lines_are_printable(word: str, name: str, columns: int | None) -> None:
    hostile = [
        event(word, laddr="10.1.1.1", raddr="10.1.1.2", comm=name, pid=1),
        event("retransmit", kind=word, send_error=name, attempt=-5),
        event("state", old_state=word, new_state=name),
        event("reset", direction=word, reason=name),
        event("error", error=word),
        event("lost", hook=word),
    ]
    for each in hostile:
        shown = lines(each, page=Page(columns=columns, shows_all=True))
        assert len(shown) in ((3,) if columns is None else (3, 4)) and all(line.isprintable() for line in shown)
        assert columns is None or each.event == "lost" or max(map(len, shown)) <= columns


def test_a_detail_that_has_no_room_stands_below() -> None:
    resumed = event("resume", cause="probe", comm="php", pid=8506, silent_ms=62_000)
    shown = lines(resumed, page=Page(columns=80, shows_all=True))[-2:]
    assert shown[0].endswith("php[8506]") and shown[1] == "         (probe of the peer)"
    (line,) = lines(resumed, page=Page(columns=120, shows_all=True))[2:]
    assert line.endswith("php[8506] (probe of the peer)")


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (None, "pod/web-7d9f php[8506]"),
        (140, "pod/web-7d9f php[8506]"),
        (100, "php[8506]"),
        (80, "php[8506]"),
    ],
)
def test_a_pod_stands_before_the_process_where_it_fits(width: int | None, expected: str) -> None:
    (line,) = Columns(width).lines(event(pod="web-7d9f", pid=8506, comm="php", pids=[8506]), 0)
    assert line.endswith(f" {expected}") and (width is None or len(line) <= width)
    assert ("pod/" in line) == ("pod/" in expected)
