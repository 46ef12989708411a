"""Limits, missing mounts and sandboxes: each failure names what failed, once, and nothing stays attached."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from changed_host import tcpwatch
from leftovers import assert_nothing_left
from watching import ROOT

QUICK = ("--duration", "10ms", "--port", "9")  # a port that nobody uses
HERE = Path(__file__).parent
FEWER = "setpriv --bounding-set=-sys_resource --inh-caps=-sys_resource"  # so that limits cannot be raised
EPERM, EAGAIN, ENOSYS = 1, 11, 38


def without_calls(number: int, calls: str) -> str:
    """A shell command before another one, which then cannot make these system calls."""
    return f'set -- {sys.executable} {HERE / "without_calls.py"} {number} {calls} "$@"'


def limited(limit: str) -> str:
    """The same, with a limit that cannot be raised again."""
    return f'set -- {FEWER} "$@"; ulimit {limit}'


def assert_named(shown: subprocess.CompletedProcess[str], complaint: str, hint: str) -> None:
    assert shown.returncode == 1, shown.stderr
    assert "Traceback" not in shown.stderr and "bug in tcpwatch" not in shown.stderr
    first, second = shown.stderr.splitlines()
    assert first.startswith("tcpwatch: ") and complaint in first
    assert second.startswith("Hint: ") and hint in second
    assert "standard output" not in first
    assert_nothing_left()


@pytest.mark.parametrize(
    ("before", "complaint", "hint"),
    [
        ("umount -l /proc", "/proc is not mounted", "mount -t proc"),
        ("mount -t tmpfs none /proc", "/proc is not mounted", "mount -t proc"),
        (
            "unshare --pid --fork mount -t proc proc /proc",
            "mounted for another PID namespace",
            "docker run --pid=host",
        ),
        ("umount -l /sys", "/sys is not mounted", "mount -t sysfs"),
        ("mount -t tmpfs none /sys", "/sys is not mounted", "mount -t sysfs"),
        (limited("-n 6"), "Too many open files", "ulimit -n"),
        (limited("-n 10"), "Too many open files", "ulimit -n"),
        (limited("-n 20"), "Too many open files", "ulimit -n"),
        (limited("-n 40"), "Too many open files", "ulimit -n"),
        (limited("-v 20000"), "not enough memory", "free -m"),
        (limited("-v 37000"), "not enough memory to load", "free -m"),
        (without_calls(EPERM, "bpf"), "load BPF programs: Operation not permitted (a seccomp filter", "docker run"),
        (without_calls(ENOSYS, "bpf"), "load BPF programs: Function not implemented (a seccomp filter", "docker run"),
        (without_calls(EAGAIN, "clone,clone3,fork,vfork"), "cannot start a thread", "ulimit -u"),
        ('set -- unshare --user --map-root-user "$@"', "Operation not permitted (this is a user namespace", "host"),
    ],
)
def test_a_host_without(before: str, complaint: str, hint: str) -> None:
    assert_named(tcpwatch(*QUICK, before=before), complaint, hint)


@pytest.mark.parametrize(
    "before",
    [
        "ulimit -Sn 20",
        "mount -t proc -o hidepid=2 proc /proc",
        "mount -t tmpfs none /dev",
        "mount -t tmpfs -o ro none /tmp",
        "mkdir -p /tmp/removed; cd /tmp/removed; rmdir /tmp/removed",
        "unset HOME PATH TMPDIR",
        "export LC_ALL=xx_YY.nonsense TMPDIR=/nowhere",
        "export PYTHONWARNINGS=error PYTHONDEVMODE=1 PYTHONUNBUFFERED=1 PYTHONOPTIMIZE=2",
        "exec <&-",
        without_calls(EPERM, "perf_event_open"),
        without_calls(EPERM, "capset,capget"),
        without_calls(EPERM, "prlimit64,setrlimit"),
        without_calls(EPERM, "name_to_handle_at"),
        limited("-l 64"),
        limited("-f 1"),
    ],
)
def test_what_is_not_needed(before: str) -> None:
    shown = tcpwatch(*QUICK, before=before)
    assert shown.returncode == 0, shown.stderr
    assert "tracing port 9\n" in shown.stderr and "Traceback" not in shown.stderr
    assert_nothing_left()


def test_a_recording_without_any_other_thread(tmp_path: Path) -> None:
    """What is not essential is left out, and each part is named once."""
    recorded, textfile = tmp_path / "x.tw", tmp_path / "x.prom"
    shown = tcpwatch(
        "record", "-o", str(recorded), *QUICK, "--metrics", str(textfile),
        "--metrics-listen", "127.0.0.1:0", "--otlp", "http://127.0.0.1:1",
        before=without_calls(EAGAIN, "clone,clone3,fork,vfork"),
    )  # fmt: skip
    assert shown.returncode == 0 and "Traceback" not in shown.stderr
    for lacking in (
        "owners, or connections that wait while nothing happens, may be missing",
        "actions of other tcpwatch commands are not shown",
        f"{textfile} is written only at the end",
        "nothing answers at http://127.0.0.1:",
        "nothing is exported to http://127.0.0.1:1\n",
    ):
        assert shown.stderr.count(f"cannot start a thread, so {lacking}") == 1
    assert shown.stderr.count("Hint: ulimit -u") == 5
    assert tcpwatch("replay", str(recorded)).returncode == 0
    assert "tcpwatch_build_info" in textfile.read_text()
    assert_nothing_left()


@pytest.mark.parametrize(
    ("before", "complaint", "hint"),
    [
        (limited("-v 80000"), "not enough memory to compile the program", "free -m"),
        (limited("-v 200000"), "not enough memory to compile the program", "free -m"),
        (limited("-n 10"), "to compile the program: Too many open files", "ulimit -n"),
        (without_calls(EAGAIN, "clone,clone3,fork,vfork"), "to compile the program: Resource temp", "ulimit -u"),
    ],
)
def test_a_host_that_cannot_compile(before: str, complaint: str, hint: str, tmp_path: Path) -> None:
    assert_named(tcpwatch(*QUICK, before=before, CACHE_DIRECTORY=str(tmp_path)), complaint, hint)
    assert list(tmp_path.iterdir()) == []


def test_compiling_needs_no_working_directory(tmp_path: Path) -> None:
    before = f"mkdir {tmp_path}/removed; cd {tmp_path}/removed; rmdir {tmp_path}/removed; rm -rf {tmp_path}/none"
    shown = tcpwatch(*QUICK, before=before, CACHE_DIRECTORY=str(tmp_path), HOME="/nowhere", TMPDIR="/nowhere")
    assert (shown.returncode, "tracing port 9" in shown.stderr) == (0, True), shown.stderr


def test_no_memory_for_the_buffer() -> None:
    shown = tcpwatch(*QUICK, "--buffer-size", "1G", before=limited("-v 500000"))
    assert_named(shown, "the kernel refused an event buffer of 1G: Cannot allocate memory", "--buffer-size")


@pytest.mark.parametrize("outputs", ["<&-", ">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-"])
def test_closed_descriptors_are_nobodys(outputs: str, tmp_path: Path) -> None:
    """What is opened next, here the recording, must not get the number of standard output."""
    command = f"exec {sys.executable} -m tracer -w {tmp_path / 'x.tw'} {' '.join(QUICK)} {outputs}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CACHE_DIRECTORY": str(tmp_path / "cache")}
    shown = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT, env=environment)
    assert (shown.returncode, shown.stdout) == (0, ""), shown.stderr
    assert "Traceback" not in shown.stderr
    replayed = tcpwatch("replay", str(tmp_path / "x.tw"))
    assert (replayed.returncode, replayed.stdout, replayed.stderr) == (0, "", "tcpwatch: no event to show\n")


def test_a_full_disk_behind_check() -> None:
    with Path("/dev/full").open("wb") as full:
        shown = subprocess.run(
            [sys.executable, "-m", "tracer", "check"],
            stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
    assert (shown.returncode, shown.stderr) == (
        1, "tcpwatch: cannot write to standard output: No space left on device\nHint: df -h\n",
    )  # fmt: skip
    assert_nothing_left()


@pytest.mark.parametrize(
    ("before", "what", "hint"),
    [
        ("mount -t tmpfs none /proc", "/proc", "mount -t proc"),
        ("mount -t tmpfs none /sys", "BTF", "mount -t sysfs"),
        (without_calls(EPERM, "bpf"), "bpf(2)", "docker run"),
    ],
)
def test_check_says_so(before: str, what: str, hint: str) -> None:
    shown = tcpwatch("check", before=before)
    assert (shown.returncode, shown.stderr) == (1, "")
    (row,) = [line for line in shown.stdout.splitlines() if line.startswith(f"{what} ")]
    assert row.split()[1] == "missing"
    (hints,) = [line for line in shown.stdout.splitlines() if line.startswith("Hint: ")]
    assert hints.startswith(f"Hint: {what}: ") and hint in hints
    assert "Live tracing does not work here." in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--netns", "4026530001"], "no process is in network namespace 4026530001 now (lsns -t net shows all)"),
        (["--pid", "4194304"], "no process has the id 4194304 now (pgrep -l NAME shows ids)"),
    ],
)
@pytest.mark.parametrize("command", [["--duration", "10ms"], ["sockets"]])
def test_a_filter_of_what_is_not_there(command: list[str], arguments: list[str], line: str) -> None:
    shown = tcpwatch(*command, *arguments)
    assert shown.returncode == 0
    assert f"tcpwatch: {line}\n" in shown.stderr


UNFORESEEN = """
import tracer.cli.main, tracer.kernel.live as live
class Broken:
    established = {{}}
    def __init__(self, *_): pass
    def close(self): pass
    def __getattr__(self, name): raise {error}
live.KernelCounters = Broken
tracer.cli.main.main()
"""


@pytest.mark.parametrize(
    ("error", "complaint", "hint"),
    [
        ("RecursionError('deep')", "RecursionError: deep", "TCPWATCH_DEBUG=1 tcpwatch --duration"),
        ("AssertionError", "AssertionError", "TCPWATCH_DEBUG=1 tcpwatch --duration"),
        ("EOFError('x')", "EOFError: x", "TCPWATCH_DEBUG=1 tcpwatch --duration"),
        ("OSError(5, 'Input/output error', '/x')", "Input/output error: /x", "TCPWATCH_DEBUG=1"),
        ("MemoryError", "not enough memory", "free -m"),
        ("OSError(24, 'Too many open files', '/x')", "Too many open files: /x", "ulimit -n"),
        ("ModuleNotFoundError('x', name='tabulate')", "the Python package tabulate is missing", "python3-tabulate"),
    ],
)
def test_an_error_that_nobody_expects_in_the_middle_of_a_run(error: str, complaint: str, hint: str) -> None:
    def run(**environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", UNFORESEEN.format(error=error), *QUICK],
            capture_output=True, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        )  # fmt: skip

    shown = run()
    assert shown.returncode == 1
    assert "Traceback" not in shown.stderr
    *_, first, second = shown.stderr.splitlines()
    assert first.startswith(f"tcpwatch: {complaint}")
    assert ("in kernel/live.py line " in first) == ("tabulate" not in error)
    assert first.endswith("; this is a bug in tcpwatch") == ("DEBUG" in hint)
    assert second.startswith("Hint: ") and hint in second
    assert_nothing_left()
    assert "Traceback" in run(TCPWATCH_DEBUG="1").stderr
