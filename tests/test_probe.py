"""`tcpwatch probe` without a kernel: what an answer is, what is printed, and when it refuses."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from builders import socket

from tracer.act import answers, probing
from tracer.act.answers import MAX_BUSY_PAUSE_S, MAX_PAUSE_S, MIN_PAUSE_S, SLACK_MS, judge, pause_s, split, why_not
from tracer.cli import main
from tracer.cli import probe as command
from tracer.kernel import host
from tracer.kernel import sockets as walk
from tracer.kernel.window_probe import Reading
from tracer.model.actions import Answer, Connected, Probed, Service, service_of
from tracer.model.sockets import Socket
from tracer.output.actions_probe import (
    about_answers,
    by_service,
    connected_as_json,
    connected_as_text,
    probed_as_json,
    probed_as_text,
    probed_summary,
    round_trip,
)


def reading(**members: Any) -> Reading:
    known = {"state": "ESTABLISHED", "acked_ms": 60_000, "bytes_acked": 500, "segments_out": 7, "empty_in": 3}
    return Reading(**{**known, **members})


@pytest.mark.parametrize(
    ("now", "answer"),
    [
        ({}, None),
        ({"empty_in": 4, "acked_ms": 0}, Answer.ALIVE),
        ({"empty_in": 4, "acked_ms": 100 + SLACK_MS}, Answer.ALIVE),
        ({"empty_in": 4, "acked_ms": 60_100}, None),  # a keepalive probe of the peer
        ({"acked_ms": 0}, None),  # data of the peer
        ({"empty_in": 4, "acked_ms": 0, "state": "CLOSE_WAIT"}, None),  # a FIN, which may be no answer
        ({"acked_ms": 0, "bytes_acked": 532}, Answer.ALIVE),  # data of the peer that acknowledges a later query
        ({"acked_ms": 0, "bytes_acked": 532, "state": "CLOSE_WAIT"}, Answer.ALIVE),
        ({"empty_in": 4, "state": "CLOSE"}, Answer.RESET),
        ({"state": "CLOSE"}, None),  # the kernel gave up
        ({"empty_in": 0, "acked_ms": 0, "bytes_acked": 0, "state": "CLOSE"}, None),  # connect() to nowhere
    ],
)
def test_what_an_answer_is(now: dict[str, Any], answer: Answer | None) -> None:
    assert judge(reading(), reading(**now), 100) is answer


def test_counts_wrap() -> None:
    assert judge(reading(empty_in=(1 << 32) - 1), reading(empty_in=0, acked_ms=0), 100) is Answer.ALIVE


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"state": "CLOSE_WAIT"}, "the kernel sends no probe in CLOSE_WAIT"),
        ({"state": "SYN_SENT"}, "the kernel sends no probe in SYN_SENT"),
        ({"mptcp": True}, "a subflow of Multipath TCP has no descriptor"),
        ({"pids": None, "comm": "php"}, "its process is in another PID namespace than tcpwatch"),
        ({"pids": None, "comm": None}, "no process that tcpwatch sees has it open"),
        ({"pids": None, "inode": None}, "no process holds it"),
        ({}, None),
    ],
)
def test_what_cannot_be_probed(members: dict[str, Any], reason: str | None) -> None:
    assert why_not(idle(**members)) == reason


def idle(**members: Any) -> Socket:
    return socket(**{"state": "ESTABLISHED", "pids": [8506], "inode": 4711, "accepted": False, **members})


def test_what_the_application_has_closed_is_left() -> None:
    closed = idle(orphan=True, state="FIN_WAIT1")
    assert split([idle(), closed]) == ([idle()], [closed])


def test_the_looks_become_rarer() -> None:
    assert (pause_s(0), pause_s(0.1), pause_s(60)) == (MIN_PAUSE_S, 0.01, MAX_PAUSE_S)
    assert pause_s(60, is_busy=True) == MAX_BUSY_PAUSE_S


def probed(answer: Answer, *, rtt_ms: float | None = None, detail: str = "", **members: Any) -> Probed:
    return Probed(idle(**members), answer, rtt_ms, detail)


def test_lines() -> None:
    assert probed_as_text(probed(Answer.ALIVE, rtt_ms=0.123)) == (
        "alive        php[8506]  10.66.1.2:33356 → 10.66.2.2:3306  0.12ms\n"
    )
    assert probed_as_text(probed(Answer.NO_ANSWER, detail="3 probes in 3.0s")) == (
        "no-answer    php[8506]  10.66.1.2:33356 → 10.66.2.2:3306  3 probes in 3.0s, silent for 1m00s\n"
    )
    assert "\x1b" not in probed_as_text(probed(Answer.ALIVE, comm="\x1b[2Jphp"))
    dead = probed(Answer.NO_ANSWER, detail="3 probes in 3.0s")
    assert probed_as_text(dead, 80) == "no-answer    php[8506]  10.66.1.2:33356 → 10.66.2.2:3306  silent for 1m00s\n"
    assert probed_as_text(dead, 60) == (
        "no-answer    php[8506]  10.66.1.2:33356 → 10.66.2.2:3306\n      silent for 1m00s\n"
    )
    assert probed_summary([dead, dead]) == "2 connections do not answer (3 probes in 3.0s)"
    assert (round_trip(9.994), round_trip(10), round_trip(1200)) == ("9.99ms", "10ms", "1.2s")


def test_objects() -> None:
    row = json.loads(probed_as_json(probed(Answer.ALIVE, rtt_ms=0.1234)))
    assert (row["action"], row["result"], row["rtt_ms"], row["lport"]) == ("probe", "alive", 0.123, 33356)
    assert "detail" not in row
    row = json.loads(probed_as_json(probed(Answer.UNREACHABLE, detail="no process holds it")))
    assert (row["result"], row["detail"]) == ("unreachable", "no process holds it") and "rtt_ms" not in row


def test_the_table_has_dead_services_first_and_no_empty_columns() -> None:
    served: dict[str, Any] = {"accepted": True, "lport": 5432, "comm": "postgres", "pid": 7}
    results = [
        *(probed(Answer.ALIVE, rtt_ms=0.1 * number, **served) for number in (1, 2)),
        *(probed(Answer.NO_ANSWER) for _ in range(2)),
        probed(Answer.ALIVE, rtt_ms=0.5),
        *(probed(Answer.ALIVE, rtt_ms=0.5, comm="gunicorn", pid=pid) for pid in (70, 71, 72)),
    ]
    assert by_service(results).splitlines() == [
        "OWNER                   SERVICE            ALIVE    NO-ANSWER    ROUND TRIP",
        "php[8506]               → 10.66.2.2:3306   1        2            0.50ms",
        "gunicorn (3 processes)  → 10.66.2.2:3306   3        0            0.50ms",
        "postgres[7]             at 10.66.1.2:5432  2        0            0.10ms to 0.20ms",
    ]


@pytest.mark.parametrize(
    ("found", "text"),
    [
        ([Answer.ALIVE], "1 connection is alive"),
        ([Answer.NO_ANSWER] * 2, "2 connections do not answer"),
        ([Answer.ALIVE, *[Answer.NO_ANSWER] * 2], "1 of 3 connections is alive, 2 do not answer"),
        (
            list(Answer),
            "1 of 5 connections is alive, 1 does not answer, 1 was reset, 1 is busy, 1 could not be probed",
        ),
    ],
)
def test_the_summary(found: Sequence[Answer], text: str) -> None:
    assert probed_summary([probed(answer) for answer in found]) == text


def test_the_side_effects_are_printed_where_they_happened() -> None:
    assert list(about_answers([probed(Answer.NO_ANSWER), probed(Answer.BUSY)])) == []
    refreshed, ended = about_answers([probed(Answer.ALIVE), probed(Answer.RESET)])
    assert "refreshed the session in every firewall and NAT" in refreshed
    assert "ECONNRESET" in ended


def test_answers_to_later_probes_say_that_packets_may_be_lost() -> None:
    """A connection that does not answer may then be one that lost three."""
    said = list(about_answers([LATE, DEAD]))
    assert said[1] == (
        "1 connection answered only a later probe, so packets may be lost: probe those that do not answer again"
    )
    assert len(list(about_answers([LATE]))) == 1
    quick, slow = Connected(SERVICE, None, 0.4), Connected(SERVICE, None, 1040)
    sentence = "but packets may be lost: the one that does not answer may be alive, probe it again\n"
    assert connected_as_text(quick, [LATE, DEAD]).endswith(sentence)
    assert connected_as_text(slow, [DEAD]).endswith(sentence)
    assert connected_as_text(slow, [DEAD, DEAD]).endswith("the 2 that do not answer may be alive, probe them again\n")


SERVICE = Service("10.66.2.2", 3306, service_of(idle()).netns, is_here=False)
DEAD, ALIVE = probed(Answer.NO_ANSWER), probed(Answer.ALIVE)
LATE = replace(probed(Answer.ALIVE, detail="after 2 probes"), probes=2)


@pytest.mark.parametrize(
    ("error", "results", "text"),
    [
        (None, [DEAD], "opens (0.40ms), so host and path work: the path or the peer forgot the session of the one "
                       "that does not answer"),
        (None, [DEAD, DEAD, ALIVE], "forgot the sessions of the 2 that do not answer"),
        (None, [ALIVE], "opens (0.40ms)"),
        ("ETIMEDOUT", [DEAD], "fails (ETIMEDOUT), too: the host or the path is down"),
        ("ECONNREFUSED", [DEAD], "fails (ECONNREFUSED): nothing listens there, or a firewall refuses"),
        ("ETIMEDOUT", [ALIVE, DEAD], "fails (ETIMEDOUT), while open ones are answered: the service accepts no new "
                                     "ones, or a firewall lets none pass"),
        ("ETIMEDOUT", [LATE, ALIVE], "fails (ETIMEDOUT), while open ones are answered, some only at a later probe: "
                                     "packets may be lost, so probe again"),
        ("EADDRNOTAVAIL", [DEAD], "fails (EADDRNOTAVAIL): this host has no free port, or no longer the local address "
                                  "or its network namespace"),
        ("EPERM", [ALIVE], "fails (EPERM): a firewall of this host refuses, or entering the network namespace, which "
                           "needs CAP_SYS_ADMIN"),
        ("EMFILE", [ALIVE], "fails (EMFILE), while open ones are answered"),
        ("ETIMEDOUT", [], "fails (ETIMEDOUT)"),
    ],
)  # fmt: skip
def test_a_new_connection(error: str | None, results: list[Probed], text: str) -> None:
    assert service_of(idle()) == SERVICE
    connected = Connected(SERVICE, error, None if error else 0.4)
    assert connected_as_text(connected, results).endswith(text + "\n")
    row = json.loads(connected_as_json(connected))
    assert (row["action"], row["raddr"], row["rport"]) == ("connect", "10.66.2.2", 3306)
    assert (row["result"], row.get("error")) == ("failed" if error else "connected", error)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`tcpwatch probe ARGUMENTS` on these sockets of a pretended kernel, which answers as `results` says."""

    def run_probe(*arguments: str, results: Sequence[Probed] = ()) -> int:
        class Pretended:
            def __init__(self, wait_s: float, report: Any, is_stopped: Any) -> None:
                self.report = report

            def probe(self, _: Sequence[Socket]) -> None:
                for result in results:
                    self.report(result)

        monkeypatch.setattr(walk, "read_sockets", lambda wanted, say: [each.socket for each in results])
        monkeypatch.setattr(host, "require_for", lambda *_: None)
        monkeypatch.setattr(host, "require_privilege", lambda: None)
        monkeypatch.setattr(probing, "Prober", Pretended)
        return main.run(["probe", *arguments])

    return run_probe


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "probe needs a filter that names connections"),
        (["-4"], "probe needs a filter that names connections"),
        (["--host", "::/0", "--connect"], "probe needs a filter that names connections"),
        (["-e", "stall", "-p", "1"], "--event cannot be used with probe"),
        (["-p", "1", "--wait", "0s"], "--wait"),
        (["-p", "1", "--wait", "900ms"], "--wait must be at least 1s"),
    ],
)
def test_refusals_before_anything_is_read(
    run: Any, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(*arguments, results=[ALIVE]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and message in shown.err and "\nHint: " in shown.err


@pytest.mark.parametrize("answer", list(Answer))
def test_the_exit_status(run: Any, capsys: pytest.CaptureFixture[str], answer: Answer) -> None:
    assert run("-p", "3306", results=[ALIVE, probed(answer)]) == (0 if answer is Answer.ALIVE else 1)
    shown = capsys.readouterr()
    lines, _, table = shown.out.partition("\n\n")
    assert [line.split()[0] for line in lines.splitlines()] == ["alive", answer.value]
    assert table.startswith("OWNER ")
    assert shown.err.startswith("tcpwatch: probing 2 connections; answers may take 3.0s\n")


def test_more_than_are_probed_at_once_take_longer(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("-p", "3306", results=[ALIVE] * 801) == 0
    assert "probing 801 connections; answers may take 3.0s for each 800\n" in capsys.readouterr().err


def test_one_connection_has_no_table(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("-p", "3306", results=[ALIVE]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_json_has_objects_only(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("-p", "3306", "--json", results=[ALIVE, DEAD]) == 1
    assert [json.loads(line)["result"] for line in capsys.readouterr().out.splitlines()] == ["alive", "no-answer"]


def test_nothing_matches(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("-p", "3306") == 0
    assert capsys.readouterr().err.endswith("tcpwatch: no connection matches\n")


def test_three_probes_fit_the_limit_of_answers() -> None:
    """A peer answers twice a second at most."""
    assert answers.PROBES == 3
    (wait,) = (option for option in command.probe.params if option.name == "wait_s")
    assert wait.default == "3s"


def test_a_signal_that_comes_as_soon_as_the_probes_have_begun(
    run: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It must not leave them alone with the wait."""

    class Waiting:
        def __init__(self, wait_s: float, report: Any, is_stopped: Any) -> None:
            self.is_stopped = is_stopped

        def probe(self, _: Sequence[Socket]) -> None:
            until_s = time.monotonic() + 60
            while not self.is_stopped() and time.monotonic() < until_s:
                threading.Event().wait(0.01)

    class Pool(ThreadPoolExecutor):
        def submit(self, *arguments: Any, **named: Any) -> Any:
            future = super().submit(*arguments, **named)
            os.kill(os.getpid(), signal.SIGTERM)
            return future

    monkeypatch.setattr(command, "ThreadPoolExecutor", Pool)
    monkeypatch.setattr(probing, "Prober", Waiting)
    monkeypatch.setattr(walk, "read_sockets", lambda wanted, say: [idle()])
    monkeypatch.setattr(host, "require_for", lambda *_: None)
    monkeypatch.setattr(host, "require_privilege", lambda: None)
    assert main.run(["probe", "-p", "3306"]) == 128 + signal.SIGTERM
    assert capsys.readouterr().err.endswith("interrupted: 0 of 1 result known\n")
    assert not [each for each in threading.enumerate() if each.name.startswith("ThreadPoolExecutor")]
