"""--since and --until: the times that a person types, and what they leave of a recording."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from builders import SECOND, START, event
from incident_recordings import shown
from recording_files import header, record
from running import ROOT
from stall_events import close, freeze, heard

from tracer.cli.time_option import make_window, parse_moment
from tracer.model.errors import UsageError
from tracer.model.times import format_time
from tracer.model.window import Window
from tracer.recordings.extent import Extent, extent_of

HOUR = 3600 * SECOND
DAY = 24 * HOUR


def at(
    typed: str, started: int = START, ended: int = START + HOUR, zone_s: int = 3600, since: int | None = None
) -> str:
    """The instant in UTC, for a recording from 09:00 to 10:00 on 2027-01-15 in UTC+01:00."""
    return format_time(parse_moment(typed).at(Extent(started, ended, frozenset({3600})), since))


@pytest.mark.parametrize(
    ("typed", "instant"),
    [
        ("2027-01-15T08:30:00Z", "2027-01-15T08:30:00.000000Z"),
        ("2027-01-15T08:30:00.25+05:30", "2027-01-15T03:00:00.250000Z"),
        ("2027-01-15 08:30-01:00", "2027-01-15T09:30:00.000000Z"),
        ("2027-01-15t08:30:00z", "2027-01-15T08:30:00.000000Z"),
        ("2027-01-15 09:30", "2027-01-15T08:30:00.000000Z"),
        ("2027-01-15T09:30:15", "2027-01-15T08:30:15.000000Z"),
        ("2027-01-15", "2027-01-14T23:00:00.000000Z"),
        ("09:30", "2027-01-15T08:30:00.000000Z"),
        ("9:30:15.5", "2027-01-15T08:30:15.500000Z"),
        ("-10m", "2027-01-15T08:50:00.000000Z"),
        ("-1h30m", "2027-01-15T07:30:00.000000Z"),
    ],
)
def test_each_form_of_a_time(typed: str, instant: str) -> None:
    assert at(typed) == instant


def test_a_time_of_day_is_the_last_one_within_the_recording() -> None:
    days = {"started": START, "ended": START + 3 * DAY}
    assert at("09:30", **days) == "2027-01-17T08:30:00.000000Z"
    assert at("08:59", **days) == "2027-01-18T07:59:00.000000Z"
    over_midnight = {"started": START + 14 * HOUR, "ended": START + 22 * HOUR}  # 23:00 to 07:00
    assert at("23:50", **over_midnight) == "2027-01-15T22:50:00.000000Z"
    assert at("00:10", **over_midnight) == "2027-01-15T23:10:00.000000Z"


def test_a_time_of_day_outside_the_recording_is_the_nearest_one() -> None:
    assert at("08:55") == "2027-01-15T07:55:00.000000Z", "five minutes before it begins"
    assert at("10:05") == "2027-01-15T09:05:00.000000Z", "five minutes after its end"


def test_until_is_the_first_such_time_after_since() -> None:
    days = {"started": START, "ended": START + 2 * DAY + HOUR}
    since = START + 2 * DAY + HOUR // 2  # 09:30 of the last day
    assert at("10:15", since=since, **days) == "2027-01-17T09:15:00.000000Z", "not that of the day before"
    assert at("09:30", since=since, **days) == "2027-01-17T08:30:00.000000Z"


@pytest.mark.parametrize(
    "typed",
    ["", "10m", "now", "25:00", "14:61", "2027-13-01", "2027-02-30 10:00", "1969-01-01", "14", "-", "-x", "--1m",
     "2027-01-15T10:00:00+25:00", "2027-01-15T10:00:00 UTC", "1" * 5000, "٣:00"],
)  # fmt: skip
def test_anything_else_is_wrong_usage(typed: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError) as caught:
        parse_moment(typed)
    assert "expected 14:02, '2026-11-27 14:02', 2026-11-27T14:02:30Z or -10m" in str(caught.value)
    assert caught.value.hint and len(str(caught.value)) < 200
    shown(capsys, "report", "x.tw", "--since", typed, status=2)


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("10m", "--since -10m counts from the end of the recording"),
        ("+10m", "--since -10m counts from the end of the recording"),
        ("10 min ago", "--since -10min counts from the end of the recording"),
        ("2 hours ago", "--since -2hours counts from the end of the recording"),
        ("14.02", "--since 14:02"),
        ("2pm", "--since 14:00"),
        ("2:30 PM", "--since 14:30"),
        ("12am", "--since 00:00"),
        ("1800000000", "--since 2027-01-15T08:00:00Z"),
        ("yesterday", "--since 14:02"),
        ("25.99", "--since 14:02"),
        ("10", "--since -10 counts from the end of the recording"),
    ],
)
def test_the_hint_has_the_time_that_was_meant(typed: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_moment(typed)
    assert caught.value.hint == hint
    parse_moment(hint.split()[1])


def test_of_several_time_zones_a_time_without_one_is_refused(tmp_path: Path) -> None:
    files = [record(tmp_path / "1.tw", [event()]), tmp_path / "2.tw"]
    record(files[1], [event(at=60)], replace(header(), utc_offset_s=0))
    with pytest.raises(UsageError, match="from different time zones"):
        make_window(parse_moment("09:00"), None, files, command="report")
    assert make_window(parse_moment("-1m"), None, files, command="report") == Window(START)
    assert make_window(parse_moment("2027-01-15T08:00:00Z"), None, files, command="report") == Window(START)


def test_the_extent_of_compressed_and_damaged_files(tmp_path: Path) -> None:
    whole = record(tmp_path / "1.tw", [event(at=number) for number in range(5)])
    (tmp_path / "2.tw.gz").write_bytes(gzip.compress(whole.read_bytes())[:-9])
    whole.write_bytes(whole.read_bytes()[:-20])
    extent = extent_of([whole, tmp_path / "no.tw", tmp_path], command="report")
    assert extent == Extent(START, START + 3 * SECOND, frozenset({3600})), "up to the last complete line"
    packed = extent_of([tmp_path / "2.tw.gz"], command="report")
    assert packed is not None and packed.started_ns == START
    assert extent_of([tmp_path / "no.tw"], command="report") is None


def test_the_end_of_a_pipe_is_unknown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for file in (Path("-"), fifo):
        with pytest.raises(UsageError, match="which is unknown while"):
            make_window(parse_moment("-10m"), None, [file], command="report")
        assert make_window(parse_moment("2027-01-15T08:00:00Z"), None, [file], command="report") == Window(START)


def test_until_before_since_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = record(tmp_path / "x.tw", [event(), event(at=600)])
    shown(capsys, "report", path, "--since", "-1m", "--until", "-5m", status=2)


def stalls(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> list[tuple[str, str]]:
    """Verdict and outcome of each stall of a report."""
    records = [json.loads(line) for line in shown(capsys, "report", "--json", *arguments).splitlines()]
    return [(each["sock"], each["outcome"]) for each in records if each.get("event") == "stall"]


def test_a_report_of_a_part_has_the_stalls_that_are_open_then(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events = [
        each
        for number in range(3)
        for each in (*freeze(start=100 * number, sock=f"s{number}"), *close(100 * number + 13.4, sock=f"s{number}"))
    ]
    path = record(tmp_path / "x.tw", events)
    all_of_them = [("s0", "timed-out"), ("s1", "timed-out"), ("s2", "timed-out")]
    assert stalls(capsys, path) == all_of_them
    assert stalls(capsys, path, "--since", "09:01:45") == all_of_them[1:], "it began before, and was open then"
    assert stalls(capsys, path, "--since", "09:01:45", "--until", "09:03:00") == [("s1", "timed-out")]
    assert stalls(capsys, path, "--until", "09:01:45") == [("s0", "timed-out"), ("s1", "ongoing")]
    assert stalls(capsys, path, "--since", "-1s") == [("s2", "timed-out")]
    assert stalls(capsys, path, "--since", "09:10") == []
    text = " ".join(shown(capsys, "report", path, "--since", "09:01:45", "--until", "09:03").split())
    assert "1 stall, " in text and "Limited from 2027-01-15 09:01:45 to 2027-01-15 09:03:00, by --since" in text


def test_a_stall_that_is_open_at_the_end_of_the_part_has_lasted_until_then(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = record(tmp_path / "x.tw", [*freeze(sock="s"), *close(13.4, sock="s")])
    (line,) = [
        line
        for line in shown(capsys, "report", path, "--json", "--until", "09:00:12").splitlines()
        if '"event":"stall"' in line
    ]
    stall = json.loads(line)
    assert (stall["time"], stall["duration_ms"]) == ("2027-01-15T08:00:12.000000Z", 12_200)
    text = " ".join(shown(capsys, "report", path, "--until", "09:00:12").split())
    assert "1 was still waiting at the end of this period." in text and "recording ended" not in text


def test_silences_before_the_part_do_not_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A firewall that was configured meanwhile: what was survived before says nothing about it now."""
    survivor = heard(0, silent_ms=9_000_000, sock="survivor")
    path = record(tmp_path / "x.tw", [survivor, *freeze(start=100), *close(113.4)])
    assert "no single idle timeout explains both" in " ".join(shown(capsys, "report", path).split())
    assert "no single idle timeout" not in " ".join(shown(capsys, "report", path, "--since", "09:01").split())


def test_replay_of_a_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = record(tmp_path / "x.tw", [event(kind="fast", attempt=0, silent_ms=1, at=number) for number in range(400)])
    lines = shown(capsys, "replay", "--json", path, "--since", "09:01", "--until", "09:01:30").splitlines()
    assert [json.loads(line)["time"][17:19] for line in lines] == [f"{second:02}" for second in range(31)]
    last = shown(capsys, "replay", "--json", path, "--since", "-2s").splitlines()
    assert len(last) == 3


_BLOCKED = """
import os, signal, sys
for name in ("bcc", "tracer.kernel", "fcntl", "grp", "pwd", "resource", "termios", "tty", "pty", "syslog"):
    sys.modules[name] = None
for name in ("geteuid", "getuid", "O_NONBLOCK", "O_CLOEXEC", "O_NOFOLLOW", "O_DIRECTORY", "memfd_create", "mkfifo"):
    if hasattr(os, name):
        delattr(os, name)
del signal.SIGHUP
"""


@pytest.mark.parametrize(
    "arguments",
    [["report"], ["report", "--markdown", "--evidence"], ["report", "--json"], ["replay", "--since", "-10s"]],
)
def test_a_recording_is_read_where_there_is_no_linux(arguments: list[str], tmp_path: Path) -> None:
    """As on the laptop of a developer: no bcc, no kernel side, none of the modules and names that Windows lacks."""
    path = record(tmp_path / "x-20300101T000000.000Z.tw", [*freeze(), *close(13.4)])
    (tmp_path / "sitecustomize.py").write_text(_BLOCKED)
    done = subprocess.run(
        [sys.executable, "-m", "tracer", *arguments, str(path)],
        capture_output=True, text=True, cwd=ROOT, timeout=60,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "idle-drop" in done.stdout
    missing = subprocess.run(
        [sys.executable, "-m", "tracer", *arguments, str(tmp_path / "no.tw")],
        capture_output=True, text=True, cwd=ROOT, timeout=60,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
    )  # fmt: skip
    assert missing.returncode == 1 and "no such file" in missing.stderr
