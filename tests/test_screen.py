"""Commands that tcpwatch prints are typed as printed, also from a clone that is not installed."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest
from recording_files import header, record
from running import ROOT
from stall_events import freeze

from tracer.cli import sockets
from tracer.cli.screen import as_called, program

SCRIPT = ROOT / "scripts/tcpwatch"


@pytest.fixture
def clone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Started by scripts/tcpwatch, elsewhere than in the clone, on a host without another tcpwatch."""
    monkeypatch.setattr("sys.argv", ["/clone/.venv/bin/tcpwatch.py"])
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return str(SCRIPT)


def test_the_script_of_a_clone_is_named_from_where_the_user_is(clone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert program() == clone
    monkeypatch.chdir(ROOT)
    assert program() == "scripts/tcpwatch"


@pytest.mark.parametrize(("columns", "width"), [(None, 80), ("100", 100), ("20", 60)])
def test_columns_sets_the_width_of_sockets_in_a_file(
    monkeypatch: pytest.MonkeyPatch, columns: str | None, width: int
) -> None:
    if columns is not None:
        monkeypatch.setenv("COLUMNS", columns)
    assert sockets._screen() == {"width": width, "is_terminal": False}


def test_an_installed_tcpwatch_has_its_name(clone: str, tmp_path: Path) -> None:
    (tmp_path / "tcpwatch").touch(mode=0o755)
    assert program() == "tcpwatch"


@pytest.mark.parametrize(
    ("text", "called"),
    [
        ("sudo tcpwatch end --stuck --rport 3306", "sudo {} end --stuck --rport 3306"),
        ("tcpwatch --port 3306, or tcpwatch --pid 3306", "{} --port 3306, or {} --pid 3306"),
        ("tcpwatch record -o - | tcpwatch replay -", "{} record -o - | {} replay -"),
        ("sudo TCPWATCH_DEBUG=1 tcpwatch", "sudo TCPWATCH_DEBUG=1 {}"),
        ("-w is an option of tcpwatch without a command; see tcpwatch replay --help",
         "-w is an option of tcpwatch without a command; see {} replay --help"),
        ("tcpwatch traces no system calls", "tcpwatch traces no system calls"),
        ("systemctl enable --now tcpwatch-protect@port-3306", "systemctl enable --now tcpwatch-protect@port-3306"),
        ("ls -l /var/log/tcpwatch", "ls -l /var/log/tcpwatch"),
    ],
)  # fmt: skip
def test_only_commands_are_replaced(text: str, called: str, clone: str) -> None:
    assert as_called(text) == called.format(*[clone] * 2)


def in_clone(*arguments: str | Path, path: Path) -> subprocess.CompletedProcess[str]:
    """As scripts/tcpwatch runs a command that reads, with this PATH."""
    lines = (ROOT / "scripts/lib.sh").read_text(encoding="utf-8")
    reading = lines.partition("reading_program='")[2].partition("'")[0]
    return subprocess.run(
        [sys.executable, "-c", reading, ROOT, *arguments],
        capture_output=True, text=True, cwd=ROOT, env={"PATH": str(path)}, timeout=60, check=False,
    )  # fmt: skip


def test_an_error_has_a_hint_to_type_in_the_clone(tmp_path: Path) -> None:
    shown = in_clone("report", "-r", "x.tw", path=tmp_path)
    assert shown.stderr.splitlines()[1] == "Hint: scripts/tcpwatch report x.tw"


@pytest.mark.parametrize("form", [[], ["--markdown"], ["--json"]])
def test_a_report_has_commands_to_type_in_the_clone_where_they_run_on_this_host(
    tmp_path: Path, form: list[str]
) -> None:
    """Markdown and JSON are read elsewhere."""
    script = "sudo scripts/tcpwatch end --stuck"
    here = record(tmp_path / "here.tw", freeze(), header(host=platform.node()))
    shown = in_clone("report", here, *form, path=tmp_path).stdout
    assert (script in shown, "sudo tcpwatch" in shown) == (not form, bool(form))
    elsewhere = in_clone("report", record(tmp_path / "db1.tw", freeze(), header()), *form, path=tmp_path).stdout
    assert "sudo tcpwatch end --stuck" in elsewhere and script not in elsewhere
