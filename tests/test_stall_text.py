"""How a stall reads: each sentence once, commands whole, and few words where many connections stall at once."""

from __future__ import annotations

import io
from typing import Any

from builders import event
from hypothesis import given
from hypothesis import strategies as st
from stall_events import HOUR_MS, close, freeze, heard, probe, waiting, window

from tracer.analysis.stalls import StallTracker
from tracer.analysis.verdicts import Verdict
from tracer.model.events import Event
from tracer.output.text import TextSink

OWNED: dict[str, Any] = {"pid": 8506, "comm": "php", "pids": [8506]}


def shown(*events: Event, until: float | None = None, folded: bool = False, raw: bool = False, **options: Any) -> str:
    """The lines of a stream on a terminal, without those of the events themselves unless raw."""
    stream = io.StringIO()
    sink = TextSink(stream, colour=False, utc_offset_s=0, folded=folded, **options)
    tracker = StallTracker(hz=250)
    out = [each for one in events for each in tracker.feed(one)]
    out += tracker.finish(round(until * 1e9) if until is not None else events[-1].ktime_ns)
    for each in out:
        if raw or each.event == "stall":
            sink.write([each])
    sink.close()
    return stream.getvalue()


def sentences(text: str) -> str:
    """As one line, wherever it was wrapped."""
    return " ".join(text.split())


def test_the_incident_in_words() -> None:
    text = shown(*freeze(15, retries=15, **OWNED), *close(938, **OWNED))
    lines = text.splitlines()
    assert lines[1] == "08:00:00.000 10.66.1.2:33356 10.66.2.2:3306  STALL idle-drop     1h00m php[8506]"
    assert lines[2] == "    Silent 1h00m, then no answer: 1 retransmission, 527 B stuck."
    assert "If this stays unanswered, it is consistent with a firewall or NAT that forgot the session" in sentences(
        text
    )
    assert "Gives up at 08:15:" in lines[5] and "(in 15m" in lines[5] and lines[5].endswith("with ETIMEDOUT.")
    assert "sudo nsenter -t 8506 -n sysctl -w net.ipv4.tcp_keepalive_time=60" in [line.strip() for line in lines]
    assert "Timed out after 15m38s: the application gets ETIMEDOUT." in lines[-1]
    assert [line for line in lines if "timed-out" in line] == [
        "08:15:38.000 10.66.1.2:33356 10.66.2.2:3306  STALL idle-drop timed-out php[8506]"
    ]
    assert max(len(line) for line in lines if "sudo" not in line) <= 80, "commands are printed whole"


def test_every_line_of_a_stall_names_its_verdict() -> None:
    for phase, outcome, expected in (
        ("begin", None, "STALL path-loss"), ("update", None, "STALL path-loss goes on"),
        ("end", "recovered", "STALL path-loss recovered"),
    ):  # fmt: skip
        stream = io.StringIO()
        stall = event(
            "stall", phase=phase, id="x", verdict="path-loss", outcome=outcome, duration_ms=5000, retransmits=3
        )
        TextSink(stream, colour=False, utc_offset_s=0).write([stall])
        assert stream.getvalue().splitlines()[1][45:].startswith(f"{expected} ")


def test_how_long_a_stall_lasted_is_on_its_line_or_below_it() -> None:
    text = shown(*freeze(1, silent_ms=200), heard(0.4, silent_ms=400), until=9)
    assert text.splitlines()[-1].endswith("STALL packet-loss recovered  600ms -"), "nothing stands below"


def test_the_advice_for_a_second_process_is_whole() -> None:
    """`To make it permanent, set it` needs the command before it."""
    first: dict[str, Any] = {"sock": "a", "pid": 8506, "pids": [8506], "comm": "php", "keepalive": True}
    second: dict[str, Any] = {
        "sock": "b",
        "lport": 40001,
        "pid": 9100,
        "pids": [9100],
        "comm": "php",
        "keepalive": True,
    }
    settings: dict[str, Any] = {"keepalive_idle_s": 7200, "keepalive_interval_s": 75, "keepalive_idle_own": False}
    text = shown(*freeze(3, **first, **settings), *freeze(3, start=2, **second, **settings), until=4)
    for pid in (8506, 9100):
        assert f"nsenter -t {pid} -n sysctl -w" in text
    assert text.count("To make it permanent") == 2


def test_advice_that_changed_is_whole_again() -> None:
    stream = io.StringIO()
    sink = TextSink(stream, colour=False, utc_offset_s=0)
    for number, advice in enumerate(
        (["Set it: sysctl -w a=1", "To keep it, set it."], ["Set it: sysctl -w a=2", "To keep it, set it."])
    ):
        sink.write([event("stall", phase="begin", id=str(number), verdict="idle-drop", retransmits=2, advice=advice)])
    assert stream.getvalue().count("To keep it, set it.") == 2


def test_advice_is_given_once_for_each_process() -> None:
    first: dict[str, Any] = {"sock": "a"}
    second: dict[str, Any] = {"sock": "b", "lport": 40001}
    text = shown(*freeze(3, **first), *freeze(3, start=2, **second), until=4)
    assert text.count("STALL idle-drop  ") == 2
    assert text.count("sysctl -w") == 1, "the second knows already"
    assert text.count("Gives up at") >= 2, "but each has its own time"
    assert "ss -K" in text.partition("40001")[2], "and its own line to end it"


def test_a_lost_packet_is_a_line_and_no_more() -> None:
    text = shown(*freeze(1, silent_ms=200), heard(0.4, silent_ms=400), until=9)
    assert [line.split()[3:5] for line in text.splitlines()[1:]] == [["STALL", "no-answer"], ["STALL", "packet-loss"]]


def test_path_loss_is_explained_when_it_is_no_longer_chance() -> None:
    text = shown(*freeze(silent_ms=200), *close(13.4))
    assert text.index("STALL path-loss goes on") < text.index("Consistent with a path or peer that died")
    assert "not with an idle timeout" in sentences(text)


def test_a_window_that_is_closed_in_words() -> None:
    text = sentences(shown(window(1.4, 3), heard(4, "window", unacked_bytes=0)))
    assert "The peer's window is closed: 3 probes, 700 KB waiting." in text
    assert "its application does not read. The network is not at fault" in text
    assert "Gives up" not in text and "Answered after" in text


def test_a_window_of_time_is_told_as_one() -> None:
    stall = event(
        "stall", phase="begin", id="x", verdict="unreachable", retransmits=2, soft_error="EHOSTUNREACH",
        idle_ms=HOUR_MS, gives_up_in_ms=12_600, gives_up_window_ms=6_000,
    )  # fmt: skip
    stream = io.StringIO()
    TextSink(stream, colour=False, utc_offset_s=0).write([stall])
    said = sentences(stream.getvalue())
    assert "Gives up between 08:00:12.600 and 08:00:18.600 (in 12.6s to 18.6s) with EHOSTUNREACH." in said
    assert "An ICMP error came back (EHOSTUNREACH)." in said


def test_a_thousand_at_once_are_a_page() -> None:
    events = [
        each
        for number in range(1000)
        for each in freeze(3, start=number / 10_000, sock=f"{number:x}", lport=33000 + number)
    ]
    events.sort(key=lambda each: each.ktime_ns)
    text = shown(*events, until=4, folded=True, raw=True)
    assert len(text.splitlines()) < 150
    assert "… and 994 more like these in that second: STALL idle-drop to 10.66.2.2:3306" in text
    assert shown(*events, until=4, raw=True).count("STALL idle-drop  ") == 1000, "in a pipe each one is there"


def test_what_was_folded_is_told_when_its_second_is_over() -> None:
    stream = io.StringIO()
    sink = TextSink(stream, colour=False, utc_offset_s=0, folded=True)
    for number in range(10):
        sink.write([event(at=number / 100, kind="tlp", attempt=0)])
    sink.flush(event(at=0.9).ktime_ns)
    assert "more like these" not in stream.getvalue()
    sink.flush(event(at=1.1).ktime_ns)
    assert "… and 4 more like these in that second: tlp to 10.66.2.2:3306" in stream.getvalue()


def test_a_terminal_that_knows_only_ascii() -> None:
    class Ascii(io.StringIO):
        encoding = "ascii"

    stream = Ascii()
    sink = TextSink(stream, colour=False, utc_offset_s=0)
    tracker = StallTracker(hz=250)
    for one in [*freeze(), *close(13.4)]:
        for each in tracker.feed(one):
            sink.write([each])
    assert stream.getvalue().isascii() and "-> " in stream.getvalue()


@given(
    st.sampled_from([*Verdict, "\x1b[2J"]),
    st.sampled_from(["begin", "update", "end", None, "\n"]),
    st.text(),
    st.lists(st.text(), max_size=3),
    st.one_of(st.none(), st.integers(-(2**64), 2**64)),
)
def test_whatever_a_recording_holds_it_stays_printable_lines(
    verdict: str, phase: str | None, word: str, advice: list[str], number: int | None
) -> None:
    stall = event(
        "stall", verdict=verdict, phase=phase, id=word, outcome=word, error=word, soft_error=word, advice=advice,
        idle_ms=number, duration_ms=number, retransmits=number, gives_up_in_ms=number, gives_up_window_ms=number,
        comm=word, pid=1, unacked_bytes=number,
    )  # fmt: skip
    stream = io.StringIO()
    sink = TextSink(stream, colour=False, utc_offset_s=0)
    sink.write([stall])
    sink.write([stall])
    assert all(line.isprintable() for line in stream.getvalue().split("\n"))


def test_a_stall_that_began_before_anybody_watched_says_since_when() -> None:
    late = freeze(9, retries=15, **OWNED)[-1]
    text = sentences(shown(late))
    assert "Silent 1h00m, then no answer since 07:59:59 (1m46s): 9 retransmissions, 527 B stuck." in text
    assert "If this stays unanswered" not in text, "nine times are no chance"


def test_a_wait_in_words() -> None:
    text = sentences(shown(waiting(**OWNED), until=501))
    assert "The last data to 10.66.2.2:3306 was sent at 08:06:58 (1m21s ago) and acknowledged" in text
    assert "no reply has come" in text and "Only the peer's end shows which" in text
    assert "Keepalive is off: the kernel never ends this wait." in text
    assert "ss -tno sport = :3306 dst 10.66.1.2 dport = :33356" in text, "where to look"
    broker = sentences(shown(waiting(rport=5672), until=501))
    assert "the kernel never ends this wait, unless the client has a heartbeat of its own." in broker
    kept = sentences(shown(waiting(keepalive=True), until=501))
    assert "If the peer is gone, keepalive gives up between" in kept and "Keepalive is off" not in kept
    answered = sentences(shown(waiting(), heard(510, silent_ms=91_000, unacked_bytes=0)))
    assert "STALL unanswered recovered" in answered and "Answered after 1m31s." in answered
    alive = sentences(shown(waiting(keepalive=True), heard(510, "keepalive", silent_ms=91_000, unacked_bytes=0)))
    assert "The peer answered a probe or acknowledged more data after 1m31s, but has not replied yet." in alive


def test_what_was_presumed_and_revoked_in_words() -> None:
    text = sentences(shown(*freeze(2), freeze(5)[-1], *close(13.4)))
    assert "No further retransmission was seen after 840ms: it was probably answered." in text
    assert "It was not answered after all, and the stall goes on." in text
    assert text.index("probably answered") < text.index("answered after all") < text.index("Timed out after 13.6s")


def test_a_keepalive_that_failed_during_a_request_does_not_say_that_nobody_was_talking() -> None:
    probes = [probe(75 * n, n + 1, asked_ms=7_200_000 + 75_000 * n) for n in range(3)]
    text = sentences(shown(*probes, until=160))
    assert "A request was open: the peer had acknowledged it, but sent no reply" in text
    assert "while the connection was idle" not in text
