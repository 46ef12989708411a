"""A tracer that is started and stopped for years leaves nothing behind, and keeps no privilege without a use."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from capabilities import capabilities
from leftovers import assert_nothing_left
from watching import PATIENCE_S, ROOT, Start, both_ends

from tracer.lab.namespace import wait_until
from tracer.lab.network import SERVER, Lab
from tracer.lab.peers import Server, embedded_client

COMMAND = [sys.executable, "-m", "tracer"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
FEW, MANY = 40, 200
LONG_S = 600

AGAIN_AND_AGAIN = """
import json, os, sys
from tracer.model.filters import Filter
from tracer.kernel.live import LiveSource

def state():
    pages = int(open("/proc/self/statm").read().split()[1])
    return {"descriptors": sorted(os.listdir("/proc/self/fd")), "maps": open("/proc/self/maps").read().count("\\n"),
            "threads": len(os.listdir("/proc/self/task")), "mb": pages * os.sysconf("SC_PAGE_SIZE") >> 20}

for number in range(int(sys.argv[1])):
    with LiveSource(Filter(), lambda: True) as source:
        list(source)
    if number in (4, int(sys.argv[1]) - 1):
        print(json.dumps(state()), flush=True)
sys.stdin.read()
"""


def bpf_objects() -> dict[str, int]:
    """How many of each kind bpftool finds in the kernel."""
    return {
        kind: len(json.loads(subprocess.run(["bpftool", "-j", kind, "show"], capture_output=True, check=True).stdout))
        for kind in ("prog", "map", "link")
    }


def test_again_and_again_in_one_process(request: pytest.FixtureRequest) -> None:
    """Forty times; two hundred in a soak (--soak 600 or more)."""
    times = MANY if (request.config.getoption("--soak") or 0.0) >= LONG_S else FEW
    before = bpf_objects()  # or more than there will be: what tests before this one left is freed in a moment

    def is_as_before() -> bool:
        return all(count <= before[kind] for kind, count in bpf_objects().items())

    running = subprocess.Popen(
        [sys.executable, "-c", AGAIN_AND_AGAIN, str(times)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=ENVIRONMENT,
    )  # fmt: skip
    try:
        assert running.stdout is not None
        early, late = json.loads(running.stdout.readline()), json.loads(running.stdout.readline())
        assert_nothing_left()
        wait_until(is_as_before, 30, "while the process is still there, all of it is gone")
    finally:
        running.communicate(timeout=PATIENCE_S)
    assert early["descriptors"] == late["descriptors"]
    assert early["threads"] == late["threads"] == 1
    assert late["maps"] <= early["maps"] + 50
    # What LLVM keeps of each compilation.
    assert late["mb"] <= early["mb"] + times, (early["mb"], late["mb"])


@pytest.mark.parametrize("delay_s", [0.1, 0.2, 0.3, 0.4, 0.5, 0.7])
def test_killed_at_any_moment_of_the_start_it_leaves_nothing(delay_s: float, tmp_path: Path) -> None:
    running = subprocess.Popen(
        [*COMMAND, "-w", str(tmp_path / "x.tw")], cwd=ROOT, env={**ENVIRONMENT, "TMPDIR": str(tmp_path)},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    time.sleep(delay_s)  # the moments are what is tested
    running.kill()
    running.wait()
    assert_nothing_left()
    assert {each.name for each in tmp_path.iterdir()} <= {"x.tw"}


def test_two_at_once_do_not_disturb_each_other(watch: Start) -> None:
    with Lab(ttl_s=60) as lab, Server(lab.server, SERVER, 3306):
        first, second = (watch("--netns", both_ends(lab)) for _ in range(2))
        with embedded_client(lab.client, SERVER, 3306) as client:
            client.ask("query")
        first.wait_for(new_state="CLOSE", old_state="FIN_WAIT2")
        first.kill()
        with embedded_client(lab.client, SERVER, 3306) as client:
            client.ask("query")
        second.wait_for(2, new_state="CLOSE", old_state="FIN_WAIT2")
        second.stop()
    assert_nothing_left()


PTRACE, READ_SEARCH, OVERRIDE = 19, 2, 1


@pytest.mark.parametrize(
    ("arguments", "kept"),
    [
        (["-w", "x.tw"], {PTRACE, READ_SEARCH}),
        (["record", "-o", "x.tw", "--rotate-every", "1h"], {PTRACE, READ_SEARCH, OVERRIDE}),
    ],
)
def test_only_what_is_of_use_is_kept(arguments: list[str], kept: set[int], tmp_path: Path) -> None:
    """And the owner of another user's socket is still found, with less than root."""
    arguments = [str(tmp_path / each) if each == "x.tw" else each for each in arguments]
    with Lab(ttl_s=60) as lab, Server(lab.server, SERVER, 3306):
        running = subprocess.Popen(
            [*COMMAND, *arguments, "--netns", both_ends(lab)],
            cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            assert running.stderr is not None and "tracing" in running.stderr.readline()
            effective, status = capabilities(running.pid)
            for task in Path(f"/proc/{running.pid}/task").iterdir():
                assert capabilities(int(task.name))[0] <= effective, "every thread; that of actions needs none"
        finally:
            running.send_signal(signal.SIGINT)
            _, said = running.communicate(timeout=PATIENCE_S)
    assert running.returncode == 0, said
    assert effective == kept
    assert status["NoNewPrivs"] == "1"
    assert status["CapPrm"] == status["CapEff"] == status["CapBnd"]
    assert int(status["CapInh"], 16) == int(status["CapAmb"], 16) == 0


FORBIDDEN = """
import tracer.kernel.privileges as privileges
from tracer.cli.main import main

def refuse(_capabilities):
    raise PermissionError(1, "Operation not permitted")

privileges.keep_only = refuse
main()
"""


def test_a_sandbox_that_forbids_dropping_them_does_not_forbid_tracing() -> None:
    shown = subprocess.run(
        [sys.executable, "-c", FORBIDDEN, "--duration", "10ms"],
        cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE_S,
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    first, second = shown.stderr.splitlines()[:2]
    assert first.endswith("cannot drop unneeded capabilities: Operation not permitted")
    assert "tracing" in second


def test_no_socket_of_the_network_is_opened(tmp_path: Path) -> None:
    subprocess.run(
        ["strace", "-f", "-qq", "-e", "trace=socket,socketpair,execve", "-o", str(tmp_path / "calls"), *COMMAND,
         "--duration", "10ms", "-w", str(tmp_path / "x.tw")],
        cwd=ROOT, env=ENVIRONMENT, check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    calls = (tmp_path / "calls").read_text().splitlines()
    assert "execve" in calls[0] and all("socket(AF_UNIX" in call for call in calls[1:]), calls
