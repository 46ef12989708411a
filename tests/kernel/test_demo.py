"""`tcpwatch demo`: the incident with its verdict and a time that comes true, five fixes that hold, and the probe."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys

import pytest
from leftovers import assert_nothing_left
from watching import PATIENCE_S, ROOT

COMMAND = [sys.executable, "-m", "tracer", "demo"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_the_incident_its_five_fixes_and_the_probe() -> None:
    """All at once: each in namespaces of its own, and most of each is waiting."""
    fixes = ("protect", "keepalive", "ttl", "reset", "ping")
    running = {fix: start("--fix", fix) for fix in fixes} | {"none": start(), "probe": start("--probe")}
    said = {fix: process.communicate(timeout=3 * PATIENCE_S) for fix, process in running.items()}
    for fix, process in running.items():
        assert process.returncode == 0, f"{fix}: {said[fix]}"
        assert "Traceback" not in said[fix][1]

    shown = said["none"][0]
    assert "STALL idle-drop" in shown and "END   idle-drop" in shown and "timed out after" in shown
    assert "consistent with a firewall or NAT that forgot the session" in " ".join(shown.split())
    advised_s = int(re.search(r"net\.ipv4\.tcp_keepalive_time=(\d+)", shown)[1])  # type: ignore[index]
    assert f"tcp_keepalive_time is {advised_s}s" in said["keepalive"][0], "the advice is what the fix does"
    assert "verdict: idle-drop, timed-out" in shown
    off_ms = int(re.search(r"it gave up at [\d:.]+ \(([+-]\d+) ms\)", shown)[1])  # type: ignore[index]
    assert -50 <= off_ms <= 250, "50 ms on a calm machine"

    for fix in ("protect", "keepalive", "ttl", "ping"):
        assert "STALL" not in said[fix][0], fix
        assert "firewall  still has the session" in said[fix][0], fix
        assert re.search(r"the worker sends its next query. The answer takes [\d.]+ ms", said[fix][0]), fix
    assert f"--idle {advised_s}s" in shown, "the advice about open connections is what the fix does"
    protected = said["protect"][0]
    assert re.search(r"\$ sudo \S*tcpwatch protect --netns \d+ --rport 3306 --idle 3s\n", protected)
    assert re.search(r"changed +worker\[\d+\] .* keepalive 12s\+9x1s → 3s\+9x1s\n", protected)
    assert protected.index("3s+9x1s") < protected.index("keepalive 1 ")
    probed = said["probe"][0]
    assert re.search(r"\$ sudo \S*tcpwatch probe --netns \d+ --rport 3306 --connect\n", probed)
    (dead,) = re.findall(r"    no-answer +worker\[\d+\]  \S+:(\d+) → .* 3 probes in 3\.0s", probed)
    (living,) = re.findall(r"    alive +worker\[\d+\]  \S+:(\d+) → ", probed)
    assert dead != living and f"The connection from port {dead} is dead." in probed
    assert "opens (" in probed and "forgot the session of the one that does not answer" in probed
    assert "STALL" not in probed, "it is found before anything hangs"
    assert "keepalive 1" in said["keepalive"][0] and "keepalive 1" in said["ttl"][0]
    assert "END   idle-reset" in said["reset"][0] and "No freeze" in said["reset"][0]
    assert_nothing_left()


def test_with_a_real_mariadb() -> None:
    process, probing = start("--server", "mariadb"), start("--server", "mariadb", "--probe")
    shown, said = process.communicate(timeout=3 * PATIENCE_S)
    assert process.returncode == 0, said
    probed, said = probing.communicate(timeout=3 * PATIENCE_S)
    assert probing.returncode == 0, said
    assert re.search(r"^    no-answer ", probed, re.MULTILINE) and re.search(r"^    alive ", probed, re.MULTILINE)
    assert "STALL idle-drop" in shown and "Lost connection to MySQL server" in shown
    assert "1 connection asleep" in shown, "leaked"


@pytest.mark.parametrize("lines", [1, 4])
def test_interrupted_or_no_longer_read(lines: int) -> None:
    process = start()
    assert process.stdout is not None and process.stderr is not None
    for _ in range(lines):
        assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0 and "Traceback" not in said
    assert_nothing_left()


def test_a_pipe_that_is_closed() -> None:
    process = start()
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline().startswith("● A worker connects")
    process.stdout.close()
    assert process.wait(PATIENCE_S) == 0
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()
    assert_nothing_left()
