"""The file that `tcpwatch report --html` writes."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from recording_files import record
from running import tcpwatch
from stall_events import a_night

from tracer.model.errors import TcpwatchError
from tracer.output.html.file import write_page


def test_the_file_is_named_and_replaced_as_a_whole(tmp_path: Path) -> None:
    recording = record(tmp_path / "x.tw", a_night())
    target = tmp_path / "page.html"
    done = tcpwatch("report", recording, "--html", target)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == f"tcpwatch: wrote {target} ({len(target.read_bytes()) // 1000} KB)\n"
    target.write_text("<!doctype html> an older page")
    target.chmod(0o640)
    link = tmp_path / "link.html"
    link.symlink_to("page.html")
    assert tcpwatch("report", recording, "--html", link).returncode == 0
    assert link.is_symlink() and "Diagnosis" in target.read_text()
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert sorted(each.name for each in tmp_path.iterdir()) == ["link.html", "page.html", "x.tw"]


def test_it_goes_to_standard_output_and_to_devices(tmp_path: Path) -> None:
    recording = record(tmp_path / "x.tw", a_night())
    page = tcpwatch("report", recording, "--html", "-")
    assert page.stdout.startswith("<!DOCTYPE html>") and page.stderr == ""
    assert tcpwatch("report", recording, "--html", "-", PYTHONIOENCODING="ascii").stdout == page.stdout
    assert tcpwatch("report", recording, "--html", "/dev/stdout").stdout == page.stdout
    assert tcpwatch("report", recording, "--html", "/dev/null").returncode == 0


def test_a_recording_is_never_replaced_by_its_page(tmp_path: Path) -> None:
    recording = record(tmp_path / "x.tw", a_night())
    other = record(tmp_path / "y.tw", a_night())
    before = recording.read_bytes()
    same = tcpwatch("report", recording, "--html", recording)
    assert (
        same.returncode == 2 and "is a recording that the page is made of" in same.stderr and "Hint: " in same.stderr
    )
    wrong = tcpwatch("report", other, "--html", recording)
    assert wrong.returncode == 1 and "exists and is not an HTML page" in wrong.stderr and "Hint: " in wrong.stderr
    assert recording.read_bytes() == other.read_bytes() == before


@pytest.mark.parametrize(
    ("target", "complaint", "hint"),
    [
        ("gone/page.html", "there is no directory", "mkdir -p "),
        ("", "it is a directory", "page.html"),
        ("x.tw/page.html", "there is no directory", "mkdir -p "),
    ],
)
def test_a_page_that_cannot_be_written_is_an_error_before_anything_is_read(
    tmp_path: Path, target: str, complaint: str, hint: str
) -> None:
    recording = record(tmp_path / "x.tw", a_night())
    done = tcpwatch("report", recording, "--html", tmp_path / target)
    assert done.returncode == 1 and done.stdout == ""
    first, second = done.stderr.splitlines()
    assert first.startswith("tcpwatch: cannot write ") and complaint in first
    assert second.startswith("Hint: ") and hint in second


@pytest.mark.parametrize(("number", "hint"), [(28, "df -h "), (27, "ulimit -f unlimited")])
def test_a_failed_write_leaves_the_old_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, hint: str
) -> None:
    target = tmp_path / "page.html"
    target.write_text("<!DOCTYPE html>old")

    def full(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fchmod", full)
    with pytest.raises(TcpwatchError, match=os.strerror(number)) as raised:
        write_page(target, "<!DOCTYPE html>new")
    assert raised.value.hint.startswith(hint)
    assert target.read_text() == "<!DOCTYPE html>old" and len(list(tmp_path.iterdir())) == 1


def test_a_page_and_json_are_two_reports(tmp_path: Path) -> None:
    recording = record(tmp_path / "x.tw", a_night())
    done = tcpwatch("report", recording, "--json", "--html", tmp_path / "page.html")
    assert done.returncode == 2 and "mutually exclusive" in done.stderr and not (tmp_path / "page.html").exists()
