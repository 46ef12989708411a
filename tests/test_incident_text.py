"""How stalls read: a block of at most eight lines, one account an incident, commands whole, and what waits first."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from builders import event
from hypothesis import given
from hypothesis import strategies as st
from recording_files import HEADER
from stall_events import HOUR_MS, close, freeze, heard, probe, reset, rtx, waiting, window

from tracer.analysis.advice.commands import split
from tracer.analysis.advice.context import AdviceContext
from tracer.analysis.advice.steps import Step
from tracer.analysis.idle_timeouts import IdleTimeoutRange
from tracer.analysis.stalls import StallTracker
from tracer.analysis.verdicts import Verdict
from tracer.model.events import Event
from tracer.model.times import format_time
from tracer.output.incident_text import MAX_BLOCK
from tracer.output.page import Page
from tracer.output.text import TextSink, later_stall

OWNED: dict[str, Any] = {"pid": 8506, "comm": "php", "pids": [8506]}
TERMINAL = Page(columns=80, rows=24, folded=True)


def tracked(*events: Event, until: float | None = None) -> list[Event]:
    tracker = StallTracker(hz=250)
    out = [each for one in events for each in tracker.feed(one)]
    return out + tracker.finish(round(until * 1e9) if until is not None else events[-1].ktime_ns)


def written(events: list[Event], page: Page = TERMINAL, *, started: float | None = None, host: str = "") -> str:
    """The lines of events. started: when tracing began, seconds after START. host: where."""
    stream = io.StringIO()
    sink = TextSink(stream, page)
    if started is not None:
        at = event(at=started)
        sink.opened(
            replace(
                HEADER,
                started=format_time(at.time_ns),
                clock_offset_ns=at.time_ns - at.ktime_ns,
                utc_offset_s=0,
                filters={},
                host=host,
            )
        )
    for batch in batches(events):
        sink.write(batch)
    sink.close()
    return stream.getvalue()


def batches(events: list[Event]) -> Iterator[list[Event]]:
    """Events of one instant, with the stalls that follow from them."""
    batch: list[Event] = []
    for each in events:
        if batch and each.event != "stall" and each.ktime_ns != batch[0].ktime_ns:
            yield batch
            batch = []
        batch.append(each)
    yield batch


def shown(*events: Event, until: float | None = None, page: Page = TERMINAL) -> str:
    """The lines of the stalls alone."""
    return written([each for each in tracked(*events, until=until) if each.event == "stall"], page)


def sentences(text: str) -> str:
    """As one line, wherever it was wrapped."""
    return " ".join(text.split())


def pool(size: int, count: int = 3, *, spread_s: float = 0.1, **fields: Any) -> list[Event]:
    """The retransmissions of a pool of connections that freeze one after the other within spread_s."""
    events = [
        each
        for number in range(size)
        for each in freeze(count, number * spread_s / size, sock=f"{number:x}", lport=33000 + number, **fields)
    ]
    return sorted(events, key=lambda each: each.ktime_ns)


def test_the_incident_in_words() -> None:
    text = shown(*freeze(15, retries=15, **OWNED), *close(938, **OWNED))
    lines = text.splitlines()
    assert lines[2] == "08:00:00 STALL idle-drop  php[8506] 10.66.1.2:33356 → 10.66.2.2:3306"
    assert lines[3].startswith("    Silent 1h00m, then no answer: 1 retransmission, 527 B stuck. ")
    assert "So far consistent with a firewall or NAT that forgot the session, or a dead peer." in sentences(text)
    assert "Gives up at 08:15:" in text and "(in 15m" in text
    assert "08:15:38 END   idle-drop  php[8506] 10.66.1.2:33356 → 10.66.2.2:3306\n" in text
    assert lines[-1] == "    timed out after 15m38s: the application gets ETIMEDOUT"


def stall_of(verdict: Verdict, at: float = 0, **fields: Any) -> Event:
    ordinary: dict[str, Any] = {
        "phase": "begin", "id": "x", "verdict": verdict.value, "retransmits": 3, "idle_ms": HOUR_MS + 59_000,
        "gives_up_in_ms": 812_345, "gives_up_window_ms": 119_000, "unacked_bytes": 99_999, "since": None,
        "unsent_bytes": 99_999, "keepalive": True, "pid": 4194303, "comm": "a-name-of-15-by", "pids": [4194303],
        "laddr": "192.168.100.199", "raddr": "192.168.200.200", "lport": 50999, "rport": 50100, "asked_ms": 81_000,
        "send_error": "EHOSTUNREACH" if verdict is Verdict.LOCAL_DROP else None, "soft_error": "EHOSTUNREACH",
        "advice": [
            "Check: sudo tcpwatch probe --host 192.168.200.200 --rport 50100 --connect",
            "Release: sudo tcpwatch end --stuck --host 192.168.200.200 --rport 50100",
            "Protect: sudo tcpwatch protect --host 192.168.200.200 --rport 50100 --idle 60s",
            "Cure: keepalive is on, first probe due after 2h: sudo sysctl -w net.ipv4.tcp_keepalive_time=60",
            "To make it permanent: echo net.ipv4.tcp_keepalive_time=60 | sudo tee /etc/sysctl.d/90-tcpwatch.conf",
        ],
    }  # fmt: skip
    return event("stall", at, **{**ordinary, **fields})


@pytest.mark.parametrize("phase", ["begin", "end"])
@pytest.mark.parametrize("verdict", [each for each in Verdict if not each.is_quiet])
def test_a_block_has_eight_lines_at_most_and_every_command_whole(verdict: Verdict, phase: str) -> None:
    since = format_time(event(at=-100).time_ns)
    stall = stall_of(verdict, phase=phase, since=since, one_way=True, outcome="timed-out", duration_ms=812_345)
    if not verdict.blames_idleness:
        stall.advice = [line for line in stall.advice or () if Step.of(line) is not Step.PROTECT]
    lines = written([stall]).splitlines()[2:]
    assert len(lines) <= MAX_BLOCK, "\n".join(lines)
    for command in (
        "sudo tcpwatch probe --host 192.168.200.200 --rport 50100 --connect",
        "sudo tcpwatch end --stuck --host 192.168.200.200 --rport 50100",
        *(["sudo tcpwatch protect --host 192.168.200.200 --rport 50100 --idle 60s"] * verdict.blames_idleness),
        "sudo sysctl -w net.ipv4.tcp_keepalive_time=60",
    ):
        assert any(line.endswith(command) for line in lines)
    assert max(len(line) for line in lines if "sudo" not in line) <= 80
    order = [
        next(n for n, line in enumerate(lines) if step.value + " " in line)
        for step in Step
        if step is not Step.PROTECT
    ]
    assert order == sorted(order)


@pytest.mark.parametrize("late", [True, False])
@pytest.mark.parametrize("owner", [{"keepalive": True}, {"keepalive": False, "comm": "worker"}, {"comm": "python3"}])
@pytest.mark.parametrize("verdict", [each for each in Verdict if not each.is_quiet])
def test_what_is_really_advised_fits_eight_rows_of_80_columns(
    verdict: Verdict, owner: dict[str, Any], late: bool
) -> None:
    """With every meaning, every command whole, and a terminal that wraps long commands."""
    since = format_time(event(at=-100).time_ns) if late else None
    ends = {"laddr": "10.66.1.2", "raddr": "10.66.2.2", "lport": 50999, "rport": 5432, "pid": 8506, "pids": [8506]}
    phase = "end" if verdict in (Verdict.IDLE_RESET, Verdict.PEER_CLOSED) else "begin"
    fields = {
        "phase": phase,
        "outcome": "reset",
        "soft_error": None,
        "unacked_bytes": 527,
        "comm": "php-fpm",
        "keepalive_idle_s": 7200,
        "keepalive_interval_s": 75,
        "keepalive_idle_own": False,
    }
    stall = stall_of(verdict, since=since, **{**ends, **fields, **owner})
    context = AdviceContext(
        stall, stall.idle_ms, phase == "end", 250, IdleTimeoutRange(None, stall.idle_ms), False, False
    )
    stall.advice = verdict.advice(context)
    lines = written([stall]).splitlines()[2:]
    assert sum(-(-len(line) // 80) for line in lines) <= MAX_BLOCK, "\n".join(lines)
    steps = [split(Step.text_of(step, line))[1] for line in stall.advice if (step := Step.of(line))]
    assert steps
    for command in filter(None, steps):
        assert any(line.endswith(command) for line in lines), command
    assert verdict.meaning_of(stall) in sentences("\n".join(lines))


def test_verbose_has_every_sentence() -> None:
    stall = stall_of(Verdict.IDLE_DROP)
    text = written([stall], replace(TERMINAL, is_verbose=True))
    assert "/etc/sysctl.d/90-tcpwatch.conf" in text
    assert "/etc/sysctl.d" not in written([stall])
    assert "Gives up between 08:13:32.345 and 08:15:31.345" in text, "to the millisecond"


def test_verbose_tells_which_job_it_is() -> None:
    page = replace(
        TERMINAL, is_verbose=True, command_line={4194303: "php worker.php --queue=mail\x1b[2J"}.__getitem__
    )
    stall = stall_of(Verdict.IDLE_DROP, cgroup="/system.slice/worker.service")
    text = written([stall], page)
    assert (
        "    Owner    php worker.php --queue=mail\\x1b[2J\n" in text and "cgroup /system.slice/worker.service" in text
    )
    assert "Owner" not in written([stall], replace(TERMINAL, command_line=page.command_line))
    for gone in ({"orphan": True}, {"pids": None}, {"phase": "end", "outcome": "timed-out"}):
        assert "worker.php" not in written([stall_of(Verdict.IDLE_DROP, **gone)], page), "another may have the pid"
    assert "worker.php" not in written([stall], page, started=-9, host="db1")


POD: dict[str, Any] = {"container": "0f3a" * 16, "container_name": "app", "pod": "web-7d9f", "pod_namespace": "prod"}


def test_the_pod_stands_before_the_process() -> None:
    stall = stall_of(Verdict.IDLE_DROP, **POD)
    text = written([stall])
    assert f"STALL idle-drop  pod/web-7d9f {stall.comm}[" in text
    assert "Owner" not in text and "prod" not in text
    verbose = written([stall], replace(TERMINAL, is_verbose=True))
    assert "    Owner    pod prod/web-7d9f, container app (0f3a0f3a0f3a)\n" in verbose
    unit = written([stall_of(Verdict.IDLE_DROP, unit="worker@3.service")], replace(TERMINAL, is_verbose=True))
    assert "    Owner    unit worker@3.service\n" in unit
    machine = written([stall_of(Verdict.IDLE_DROP, container="postgresql-main")], replace(TERMINAL, is_verbose=True))
    assert "    Owner    container postgresql-main\n" in machine, "a name is no id"


def test_a_pool_has_a_pod_only_if_all_of_it_is_there() -> None:
    page = replace(TERMINAL, columns=120, width=120)
    assert "3 × pod/web-7d9f " in shown(*pool(3, **POD), until=60, page=page)
    first, *others = pool(3, **POD)
    other = [*pool(3, **{**POD, "pod": "web-x"})]
    mixed = shown(*[b if a.sock == first.sock else a for a, b in zip([first, *others], other)], until=60)
    assert "3 × " in mixed and "3 × pod/" not in mixed


def test_commands_for_another_host_name_it() -> None:
    stall = stall_of(Verdict.IDLE_DROP)
    text = written([stall], replace(TERMINAL, here="laptop", program="scripts/tcpwatch"), started=-9, host="db1")
    assert "    Check    on db1: sudo tcpwatch probe --host 192.168.200.200 --rport 50100 --connect\n" in text
    assert (
        "on db1: sudo tcpwatch end" in text
        and "on db1: sudo tcpwatch protect" in text
        and "scripts/tcpwatch" not in text
    )
    hostile = written([stall], TERMINAL, started=-9, host="x: sudo rm -rf /")
    assert hostile.count("rm -rf") == 1 and "on the recorded host: sudo tcpwatch probe" in hostile, (
        "in the heading alone"
    )
    peer = stall_of(
        Verdict.UNANSWERED, advice=["Check: on the peer: ss -tno sport = :1", "Release: sudo x", "Cure: y"]
    )
    assert "Check    on the peer: ss -tno" in written([peer])
    assert "Check    on the peer: ss -tno" in written([peer], started=-9, host="db1")


def test_two_hosts_have_accounts_of_their_own() -> None:
    stream = io.StringIO()
    sink = TextSink(stream, replace(TERMINAL, here="db1"))
    for host in ("db1", "db2"):
        sink.opened(replace(HEADER, host=host, run=host, utc_offset_s=0, started="", filters={}))
        sink.write([stall_of(Verdict.IDLE_DROP, id=host, sock=host)])
    sink.close()
    text = stream.getvalue()
    assert text.count("STALL idle-drop  a-name") == 2 and " × " not in text
    assert "2027-01-15, times in UTC\n" in text and "2027-01-15, times in UTC, on db2\n" in text
    assert text.count("on db2: ") == 4 and "on db1" not in text


def test_an_update_without_news_hides_no_retransmission() -> None:
    begin = stall_of(Verdict.IDLE_DROP, gives_up_window_ms=None)
    update = stall_of(Verdict.IDLE_DROP, at=3, phase="update", gives_up_in_ms=809_345, gives_up_window_ms=None)
    text = written([begin, event(at=3, kind="rto", attempt=4), update])
    assert " rto 4 " in text and "WAIT" not in text


def test_stalls_that_nobody_waits_for_are_left_out() -> None:
    orphan = stall_of(Verdict.PATH_LOSS, orphan=True, pids=None, state="FIN_WAIT1")
    closed = event("state", at=1, old_state="FIN_WAIT1", new_state="CLOSE")
    assert written([orphan, closed]) == ""
    assert "STALL path-loss" in written([orphan, closed], replace(TERMINAL, shows_all=True))
    begin = stall_of(Verdict.PATH_LOSS)
    over = stall_of(Verdict.PATH_LOSS, at=9, phase="end", outcome="timed-out", duration_ms=9000, orphan=True)
    assert "END   path-loss" in written([begin, over]), "somebody waited when it began"


def test_commands_name_this_tcpwatch() -> None:
    text = written([stall_of(Verdict.IDLE_DROP)], replace(TERMINAL, program="/src/scripts/tcpwatch"))
    assert "sudo /src/scripts/tcpwatch end --stuck" in text and "sudo tcpwatch" not in text


def test_a_pool_is_one_incident() -> None:
    begun = [*pool(200, pid=23949, comm="gunicorn", pids=[23949]), event(at=3, kind="fast", sock="other")]
    text = written(tracked(*begun, until=4))
    assert text.count("STALL idle-drop  gunicorn[23949] 10.66.1.2:") == 1
    assert "STALL idle-drop  200 × gunicorn[23949] → 10.66.2.2:3306\n" in text
    assert "silent 1h00m, gives up " in text
    assert len(text.splitlines()) < 24, "a screen"
    whole = written(tracked(*begun, until=4), Page())
    assert "200 × gunicorn[23949]" in whole and len(whole.splitlines()) < 24, "in a file, too"


def test_the_ends_of_a_pool_are_a_line() -> None:
    ends = [
        each for number in range(200) for each in close(13.5 + number / 400, sock=f"{number:x}", lport=33000 + number)
    ]
    text = written(tracked(*pool(200, 5, comm="gunicorn", pid=1, pids=[1]), *ends, event(at=22), until=23))
    assert "END idle-drop 200 × gunicorn[1] → 10.66.2.2:3306 timed out after 13." in sentences(text)
    assert text.count("END ") == 1


def test_some_of_a_pool_still_wait() -> None:
    ends = [each for number in range(150) for each in close(13.5, sock=f"{number:x}", lport=33000 + number)]
    text = written(tracked(*pool(200, 5), *ends, event(at=22)))
    assert "150 × " in text and "50 still waiting" in text


def test_stalls_that_begin_and_end_within_a_second_are_counted_at_their_end() -> None:
    stalls = []
    for number in range(5):
        for phase, at in (("begin", 0.1), ("end", 0.2)):
            over = {"outcome": "recovered", "duration_ms": 100} if phase == "end" else {}
            stalls.append(stall_of(Verdict.PATH_LOSS, at, id=str(number), sock=str(number), phase=phase, **over))
    stalls.sort(key=lambda each: each.ktime_ns)
    text = written([*stalls, event(at=3, kind="fast")])
    assert "0 ×" not in text and "5 × a-name-of-15-by[4194303]" in text and text.count("STALL") == 1


def test_a_pool_of_many_processes() -> None:
    events = pool(8)
    for number, each in enumerate(events):
        each.pid, each.comm, each.pids = 100 + number % 8, "gunicorn", [100 + number % 8]
    text = written(tracked(*events, event(at=3), until=4))
    assert "8 × gunicorn (" in text and "processes) → 10.66.2.2:3306" in text


def test_other_owners_services_and_verdicts_are_incidents_of_their_own() -> None:
    events = [
        *freeze(3, sock="a", comm="php"), *freeze(3, sock="b", comm="python"),
        *freeze(3, sock="c", comm="php", rport=6379), *freeze(3, sock="d", comm="php", silent_ms=200, srtt_ms=1),
    ]  # fmt: skip
    events.sort(key=lambda each: each.ktime_ns)
    text = shown(*events, until=4)
    assert text.count("STALL ") == 4 and " × " not in text


def test_a_stall_of_the_next_hour_is_another_incident() -> None:
    text = shown(*freeze(3, sock="a"), *close(13.4, sock="a"), *freeze(3, 3600, sock="b"), until=3700)
    assert text.count("STALL idle-drop") == 2 and " × " not in text


def test_a_lost_packet_is_its_retransmission_and_no_more() -> None:
    text = written(tracked(*freeze(1, silent_ms=200), heard(0.4, silent_ms=400), until=9))
    assert "STALL" not in text and "END" not in text
    assert [line.split()[1] for line in text.splitlines()[2:]] == ["tlp", "rto", "resumed"]


def test_path_loss_is_explained_when_it_is_no_longer_chance() -> None:
    text = shown(*freeze(silent_ms=200), *close(13.4))
    assert text.count("STALL path-loss") == 1 and "3 retransmissions" in text
    assert "not with an idle timeout" in sentences(text)


def test_a_handshake_is_shown_from_the_third_syn_on() -> None:
    def syn(attempt: int, sock: str = "s") -> Event:
        at = (1 << attempt) - 2
        return rtx("syn", at, attempt, state="SYN_SENT", silent_ms=None, unacked_bytes=0, retries=6, sock=sock)

    assert "STALL" not in shown(syn(1), until=2)
    third = shown(syn(1), syn(2), until=4)
    assert third.count("STALL handshake") == 1 and "No answer to the SYN" in third and "2 retransmissions" in third
    burst = [syn(1, str(number)) for number in range(52)]
    answered = [event("state", 2.5, sock=str(n), old_state="SYN_SENT", new_state="ESTABLISHED") for n in range(52)]
    text = written(tracked(*burst, *answered, until=9))
    assert "STALL" not in text and "END" not in text, "lost by chance"
    lasting = [syn(attempt, str(number)) for attempt in (1, 2) for number in range(52)]
    assert len(written(tracked(*lasting, event(at=4), until=5)).splitlines()) < 24, "a screen"


def test_an_end_without_a_begin_has_its_block() -> None:
    text = shown(*[event("resume", 0, cause="data", silent_ms=5)], reset(1, **OWNED), until=4)
    assert "END   idle-reset  php[8506]" in text
    assert "Silent 1h00m, then a reset." in sentences(text)


def test_the_events_of_an_account_have_no_line_beside_it() -> None:
    stream = io.StringIO()
    sink = TextSink(stream, TERMINAL)
    tracker = StallTracker(hz=250)
    for each in freeze(5, **OWNED):
        sink.write(tracker.feed(each))
    sink.write([out for each in close(13.4, **OWNED) for out in tracker.feed(each)])
    text = stream.getvalue()
    assert " tlp " not in text and "STALL idle-drop" in text
    assert " rto 5 " in text, "what comes later has"
    assert " ETIMEDOUT  " not in text and "ESTAB" not in text and "the application gets ETIMEDOUT" in text


def test_a_window_that_is_closed_in_words() -> None:
    text = sentences(shown(window(1.4, 3), heard(4, "window", unacked_bytes=0)))
    assert "The peer's window is closed: 3 probes, 700 KB waiting." in text
    assert "its application does not read. The network is not at fault" in text
    assert "Gives up" not in text and "answered after" in text


def test_a_time_that_became_exact_is_printed_again() -> None:
    begin = stall_of(Verdict.IDLE_DROP, advice=[])
    exact = stall_of(Verdict.IDLE_DROP, at=0.2, phase="update", gives_up_in_ms=860_000, gives_up_window_ms=None)
    assert "08:00:00 WAIT  idle-drop" in written([begin, exact]) and "gives up at 08:14:20" in written([begin, exact])
    known = stall_of(Verdict.IDLE_DROP, advice=[], gives_up_window_ms=None)
    assert "WAIT" not in written([known, exact]), "it was exact before"


def test_a_stall_that_goes_on_has_a_line_now_and_then() -> None:
    begin = stall_of(Verdict.IDLE_DROP, since=format_time(event().time_ns), gives_up_window_ms=None)
    update = stall_of(
        Verdict.IDLE_DROP, at=60, phase="update", retransmits=9, since=begin.since, gives_up_in_ms=752_345,
        gives_up_window_ms=None,
    )  # fmt: skip
    text = sentences(written([begin, update]).partition("WAIT")[2])
    assert "no answer for 1m00s, 9 retransmissions, gives up at 08:13:32" in text


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        (Verdict.IDLE_DROP, "no answer for 1m00s, 9 retransmissions"),
        (Verdict.ZERO_WINDOW, "the peer's window is closed for 1m00s, gives"),
        (Verdict.LOCAL_DROP, "nothing leaves this host for 1m00s, gives"),
        (Verdict.KEEPALIVE_FAILED, "no answer to keepalive probes for 1m00s, gives"),
        (Verdict.HANDSHAKE, "no answer to the SYN for 1m00s, gives"),
        (Verdict.UNANSWERED, "no reply for 1m00s, gives"),
    ],
)
def test_a_line_about_a_wait_says_what_is_missing(verdict: Verdict, words: str) -> None:
    since = format_time(event().time_ns)
    begin = stall_of(verdict, since=since)
    update = stall_of(verdict, at=60, phase="update", retransmits=9, since=since)
    assert words in sentences(written([begin, update]).partition(" WAIT ")[2])
    both = [stall_of(verdict, id=name, sock=name, since=since) for name in "ab"]
    later = event(at=1, kind="fast", sock="x")
    group = written([*both, later], started=0.5)
    what = words.partition(" for ")[0]
    assert f"{what} since 08:00:00" in group or f"{what[:1].upper()}{what[1:]} since 08:00:00" in group


def test_a_terminal_that_knows_only_ascii() -> None:
    class Ascii(io.StringIO):
        encoding = "ascii"

    stream = Ascii()
    sink = TextSink(stream, TERMINAL)
    for each in tracked(*pool(5), *close(13.4, sock="1"), event(at=20)):
        sink.write([each])
    assert stream.getvalue().isascii() and "-> " in stream.getvalue() and "5 x " in stream.getvalue()


@given(
    st.sampled_from([*Verdict, "\x1b[2J"]),
    st.sampled_from(["begin", "update", "end", None, "\n"]),
    st.text(),
    st.lists(st.one_of(st.text(), st.text().map(lambda text: f"Cure: {text}: sudo x")), max_size=3),
    st.one_of(st.none(), st.integers(-(2**64), 2**64)),
    st.booleans(),
)
def test_whatever_a_recording_holds_it_stays_printable_lines(
    verdict: str, phase: str | None, word: str, advice: list[str], number: int | None, is_verbose: bool
) -> None:
    stall = event(
        "stall", verdict=verdict, phase=phase, id=word, outcome=word, error=word, soft_error=word, advice=advice,
        idle_ms=number, duration_ms=number, retransmits=number, gives_up_in_ms=number, gives_up_window_ms=number,
        comm=word, pid=1, unacked_bytes=number,
    )  # fmt: skip
    text = written([stall, stall], replace(TERMINAL, is_verbose=is_verbose), started=1)
    assert all(line.isprintable() for line in text.split("\n"))


def late(count: int, *, sock: str = "late", **fields: Any) -> Event:
    """A connection in the ninth retransmission, as the first walk over all sockets finds it."""
    return freeze(9, retries=15, sock=sock, lport=30000 + count, **{**OWNED, **fields})[-1]


def test_what_hangs_already_comes_first_and_is_explained() -> None:
    first = late(1)
    at = (first.ktime_ns - event().ktime_ns) / 1e9
    events = tracked(first, event(at=at + 1, kind="fast", sock="x"), until=at + 3)
    lines = written(events, started=at).splitlines()
    assert lines[2] == "Already waiting:"
    assert " WAIT  idle-drop  php[8506] 10.66.1.2:30001 → 10.66.2.2:3306" in lines[3]
    assert "Silent 1h00m, then no answer since 07:59:59 (1m46s): 9 retransmissions, 527 B stuck." in sentences(
        "\n".join(lines)
    )
    assert "So far" not in "\n".join(lines), "nine times are no chance"


def test_a_run_that_ends_at_once_explains_what_hangs_already() -> None:
    first = late(1)
    at = (first.ktime_ns - event().ktime_ns) / 1e9
    lines = written(tracked(first), started=at).splitlines()
    assert lines[2] == "Already waiting:" and " WAIT  idle-drop  php[8506]" in lines[3]
    assert " END   idle-drop  php[8506]" in lines[-2] and "not over yet" in lines[-1]


def test_many_that_hang_already_are_a_list_and_a_block() -> None:
    found = [
        late(number, sock=f"{service}-{number}", rport=3300 + service)
        for service in range(9)
        for number in range(1 if service else 200)
    ]
    at = (found[0].ktime_ns - event().ktime_ns) / 1e9
    text = written(tracked(*found, event(at=at + 1, kind="fast", sock="x"), until=at + 3), started=at)
    lines = text.splitlines()
    assert lines[2] == "Already waiting:"
    assert "200 × php[8506] → 10.66.2.2:3300" in lines[3]
    assert "and 3 connections more: sudo tcpwatch sockets --stuck" in text
    assert text.count(" WAIT  ") == 1 and "WAIT  idle-drop  200 × php[8506] → 10.66.2.2:3300" in text
    start = lines[: next(n for n, line in enumerate(lines) if " fast " in line)]
    assert len(start) <= 24 and max(map(len, start)) <= 80


def test_what_began_after_the_start_is_not_already_waiting() -> None:
    text = written(tracked(*freeze(3, 5, **OWNED), until=9), started=0)
    assert "Already" not in text and "STALL idle-drop" in text


def test_what_waits_is_printed_again_before_it_scrolls_off() -> None:
    stall = stall_of(Verdict.IDLE_DROP, since=format_time(event().time_ns))
    noise = [
        event(at=1 + number / 4, kind="rto", attempt=1, sock=str(number), raddr=f"10.9.{number % 250}.1")
        for number in range(2400)
    ]
    stream = io.StringIO()
    sink = TextSink(stream, TERMINAL)
    for each in [stall, *noise]:
        sink.write([each])
        sink.flush(each.ktime_ns)
    lines = stream.getvalue().splitlines()
    blocks = [number for number, line in enumerate(lines) if " idle-drop " in line]
    assert len(blocks) > 3
    gaps = [after - before for before, after in zip(blocks, blocks[1:])]
    assert max(gaps) <= 24 and len(lines) - blocks[-1] <= 24, "it is on every screen"
    assert len(lines) < 400, "ten minutes of noise"


def test_ends_of_others_do_not_scroll_away_what_waits() -> None:
    short = [
        stall_of(Verdict.IDLE_DROP, at=number / 100, id=f"s{number}", sock=f"s{number}", comm=f"job-{number}")
        for number in range(30)
    ]
    ends = [
        stall_of(
            Verdict.IDLE_DROP, at=3 + 3 * number, id=f"s{number}", sock=f"s{number}", comm=f"job-{number}",
            phase="end", outcome="timed-out", duration_ms=3000,
        )
        for number in range(30)
    ]  # fmt: skip
    stream = io.StringIO()
    sink = TextSink(stream, TERMINAL)
    for each in [*short, stall_of(Verdict.IDLE_DROP, at=1, id="lasting", sock="lasting"), *ends]:
        sink.write([each])
        sink.flush(each.ktime_ns)
    lines = stream.getvalue().splitlines()
    commands = [number for number, line in enumerate(lines) if "Release " in line]
    assert max(after - before for before, after in zip(commands, [*commands[1:], len(lines)])) <= 24


def test_the_end_of_a_later_loss_does_not_shorten_what_was_reported() -> None:
    """Packets that were lost again soon after an answer belong to one stall, of which the last loss was short."""
    began, again = (format_time(event(at=at).time_ns) for at in (0, 5))
    stall = stall_of(Verdict.PATH_LOSS, at=3, since=began)
    end: dict[str, Any] = {"phase": "end", "outcome": "recovered", "duration_ms": 251}
    text = sentences(written([stall, stall_of(Verdict.PACKET_LOSS, at=8, since=again, **end)]))
    assert "END path-loss" in text and "answered. Consistent with packet loss" in text and "251ms" not in text
    text = sentences(
        written([stall, stall_of(Verdict.PACKET_LOSS, at=8, since=began, **{**end, "duration_ms": 8000})])
    )
    assert "answered after 8.0s" in text


def test_a_stall_that_has_its_former_verdict_again_says_so() -> None:
    """The peer leaves three probes of its closed window without an answer, and answers the next one."""
    stalls = [
        stall_of(verdict, at=at, phase=phase, outcome=outcome, since=format_time(event().time_ns), duration_ms=40_000)
        for verdict, at, phase, outcome in (
            (Verdict.ZERO_WINDOW, 3, "begin", None), (Verdict.PATH_LOSS, 13, "update", None),
            (Verdict.ZERO_WINDOW, 26, "update", None), (Verdict.ZERO_WINDOW, 40, "end", "ongoing"),
        )
    ]  # fmt: skip
    heads = [line.split()[1:3] for line in written(stalls).splitlines() if line.startswith("08:")]
    assert heads == [
        ["STALL", "zero-window"],
        ["STALL", "path-loss"],
        ["WAIT", "zero-window"],
        ["END", "zero-window"],
    ]
    assert "1 ×" not in written(stalls)


def test_what_is_printed_again_has_no_second_line_about_its_wait() -> None:
    others = [
        stall_of(
            Verdict.IDLE_DROP, at=1 + number / 100, id=f"s{number}", sock=f"s{number}", comm=f"job-{number}",
            phase=phase, outcome="timed-out", duration_ms=3000,
        )
        for phase in ("begin", "end")
        for number in range(10)
    ]  # fmt: skip
    began, goes_on = (
        [stall_of(Verdict.IDLE_DROP, at=at, id=each, sock=each, phase=phase) for each in "ab"]
        for at, phase in ((1.5, "begin"), (8, "update"))
    )
    stream = io.StringIO()
    sink = TextSink(stream, TERMINAL)
    for each in [*others[:10], *began, *others[10:], event(at=3, kind="rto", sock="later"), *goes_on]:
        sink.write([each])
    for seconds in (8, 10):
        sink.flush(event(at=seconds).ktime_ns)
    assert stream.getvalue().count("WAIT  idle-drop  ") == 1


@pytest.mark.parametrize("connections", [1, 2])
def test_what_is_printed_again_has_the_durations_of_that_time(connections: int) -> None:
    """The kernel may have retransmitted since then, so the number of retransmissions is left out."""
    since = format_time(event(at=-6).time_ns)
    stalls = [
        stall_of(Verdict.IDLE_DROP, id=str(each), sock=str(each), since=since, gives_up_in_ms=50_000,
                 gives_up_window_ms=0)
        for each in range(connections)
    ]  # fmt: skip
    noise = [event(at=1 + each / 4, kind="rto", sock=f"n{each}", raddr=f"10.9.{each}.1") for each in range(100)]
    stream = io.StringIO()
    sink = TextSink(stream, TERMINAL)
    for each in [*stalls, *noise]:
        sink.write([each])
        sink.flush(each.ktime_ns)
    again = stream.getvalue().rpartition(" WAIT  idle-drop  ")[2]
    text = " ".join(again.split())
    found = re.search(r"no answer since 07:59:54 \((.*?)s\)\..* Gives up at 08:00:50 \(in (.*?)s\)", text)
    assert found is not None, text
    assert float(found[1]) > 10 and float(found[1]) + float(found[2]) == pytest.approx(56)
    assert "retransmission" not in text.partition("Gives up")[0]


def test_no_time_is_left_where_the_kernel_should_have_given_up() -> None:
    stall = stall_of(Verdict.IDLE_DROP, gives_up_in_ms=5_000, gives_up_window_ms=10_000)
    later = [later_stall(stall, stall.time_ns + seconds * 1_000_000_000) for seconds in (2, 8, 20)]
    assert [(each.gives_up_in_ms, each.gives_up_window_ms) for each in later[:2]] == [(3_000, 10_000), (0, 7_000)]
    assert later[2].gives_up_in_ms is None


def test_a_wait_in_words() -> None:
    text = sentences(shown(waiting(**OWNED), until=501))
    assert "A request was sent at 08:06:58 (1m21s ago) and acknowledged" in text
    assert "no reply has come" in text and "look the same from here. If none is due, nothing is wrong." in text
    assert "Keepalive is off: the kernel never ends this wait." in text
    broker = sentences(shown(waiting(rport=5672), until=501))
    assert "the kernel never ends this wait, unless the client has a heartbeat of its own." in broker
    kept = sentences(shown(waiting(keepalive=True), until=501))
    assert "If the peer is gone, keepalive gives up between" in kept and "Keepalive is off" not in kept
    answered = sentences(shown(waiting(), heard(510, silent_ms=91_000, unacked_bytes=0)))
    assert "END unanswered" in answered and "answered after 1m31s" in answered
    alive = sentences(shown(waiting(keepalive=True), heard(510, "keepalive", silent_ms=91_000, unacked_bytes=0)))
    assert "the peer answered a probe or acknowledged more data after 1m31s, but has not replied yet" in alive


def test_what_was_presumed_and_revoked_in_words() -> None:
    text = sentences(shown(*freeze(2), freeze(5)[-1], *close(13.4)))
    assert "no further retransmission was seen after 840ms: it was probably answered" in text
    assert "WAIT idle-drop - 10.66.1.2:33356 → 10.66.2.2:3306 not answered after all" in text
    assert text.index("probably answered") < text.index("timed out after 13.6s")


def test_an_end_that_may_have_been_a_time_out_is_not_called_an_answer() -> None:
    text = sentences(shown(*freeze(5), until=60))
    assert "no further retransmission was seen after 6.8s: it was answered, or the kernel gave up" in text


def test_a_keepalive_that_failed_during_a_request_does_not_say_that_nobody_was_talking() -> None:
    probes = [probe(75 * n, n + 1, asked_ms=7_200_000 + 75_000 * n) for n in range(3)]
    text = sentences(shown(*probes, until=160))
    assert "A request was open: the peer had acknowledged it, but sent no reply" in text
    assert "while the connection was idle" not in text
