"""Whatever a recording holds, reading it takes about as much memory as reading a short one."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from adversarial import FAMILIES, WHOLE, line
from running import ROOT, tcpwatch

from tracer.analysis import stall_store
from tracer.analysis.stalls import StallTracker
from tracer.model.events import Event
from tracer.model.recent import Recent, RecentSet
from tracer.model.validation import from_json

MORE = 104 << 10
"""KiB that any recording may take beyond a short one: the most that any of them was seen to take is a little less."""
OF_ITS_OWN = ("open stalls", "long hooks", "many processes", "names")
"""Families that replay, too, is tried with: all else that it keeps is what a report keeps as well."""
_PEAK = (
    "import resource, subprocess, sys;"
    "done = subprocess.run([sys.executable, '-m', 'tracer', *sys.argv[1:]], stdout=subprocess.DEVNULL);"
    "print(done.returncode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
)


def peak_kib(*arguments: str | Path) -> int:
    """The most resident memory of a command."""
    done = subprocess.run(
        [sys.executable, "-c", _PEAK, *map(str, arguments)], stdout=subprocess.PIPE, text=True, cwd=ROOT, check=True
    )
    status, kib = map(int, done.stdout.split())
    assert status == 0
    return kib


@cache
def peak_of_a_short_one_kib(directory: Path) -> int:
    path = directory / "short.tw"
    path.write_bytes(WHOLE.to_line().encode() + line("retransmit", 1, kind="rto", attempt=1))
    return peak_kib("report", path)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.timeout(300)
def test_no_input_decides_how_much_memory_is_taken(
    family: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path / "x.tw"
    with path.open("wb") as stream:
        stream.writelines(FAMILIES[family]())
    most_kib = peak_of_a_short_one_kib(tmp_path_factory.getbasetemp()) + MORE
    assert peak_kib("report", path) < most_kib
    if family in OF_ITS_OWN:
        assert peak_kib("replay", path) < most_kib


def parsed(kind: str, number: int, /, **fields: Any) -> Event:
    """The event of a line of such a recording."""
    return from_json(json.loads(line(kind, number, **fields)))


def test_of_too_many_stalls_at_once_each_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stall_store, "MAX_OPEN_BYTES", 500_000)
    tracker = StallTracker(hz=250, ends_only=True)
    sign = {"kind": "rto", "silent_ms": 70_000, "unacked_bytes": 9, "rto_ms": 200}
    signs = [parsed("retransmit", number, attempt=1, **sign) for number in range(500)]
    again = [parsed("retransmit", number + 500, attempt=2, sock=f"{number:016x}", **sign) for number in range(500)]
    told = [*tracker.feed(*signs, *again), *tracker.finish(again[-1].ktime_ns)]
    ends = [each for each in told if each.event == "stall" and each.phase == "end"]
    assert len({each.sock for each in ends}) == len(ends) == 500
    assert 400 < tracker.unfollowed < 500
    heard = parsed("resume", 1100, cause="data", sock=f"{0:016x}", silent_ms=1)
    anew = parsed("retransmit", 1200, attempt=1, sock=f"{0:016x}", **sign)
    tracker.feed(heard, anew)
    assert f"{0:016x}" in tracker.open_sockets, "once the peer was heard, another stall begins"


def test_what_is_left_out_is_said_and_totals_stay_right(tmp_path: Path) -> None:
    for family, said in {
        "services": "had services that are not listed",
        "hooks": "at other hooks",
        "open stalls": "of those counted as ongoing ended unseen",
    }.items():
        path = tmp_path / "x.tw"
        with path.open("wb") as stream:
            stream.writelines(FAMILIES[family]())
        lines = path.read_bytes().count(b"\n") - 1
        shown = tcpwatch("report", path).stdout
        assert said in shown
        summary = json.loads(tcpwatch("report", "--json", path).stdout.splitlines()[-1])
        assert lines in (summary["stalls"], summary["lost"])


def test_what_is_recent_is_bounded_by_number_and_by_memory() -> None:
    recent: Recent[int, str] = Recent(3, 10, len)
    assert recent.put(1, "aaa") == recent.put(2, "bbb") == recent.put(3, "c") == []
    assert recent.put(1, "a") == []
    assert recent.put(4, "d") == [(2, "bbb")]
    assert [key for key, _ in recent.put(5, "e" * 9)] == [3, 1]
    assert recent.put(6, "f" * 99)[-1][0] == 5, "the newest stays"
    assert list(recent.take_all()) == [(6, "f" * 99)] and len(recent) == 0


def test_a_set_of_what_is_recent() -> None:
    recent = RecentSet(2)
    for text in "abcde":
        recent.add(text)
    assert "e" in recent and "d" in recent and "a" not in recent
    recent.discard("e")
    assert "e" not in recent
