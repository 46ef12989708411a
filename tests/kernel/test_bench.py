"""scripts/bench: what it counts is what happened, and nothing of it stays, whatever ends it."""

from __future__ import annotations

import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from benchmarks import programs, segments, workloads
from benchmarks.processes import ROOT, environment, memory_of, wait_until_idle
from benchmarks.watchers import TCPWATCH_PORT, counts, watchers

from tracer.lab.namespace import wait_until

pytestmark = pytest.mark.alone

COUNT = 100
SETTING = Path("/proc/sys/kernel/bpf_stats_enabled")


def test_it_counts_what_happened() -> None:
    before = SETTING.read_text()
    with (
        programs.counted(),
        watchers() as started,
        workloads.short_connections(COUNT, 500) as storm,
        started.start(TCPWATCH_PORT, storm.target) as watcher,
    ):
        storm.go()
        wait_until_idle(watcher.pid)
        runs = {each.hook: each for each in programs.runs_of(watcher.pid)}
        memory = memory_of(watcher.pid)
        said = counts(watcher.stop())
    assert said is not None and said.lost == 0
    assert said.events == 9 * COUNT
    assert runs["inet_sock_set_state"].count >= 10 * COUNT and runs["inet_sock_set_state"].total_ns > 0
    assert 0 < memory.private < memory.total
    assert SETTING.read_text() == before


def test_a_turn_of_the_conversation_is_two_segments() -> None:
    with segments._conversation() as talk, segments._attaching() as attached, attached(), programs.counted():
        assert 2 <= segments._per_turn(talk) < 3, "those of other connections on this host are counted, too"
    assert len(segments.hook_us(0.4)) == 2


def _has_ended(pid: int) -> bool:
    """True for a zombie, too, which has no command line."""
    try:
        return not Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return True


def test_nothing_stays_when_it_is_killed(tmp_path: Path) -> None:
    before = SETTING.read_text()
    bench = subprocess.Popen(
        [sys.executable, "-m", "benchmarks", "hooks", "--quick"],
        env=environment(PYTHONPATH=f"{ROOT}:{ROOT}/scripts", TMPDIR=str(tmp_path)),
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_until(lambda: list(tmp_path.glob("*/stdout")), 30, "a watcher is started")
        children = _descendants(bench.pid)
        assert len(children) > 3 and SETTING.read_text() == "1\n"
    finally:
        bench.send_signal(signal.SIGKILL)
        bench.wait()
    wait_until(lambda: all(map(_has_ended, children)), 30, "all have ended")
    wait_until(lambda: not list(tmp_path.iterdir()), 30, "the directories are gone")
    assert SETTING.read_text() == before


# Killed before what it started can ask the kernel for anything.
_STARTS_AND_DIES = """
import os, signal, subprocess
from benchmarks.processes import dies_with_us
print(subprocess.Popen(dies_with_us(["sleep", "1000"]), stdout=subprocess.DEVNULL).pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_nothing_stays_when_it_is_killed_as_a_process_starts() -> None:
    for _ in range(5):
        killed = subprocess.run(
            [sys.executable, "-c", _STARTS_AND_DIES],
            env=environment(PYTHONPATH=f"{ROOT}:{ROOT}/scripts"),
            stdout=subprocess.PIPE,
            text=True,
        )
        started = int(killed.stdout)
        wait_until(partial(_has_ended, started), 30, "it has ended")


def _descendants(pid: int) -> list[int]:
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return children + [each for child in children for each in _descendants(child)]
