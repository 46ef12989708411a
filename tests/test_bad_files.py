"""A file that cannot be read hides none of the others, and a pipe is shown as it comes."""

from __future__ import annotations

import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zstandard
from builders import event
from recording_files import header, record
from running import ROOT, tcpwatch
from stall_events import close, freeze

from tracer.model.events import Event
from tracer.model.filters import Filter
from tracer.recordings.header import VERSION, Header
from tracer.run.replay import Missing, play


def stalled(path: Path, number: int, at: float = 0) -> Path:
    """A recording of one stall, of a socket of its own, on a host of its own."""
    name: dict[str, Any] = {"sock": f"{number:016x}", "lport": 40_000 + number}
    events = [*freeze(start=at, **name), *close(at + 13.4, **name)]
    return record(path, events, header(host=f"db{number}"))


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _a_directory(path: Path) -> None:
    path.mkdir()


def _a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def _not_there(path: Path) -> None:
    pass


def _text(path: Path) -> None:
    path.write_text("hello\n")


def _newer(path: Path) -> None:
    path.write_text(header().to_line().replace(f'"version":{VERSION}', '"version":99'))


def _damaged_gzip(path: Path) -> None:
    path.write_bytes(b"\x1f\x8b" + bytes(range(200)))


def _truncated_zst(path: Path) -> None:
    path.write_bytes(zstandard.compress(header().to_line().encode())[:9])


BAD: dict[str, Callable[[Path], None]] = {
    "empty, without a header": _empty,
    "a directory, not a recording": _a_directory,
    "a socket, not a recording": _a_socket,
    "no such file": _not_there,
    "not a recording": _text,
    "format version 99 is newer": _newer,
    "compressed data is damaged (": _damaged_gzip,
    "compressed data is truncated before the end of the header": _truncated_zst,
}


@pytest.mark.parametrize("reason", BAD)
def test_a_file_that_cannot_be_read_is_skipped_and_named(tmp_path: Path, reason: str) -> None:
    files = [stalled(tmp_path / "1.tw", 1), tmp_path / "2.tw", stalled(tmp_path / "3.tw", 3)]
    BAD[reason](files[1])
    shown = tcpwatch("report", *files)
    assert shown.returncode == 1
    top, facts = shown.stdout.split("\n\n")[:2]
    assert top.startswith("db1 and db3: 2 stalls")
    assert "\nMissing" in facts and "2.tw: " in " ".join(facts.split()), "before the diagnosis"
    assert reason in " ".join(shown.stdout.split())
    assert f"2.tw: {reason}" in shown.stderr and "; skipped\n" in shown.stderr and "Hint: " in shown.stderr
    records = [json.loads(line) for line in tcpwatch("report", "--json", *files).stdout.splitlines()]
    (missing,) = [each for each in records if each.get("report") == "missing"]
    assert missing["file"] == str(files[1]) and reason in missing["reason"]
    assert records[-1]["missing"] == [{"file": missing["file"], "reason": missing["reason"]}]
    assert records[-1]["files_missing"] == 1 and records[-1]["stalls"] == 2
    for arguments in (["replay"], ["replay", "--json"]):
        shown = tcpwatch(*arguments, *files)
        assert shown.returncode == 1 and f"2.tw: {reason}" in shown.stderr
        assert "40001" in shown.stdout and "40003" in shown.stdout


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_what_precedes_damaged_compressed_data_counts_and_the_rest_is_named(tmp_path: Path, suffix: str) -> None:
    pack = gzip.compress if suffix == ".gz" else zstandard.compress
    good = pack(stalled(tmp_path / "1.tw", 1).read_bytes())
    bad = tmp_path / f"2.tw{suffix}"
    bad.write_bytes(good + good[:8] + b"\xff" * 60 + good)
    shown = tcpwatch("report", bad, stalled(tmp_path / "3.tw", 3))
    report, top = shown.stdout.split("\n\n")[:2]
    assert shown.returncode == 1 and "db1 and db3: 2 stalls" in report
    top = " ".join(top.split())
    assert "the rest from line" in top and "(last event: 2027-01-15 09:00:13)" in top


def test_a_hole_of_zeros_costs_the_lines_that_it_covers(tmp_path: Path) -> None:
    path = stalled(tmp_path / "1.tw", 1)
    lines = path.read_bytes().splitlines(keepends=True)
    for hole in (bytes(500), bytes(3 << 20)):
        damaged = tmp_path / "2.tw"
        damaged.write_bytes(b"".join([*lines[:3], lines[3][:40], hole, lines[4][30:], *lines[5:]]))
        shown = tcpwatch("report", damaged)
        assert shown.returncode == 1 and "line 4 is damaged; skipped" in " ".join(shown.stdout.split())
        assert "1 stall, " in shown.stdout and "timed-out" in shown.stdout
        # What the hole covers to the end of a line, and a recording that begins right behind it.
        other = stalled(tmp_path / f"other{len(hole)}.tw", 2).read_bytes()
        damaged.write_bytes(b"".join(lines[:4]) + lines[4][:20] + hole + other)
        assert "db1 and db2: 2 stalls" in tcpwatch("report", damaged).stdout


def test_many_damaged_lines_are_counted_and_reported_once(tmp_path: Path) -> None:
    path = stalled(tmp_path / "1.tw", 1)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\n{}\nnonsense\n"))
    shown = tcpwatch("report", path)
    assert "line 2 is damaged (ktime_ns is missing); skipped, as are 17 later ones" in " ".join(shown.stdout.split())
    assert shown.stderr.count("is damaged") == 1 and f"Hint: sed -n 2p {path} | cat -v" in shown.stderr


def ends(files: list[Path]) -> list[str | None]:
    """The outcomes of all stalls, played together."""
    events: list[Event] = []

    class Sink:
        def opened(self, header: Header) -> None:
            pass

        def write(self, written: Sequence[Event]) -> None:
            events.extend(written)

        def flush(self, until_ns: int) -> None:
            pass

        def close(self) -> None:
            pass

    missing: list[Missing] = []
    play(files, Filter(), [Sink()], warn=pytest.fail, missing=missing.append)
    assert len(missing) == len(files) - 2
    return [each.outcome for each in events if each.phase == "end"]


def test_no_stall_is_joined_across_a_file_that_is_missing(tmp_path: Path) -> None:
    night = [*freeze(), *close(13.4)]
    first = record(tmp_path / "1.tw", night[:4])
    last = record(tmp_path / "3.tw", night[4:], replace(header(), started="2027-01-15T08:00:02.000000Z"))
    assert ends([first, last]) == ["timed-out"]
    assert ends([first, tmp_path / "2.tw", last]) == ["ongoing", "timed-out"]


def test_no_answer_is_concluded_across_a_damaged_line(tmp_path: Path) -> None:
    later = event("state", 600, sock="another", new_state="ESTABLISHED", old_state="SYN_SENT")
    path = record(tmp_path / "1.tw", [*freeze(3), later])
    lines = path.read_bytes().splitlines(keepends=True)
    assert '"outcome":"presumed"' in tcpwatch("replay", "--json", path).stdout
    path.write_bytes(b"".join([*lines[:-1], b"damage\n", lines[-1]]))
    shown = tcpwatch("replay", "--json", path).stdout
    assert '"outcome":"ongoing"' in shown and "presumed" not in shown


def test_what_is_named_twice_is_read_once(tmp_path: Path) -> None:
    path = stalled(tmp_path / "1.tw", 1)
    (tmp_path / "latest.tw").symlink_to(path)
    shown = tcpwatch("report", path, tmp_path / "latest.tw")
    assert shown.returncode == 0 and "db1: 1 stall, " in shown.stdout
    assert f"latest.tw: same file as {path}; read only once" in shown.stderr
    shown = tcpwatch("report", "-", path, "-")
    assert shown.returncode == 2 and "standard input (-) can be read only once" in shown.stderr


def test_many_files_take_few_descriptors_and_few_lines(tmp_path: Path) -> None:
    good = stalled(tmp_path / "good.tw", 1)
    files = [tmp_path / f"{number}.tw" for number in range(300)]
    for file in files:
        file.touch()
    shown = subprocess.run(
        ["bash", "-c", 'ulimit -n 40; exec "$@"', "-", sys.executable, "-m", "tracer", "report", *files, good],
        capture_output=True, text=True, cwd=ROOT, timeout=120,
    )  # fmt: skip
    assert "db1: 1 stall" in shown.stdout and "and 290 other files" in shown.stdout
    assert len(shown.stdout.split("\n\n")[0].splitlines()) < 40


@pytest.mark.skipif(os.geteuid() != 0, reason="root may read what it takes away from others")
def test_the_hint_for_a_file_of_root_is_sudo(tmp_path: Path) -> None:
    for directory in (tmp_path, *tmp_path.parents):
        if directory.stat().st_uid == os.geteuid() and directory != Path("/tmp") and directory != Path("/"):
            directory.chmod(0o755)
    path = stalled(tmp_path / "it's.tw", 1)
    hidden = tmp_path / "hidden"
    hidden.mkdir(mode=0o700)
    program = "import os, sys; os.setgid(65534); os.setuid(65534); from tracer.cli.main import main; main()"
    for command in ("report", "replay"):
        for name, hint in (
            (path, f"sudo tcpwatch {command} '{tmp_path}/it'\"'\"'s.tw'"),
            (hidden / "x-*.tw", f"sudo sh -c 'tcpwatch {command} {hidden}/x-*.tw'"),
        ):
            shown = subprocess.run(
                [sys.executable, "-c", program, command, name], capture_output=True, text=True, cwd=ROOT, timeout=60
            )
            assert (shown.returncode, shown.stdout) == (1, "")
            assert shown.stderr == f"tcpwatch: {name}: permission denied\nHint: {hint}\n"


def test_a_pattern_that_matches_nothing_and_a_directory(tmp_path: Path) -> None:
    assert f"Hint: ls -l {tmp_path}\n" in tcpwatch("report", tmp_path / "*.tw").stderr
    assert "no file matches this pattern" in tcpwatch("report", tmp_path / "no" / "x-*.tw.gz").stderr
    assert f"Hint: tcpwatch report {tmp_path}/*.tw*\n" in tcpwatch("report", tmp_path).stderr


# Pipes.


def _plain(data: bytes) -> bytes:
    return data


class Compressed:
    """Compresses, and lets everything so far be read."""

    def __init__(self, suffix: str) -> None:
        self._gzip = zlib.compressobj(wbits=31) if suffix == ".gz" else None
        self._zstd = zstandard.ZstdCompressor().compressobj() if suffix == ".zst" else None

    def __call__(self, data: bytes) -> bytes:
        if self._gzip is not None:
            return self._gzip.compress(data) + self._gzip.flush(zlib.Z_SYNC_FLUSH)
        assert self._zstd is not None
        return self._zstd.compress(data) + self._zstd.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)


@pytest.mark.parametrize("through", ["pipe", "fifo"])
@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
@pytest.mark.timeout(120)
def test_each_line_of_a_pipe_is_shown_when_it_comes(tmp_path: Path, suffix: str, through: str) -> None:
    packed = Compressed(suffix) if suffix else _plain
    start, *lines = record(tmp_path / "x.tw", freeze(5)).read_bytes().splitlines(keepends=True)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    name = "-" if through == "pipe" else str(fifo)
    with subprocess.Popen(
        [sys.executable, "-m", "tracer", "replay", "--json", name],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT,
    ) as process:  # fmt: skip
        assert process.stdin and process.stdout and process.stderr
        writer = process.stdin if through == "pipe" else fifo.open("wb", buffering=0)
        with writer:
            writer.write(packed(start))
            for line in lines:
                writer.write(packed(line))
                writer.flush()
                # Waits until it is there; a stall may be told after it.
                while json.loads(process.stdout.readline())["event"] == "stall":
                    pass
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
        assert b"Traceback" not in process.stderr.read()


def test_what_is_interrupted_says_what_was_not_read(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with subprocess.Popen(
        [sys.executable, "-m", "tracer", "replay", "--json", fifo, "other.tw"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, text=True,
    ) as process:  # fmt: skip
        assert process.stdout
        with fifo.open("wb", buffering=0) as writer:
            writer.write(record(tmp_path / "x.tw", freeze(1)).read_bytes())
            process.stdout.readline()
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=60)
    assert process.returncode == 0
    assert said.strip() == f"tcpwatch: {fifo}, and 1 more FILE: interrupted by ^C"
