"""A recorder that is killed, stopped, hung up and rotated under a storm that never ends: each event is in its files.

An hour of it: scripts/test tests/kernel/test_soak.py --soak 3600
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from counting import Witness
from watching import PATIENCE_S, ROOT

from tracer.kernel.clocks import boottime_ns
from tracer.lab.namespace import Namespace
from tracer.recordings.reader import RecordingReader

COMMAND = [sys.executable, "-m", "tracer"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
SECOND = 1_000_000_000
GAP_S = 0.25
"""At the end of each second nothing happens, so that the two witnesses can be asked about exactly the same time."""
MAY_BE_LOST_NS = int(1.5 * SECOND)
"""By kill -9: what was recorded in the last second, and what waited in the ring."""


@dataclass
class Run:
    """One tcpwatch from its beginning to its end, and what its files have."""

    files: str
    process: subprocess.Popen[str]
    began_ns: int
    ended_ns: int = 0
    states: dict[int, int] = field(default_factory=dict)  # by second
    lost: int = 0


def begin(directory: Path, number: int, netns: int) -> Run:
    suffix = ("tw", "tw.gz", "tw.zst")[number % 3]
    process = subprocess.Popen(
        [*COMMAND, "record", "-o", directory / f"{number:05}.{suffix}", "--netns", str(netns),
         "--rotate-size", "8M", "--rotate-every", "7s"],
        cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    said = process.stderr.readline()
    assert "tracing" in said, said
    return Run(f"{number:05}-*.{suffix}", process, boottime_ns())


def end(run: Run, how: signal.Signals) -> None:
    run.ended_ns = boottime_ns() - (MAY_BE_LOST_NS if how == signal.SIGKILL else 0)
    run.process.send_signal(how)
    _, said = run.process.communicate(timeout=PATIENCE_S)
    assert run.process.returncode == (-how if how == signal.SIGKILL else 0), said
    assert "Traceback" not in said


def read(run: Run, directory: Path) -> None:
    """Count what is in the files, each of which is whole but perhaps the last of a killed one, and remove them."""
    files = sorted(directory.glob(run.files))
    assert len(files) > 1
    for path in files:
        warnings: list[str] = []
        with RecordingReader(path, warn=warnings.append) as source:
            for batch in source:
                for event in batch.events:
                    if event.event == "lost" and event.hook == "inet_sock_set_state":
                        run.lost += event.count or 0
                    elif event.event == "state":
                        second = event.ktime_ns // SECOND
                        run.states[second] = run.states.get(second, 0) + 1
        assert not warnings or (path == files[-1] and run.process.returncode == -signal.SIGKILL), (path, warnings)
        path.unlink()


@pytest.fixture
def storm(namespace: Namespace) -> Iterator[None]:
    """Thousands of events a second without end, and at times as many as there can be."""
    script = str(Path(__file__).with_name("storm.py"))
    processes = [
        namespace.popen(
            [sys.executable, script, "1e9", rate, str(GAP_S)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for rate in ("300", "300")
    ]
    for each in processes:
        assert each.stdin is not None
        each.stdin.write("go\n")
        each.stdin.flush()
    yield
    for each in processes:
        each.kill()
        each.communicate()


@pytest.mark.timeout(0)
def test_every_counted_event_is_in_the_files(
    namespace: Namespace,
    witness: Witness,
    storm: None,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    chance = random.Random(4)
    over = time.monotonic() + (request.config.getoption("--soak") or 40.0)
    total = number = 0
    ways = [signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT]
    while time.monotonic() < over:
        run = begin(tmp_path, number, namespace.netns)
        time.sleep(chance.uniform(3, 6))  # random moments are what is tested
        run.process.send_signal(signal.SIGHUP)
        time.sleep(chance.uniform(3, 12))
        if number % 5 == 4:
            # As fast as it goes, for a moment: events may be lost, and then are counted.
            namespace.run(sys.executable, str(Path(__file__).with_name("storm.py")), "2", stdin="go\n")
            time.sleep(2)
        end(run, ways[number % len(ways)])
        read(run, tmp_path)
        seconds = range(run.began_ns // SECOND + 1, run.ended_ns // SECOND)
        counted = witness.by_second()
        witness.clear()
        missing = {second: counted.get(second, 0) - run.states.get(second, 0) for second in seconds}
        assert 0 <= sum(missing.values()) <= run.lost, (number, missing, run.lost)
        total += sum(run.states.get(second, 0) for second in seconds)
        number += 1
    assert number > 1 and total > 1000 * number
