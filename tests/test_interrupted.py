"""SIGTERM, SIGHUP and kill -9 while a report is read on several cores: nothing goes on, and nothing is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from recording_files import header, record
from running import ROOT

_READING_FOR_EVER = """
import os, signal
signal.signal(signal.SIGINT, signal.SIG_DFL)  # as the installed command begins
from tracer.run import report
report.MIN_BYTES_OF_A_WORKER = 1
os.sched_getaffinity = lambda _: {0, 1}
report._read_group = lambda *_: (print("reading", flush=True), signal.pause())
from tracer.cli.main import main
main()
"""


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, 0), (signal.SIGHUP, 0), (signal.SIGKILL, -9)]
)
def test_no_process_outlives_a_report(number: signal.Signals, status: int, tmp_path: Path) -> None:
    files = [record(tmp_path / f"{host}.tw", [], header(host=host)) for host in ("db1", "db2")]
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", _READING_FOR_EVER, "report", *files],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        env={**os.environ, "TMPDIR": str(temporary)},
    )  # fmt: skip
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in files] == ["reading\n"] * 2
    process.send_signal(number)
    _, said = process.communicate(timeout=60)  # until the last process has closed its standard output
    assert process.returncode == status
    assert "Traceback" not in said
    if number != signal.SIGKILL:
        assert f"interrupted by {'^C' if number == signal.SIGINT else number.name}" in said
        assert list(temporary.iterdir()) == []
