"""The memory of one report of many hosts, all of its processes together."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from incident_recordings import bad_night, shown
from running import ROOT

HOSTS = 200
MAX_KIB = 64 << 10


def pss_kib(pid: int) -> int:
    """The resident memory of a process and its children. A page of several counts once."""
    total = 0
    pids = [pid]
    while pids:
        process = Path(f"/proc/{pids.pop()}")
        try:
            pids += map(int, (process / "task" / process.name / "children").read_text().split())
            lines = (process / "smaps_rollup").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):  # it has ended
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total


def peak_kib(*arguments: str | Path) -> int:
    """The most memory of a command that was seen."""
    command = [sys.executable, "-m", "tracer", *map(str, arguments)]
    peak = 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=ROOT) as process:
        while process.poll() is None:
            peak = max(peak, pss_kib(process.pid))
            time.sleep(0.01)
    assert process.returncode == 0
    return peak


@pytest.mark.timeout(300)
def test_a_report_of_200_hosts_takes_little_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = shown(capsys, "report", bad_night(tmp_path / "x.tw", host="web-000"), "--json")
    lines = report.splitlines(keepends=True)
    ends = [line for line in lines if '"event":"stall"' in line]
    short = "".join(line for line in lines if line not in ends[40:])
    for number in range(HOSTS):
        (tmp_path / f"{number:03d}.json").write_text(short.replace("web-000", f"web-{number:03d}"))
    reports = sorted(tmp_path.glob("*.json"))
    assert sum(path.stat().st_size for path in reports) > 15_000_000, "enough for several processes"
    one = peak_kib("report", reports[0])
    for form in ((), ("--json",)):
        assert one < peak_kib("report", *reports, *form) < MAX_KIB
