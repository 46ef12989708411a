"""A recorder whose disk, directory, clock, reader or terminal fails it: real processes, on a real filesystem."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from leftovers import assert_nothing_left
from watching import PATIENCE_S, ROOT

from tracer.lab.namespace import Namespace, wait_until
from tracer.model.events import Event
from tracer.model.filters import Filter
from tracer.recordings.reader import RecordingReader
from tracer.recordings.writer import RecordingWriter
from tracer.run.live import make_header

COMMAND = [sys.executable, "-m", "tracer"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
STORM = str(Path(__file__).with_name("storm.py"))


class Run:
    """A tcpwatch, and what it says on stderr."""

    def __init__(self, *arguments: str | Path, before: Sequence[str] = (), **options: Any) -> None:
        self.process = subprocess.Popen(
            [*before, *COMMAND, *map(str, arguments)],
            **{"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, **options},
            stderr=subprocess.PIPE, text=True, cwd=ROOT, env=ENVIRONMENT,
        )  # fmt: skip
        self.said = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said += line

    def says(self, words: str, timeout_s: float = PATIENCE_S) -> None:
        wait_until(
            lambda: re.search(words, self.said) or self.process.poll() is not None, timeout_s, f"it says {words}"
        )
        self._reader.join(0 if self.process.poll() is None else PATIENCE_S)
        assert re.search(words, self.said), self.said

    def ends(self, how: signal.Signals | None = signal.SIGINT, status: int = 0) -> str:
        if how is not None:
            self.process.send_signal(how)
        assert self.process.wait(PATIENCE_S) == status, self.said
        self._reader.join(PATIENCE_S)
        assert "Traceback" not in self.said and "Exception" not in self.said
        return self.said

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join(PATIENCE_S)


Start = Callable[..., Run]


@pytest.fixture
def start(namespace: Namespace) -> Iterator[Start]:
    """Start tcpwatch on that namespace, and wait until it traces."""
    started: list[Run] = []

    def begin(*arguments: str | Path, is_ready: bool = True, **options: Any) -> Run:
        started.append(Run(*arguments, "--netns", str(namespace.netns), **options))
        if is_ready:
            started[-1].says("tracing")
        return started[-1]

    yield begin
    for each in started:
        each.kill()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Two megabytes."""
    directory = tmp_path / "disk"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", directory], check=True)
    yield directory
    subprocess.run(["umount", "--lazy", directory], check=True)


@pytest.fixture
def storm(namespace: Namespace) -> Iterator[subprocess.Popen[str]]:
    """Some two hundred connections a second."""
    process = namespace.popen([sys.executable, STORM, "1e9", "200"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    yield process
    process.kill()
    process.communicate()


def connect(namespace: Namespace) -> None:
    """One second of a hundred connections."""
    namespace.run(sys.executable, STORM, "1", "100", stdin="go\n")


def header_of(path: Path) -> dict[str, Any]:
    with RecordingReader(path, lambda _: None) as reader:
        return {"number": reader.header.number, "series": reader.header.series}


def events_of(path: Path, warnings: list[str] | None = None) -> list[Any]:
    with RecordingReader(path, (warnings if warnings is not None else []).append) as reader:
        return [each for batch in reader for each in batch.events]


def in_order(directory: Path) -> list[Path]:
    return sorted(directory.glob("r-*"), key=lambda path: header_of(path)["number"])


def fill(disk: Path) -> Path:
    """Somebody else's file takes what is left."""
    ballast = disk / "ballast"
    with ballast.open("ab") as file, contextlib.suppress(OSError):
        while True:
            os.write(file.fileno(), bytes(4096))
    return ballast


@pytest.mark.parametrize("suffix", ["tw", "tw.gz", "tw.zst"])
def test_a_disk_that_it_fills_itself_costs_its_oldest_files(
    start: Start, storm: object, small_disk: Path, suffix: str
) -> None:
    run = start("record", "-o", small_disk / f"r.{suffix}", "--rotate-size", "256k", "--rotate-every", "1s")
    if suffix != "tw":
        (small_disk / "ballast").write_bytes(bytes(3 << 19))
    run.says(r"(?s)(removed .*){3}", 120)
    said = run.ends(signal.SIGTERM)
    files = in_order(small_disk)
    warnings: list[str] = []
    events = [each for path in files for each in events_of(path, warnings)]
    assert not warnings and len(events) > 100
    assert header_of(files[0])["number"] > 3, "the oldest have gone"
    assert "recording" not in {each.hook for each in events}, "nothing that was new was lost"
    stamps = [each.ktime_ns for each in events]
    assert all(later - earlier > -50_000_000 for earlier, later in zip(stamps, stamps[1:]))
    assert f"removed {small_disk}/r-" in said


@pytest.mark.parametrize("suffix", ["tw", "tw.gz"])
def test_a_disk_that_others_fill_is_waited_for(start: Start, storm: object, small_disk: Path, suffix: str) -> None:
    run = start("record", "-o", small_disk / f"r.{suffix}", "--rotate-size", "64k")
    run.says("recording to .*r-.*\n.*recording to")
    while "only counted" not in run.said:
        ballast = fill(small_disk)
        assert run.process.poll() is None, run.said
    kept = [path for path in in_order(small_disk) if events_of(path)]
    assert kept, "the youngest file with events stays"
    assert run.said.count("only counted") == 1
    ballast.unlink()
    run.says("begins with a count of the")
    said = run.ends()
    (again,) = re.findall(r"recording to (\S+), which begins with a count of the ([\d,]+) missing events", said)
    warnings: list[str] = []
    for path in in_order(small_disk):
        events_of(path, warnings)
    first, *_ = events_of(Path(again[0]), warnings)
    assert not warnings
    assert (first.event, first.hook, f"{first.count:,}") == ("lost", "recording", again[1])
    assert set(kept) <= set(in_order(small_disk))


def test_without_a_rotation_a_full_disk_ends_it(start: Start, storm: object, small_disk: Path) -> None:
    fill(small_disk).unlink()
    (small_disk / "ballast").write_bytes(bytes((1 << 21) - 100_000))
    run = start("record", "-o", small_disk / "x.tw.gz")
    said = run.ends(None, status=1)
    assert "cannot write" in said and "No space left on device" in said and "df -h" in said
    warnings: list[str] = []
    assert events_of(small_disk / "x.tw.gz", warnings) and not warnings, "what it has is whole"


def test_beside_a_live_view_a_full_disk_ends_only_the_recording(
    start: Start, storm: object, small_disk: Path
) -> None:
    (small_disk / "ballast").write_bytes(bytes((1 << 21) - 100_000))
    run = start("-w", small_disk / "x.tw", "--json", stdout=subprocess.PIPE)
    assert run.process.stdout is not None
    lines = iter(run.process.stdout.readline, "")
    while "the recording ends here" not in run.said:
        next(lines)
    for _ in range(500):
        assert json.loads(next(lines))["event"]
    threading.Thread(target=lambda: [None for _ in lines], daemon=True).start()
    said = run.ends(status=1)
    assert "the recording is incomplete: cannot write" in said and "Hint: " in said
    assert events_of(small_disk / "x.tw")


def test_a_clock_that_was_ahead_costs_nothing(start: Start, namespace: Namespace, tmp_path: Path) -> None:
    """Files stamped in the future: those of this recorder, and what only looks like them."""
    for number in range(1, 4):
        (tmp_path / f"r-20310101T00000{number}.000Z.tw.gz").touch()
        header = replace(make_header(Filter(), "0"), series="r.tw.gz", number=number)
        with RecordingWriter(tmp_path / f"r-20300101T00000{number}.000Z.tw.gz", header) as writer:
            writer.write([Event(time_ns=0, ktime_ns=number, event="state")])
    run = start("record", "-o", tmp_path / "r.tw.gz", "--rotate-every", "1s", "--keep", "3")
    for _ in range(2):
        connect(namespace)
    run.ends()
    files = [path for path in tmp_path.glob("r-*") if path.stat().st_size and events_of(path)]
    files.sort(key=lambda path: header_of(path)["number"])
    numbers = [header_of(path)["number"] for path in files]
    assert len(files) == 3 and numbers == list(range(numbers[0], numbers[0] + 3)) and numbers[-1] > 4
    assert len(list(tmp_path.glob("r-2031*"))) == 3


def test_a_crash_loop_costs_no_history(start: Start, namespace: Namespace, tmp_path: Path) -> None:
    options = ["record", "-o", tmp_path / "r.tw.gz", "--rotate-every", "1s", "--keep", "2"]
    run = start(*options)
    for _ in range(3):
        connect(namespace)
    run.ends()
    history = [path for path in tmp_path.glob("r-*") if events_of(path)]
    assert len(history) == 2
    for _ in range(4):
        start(*options).kill()
    assert set(history) <= set(tmp_path.glob("r-*"))
    assert len(list(tmp_path.glob("r-*"))) <= 3, "one file without events at most"


def test_one_recorder_a_series(start: Start, namespace: Namespace, tmp_path: Path) -> None:
    options = ["record", "-o", tmp_path / "r.tw", "--rotate-every", "1h"]
    first = start(*options)
    (path,) = tmp_path.iterdir()
    second = start(*options, is_ready=False)
    said = second.ends(None, status=1)
    assert f"another tcpwatch is recording to {tmp_path}/r.tw: it is writing {path}" in said
    assert "tracing" not in said and list(tmp_path.iterdir()) == [path]
    first.kill()
    start(*options).ends()


def test_a_storm_of_hang_ups_makes_a_few_files(start: Start, storm: object, tmp_path: Path) -> None:
    run = start("record", "-o", tmp_path / "r.tw", "--rotate-every", "1h", "--keep", "20")
    began = time.monotonic()
    for _ in range(300):
        run.process.send_signal(signal.SIGHUP)
        time.sleep(0.005)  # signals that come faster would be merged into one
    run.ends()
    assert 2 <= len(list(tmp_path.iterdir())) <= 6 + (time.monotonic() - began)


def test_a_filesystem_without_inodes_costs_the_oldest_files(start: Start, storm: object, tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "nr_inodes=4", "tmpfs", tmp_path], check=True)
    try:
        run = start("record", "-o", tmp_path / "r.tw", "--rotate-every", "1s")
        run.says(r"(?s)(removed .*){2}")
        run.ends()
        assert len(list(tmp_path.iterdir())) == 3 and all(events_of(path) for path in in_order(tmp_path)[:2])
    finally:
        subprocess.run(["umount", "--lazy", tmp_path], check=True)


def test_a_rotation_that_fails_leaves_the_old_file_in_use(start: Start, storm: object, tmp_path: Path) -> None:
    run = start("record", "-o", tmp_path / "r.tw", "--rotate-every", "1s")
    subprocess.run(["chattr", "+i", tmp_path], check=True)
    try:
        run.says("cannot start another file: Operation not permitted; .* stays in use")
        path = max(tmp_path.iterdir(), key=lambda each: header_of(each)["number"])
        size = path.stat().st_size
        wait_until(lambda: path.stat().st_size > size + 100_000, PATIENCE_S, "it goes on there")
        assert run.said.count("cannot start") == 1
    finally:
        subprocess.run(["chattr", "-i", tmp_path], check=True)
    run.says("(?s)stays in use.*recording to")
    run.ends()
    warnings: list[str] = []
    assert events_of(path, warnings) and not warnings


def test_a_rotation_without_its_directory_leaves_the_old_file_in_use(
    start: Start, storm: object, tmp_path: Path
) -> None:
    (tmp_path / "d").mkdir()
    run = start("record", "-o", tmp_path / "d/r.tw", "--rotate-every", "1s")
    (tmp_path / "d").rename(tmp_path / "e")
    run.says("cannot start another file: No such file or directory")
    (tmp_path / "d").mkdir()
    run.says(f"recording to {tmp_path}/d/r-.*\n.*recording to")
    run.ends()


# FIFOs.


def test_a_fifo_without_a_reader_is_waited_for_before_anything_is_attached(start: Start, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for how in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        run = start("-w", fifo, is_ready=False)
        run.says("waiting for a reader of")
        assert_nothing_left()
        assert "tracing" not in run.ends(how)
    run = start("-w", fifo, "--duration", "1s", is_ready=False)
    assert "no reader opened" in run.ends(None, status=1)


def test_a_fifo_is_recorded_to(start: Start, namespace: Namespace, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    run = start("record", "-o", fifo, is_ready=False)
    run.says("waiting for a reader of")
    copy = tmp_path / "copy"
    with copy.open("wb") as file, subprocess.Popen(["cat", fifo], stdout=file):
        run.says("tracing")
        connect(namespace)
        run.ends()
    header, *lines = map(json.loads, copy.read_text().splitlines())
    assert header["format"] == "tcpwatch" and len(lines) > 100


def test_a_reader_that_stops_reading_holds_up_nothing(start: Start, namespace: Namespace, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    run = start("record", "-o", fifo, "--duration", "4s", is_ready=False)
    reader = os.open(fifo, os.O_RDONLY)
    try:
        run.says("tracing")
        namespace.run(sys.executable, STORM, "3", "3000", stdin="go\n")
        said = run.ends(None, status=1)
        assert "did not take the last" in said
        os.set_blocking(reader, False)
        text = b""
        while piece := os.read(reader, 1 << 20):
            text += piece
    finally:
        os.close(reader)
    assert text.endswith(b"\n"), "whole lines only"
    assert all(json.loads(line) for line in text.splitlines())


def test_what_a_slow_reader_misses_is_counted(start: Start, namespace: Namespace, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    run = start("record", "-o", fifo, is_ready=False, before=[])
    reader = os.open(fifo, os.O_RDONLY)
    run.says("tracing")
    namespace.run(sys.executable, STORM, "8", "6000", stdin="go\n")
    copy = tmp_path / "copy"
    with copy.open("wb") as file, subprocess.Popen(["cat"], stdin=reader, stdout=file):
        os.close(reader)
        said = run.ends()
    records = [json.loads(line) for line in copy.read_text().splitlines()][1:]
    missing = sum(each["count"] for each in records if each.get("hook") == "recording")
    kept = sum(each["event"] not in ("lost", "stall", "counters") for each in records)
    (seen,) = re.findall(r"([\d,]+) events, \d", said)
    assert missing > 0
    assert abs(kept + missing - int(seen.replace(",", ""))) <= 20, "but for stalls and counters among the missing"


@pytest.mark.parametrize("command", ["record", "live"])
def test_a_reader_that_goes_away_ends_the_recording(
    start: Start, storm: object, tmp_path: Path, command: str
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    arguments = ["record", "-o", fifo] if command == "record" else ["-w", fifo]
    run = start(*arguments, is_ready=False)
    reader = os.open(fifo, os.O_RDONLY)
    run.says("tracing")
    os.close(reader)
    run.says("the reader of .* closed it")
    if command == "record":
        run.ends(None)
    else:
        assert run.process.poll() is None
        run.ends()


def test_a_fifo_that_another_user_made_in_tmp_gets_nothing(start: Start, tmp_path: Path) -> None:
    public = tmp_path / "public"
    public.mkdir()
    public.chmod(0o1777)
    os.mkfifo(public / "fifo")
    os.chown(public / "fifo", 65534, 65534)
    (public / "link").symlink_to(public / "fifo")
    reader = os.open(public / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    for name in ("fifo", "link"):
        for arguments in (["-w", public / name], ["record", "-o", public / name]):
            said = start(*arguments, is_ready=False).ends(None, status=1)
            assert "cannot" in said and "others can write to" in said and "Hint: " in said
    with contextlib.suppress(BlockingIOError):
        assert os.read(reader, 10) == b""
    os.close(reader)


# Terminals.


class Terminal:
    """tcpwatch as the foreground of a terminal of its own."""

    def __init__(self, *arguments: str | Path) -> None:
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            os.chdir(ROOT)
            # So wide that no message is wrapped.
            os.execve(sys.executable, [*COMMAND, *map(str, arguments)], {**ENVIRONMENT, "COLUMNS": "500"})
        self.shown = b""

    def shows(self, words: bytes) -> None:
        until = time.monotonic() + PATIENCE_S
        while words not in self.shown:
            assert select.select([self.master], [], [], until - time.monotonic())[0], self.shown
            self.shown += os.read(self.master, 65536)

    def close(self) -> int:
        """Close it. How the process ended."""
        os.close(self.master)
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.02)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        raise AssertionError("it goes on without its terminal")


@pytest.mark.parametrize("arguments", [["record", "-o"], ["-w"]])
@pytest.mark.parametrize("suffix", ["tw", "tw.gz"])
def test_a_closed_terminal_ends_it_in_order(
    namespace: Namespace, storm: object, tmp_path: Path, arguments: list[str], suffix: str
) -> None:
    path = tmp_path / f"x.{suffix}"
    terminal = Terminal(*arguments, path, "--netns", str(namespace.netns))
    terminal.shows(b"tracing")
    wait_until(lambda: path.stat().st_size > 10_000, PATIENCE_S, "something is recorded")
    assert terminal.close() == 0
    warnings: list[str] = []
    assert events_of(path, warnings) and not warnings, "complete and closed"
    assert_nothing_left()


@pytest.mark.parametrize("after_s", [0.0, 0.1, 0.2, 0.3, 0.4, 0.6])
def test_a_terminal_that_closes_during_the_start(namespace: Namespace, tmp_path: Path, after_s: float) -> None:
    path = tmp_path / "x.tw.gz"
    terminal = Terminal("record", "-o", path, "--netns", str(namespace.netns))
    # Before that the child is this very process, which has no terminal yet.
    command = Path(f"/proc/{terminal.pid}/cmdline")
    wait_until(lambda: b"record" in command.read_bytes().split(b"\0"), PATIENCE_S, "the program is executed")
    time.sleep(after_s)  # the moments are what is tested
    assert terminal.close() in (0, -signal.SIGHUP), "the latter before Python has begun"
    warnings: list[str] = []
    if path.exists():
        events_of(path, warnings)
    assert not warnings
    assert_nothing_left()


def test_a_hang_up_on_purpose_is_none_of_the_terminal(namespace: Namespace, storm: object, tmp_path: Path) -> None:
    path = tmp_path / "x.tw"
    terminal = Terminal("record", "-o", path, "--netns", str(namespace.netns))
    terminal.shows(b"tracing")
    os.kill(terminal.pid, signal.SIGHUP)
    size = path.stat().st_size
    wait_until(lambda: path.stat().st_size > size, PATIENCE_S, "it goes on in the same file")
    path.rename(tmp_path / "moved.tw")
    os.kill(terminal.pid, signal.SIGHUP)
    terminal.shows(b"recording to " + os.fsencode(path) + b"\r\n")
    assert terminal.close() == 0
    warnings: list[str] = []
    assert events_of(tmp_path / "moved.tw", warnings) and not warnings


def test_nothing_recorded_is_lost_when_standard_output_breaks(start: Start, storm: object, tmp_path: Path) -> None:
    path = tmp_path / "x.tw"
    run = start("-w", path, "--json", stdout=subprocess.PIPE)
    assert run.process.stdout is not None
    run.process.stdout.readline()
    run.process.stdout.close()
    said = run.ends(None)
    (seen,) = re.findall(r"([\d,]+) events?(?: \([\d,]+ not shown\))?, \d", said)
    kept = [each for each in events_of(path) if each.event not in ("lost", "stall", "counters")]
    assert len(kept) == int(seen.replace(",", ""))


def test_standard_output_is_full(start: Start, storm: object, tmp_path: Path) -> None:
    path = tmp_path / "x.tw"
    with open("/dev/full", "w") as full:  # noqa: PTH123
        run = start("-w", path, "--json", stdout=full)
        said = run.ends(None, status=1)
    assert "cannot write to standard output: No space left on device" in said
    assert events_of(path)
