"""The commands that need no kernel, as processes: what a user types and sees."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from builders import event
from recording_files import EVENTS, write
from running import ROOT, tcpwatch

from tracer.cli.commands import Commands
from tracer.model.validation import to_json

HERE = Path(__file__).parent


def test_replay_as_json_is_the_recording_without_its_header(tmp_path: Path) -> None:
    content = write(tmp_path / "x.tw").decode()
    shown = tcpwatch("replay", tmp_path / "x.tw", "--json")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout == content.partition("\n")[2]


def test_replay_in_the_recordings_own_time_zone(tmp_path: Path) -> None:
    write(tmp_path / "x.tw")
    outputs = {tcpwatch("replay", tmp_path / "x.tw", TZ=zone).stdout for zone in ("UTC", "Asia/Tokyo")}
    assert len(outputs) == 1
    shown = outputs.pop()
    assert "times in UTC+01:00" in shown and "\n09:00:00.000 " in shown


def test_replay_filters_and_reads_stdin(tmp_path: Path) -> None:
    content = write(tmp_path / "x.tw", [*EVENTS, event(at=2, rport=11300)])
    shown = tcpwatch("replay", "-", "--rport", "11300", "--json", stdin=content)
    assert [json.loads(line)["rport"] for line in shown.stdout.splitlines()] == [11300]


def test_a_half_written_last_line_is_a_warning(tmp_path: Path) -> None:
    content = write(tmp_path / "x.tw")
    (tmp_path / "x.tw").write_bytes(content[:-20])
    shown = tcpwatch("replay", tmp_path / "x.tw", "--json")
    assert shown.returncode == 0
    assert "line 3 is truncated" in shown.stderr
    assert [json.loads(line) for line in shown.stdout.splitlines()] == [to_json(EVENTS[0])]


def test_nothing_of_a_kernel_is_needed_to_replay(tmp_path: Path) -> None:
    """As on another operating system: the kernel side cannot even be imported."""
    write(tmp_path / "x.tw")
    blocker = tmp_path / "sitecustomize.py"
    blocker.write_text("import sys\nsys.modules['bcc'] = sys.modules['tracer.kernel'] = None\n")
    shown = tcpwatch("replay", tmp_path / "x.tw", PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert (shown.returncode, shown.stderr) == (0, "")


_MANY = ",".join(map(str, range(1, 4000, 2)))


@pytest.mark.parametrize(
    ("arguments", "status", "complaint"),
    [
        (["--port", "0"], 2, "invalid port"),
        (["--port", "3306,no-such"], 2, "invalid port 'no-such'"),
        (["--host", "db.invalid"], 2, "cannot resolve the host name 'db.invalid'"),
        (["replay", "x.tw", "--host", "db.invalid"], 2, "cannot resolve the host name 'db.invalid'"),
        (["--host", "10.1.2"], 2, "invalid address"),
        (["--duration", "10x"], 2, "invalid duration"),
        (["record", "-o", "x.tw", "--rotate-every", "24"], 2, "invalid duration '24'"),
        (["--min-idle", "soon"], 2, "invalid duration"),
        (["-e", "retransmit,stales"], 2, "invalid event 'stales'"),
        (["--pid", "x"], 2, "invalid process id"),
        (["--netns", "no-such-netns"], 2, "there is no network namespace"),
        (["-4", "-6"], 2, "-4 and -6 are mutually exclusive"),
        (["--duration", "0s"], 2, "--duration must be greater than zero"),
        (["record", "-o", "x.tw", "--rotate-every", "0s"], 2, "--rotate-every must be greater than zero"),
        (["record", "-o", "x.tw", "--rotate-size", "1k"], 2, "invalid size '1k' (expected at least 4k)"),
        (["record", "-o", "x.tw", "--keep", "3"], 2, "--keep needs --rotate-size, --rotate-every or --keep-size"),
        (["record", "-o", "x.tw", "--rotate-size", "4k", "--port", _MANY], 2, "--rotate-size is too small"),
        (["record", "-o", "-", "--keep-size", "1G"], 2, "on standard output cannot continue in another file"),
        (["-w", "-"], 2, "standard output cannot have both events and a recording"),
        (["-i", "eth0"], 2, "-i eth0 cannot be used"),
        (["help", "nonsense"], 2, "there is no command 'nonsense'"),
        (["completion", "csh"], 2, "'csh' is not one of 'bash', 'zsh', 'fish'"),
        (["-w", ""], 2, "--write needs the name of a file"),
        (["-w", "x/"], 2, "--write needs the name of a file, not of a directory (x/)"),
        (["record", "-o", "/var/log/"], 2, "--output needs the name of a file, not of a directory (/var/log/)"),
        (["--comm", ""], 2, "invalid process name ''"),
        (["--host", ""], 2, "invalid address ''"),
        (["-e", ""], 2, "invalid event ''"),
        (["--port", "3306,"], 2, "invalid port ''"),
        (["--port", "x" * 500], 2, "invalid port 'xxx"),
        (["--buffer-size", "2G"], 2, "invalid buffer size '2G' (expected 64k to 1G)"),
        (["--no-resume", "-e", "resume,lost"], 2, "--event resume and --no-resume are mutually exclusive"),
        (["record", "-o", "x.tw", "--no-resume", "-e", "resume"], 2, "are mutually exclusive"),
        (["--json", "--format", "text"], 2, "--json and --format text are mutually exclusive"),
        (["replay", "x.tw", "--format", "xml"], 2, "'xml' is not one of 'text', 'json'"),
        (["sockets", "--at-risk", "0s"], 2, "--at-risk must be greater than zero"),
        (["sockets", "-e", "stall"], 2, "--event cannot be used with sockets"),
        (["--nonsense"], 2, "No such option"),
        (["nonsense"], 2, "No such command"),
        (["replay"], 2, "Missing argument"),
        (["--port", "80", "replay", "x.tw"], 2, "options of replay must follow its name"),
        (["replay", "/no/such/file"], 1, "/no/such/file: no such file"),
        (["replay", "/"], 1, "/: a directory, not a recording"),
        (["replay", "pyproject.toml"], 1, "pyproject.toml: not a recording"),
        (["replay", "a\x1b[2Jb"], 1, "\\x1b[2J"),
    ],
)
def test_every_error_says_what_is_wrong_and_what_to_type(arguments: list[str], status: int, complaint: str) -> None:
    shown = tcpwatch(*arguments)
    assert shown.returncode == status
    assert shown.stdout == ""
    first, second = shown.stderr.splitlines()
    assert first.startswith("tcpwatch: ") and complaint in first
    assert second.startswith("Hint: ")
    assert len(first) < 300


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["replay", "--help"]])
def test_a_closed_pipe_behind_the_help_is_fine(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        shown = subprocess.run(
            [sys.executable, "-m", "tracer", *arguments],
            stdout=closed, stderr=subprocess.PIPE, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=60,
        )  # fmt: skip
    assert (shown.returncode, shown.stderr) == (0, b"")


@pytest.mark.parametrize("command", ["replay", "report", "replay --json", "nonsense"])
def test_a_closed_pipe_behind_stdout_and_stderr(tmp_path: Path, command: str) -> None:
    """As in `tcpwatch replay x.tw 2>&1 | head`. A wrong command line is still one."""
    write(tmp_path / "x.tw", [event(at=second) for second in range(500)])
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "tracer", *command.split(), str(tmp_path / "x.tw")],
            stdout=closed, stderr=closed, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=60,
        )  # fmt: skip
    assert done.returncode == (2 if command == "nonsense" else 0)


def test_a_recording_is_not_printed_on_a_terminal() -> None:
    ours, terminal = os.openpty()
    try:
        shown = subprocess.run(
            [sys.executable, "-m", "tracer", "record", "-o", "-"],
            stdout=terminal, stderr=subprocess.PIPE, text=True, cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=60,
        )  # fmt: skip
    finally:
        os.close(terminal)
        os.close(ours)
    assert shown.returncode == 2
    assert shown.stderr.splitlines() == [
        "tcpwatch: refusing to print a recording on a terminal",
        "Hint: tcpwatch record -o now.tw, or tcpwatch record -o - | zstd > now.tw.zst",
    ]


def test_a_reader_that_made_the_pipe_non_blocking_gets_everything(tmp_path: Path) -> None:
    """As ssh and Node.js do with a pipe that they share."""
    write(tmp_path / "x.tw", [event(at=second) for second in range(5000)])
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    process = subprocess.Popen(
        [sys.executable, "-m", "tracer", "replay", "--json", str(tmp_path / "x.tw")],
        stdout=writer, stderr=subprocess.PIPE, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        assert len(pipe.readlines()) == 5000
    assert (process.communicate(timeout=60)[1], process.returncode) == (b"", 0)


@pytest.mark.parametrize(
    ("error", "complaint", "hint"),
    [
        (
            "ImportError('x', name='click.core')",
            f"the Python package click {version('click')} is too old (expected 8.0",
            "pip install 'click>=8.0'",
        ),
        ("ModuleNotFoundError('x', name='click')", "the Python package click is missing", "python3-click"),
        ("ImportError('x.so: failed to map segment from shared object')", "not enough memory", "free -m"),
        ("MemoryError", "not enough memory", "free -m"),
        (
            "RuntimeError('Click will abort, because Python was configured to use ASCII as encoding for this.')",
            "the locale has no characters but ASCII",
            "LC_ALL=C.UTF-8",
        ),
        ("ValueError('odd')", "ValueError: odd", "TCPWATCH_DEBUG=1 tcpwatch report 'a b'"),
    ],
)
def test_what_cannot_be_imported(tmp_path: Path, error: str, complaint: str, hint: str) -> None:
    (tmp_path / "click.py").write_text(f"raise {error}\n")
    shown = tcpwatch("report", "a b", PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert (shown.returncode, shown.stdout) == (1, "")
    first, second = shown.stderr.splitlines()
    assert first.startswith(f"tcpwatch: {complaint}")
    assert second.startswith("Hint: ") and hint in second
    debugged = tcpwatch("report", "a b", PYTHONPATH=f"{tmp_path}:{ROOT}", TCPWATCH_DEBUG="1")
    assert "Traceback" in debugged.stderr


@pytest.mark.parametrize(("name", "has_note"), [("x.pcap", True), ("X.PCAPNG", True), ("x.tw.gz", False)])
def test_a_recording_is_not_taken_for_packets(name: str, has_note: bool) -> None:
    shown = tcpwatch("record", "-o", name, "--keep", "1")
    assert shown.returncode == 2
    assert (f"{name} will be a tcpwatch recording, which has no packets" in shown.stderr) == has_note


@pytest.mark.parametrize("command", ["", *Commands()])
def test_help_has_room_on_eighty_columns(command: str) -> None:
    shown = tcpwatch(*filter(None, [command]), "--help", COLUMNS="80")
    assert shown.returncode == 0
    assert max(len(line) for line in shown.stdout.splitlines()) <= 80


@pytest.mark.parametrize("command", ["sockets", "probe", "protect", "end"])
def test_help_offers_no_filter_of_events_where_there_are_none(command: str) -> None:
    assert "--min-idle" in tcpwatch(command, "--help").stdout
    assert "--event" not in tcpwatch(command, "--help").stdout


def test_a_closed_pipe_ends_it_quietly(tmp_path: Path) -> None:
    write(tmp_path / "x.tw", [event(at=second) for second in range(5000)])
    command = f"{sys.executable} -m tracer replay {tmp_path / 'x.tw'}; echo status $? >&2"
    shown = subprocess.run(
        ["bash", "-c", f"({command}) | head -1"],
        capture_output=True, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=60,
    )  # fmt: skip
    assert shown.stdout.count("\n") == 1
    assert shown.stderr == "status 0\n"


@pytest.mark.parametrize("command", ["replay", "report"])
def test_a_character_set_that_lacks_what_is_shown(tmp_path: Path, command: str) -> None:
    named: dict[str, Any] = {"comm": "工人", "pid": 7, "pids": [7]}
    write(tmp_path / "x.tw", [event(kind="tlp", attempt=0, silent_ms=3_600_000, unacked_bytes=5, **named)])
    shown = tcpwatch(command, tmp_path / "x.tw", PYTHONIOENCODING="ascii")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.isascii() and "\\u5de5\\u4eba[7]" in shown.stdout


@pytest.mark.parametrize("closed", [">&-", "2>&-"])
def test_an_output_that_is_closed(tmp_path: Path, closed: str) -> None:
    """Of stdout nobody wants to read; what is for stderr must not come on stdout instead."""
    write(tmp_path / "x.tw")
    for arguments, status in ((["replay", "x.tw"], 0), (["report", "x.tw"], 0), (["replay", "no.tw"], 1)):
        shown = subprocess.run(
            ["bash", "-c", f"exec {sys.executable} -m tracer {' '.join(arguments)} {closed}"],
            capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=60,
        )  # fmt: skip
        assert shown.returncode == status
        assert "tcpwatch: " not in shown.stdout and "Traceback" not in shown.stdout + shown.stderr


def test_a_full_disk_behind_stdout(tmp_path: Path) -> None:
    write(tmp_path / "x.tw")
    with Path("/dev/full").open("wb") as full:
        shown = subprocess.run(
            [sys.executable, "-m", "tracer", "replay", str(tmp_path / "x.tw")],
            stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=60,
        )  # fmt: skip
    assert shown.returncode == 1
    assert "cannot write to standard output: No space left on device\nHint: df -h" in shown.stderr
    assert "Traceback" not in shown.stderr


@pytest.mark.parametrize("command", ["replay", "report"])
def test_json_is_short_for_its_format(tmp_path: Path, command: str) -> None:
    write(tmp_path / "x.tw")
    short = tcpwatch(command, tmp_path / "x.tw", "--json")
    assert short.stdout and all(json.loads(line) for line in short.stdout.splitlines())
    for spelled in (["--format", "json"], ["--format=json", "--json"]):
        assert tcpwatch(command, tmp_path / "x.tw", *spelled).stdout == short.stdout
    text = tcpwatch(command, tmp_path / "x.tw").stdout
    assert text != short.stdout and tcpwatch(command, tmp_path / "x.tw", "--format", "text").stdout == text


def test_a_live_run_starts_without_what_only_other_commands_need() -> None:
    """The time to the first event is a budget: docs/performance.md."""
    program = (
        "import sys, tracer.cli.main, tracer.run.live, tracer.run.recording, tracer.output.text; "
        "print(*sorted(name for name in sys.modules if name.startswith(('tracer', 'tabulate'))))"
    )
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    names = set(loaded.stdout.split())
    assert {"tracer.run.live", "tracer.kernel.live"} <= names
    assert not {name for name in names if name.startswith(("tabulate", "tracer.lab", "tracer.output.report"))}
    assert not names & {"tracer.run.replay", "tracer.output.sockets", "tracer.output.table", "tracer.kernel.check"}
    assert not names & {
        f"tracer.cli.{name}" for name in ("replay", "sockets", "probe", "protect", "end", "check", "demo")
    }
