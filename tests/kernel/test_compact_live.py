"""A full and a compact recording of one run, beside each other, on the running kernel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from compact_recordings import compared
from watching import PATIENCE_S, ROOT, Start, both_ends

from tracer.cli import main
from tracer.lab.namespace import wait_until
from tracer.lab.network import SERVER, Lab
from tracer.lab.peers import Server, embedded_client
from tracer.model.kinds import COMPACT
from tracer.recordings.reader import RecordingReader
from tracer.run import replay

PORT = 3306
IDLE_MS = 2000
HEALTHY = 400
_IDLE_IS_SHORT = (
    f"import tracer.run.live as live; live.MIN_IDLE_MS = {IDLE_MS}; live.RESUME_AFTER_S = {IDLE_MS / 1000}; "
)
"""A prelude: a silence of two seconds is a long one, though no filter leaves shorter ones out."""
_CHATTER = f"""
import socket
listener = socket.create_server(("127.0.0.1", 0))
for _ in range({HEALTHY}):
    client = socket.create_connection(listener.getsockname())
    server, _ = listener.accept()
    client.close(), server.close()
"""
_OF_ONE_PROCESS = frozenset({"id", "sock", "time", "ktime_ns", "since", "probably_dead"})
"""Two processes that trace have their own ids, clocks that are some microseconds apart, and walks at other times."""


def _same_within_a_moment(one: Any, other: Any) -> bool:
    if isinstance(one, int) and isinstance(other, int):
        return abs(one - other) <= 50  # milliseconds
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same_within_a_moment, one, other))
    return bool(one == other)


def _stalls_and_services(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    found = [
        {name: value for name, value in compared(record).items() if name not in _OF_ONE_PROCESS}
        for record in records
        if record.get("report", "service") == "service"
    ]
    return sorted(found, key=lambda each: (each.get("report", ""), each.get("lport", 0)))


def test_a_compact_recording_reports_what_a_full_one_does(
    watch: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    full = tmp_path / "full.tw"
    rotated = ["--compact", "--rotate-every", "3s"]
    with Lab(ttl_s=4, retries2=4) as lab, Server(lab.server, SERVER, PORT):
        tracing = [
            watch("record", "-o", file, "--netns", both_ends(lab), *more, text=True, prelude=_IDLE_IS_SHORT)
            for file, more in ((full, []), (tmp_path / "compact.tw", rotated))
        ]
        with embedded_client(lab.client, SERVER, PORT) as a, embedded_client(lab.client, SERVER, PORT) as b:
            a.ask("query")
            b.ask("query")
            time.sleep(2.5)  # a silence that the firewall allows
            a.ask("query")
            wait_until(lambda: not lab.sessions(PORT), PATIENCE_S, "the firewall forgets")
            a.send("query")
            lab.client.run(sys.executable, "-c", _CHATTER)  # a moment: both processes see a end first
            b.send("query")
            wait_until(lambda: a.answered() and b.answered(), PATIENCE_S, "the kernel gives up")
            for each in tracing:  # while both clients are there, so that either sees who they are
                each.stop()

    monkeypatch.setattr(replay, "MIN_IDLE_MS", IDLE_MS)
    reports = []
    compact = sorted(tmp_path.glob("compact-*.tw"))
    assert len(compact) > 1, "a stall that begins in one file and ends in the next is one stall"
    for files in ([full], compact):
        assert main.run(["report", "--json", *map(str, files)]) == 0
        reports.append([json.loads(line) for line in capsys.readouterr().out.splitlines()])
    of_full, of_compact = map(_stalls_and_services, reports)
    assert [each.keys() for each in of_compact] == [each.keys() for each in of_full]
    for ours, theirs in zip(of_compact, of_full):
        assert {name: (ours[name], theirs[name]) for name in ours
                if not _same_within_a_moment(ours[name], theirs[name])} == {}  # fmt: skip
    dead = [each for each in of_full if each.get("verdict") == "idle-drop"]
    assert [each["outcome"] for each in dead] == ["timed-out", "timed-out"]
    (service,) = (each for each in of_compact if each.get("report") == "service" and each.get("rport") == PORT)
    assert IDLE_MS < service["survived_ms"] < service["fatal_ms"]
    summaries = [each[-1] for each in reports]
    assert summaries[1]["counted"] == summaries[0]["counted"] and summaries[1]["seen"] == summaries[0]["seen"]
    assert summaries[1]["seen"]["retrans_segs"] >= 8
    assert sum(file.stat().st_size for file in compact) * 20 < full.stat().st_size


@pytest.mark.parametrize("arguments", [["record", "-o", "-"], ["-w", "FIFO"], ["-w", "compact.tw.zst"]])
def test_it_goes_wherever_a_recording_goes(arguments: list[str], tmp_path: Path) -> None:
    """To standard output, to a FIFO and to a file beside the live view; each is read as what it is."""
    made = tmp_path / "made.tw"
    os.mkfifo(tmp_path / "FIFO")
    command = [sys.executable, "-m", "tracer", *arguments, "--compact", "--port", "1", "--duration", "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with made.open("wb") as output, subprocess.Popen(["cat", "FIFO"], cwd=tmp_path, stdout=output) as reader:
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=True)
        if "FIFO" not in arguments:
            reader.terminate()
    if "record" in arguments:
        made.write_bytes(done.stdout)
    elif "FIFO" not in arguments:
        made = tmp_path / arguments[-1]
    with RecordingReader(made, lambda _: None) as recording:
        assert recording.header.compact
        assert {event.event for batch in recording for event in batch.events} <= set(COMPACT)
