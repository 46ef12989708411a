"""However a run ends, the kernel's counts are beside what was seen of the same time, or are not there."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from watching import PATIENCE_S, ROOT, both_ends

from tracer.lab.namespace import wait_until
from tracer.lab.network import SERVER, Lab
from tracer.lab.peers import Client, Server, embedded_client

_TRUTH = re.compile(r"the kernel counted ([\d,]+) retransmitted segments? \(([\d,]+) seen\)")
RETRANSMISSIONS = 3


@pytest.fixture
def client(lab: Lab) -> Iterator[Client]:
    with Server(lab.server, SERVER, 3306), embedded_client(lab.client, SERVER, 3306) as connected:
        assert connected.ask("query")["ok"]
        yield connected


def begin(lab: Lab, *arguments: str, stdout: int) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tracer", "--json", "--netns", both_ends(lab), *arguments],
        stdout=stdout, stderr=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stderr is not None and "tracing" in process.stderr.readline()
    return process


def said_by(process: subprocess.Popen[str]) -> str:
    try:
        _, said = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
    assert "Traceback" not in said
    return said


def retransmit(lab: Lab, client: Client) -> None:
    lab.drop_everything()
    client.send("query")
    wait_until(lambda: lab.client.counter("TcpRetransSegs") >= RETRANSMISSIONS, PATIENCE_S, "retransmissions")


def compared(said: str) -> tuple[int, int] | None:
    """What the kernel counted and what was seen; None where nothing is said of it."""
    found = _TRUTH.search(said)
    return None if found is None else (int(found[1].replace(",", "")), int(found[2].replace(",", "")))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, None], ids=["^C", "SIGTERM", "duration"])
def test_a_run_that_is_ended_has_seen_what_the_kernel_counted(
    lab: Lab, client: Client, number: signal.Signals | None
) -> None:
    process = begin(lab, *(() if number else ("--duration", "3s")), stdout=subprocess.DEVNULL)
    retransmit(lab, client)
    if number:
        process.send_signal(number)
    said = said_by(process)
    counts = compared(said)
    assert process.returncode == 0 and counts is not None, said
    assert counts[0] == counts[1] >= RETRANSMISSIONS, said


def test_a_reader_that_goes_away_ends_the_run_with_right_counts_or_none(lab: Lab, client: Client) -> None:
    process = begin(lab, stdout=subprocess.PIPE)
    retransmit(lab, client)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    process.wait(PATIENCE_S)
    counts = compared(process.stderr.read())
    process.stderr.close()
    assert process.returncode == 0
    assert counts is None or counts[0] == counts[1]


def test_after_an_error_of_the_output_nothing_is_said_that_was_not_counted(lab: Lab, client: Client) -> None:
    with Path("/dev/full").open("wb") as full:
        process = begin(lab, stdout=full.fileno())
    retransmit(lab, client)
    said = said_by(process)
    assert process.returncode == 1 and "No space left on device" in said
    assert re.search(r"tcpwatch: [\d,]+ events?, ", said), "the summary is there"
    counts = compared(said)
    # The run ends in order, so that the counters are read a last time.
    assert (counts is None or counts[0] == counts[1]) and "had no event" not in said, said
