"""More events than anybody can take: each is in the recording, or counted as lost; and nobody is held up."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from counting import Witness
from traffic import storm
from watching import PATIENCE_S, ROOT

from tracer.lab.namespace import Namespace, wait_until
from tracer.recordings.reader import RecordingReader
from tracer.run.live import MAX_WAITING_DATA, MAX_WAITING_TEXT

pytestmark = pytest.mark.alone

COMMAND = [sys.executable, "-m", "tracer"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


class Traced:
    """tcpwatch beside the storm; nobody reads its standard output before `read` is called."""

    def __init__(self, namespace: Namespace, *arguments: str | Path) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, *map(str, arguments), "--netns", str(namespace.netns)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
            env=ENVIRONMENT,
        )  # fmt: skip
        assert self.process.stderr is not None
        self.said = [self.process.stderr.readline()]
        assert "tracing" in self.said[0]

    def memory_bytes(self) -> int:
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def stop(self) -> tuple[str, str]:
        """What it wrote, and what it said."""
        self.process.send_signal(signal.SIGINT)
        shown, said = self.process.communicate(timeout=PATIENCE_S)
        assert self.process.returncode == 0, said
        return shown, said


class Recorded(NamedTuple):
    """What a recording has, and what it says was lost."""

    states: int
    lost_states: int
    events: int
    lost: int


def recorded(path: Path) -> Recorded:
    states = lost_states = events = lost = 0
    with RecordingReader(path, warn=pytest.fail) as source:
        for batch in source:
            for event in batch.events:
                states += event.event == "state"
                events += event.event not in ("stall", "counters", "lost")
                if event.event == "lost":
                    lost += event.count or 0
                    # Where a port is used again at once there may be a reset, too.
                    lost_states += (event.count or 0) if event.hook == "inet_sock_set_state" else 0
    return Recorded(states, lost_states, events, lost)


def lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)


def counted_in(summary: str) -> tuple[int, int]:
    """Events and lost ones, as the summary has them."""
    match = re.search(r"([\d,]+) events?(?: \([\d,]+ not shown\))?, ([\d,]+) lost", summary)
    assert match, summary
    events, lost = (int(number.replace(",", "")) for number in match.groups())
    return events, lost


@pytest.mark.parametrize(
    ("seconds", "per_second", "arguments"), [(10, 6000, ()), (3, None, ("--buffer-size", "64k"))]
)
def test_each_event_is_in_the_recording_or_counted(
    namespace: Namespace,
    witness: Witness,
    tmp_path: Path,
    seconds: int,
    per_second: int | None,
    arguments: tuple[str],
) -> None:
    path = tmp_path / "x.tw"
    traced = Traced(namespace, "record", "-o", path, *arguments)
    before = traced.memory_bytes()
    connections = storm(namespace, seconds, per_second)
    grown = traced.memory_bytes() - before
    _, said = traced.stop()
    kept = recorded(path)
    assert kept.states + kept.lost_states == witness.counted()
    assert kept.states > min(5 * connections / seconds, 20_000), "it went on recording"
    assert counted_in(said) == (kept.events, kept.lost)
    assert re.search(r"used \d+\.\d s of CPU \(\d+\.\d% of one core\) and \d+ MB of memory", said)
    assert grown < 48 << 20, "whatever the number of connections"
    report = subprocess.run(
        [*COMMAND, "report", path, "--json"], capture_output=True, text=True, cwd=ROOT, env=ENVIRONMENT, timeout=300
    )
    summary = json.loads(report.stdout.splitlines()[-1])
    assert (summary["events"], summary["lost"]) == (kept.events, kept.lost)
    assert kept.lost > 0 or not arguments


@pytest.mark.parametrize("as_json", [False, True])
def test_a_reader_that_does_not_read_costs_the_recording_nothing(
    namespace: Namespace, witness: Witness, tmp_path: Path, as_json: bool
) -> None:
    path = tmp_path / "x.tw"
    traced = Traced(namespace, "-w", path, "--json" if as_json else "--all")
    # A line of JSON is as long as that of the recording, and one of text a sixth as long.
    deadline = time.monotonic() + PATIENCE_S
    while path.stat().st_size < (2 * MAX_WAITING_DATA if as_json else 10 * MAX_WAITING_TEXT):
        assert time.monotonic() < deadline
        storm(namespace, 4, 3000 if not as_json else 6000)
    shown, said = traced.stop()
    kept = recorded(path)
    assert kept.states + kept.lost_states == witness.counted()
    assert counted_in(said) == (kept.events, kept.lost)
    if as_json:
        records = [json.loads(line) for line in shown.splitlines()]
        left_out = sum(each["count"] for each in records if each.get("hook") == "output")
        written = sum(each.get("hook") != "output" for each in records)
    else:
        left_out = sum(int(n.replace(",", "")) for n in re.findall(r"([\d,]+) lines left out", shown))
        stamped = [line for line in shown.splitlines() if re.match(r"\d\d:\d\d:\d\d\.", line)]
        written = sum("lines left out" not in line for line in stamped)
    assert left_out > 0
    assert written + left_out == lines(path) - 1, "the header is none"
    assert f"({left_out:,} not shown)" in said


def test_a_reader_that_does_not_read_does_not_keep_the_recording_open(namespace: Namespace, tmp_path: Path) -> None:
    path = tmp_path / "x.tw.gz"
    traced = Traced(namespace, "-w", path, "--all")
    storm(namespace, 1)
    traced.process.send_signal(signal.SIGINT)

    def is_whole() -> bool:
        warnings: list[str] = []
        with RecordingReader(path, warn=warnings.append) as source:
            return sum(len(batch.events) for batch in source) > 0 and not warnings

    wait_until(is_whole, PATIENCE_S, "the recording is closed")
    assert traced.process.poll() is None, "it waits for its reader"
    traced.process.send_signal(signal.SIGINT)
    traced.process.communicate(timeout=PATIENCE_S)
    assert traced.process.returncode == -signal.SIGINT, "a second ^C ends that"


def test_it_ends_while_the_storm_goes_on(namespace: Namespace, tmp_path: Path) -> None:
    raging = namespace.popen(
        [sys.executable, Path(__file__).with_name("storm.py"), "1e9"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        traced = Traced(namespace, "record", "-o", tmp_path / "x.tw")
        assert raging.stdin is not None
        raging.stdin.write("go\n")
        raging.stdin.flush()
        wait_until(lambda: (tmp_path / "x.tw").stat().st_size > 50 << 20, PATIENCE_S, "fifty megabytes")
        _, said = traced.stop()
    finally:
        raging.kill()
        raging.communicate()
    kept = recorded(tmp_path / "x.tw")
    assert counted_in(said) == (kept.events, kept.lost)
