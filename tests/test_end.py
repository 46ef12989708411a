"""`tcpwatch end` without a kernel: what it chooses, what it shows, and when it refuses."""

from __future__ import annotations

import io
import json
import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest
from builders import socket

from tracer.act import ending, selection
from tracer.act.ending import MAX_PAUSE_S, MIN_PAUSE_S, Target, look_again, pause_s, plan
from tracer.act.selection import HOPELESS, Selection, select
from tracer.analysis.stuck import Stuck
from tracer.cli import end as command
from tracer.cli import main
from tracer.kernel import host
from tracer.kernel import sockets as walk
from tracer.kernel.processes import ancestors
from tracer.kernel.sock_diag import Ends, Identity, Look, Named
from tracer.model.actions import Left, Outcome, Result
from tracer.model.errors import TcpwatchError
from tracer.model.sockets import Socket
from tracer.output.actions import MAX_SINGLE, about_left, outcome_as_text, plan_as_text, question, summary

RETRANSMITS: dict[str, Any] = {"timer": "on", "timer_ms": 3000, "attempt": 5}
STUCK: dict[Stuck, dict[str, Any]] = {
    Stuck.RETRANSMITTING: RETRANSMITS,
    Stuck.PROBING: {"timer": "keepalive", "attempt": 2},
    Stuck.UNSENT: {"timer": "persist", "attempt": 3, "snd_wnd": 65536},
    Stuck.WINDOW: {"timer": "persist", "attempt": 1, "snd_wnd": 0, "backoff": 6, "timer_ms": 12_000},
    Stuck.SYN: {"state": "SYN_SENT", "timer": "on", "attempt": 2},
    Stuck.REPLY: {"waiting": True, "waiting_ms": 60_000},
}
NETNS = 4026532000


def look(**members: Any) -> Look:
    ordinary: dict[str, Any] = {
        "identity": Identity(2, b"id"), "ends": Ends("10.66.1.2", 33356, "10.66.2.2", 3306), "state": "ESTABLISHED",
        "timer": "on", "timer_ms": 3000, "attempt": 5, "inode": 4711,
    }  # fmt: skip
    return Look(**{**ordinary, **members})


class Diag:
    """The kernel's answers. looks: the next ones, of which the last is repeated; an OSError is raised."""

    def __init__(self, *looks: Look | OSError | None, supported: bool = True, destroys: bool = True) -> None:
        self.looks = list(looks)
        self.supported = supported
        self.destroys = destroys
        self.destroyed = 0

    def can_destroy(self) -> bool:
        return self.supported

    def find(self, wanted: Iterable[Named]) -> dict[Named, Look]:
        found = self.look(Identity(2, b"id"))
        return {} if found is None else dict.fromkeys(wanted, found)

    def look(self, identity: Identity) -> Look | None:
        found = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        if isinstance(found, OSError):
            raise found
        return found

    def destroy(self, identity: Identity) -> bool:
        self.destroyed += 1
        self.looks = [None]
        return self.destroys


def only(diag: Diag) -> Any:
    """What opens this namespace, in the place of `open_each`."""
    return lambda _: {NETNS: diag}


CHOSEN = Selection([(None, socket())])


@pytest.mark.parametrize("reason", list(Stuck))
def test_stuck_takes_those_without_an_answer_and_leaves_those_that_may_get_one(reason: Stuck) -> None:
    made = select([socket(), socket(**STUCK[reason])], only_stuck=True)
    if reason in HOPELESS:
        assert [(each, found.attempt) for each, found in made.chosen] == [(reason, STUCK[reason]["attempt"])]
        assert made.left == []
    else:
        assert made.chosen == []
        assert [why.name for why, _ in made.left] == [reason.name]


def test_the_filters_choose_any_state_and_what_waits() -> None:
    every = [socket(), *(socket(**members) for members in STUCK.values())]
    made = select(every, only_stuck=False)
    assert (len(made.chosen), made.left) == (len(every), [])
    assert {reason for reason, _ in made.chosen} == {None}


@pytest.mark.parametrize("only_stuck", [False, True])
@pytest.mark.parametrize(("members", "why"), [({"orphan": True}, Left.ORPHAN), ({"mptcp": True}, Left.MPTCP)])
def test_what_is_never_ended(members: dict[str, Any], why: Left, only_stuck: bool) -> None:
    made = select([socket(**RETRANSMITS, **members)], only_stuck=only_stuck)
    assert (made.chosen, [each for each, _ in made.left]) == ([], [why])


def test_the_session_of_the_command_is_left_alone() -> None:
    sshd = socket(accepted=True, lport=22, pids=[812, 900])
    assert [why for why, _ in select([sshd], only_stuck=False, ancestors=frozenset([900])).left] == [Left.SESSION]
    assert select([sshd], only_stuck=False, ancestors=frozenset([901])).left == []
    own = socket(accepted=False, pids=[900], **RETRANSMITS)
    assert select([own], only_stuck=False, ancestors=frozenset([900])).left == [], "a worker that starts tcpwatch"


def test_the_ancestors_of_a_process(tmp_path: Any) -> None:
    for pid, parent in ((50, 40), (40, 30), (30, 1)):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "stat").write_text(f"{pid} (a ) b) S {parent} 1 1 0 -1 0")
    assert ancestors(50, tmp_path) == {40, 30}


def target(timer_ms: int | None, **members: Any) -> Target:
    found = look(timer_ms=timer_ms)
    return Target(socket(**{**RETRANSMITS, **members}), Stuck.RETRANSMITTING, Diag(found), found)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("timers_ms", "least_s", "most_s"),
    [
        ([None], MIN_PAUSE_S, MIN_PAUSE_S),
        ([60_000], MIN_PAUSE_S, MIN_PAUSE_S),
        ([1600], 1.8, 2.2),
        ([400, 1600, 25_000], 1.8, 2.2),
        ([2_990], MIN_PAUSE_S, MIN_PAUSE_S),
    ],
)
def test_the_second_look_comes_after_a_retransmission_that_is_due(
    timers_ms: list[int | None], least_s: float, most_s: float
) -> None:
    assert least_s <= pause_s([target(each) for each in timers_ms], 250) <= most_s <= MAX_PAUSE_S


def test_a_slow_path_gets_time_for_its_answer() -> None:
    assert pause_s([target(1000, srtt_ms=600.0)], 250) > 2.2


def test_a_kernel_that_cannot_end_connections() -> None:
    with pytest.raises(TcpwatchError, match="CONFIG_INET_DIAG_DESTROY"):
        plan(CHOSEN, only(Diag(look(), supported=False)))


def test_a_kernel_without_tcp_diag() -> None:
    with pytest.raises(TcpwatchError, match=r"NETLINK_SOCK_DIAG\): No such file") as caught:
        plan(CHOSEN, only(Diag(OSError(2, "No such file or directory"))))
    assert "modprobe tcp_diag" in caught.value.hint


def test_a_second_look_that_fails_spares_nobody_and_ends_nobody() -> None:
    before = plan(CHOSEN, only(Diag(look(), refused())))
    after = look_again(before)
    assert len(after.targets) == 1
    assert ending.end(after.targets[0]).result is Result.UNREACHABLE


def test_what_has_no_identity_any_more_is_dropped() -> None:
    for found in (None, look(state="FIN_WAIT1", inode=0)):
        assert plan(CHOSEN, only(Diag(found))).targets == []
    assert plan(CHOSEN, lambda _: {}).targets == [], "its namespace is gone"
    assert len(plan(CHOSEN, only(Diag(look()))).targets) == 1


Run = Callable[..., int]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """`tcpwatch end ARGUMENTS` on these sockets of a pretended kernel. typed: at a terminal."""

    def run_end(
        *arguments: str, found: Iterable[Socket] = (), diag: Diag | None = None, typed: str | None = None
    ) -> int:
        kernel = Diag(look()) if diag is None else diag

        def opened(inodes: Iterable[int]) -> Mapping[int, Any]:
            return dict.fromkeys(inodes, kernel)

        monkeypatch.setattr(walk, "read_sockets", lambda wanted, say: list(found))
        monkeypatch.setattr(ending, "plan", lambda made: plan(made, opened))
        monkeypatch.setattr(host, "require_net_admin", lambda: None)
        monkeypatch.setattr(time, "sleep", lambda seconds: None)
        if typed is not None:
            monkeypatch.setattr(command, "_is_terminal", lambda: True)
            monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        return main.run(["end", *arguments])

    return run_end


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "needs a filter that names connections, or --stuck"),
        (["-4"], "needs a filter that names connections"),
        (["--host", "0.0.0.0/0"], "needs a filter that names connections"),
        (["--host", "::/0", "-6", "--yes"], "needs a filter that names connections"),
        (["-e", "stall", "--stuck"], "--event cannot be used with end"),
        (["--stuck"], "asks on a terminal"),
        (["--stuck", "--json"], "needs --yes or --dry-run"),
        (["--stuck", "--yes", "--dry-run"], "mutually exclusive"),
    ],
)
def test_refusals(run: Run, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    diag = Diag(look())
    assert run(*arguments, found=[socket(**RETRANSMITS)], diag=diag) == 2
    shown = capsys.readouterr()
    assert (shown.out, diag.destroyed) == ("", 0)
    assert message in shown.err and "\nHint: " in shown.err


@pytest.mark.parametrize(
    "option",
    [["-p", "1"], ["--lport", "1"], ["--rport", "1"], ["--host", "10.0.0.0/8"], ["--pid", "8506"], ["--comm", "php"],
     ["--min-idle", "1m"]],
)  # fmt: skip
def test_each_filter_that_names_something(run: Run, option: list[str]) -> None:
    diag = Diag(look())
    assert run(*option, "--yes", found=[socket()], diag=diag) == 0
    assert diag.destroyed == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_the_rest_alone_and_shows_what_was_ended(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    diag = Diag(look())
    destroy = diag.destroy

    def signalled(*arguments: Any) -> Any:
        os.kill(os.getpid(), number)
        return destroy(*arguments)

    monkeypatch.setattr(diag, "destroy", signalled)
    assert run("-p", "1", "--yes", found=[socket(), socket(lport=2), socket(lport=3)], diag=diag) == 130
    shown = capsys.readouterr()
    assert diag.destroyed == len(shown.out.splitlines()) == 1
    assert "interrupted: 2 connections left alone" in shown.err


@pytest.mark.parametrize(("typed", "status"), [("y\n", 0), ("YES\n", 0), ("n\n", 1), ("\n", 1), ("", 1), ("yn\n", 1)])
def test_the_question(run: Run, capsys: pytest.CaptureFixture[str], typed: str, status: int) -> None:
    diag = Diag(look())
    assert run("--stuck", found=[socket(**RETRANSMITS)], diag=diag, typed=typed) == status
    shown = capsys.readouterr()
    assert diag.destroyed == (1 if status == 0 else 0)
    line = "  php[8506]  10.66.1.2:33356 → 10.66.2.2:3306  ESTABLISHED, retransmitting, silent for 1m00s\n"
    assert f"{line}End this connection? [y/N] " in shown.err
    assert shown.out == ("ended        php[8506]  10.66.1.2:33356 → 10.66.2.2:3306\n" if status == 0 else "")
    assert ("tcpwatch: nothing was ended\n" in shown.err) == (status == 1)


def refused() -> OSError:
    return PermissionError(1, "Operation not permitted")


@pytest.mark.parametrize(
    ("looks", "result", "status"),
    [
        ([look()], "ended", 0),
        ([look(), look(), None], "gone", 0),
        ([look(), look(), look(state="FIN_WAIT1", inode=0)], "gone", 0),
        ([look(), look(), look(attempt=0)], "recovered", 0),
        ([look(), look(), look(timer=None, attempt=None)], "recovered", 0),
        ([look(), look(), refused()], "unreachable", 1),
    ],
)
def test_results(
    run: Run, capsys: pytest.CaptureFixture[str], looks: list[Look | OSError | None], result: str, status: int
) -> None:
    diag = Diag(*looks)
    assert run("--stuck", "--yes", "--json", found=[socket(**RETRANSMITS)], diag=diag) == status
    row = json.loads(capsys.readouterr().out)
    assert (row["action"], row["result"], row["pid"], row["lport"]) == ("end", result, 8506, 33356)
    assert row.get("detail") == ("Operation not permitted" if result == "unreachable" else None)
    assert diag.destroyed == (1 if result == "ended" else 0)


def test_one_that_recovers_between_the_looks_is_not_shown(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    diag = Diag(look(), look(attempt=0))
    assert run("--stuck", "--yes", found=[socket(**RETRANSMITS)], diag=diag) == 0
    shown = capsys.readouterr()
    assert (shown.out, diag.destroyed) == ("", 0)
    assert "left 1 connection (the peer answers again)" in shown.err
    assert shown.err.endswith("tcpwatch: nothing to end\n")


def test_a_dry_run(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    diag = Diag(look())
    assert run("--stuck", "--dry-run", found=[socket(**RETRANSMITS)] * 20, diag=diag) == 0
    shown = capsys.readouterr()
    assert shown.out.count("php[8506]  10.66.1.2:33356 → 10.66.2.2:3306") == 20
    assert shown.err.endswith("would end 20 connections; nothing was done\n") and diag.destroyed == 0
    assert run("--stuck", "--dry-run", "--json", found=[socket(**RETRANSMITS)], diag=diag) == 0
    assert json.loads(capsys.readouterr().out)["result"] == "would-end" and diag.destroyed == 0


@pytest.mark.parametrize(
    ("arguments", "found", "words"),
    [
        (["--stuck"], [socket()], "no connection hangs"),
        (["--rport", "3306"], [], "no connection matches"),
        (["--stuck"], [socket(**STUCK[Stuck.REPLY])], "nothing to end"),
    ],
)
def test_nothing_to_do(
    run: Run, capsys: pytest.CaptureFixture[str], arguments: list[str], found: list[Socket], words: str
) -> None:
    assert run(*arguments, "--yes", found=found) == 0
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.endswith(f"tcpwatch: {words}\n")


def test_those_left_alone_can_be_named() -> None:
    client = socket(**STUCK[Stuck.REPLY])
    lines = list(about_left([(Left.REPLY, client), (Left.REPLY, client), (Left.RECOVERED, client)]))
    assert lines == [
        "left 2 connections (waiting for a reply; a slow one looks the same). To end one: "
        "sudo tcpwatch end --lport 33356 --host 10.66.2.2 --rport 3306",
        "left 1 connection (the peer answers again)",
    ]


def test_many_are_grouped_and_none_is_left_out() -> None:
    pool = [socket(lport=40_000 + number, silent_ms=80_000 + number * 1000) for number in range(MAX_SINGLE)]
    alone = socket(lport=50_000, raddr="10.66.2.3")
    served = [socket(accepted=True, lport=5432, rport=number, comm="postgres", pid=7) for number in (1, 2)]
    chosen = [(Stuck.RETRANSMITTING, each) for each in [*pool, *served, alone]]
    assert list(plan_as_text(chosen, 80, grouped=True)) == [
        "  12 × php[8506] → 10.66.2.2:3306",
        "      ESTABLISHED, retransmitting, silent for 1m20s to 1m31s",
        "  2 × postgres[7] at 10.66.1.2:5432",
        "      ESTABLISHED, retransmitting, silent for 1m00s",
        "  php[8506]  10.66.1.2:50000 → 10.66.2.3:3306",
        "      ESTABLISHED, retransmitting, silent for 1m00s",
    ]
    assert sum(" → " in line for line in plan_as_text(chosen, 80, grouped=False)) == len(chosen)
    workers = [(None, socket(comm="gunicorn", pid=number)) for number in range(MAX_SINGLE + 1)]
    assert next(plan_as_text(workers, 60, grouped=True)) == "  13 × gunicorn (13 processes) → 10.66.2.2:3306"
    assert question(1200) == "End these 1,200 connections? [y/N] "


def test_hostile_names_do_not_reach_the_terminal() -> None:
    found = socket(comm="\x1b[2Jphp")
    text = "".join(plan_as_text([(None, found)], 80, grouped=True)) + outcome_as_text(Outcome(found, Result.ENDED))
    assert "\x1b" not in text


def test_the_summary_has_every_result() -> None:
    outcomes = [Outcome(socket(), result) for result in Result if result is not Result.WOULD_END]
    assert summary(outcomes) == "ended 1 connection, 1 already gone, 1 recovered and left, 1 not ended"


def test_the_reasons_are_all_decided() -> None:
    assert {*HOPELESS, *selection._LEFT} == set(Stuck)
