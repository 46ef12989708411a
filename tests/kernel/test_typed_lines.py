"""What people type and pipe: warnings at the start, a recording through a pipe, and readers that leave."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from watching import PATIENCE_S, ROOT, Start, both_ends

from tracer.lab.network import SERVER, Lab
from tracer.lab.peers import Server, embedded_client

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
TCPWATCH = (sys.executable, "-m", "tracer")
# Of process 1, which is there everywhere, the id is a port that hardly anybody uses.
NOBODY = ("-p", "1", "--comm", "no-such-comm", "--pid", "4194304")
FIRST = Path("/proc/1/comm").read_text().strip()
WARNINGS = (
    f"no socket uses port 1 now, but process 1 is {FIRST} (for its connections: --pid 1)",
    "no process has the id 4194304 now (pgrep -l NAME shows ids)",
)


def test_what_nobody_is_called_is_warned_of_at_the_start_and_tracing_goes_on(watch: Start) -> None:
    talk = watch(*NOBODY).stop()
    for line in (*WARNINGS, "no process is named no-such-comm now; waiting for one"):
        assert f"tcpwatch: {line}" in talk.partition("tracing port 1 and")[0]
    assert "0 events" in talk


def test_record_and_sockets_warn_as_well(tmp_path: Path) -> None:
    for arguments in (["record", "-o", str(tmp_path / "x.tw"), "--duration", "0.1"], ["sockets"]):
        shown = subprocess.run(
            [*TCPWATCH, *arguments, *NOBODY], capture_output=True, text=True, cwd=ROOT, env=ENVIRONMENT,
            timeout=PATIENCE_S,
        )  # fmt: skip
        assert shown.returncode == 0
        for line in (*WARNINGS, "no process is named no-such-comm now"):
            assert f"tcpwatch: {line}" in shown.stderr
        assert ("waiting for one" in shown.stderr) is (arguments[0] == "record")


def test_a_recording_is_replayed_while_it_is_made(lab: Lab) -> None:
    arguments = [*TCPWATCH, "record", "-o", "-", "--netns", both_ends(lab), "-e", "state"]
    pipe = subprocess.PIPE
    with (
        subprocess.Popen(arguments, stdout=pipe, stderr=pipe, cwd=ROOT, env=ENVIRONMENT) as recorder,
        subprocess.Popen(
            [*TCPWATCH, "replay", "-", "--json"],
            stdin=recorder.stdout, stdout=subprocess.PIPE, cwd=ROOT, env=ENVIRONMENT,
        ) as player,
    ):  # fmt: skip
        assert recorder.stdout and recorder.stderr and player.stdout
        recorder.stdout.close()
        try:
            while b"tracing" not in (line := recorder.stderr.readline()):
                assert line
            assert b"recording to /dev/stdout" in line
            with Server(lab.server, SERVER, 3306), embedded_client(lab.client, SERVER, 3306) as client:
                client.ask("query")
                # Both still run: an event is shown when it happens.
                first = json.loads(player.stdout.readline())
                assert (first["event"], first["rport"]) == ("state", 3306)
            player.kill()
            assert recorder.wait(PATIENCE_S) == 0
            talk = recorder.stderr.read().decode()
            assert "Hint" not in talk and "closed" not in talk and "events, 0 lost" in talk
        finally:
            recorder.kill()
            player.kill()


@pytest.mark.parametrize("arguments", [[], ["--json"], ["sockets"], ["record", "-o", "{}", "--duration", "1"]])
def test_a_reader_of_stdout_and_stderr_that_has_left(tmp_path: Path, arguments: list[str]) -> None:
    """As in `tcpwatch 2>&1 | head`."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        command = [*TCPWATCH, *(each.format(tmp_path / "x.tw") for each in arguments)]
        done = subprocess.run(
            command, stdout=closed, stderr=closed, cwd=ROOT, env=ENVIRONMENT, timeout=PATIENCE_S
        )  # fmt: skip
    assert done.returncode == 0


@pytest.mark.parametrize("target", ["pipe", "socket"])
def test_the_reader_of_a_recording_leaves(target: str) -> None:
    ours, theirs = os.pipe() if target == "pipe" else (each.detach() for each in socket.socketpair())
    with subprocess.Popen([*TCPWATCH, "record", "-o", "-"], stdout=theirs, stderr=subprocess.PIPE, cwd=ROOT,
                          env=ENVIRONMENT, text=True) as recorder:  # fmt: skip
        os.close(theirs)
        assert os.read(ours, 20) == b'{"format":"tcpwatch"'
        os.close(ours)
        assert recorder.wait(PATIENCE_S) == 0
        assert recorder.stderr is not None and "Hint" not in recorder.stderr.read()
