"""`tcpwatch protect` without a kernel: what it sets, what it shows, and when it refuses."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from builders import event, socket

from tracer.act import protecting
from tracer.act.following import MAX_PAUSE_S, Opened
from tracer.act.protection import ends_on_one_probe, is_armed_late, may_be_idle, protected
from tracer.act.selection import without_closed
from tracer.cli import main
from tracer.kernel import host
from tracer.kernel import sockets as walk
from tracer.model.protection import Outcome, Protection, Result, Settings
from tracer.model.sockets import Socket
from tracer.output.protections import as_json, as_text, summary

OFF = Settings(keepalive=False, keepalive_idle_s=7200, keepalive_interval_s=75, keepalive_probes=9, user_timeout_ms=0)
MINUTE = Protection(idle_s=60)


def settings(**members: Any) -> Settings:
    return replace(OFF, keepalive=True, **members)


def by_minute(user_timeout_ms: int) -> Settings:
    return settings(keepalive_idle_s=60, keepalive_interval_s=60, user_timeout_ms=user_timeout_ms)


@pytest.mark.parametrize(
    ("before", "wanted", "after"),
    [
        (OFF, MINUTE, settings(keepalive_idle_s=60, keepalive_interval_s=60)),
        (OFF, Protection(600), settings(keepalive_idle_s=600)),
        (OFF, Protection(60, 10, 3), settings(keepalive_idle_s=60, keepalive_interval_s=10, keepalive_probes=3)),
        (OFF, Protection(60, 300, 99), settings(keepalive_idle_s=60)),
        (settings(), Protection(9000), settings()),
        (settings(keepalive_idle_s=15, keepalive_interval_s=15), MINUTE,
         settings(keepalive_idle_s=15, keepalive_interval_s=15)),
        (settings(keepalive_idle_s=15), MINUTE, settings(keepalive_idle_s=15, keepalive_interval_s=60)),
        (OFF, Protection(60, 10, 3, 30_000),
         settings(keepalive_idle_s=60, keepalive_interval_s=10, keepalive_probes=3, user_timeout_ms=30_000)),
        (by_minute(5000), replace(MINUTE, user_timeout_ms=30_000),
         by_minute(5000)),
        (by_minute(50_000), replace(MINUTE, user_timeout_ms=30_000),
         by_minute(30_000)),
    ],
)  # fmt: skip
def test_what_is_set(before: Settings, wanted: Protection, after: Settings) -> None:
    assert protected(before, wanted) == after


def test_a_long_user_timeout_does_not_delay_what_keepalive_ends() -> None:
    """A user timeout replaces the count of probes."""
    own = settings(keepalive_idle_s=10, keepalive_interval_s=5, keepalive_probes=3)
    assert protected(own, Protection(60, user_timeout_ms=600_000)).user_timeout_ms == 25_000
    long = replace(own, user_timeout_ms=900_000)
    assert protected(long, Protection(60, user_timeout_ms=600_000)).user_timeout_ms == 25_000
    assert protected(long, MINUTE).user_timeout_ms == 900_000, "not asked for"


def gives_up_ms(settings: Settings) -> float:
    """When the kernel ends an idle connection with a dead peer: tcp_keepalive_timer()."""
    if not settings.keepalive:
        return float("inf")
    probes, at_ms = 0, 1000 * settings.keepalive_idle_s
    while True:
        timeout_ms = settings.user_timeout_ms
        if (timeout_ms and probes and at_ms >= timeout_ms) or (
            not timeout_ms and probes >= settings.keepalive_probes
        ):
            return at_ms
        probes += 1
        at_ms += 1000 * settings.keepalive_interval_s


def test_nothing_is_ever_loosened() -> None:
    times, counts, timeouts_ms = (1, 10, 60, 7200), (1, 3, 9), (0, 5_000, 70_000, 700_000)
    checked = 0
    for keepalive, idle, interval, probes, timeout in product((False, True), times, times, counts, timeouts_ms):
        before = Settings(keepalive, idle, interval, probes, timeout)
        for asked in product(times, (None, *times), (None, *counts), (None, *timeouts_ms[1:])):
            after = protected(before, Protection(*asked))
            assert after.keepalive and after.keepalive_idle_s <= min(idle, asked[0])
            assert after.keepalive_interval_s <= interval and after.keepalive_probes <= probes
            assert not timeout or 0 < after.user_timeout_ms <= timeout
            assert asked[3] is None or 0 < after.user_timeout_ms <= asked[3]
            # The kernel compares a user timeout with the silence only when a probe is due.
            granularity_ms = 1000 * after.keepalive_interval_s if after.user_timeout_ms else 0
            assert gives_up_ms(after) <= gives_up_ms(before) + granularity_ms, (before, asked, after)
            assert protected(after, Protection(*asked)) == after, "a second time changes nothing"
            checked += 1
    assert checked > 10_000


@pytest.mark.parametrize(
    ("user_timeout_ms", "is_one"), [(0, False), (30_000, True), (70_000, True), (70_001, False), (80_000, False)]
)
def test_a_user_timeout_that_one_lost_probe_would_reach(user_timeout_ms: int, is_one: bool) -> None:
    found = settings(keepalive_idle_s=60, keepalive_interval_s=10, user_timeout_ms=user_timeout_ms)
    assert ends_on_one_probe(found) == is_one
    if user_timeout_ms:
        assert (gives_up_ms(found) == 70_000) == is_one


@pytest.mark.parametrize(
    ("members", "late"),
    [
        ({"timer_ms": 7_140_000}, True),
        ({"timer_ms": 60_000}, False),
        ({"timer_ms": 60_500}, False),
        ({"timer_ms": 75_000, "attempt": 2}, False),
        ({"timer": "on", "timer_ms": 7_140_000}, False),
        ({"timer": None, "timer_ms": None}, False),
    ],
)
def test_a_timer_that_a_lowered_sysctl_left_behind(members: dict[str, Any], late: bool) -> None:
    assert is_armed_late(socket(**members), settings(keepalive_idle_s=60)) == late


def test_what_was_closed_while_its_process_was_looked_for_is_dropped() -> None:
    held, closed = socket(inode=1, pids=[7]), socket(inode=2, pids=None, comm=None)
    found_late, of_the_kernel = (socket(inode=inode, pids=None, comm=None) for inode in (3, 4))
    not_accepted, orphan = (socket(inode=0, pids=None, comm=None, orphan=orphan) for orphan in (None, True))
    foreign = socket(inode=5, pids=None, comm="java")
    now = [held, replace(found_late, pids=[8]), of_the_kernel, socket(inode=6, pids=[9])]
    found = [held, closed, found_late, of_the_kernel, not_accepted, orphan, foreign]
    assert without_closed(found, lambda: now) == [held, now[1], of_the_kernel, not_accepted, orphan, foreign]


def test_nothing_is_read_again_if_each_process_is_known() -> None:
    found = [socket(inode=1, pids=[7]), socket(inode=0, pids=None, comm=None)]
    assert without_closed(found, lambda: pytest.fail("read again")) == found


def test_states() -> None:
    assert may_be_idle(socket()) and may_be_idle(socket(state="CLOSE_WAIT"))
    assert not may_be_idle(socket(state="SYN_SENT"))
    assert not may_be_idle(socket(state="FIN_WAIT2", orphan=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--idle", "60s"], "needs a filter that names connections"),
        (["-4", "--idle", "60s"], "needs a filter that names connections"),
        (["--host", "0.0.0.0/0", "--idle", "60s"], "needs a filter that names connections"),
        (["-p", "1"], "--idle"),
        (["-p", "1", "--idle", "0.5s"], "--idle must be from 1s to"),
        (["-p", "1", "--idle", "10h"], "--idle must be from 1s to"),
        (["-p", "1", "--idle", "1m", "--interval", "10h"], "--interval must be from 1s to"),
        (["-p", "1", "--idle", "1m", "--user-timeout", "100ms"], "--user-timeout must be from 1s to"),
        (["-p", "1", "--idle", "1m", "--probes", "0"], "--probes"),
        (["-p", "1", "--idle", "1m", "--probes", "128"], "--probes"),
        (["-p", "1", "--idle", "1m", "-e", "stall"], "--event cannot be used with protect"),
        (["-p", "1", "--idle", "1m", "--follow", "--dry-run"], "mutually exclusive"),
        (["-p", "1", "--idle", "1m", "--follow", "--min-idle", "1m"], "mutually exclusive"),
        (["-p", "1", "--idle", "1m", "--duration", "1m"], "--duration needs --follow"),
    ],
)
def test_refusals(run: list[Socket], capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    run.append(socket())
    assert main.run(["protect", *arguments]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and message in shown.err and "\nHint: " in shown.err


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> list[Socket]:
    """The sockets that `tcpwatch protect` finds. It reaches each one, with keepalive off."""
    found: list[Socket] = []

    def pretended(chosen: Iterable[Socket], wanted: Protection, *, dry_run: bool = False) -> Iterator[Outcome]:
        for each in chosen:
            result = Result.WOULD_CHANGE if dry_run else Result.CHANGED
            yield Outcome(each, result, OFF, protected(OFF, wanted))

    monkeypatch.setattr(host, "require_privilege", lambda: None)
    monkeypatch.setattr(host, "require_for", lambda *_: None)
    monkeypatch.setattr(walk, "read_sockets", lambda wanted, say: list(found))
    monkeypatch.setattr(protecting, "protect", pretended)
    return found


def test_what_is_shown(run: list[Socket], capsys: pytest.CaptureFixture[str]) -> None:
    run += [socket(), socket(state="SYN_SENT"), socket(orphan=True, state="FIN_WAIT2")]
    assert main.run(["protect", "--rport", "3306", "--idle", "60s", "--user-timeout", "3m"]) == 0
    shown = capsys.readouterr()
    assert shown.out == (
        "changed       php[8506]  10.66.1.2:33356 → 10.66.2.2:3306  "
        "keepalive off → 60s+9x60s, user timeout none → 3m\n"
    )
    assert shown.err == "tcpwatch: changed 1 connection\n"


def test_json(run: list[Socket], capsys: pytest.CaptureFixture[str]) -> None:
    run.append(socket())
    assert main.run(["protect", "--rport", "3306", "--idle", "60s", "--dry-run", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["action"], row["result"], row["pid"], row["lport"]) == ("protect", "would-change", 8506, 33356)
    assert row["before"] == {
        "keepalive": False, "keepalive_idle_s": 7200, "keepalive_interval_s": 75, "keepalive_probes": 9,
        "user_timeout_ms": 0,
    }  # fmt: skip
    assert row["after"] == {**row["before"], "keepalive": True, "keepalive_idle_s": 60, "keepalive_interval_s": 60}


@pytest.mark.parametrize(("arguments", "warns"), [([], True), (["--interval", "5s", "--idle", "10s"], False)])
def test_a_user_timeout_that_makes_one_lost_probe_fatal_is_warned_of(
    run: list[Socket], capsys: pytest.CaptureFixture[str], arguments: list[str], warns: bool
) -> None:
    assert main.run(["protect", "-p", "1", "--idle", "60s", "--user-timeout", "30s", *arguments]) == 0
    assert ("a single lost keepalive probe" in capsys.readouterr().err) == warns


def test_one_that_no_process_holds() -> None:
    (outcome,) = protecting.protect([socket(inode=None)], MINUTE)
    assert (outcome.result, outcome.detail) == (Result.UNREACHABLE, "no process holds it")
    assert "before" not in json.loads(as_json(outcome))
    assert "no process holds it" in "".join(as_text([outcome], 200))
    assert summary(Counter([Result.UNREACHABLE])) == "changed 0 connections, 1 could not be reached"


@pytest.mark.parametrize(("milliseconds", "shown"), [(30_000, "30s"), (1500, "1500ms"), (180_000, "3m"), (1, "1ms")])
def test_settings_are_shown_exactly(milliseconds: int, shown: str) -> None:
    before = replace(OFF, keepalive=True, user_timeout_ms=milliseconds)
    text = "".join(as_text([Outcome(socket(), Result.UNCHANGED, before, before)], 200))
    assert text.endswith(f"keepalive 2h+9x75s, user timeout {shown}\n")


def test_many_are_grouped() -> None:
    after = protected(OFF, MINUTE)
    outcomes = [Outcome(socket(lport=number), Result.CHANGED, OFF, after) for number in range(1, 21)]
    outcomes.append(Outcome(socket(lport=30), Result.UNCHANGED, after, after))
    assert list(as_text(outcomes, 200)) == [
        "changed       20 × php[8506] → 10.66.2.2:3306  keepalive off → 60s+9x60s\n",
        "unchanged     php[8506]  10.66.1.2:30 → 10.66.2.2:3306  keepalive 60s+9x60s\n",
    ]


class Walks:
    """Walks that find `sockets` and take took_s, on a clock of their own."""

    def __init__(self) -> None:
        self.sockets: list[Socket] = []
        self.took_s = 0.001
        self.now_s = 0.0
        self.count = 0

    def read(self) -> list[Socket]:
        self.count += 1
        self.now_s += self.took_s
        return list(self.sockets)

    def clock_s(self) -> float:
        return self.now_s


def established(lport: int, **fields: Any) -> Any:
    return event("state", sock=f"{lport:016x}", lport=lport, new_state="ESTABLISHED", **fields)


def test_each_opened_connection_is_found_once() -> None:
    walks = Walks()
    walks.sockets = [socket(lport=1, inode=1)]
    opened = Opened(walks.read, clock_s=walks.clock_s)
    assert [each.lport for each in opened.found()] == [1], "what is open already"
    walks.now_s += 60
    assert opened.found() == [] and walks.count == 1, "nothing was opened, so nothing is walked"
    opened.add(established(2))
    walks.sockets.append(socket(lport=2, inode=2))
    assert [each.lport for each in opened.found()] == [2]
    walks.now_s += 60
    assert opened.found() == [] and walks.count == 2


def test_one_that_connects_during_a_walk_is_found_later() -> None:
    walks = Walks()
    walks.sockets = [socket(inode=1, state="SYN_SENT")]
    opened = Opened(walks.read, clock_s=walks.clock_s)
    assert opened.found() == []
    walks.sockets = [socket(inode=1)]
    opened.add(established(33356))
    walks.now_s += 60
    assert len(opened.found()) == 1


def test_one_that_no_process_has_is_looked_for_until_it_is_accepted_or_closed() -> None:
    walks = Walks()
    opened = Opened(walks.read, clock_s=walks.clock_s)
    opened.found()
    opened.add(established(1))
    opened.add(established(2))
    for _ in range(20):
        walks.now_s += MAX_PAUSE_S
        assert opened.found() == []
    walks.sockets = [socket(lport=1, inode=7)]
    walks.now_s += MAX_PAUSE_S
    assert [each.inode for each in opened.found()] == [7]
    opened.add(event("state", sock=f"{2:016x}", lport=2, new_state="CLOSE"))
    before = walks.count
    walks.now_s += 60
    opened.found()
    assert walks.count == before, "nothing is awaited any more"


def test_one_that_another_process_takes_over_is_chosen_then() -> None:
    walks = Walks()
    opened = Opened(walks.read, lambda found: found.comm == "php", walks.clock_s)
    walks.sockets = [socket(inode=1, comm="inetd")]
    assert opened.found() == []
    walks.now_s += 60
    walks.sockets = [socket(inode=1, comm="php")]
    opened.add(established(2))
    assert [each.comm for each in opened.found()] == ["php"]


def test_what_was_changed_before_an_interruption_is_shown(
    run: list[Socket], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any, **__: Any) -> Iterator[Outcome]:
        yield Outcome(socket(), Result.CHANGED, OFF, protected(OFF, MINUTE))
        raise KeyboardInterrupt

    run.append(socket())
    monkeypatch.setattr(protecting, "protect", interrupted)
    assert main.run(["protect", "-p", "1", "--idle", "60s"]) == 130
    shown = capsys.readouterr()
    assert shown.out.startswith("changed       php[8506]") and "no connection matches" not in shown.err


def test_one_that_is_gone_by_its_turn_is_not_said_never_to_have_matched(
    run: list[Socket], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run += [socket(), socket()]
    for outcomes, said in (([], ""), ([Outcome(socket(), Result.CHANGED, OFF, protected(OFF, MINUTE))], "changed")):
        monkeypatch.setattr(protecting, "protect", lambda chosen, *_, out=outcomes, **__: [list(chosen), *out][1:])
        assert main.run(["protect", "-p", "1", "--idle", "60s"]) == 0
        error = capsys.readouterr().err
        assert "could not be found in the process again" in error and said in error
        assert "no connection matches" not in error


def test_walks_take_a_tenth_of_the_time_at_most() -> None:
    walks = Walks()
    walks.took_s = 2
    opened = Opened(walks.read, clock_s=walks.clock_s)
    while walks.now_s < 1000:
        opened.add(established(1))
        opened.found()
        walks.now_s += 0.1
    assert 30 < walks.count <= 1000 / 20


def test_lost_events_lead_to_a_walk() -> None:
    walks = Walks()
    opened = Opened(walks.read, clock_s=walks.clock_s)
    opened.found()
    walks.now_s += 60
    walks.sockets = [socket(inode=1)]
    opened.add(event("lost"))
    assert len(opened.found()) == 1


def test_a_signal_lets_it_say_what_it_has_done(
    run: list[Socket], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run += [socket(lport=lport) for lport in (1, 2, 3)]
    pretended = protecting.protect

    def be_interrupted(chosen: Iterable[Socket], wanted: Protection, *, dry_run: bool = False) -> Iterator[Outcome]:
        for outcome in pretended(chosen, wanted, dry_run=dry_run):
            os.kill(os.getpid(), signal.SIGTERM)
            yield outcome

    monkeypatch.setattr(protecting, "protect", be_interrupted)
    assert main.run(["protect", "--rport", "3306", "--idle", "60s"]) == 128 + signal.SIGTERM
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == 1 and shown.out.startswith("changed ")
    assert "interrupted: left 2 of 3 connections alone\n" in shown.err
    assert shown.err.endswith("changed 1 connection\n")


def test_a_signal_ends_it_while_nobody_reads_what_it_prints(
    run: list[Socket], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    discarded: list[object] = []
    monkeypatch.setattr("tracer.output.protections.as_text", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    monkeypatch.setattr("tracer.run.stopping.discard", discarded.append)
    run.append(socket())
    assert main.run(["protect", "--rport", "3306", "--idle", "60s"]) == 128 + signal.SIGTERM
    assert discarded == [sys.stdout] and "interrupted: changed 1 connection\n" in capsys.readouterr().err


def test_a_signal_before_anything_was_changed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], run: list[Socket]
) -> None:
    def interrupted(*_: object) -> list[Socket]:
        raise KeyboardInterrupt

    monkeypatch.setattr("tracer.kernel.sockets.read_sockets", interrupted)
    assert main.run(["protect", "--rport", "3306", "--idle", "60s"]) == 130
    assert capsys.readouterr().err == "tcpwatch: interrupted: nothing was changed\n"
