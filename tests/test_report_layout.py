"""The text of a report: what comes first, incidents as rows, widths, hosts, time zones and names."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from builders import event
from incident_recordings import POOL, VERDICTS, at_width, bad_night, pool, shown, unanswered
from recording_files import header, record
from stall_events import OWNED, close

from tracer.analysis.advice.steps import Step
from tracer.analysis.idle_timeouts import IdleTimeouts
from tracer.analysis.incidents import Incidents, merged
from tracer.model.events import Event
from tracer.output import report_incidents
from tracer.output.owners_advice import Line
from tracer.output.report_data import ReportData
from tracer.output.report_incidents import ReportIncidents
from tracer.output.report_summary import zone_name
from tracer.recordings.encoding import to_line


def section(text: str, heading: str) -> list[str]:
    """The lines below that heading, up to the next section."""
    lines = text.splitlines()
    rest = lines[lines.index(heading) + 1 :]
    ends = [number for number, line in enumerate(rest) if line in ("Incidents", "Services") or "Evidence" in line]
    return rest[: ends[0]] if ends else rest


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bad_night(tmp_path_factory.mktemp("night") / "night.tw")


def test_a_pool_is_one_row_and_every_verdict_is_shown(night: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "report", night)
    rows = [line.split() for line in section(text, "Incidents") if re.match(r"\d\d:\d\d:\d\d ", line)]
    assert {row[3]: int(row[1].replace(",", "")) for row in rows} == VERDICTS
    (row,) = [row for row in rows if row[3] == "idle-drop"]
    assert row == ["09:00:09", f"{POOL:,}", "1m19s–1m20s", "idle-drop", "timed-out", "13.6s"]
    assert "          gunicorn (4 processes) → 10.77.2.3:5432" in text.splitlines()
    diagnosed = [line.partition(":")[0] for line in section(text, "Diagnosis") if re.match(r"[a-z-]+: \d", line)]
    assert diagnosed[0] == "idle-drop" and set(diagnosed) == set(VERDICTS)


def test_the_summary_and_the_diagnosis_come_first(night: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "report", night)
    top = " ".join(text.partition("\nIncidents\n")[0].split())
    places = [
        top.index(sentence)
        for sentence in (
            "web-a: 1,038 stalls, ",
            "from 2027-01-15 09:00:10 on. Times are in UTC+01:00.",
            "UTC 2027-01-15T08:00:10Z to 2027-01-15T08:05:10Z",
            "1,033 idle-drop",
            "in 6 incidents",
            "Diagnosis idle-drop: 1,033 stalls of gunicorn (4 processes) → 10.77.2.3:5432 Consistent with a firewall",
            "A silence of 1m19s was fatal.",
            "Cure keepalive is on, first probe after 2h, on web-a: sudo nsenter -t 2",
            "zero-window: 1 stall of php[8506] 10.66.1.2:50005 → 10.77.2.5:11300",
        )
    ]
    assert places == sorted(places)
    assert top.count("Cure ") == 1, "the first one; the others are among the services"


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_line_is_wider_than_the_terminal(
    width: int, night: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    at_width(monkeypatch, width)
    lines = shown(capsys, "report", night, "--evidence").splitlines()
    too_wide = [line for line in lines if len(line) > width]
    # A command is copied whole, and an IPv6 address with its port is one word.
    assert all(line.lstrip().startswith(("sudo ", "printf ", "echo ", "tcpwatch ", "nc ")) for line in too_wide)
    rows = [line for line in lines if " idle-drop " in line]
    assert bool("gunicorn" in rows[0]) == (width >= 100), "the owner stands in the row where there is room"


def test_files_and_lost_events_that_are_missing_are_near_the_top(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = event("lost", 1, count=7, hook="tcp_retransmit_skb", sock=None)
    path = record(tmp_path / "x.tw", [lost, *pool(3)])
    text = shown(capsys, "report", path, tmp_path / "gone.tw", status=1)
    top = " ".join(text.partition("\nDiagnosis\n")[0].split())
    assert f"Missing {tmp_path}/gone.tw: no such file" in top
    assert "Lost Events were lost while recording (7 at tcp_retransmit_skb), so this report may be incomplete." in top
    no_stall = record(tmp_path / "y.tw", [lost, event("state", 3)])
    assert "No connection stalled, as far as was recorded." in shown(capsys, "report", no_stall)


def test_each_row_has_its_host_where_there_are_several(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [record(tmp_path / f"{host}.tw", pool(3), header(host=host)) for host in ("web-a", "web-b")]
    text = shown(capsys, "report", *files)
    rows = section(text, "Incidents")
    assert rows[1].split() == ["HOST", "OWNER", "→", "SERVICE"]
    assert rows[3::2][:2] == [
        "          web-a  gunicorn (3 processes) → 10.77.2.3:5432",
        "          web-b  gunicorn (3 processes) → 10.77.2.3:5432",
    ]
    assert "HOST " not in shown(capsys, "report", files[0])


def test_hosts_of_several_time_zones_are_reported_in_utc(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    heads = [replace(header(host=f"h{offset}"), utc_offset_s=offset) for offset in (3600, -18_000)]
    files = [record(tmp_path / f"{head.host}.tw", pool(2), head) for head in heads]
    text = " ".join(shown(capsys, "report", *files).split())
    assert "from 2027-01-15 08:00:10 on. Times are in UTC, because the hosts are in several time zones." in text
    assert " 08:00:09 2 1m2" in text or " 08:00:09 2 1m19s" in text
    alone = " ".join(shown(capsys, "report", files[1]).split())
    assert "from 2027-01-15 03:00:10 on. Times are in UTC-05:00." in alone and " 03:00:09 2 " in alone
    assert (zone_name(0), zone_name(20_700), zone_name(-34_200)) == ("UTC", "UTC+05:45", "UTC-09:30")


def test_incidents_of_several_days_have_the_date(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    events = [*pool(1), *pool(1, at=90_000, sock="later")]
    rows = section(shown(capsys, "report", record(tmp_path / "x.tw", events)), "Incidents")
    assert [row[:14] for row in rows if "idle-drop" in row] == ["01-15 09:00:09", "01-16 09:59:59"]


def test_hostile_names_leave_the_table_in_shape(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    comm = "\x1b[2J| a\n`b` " + "x" * 3000
    hostile = {**OWNED, "comm": comm, "exe": comm, "sock": "x"}
    path = record(
        tmp_path / "x.tw", unanswered(1, 80_000, **hostile) + close(14.4, **hostile), header(host="h" * 200)
    )
    lines = shown(capsys, "report", path, "--evidence").splitlines()
    assert all(line.isprintable() for line in lines)
    rows = [line for line in lines if " → " in line]
    assert rows and max(map(len, rows)) <= 80 + 48, "one long name, shortened"
    assert "…" in "".join(lines)


def test_of_many_incidents_the_weightiest_are_listed_and_the_others_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A single harmless stall of another verdict is listed among hundreds of heavier incidents."""
    ends = {"phase": "end", "sock": "s", "rport": 3306, "idle_ms": 70_000}
    many = [
        event("stall", number * 30, id=f"{number}", verdict="idle-drop", outcome="timed-out",
              duration_ms=1000 + number, comm=f"w{number}", **ends)
        for number in range(700)
    ]  # fmt: skip
    small = event("stall", 9, id="x", verdict="packet-loss", outcome="recovered", duration_ms=5, comm="php", **ends)
    path = tmp_path / "x.tw"
    with path.open("w") as stream:
        stream.write(replace(header(), filters={"events": ["stall"]}).to_line())
        stream.writelines(to_line(each) for each in sorted([*many, small], key=lambda each: each.ktime_ns))
    text = shown(capsys, "report", path)
    rows = [line for line in section(text, "Incidents") if re.match(r"\d\d:\d\d|\d\d-\d\d", line)]
    assert len(rows) == report_incidents.MAX_SHOWN
    assert sum("packet-loss" in row for row in rows) == 1
    left_out = 700 - (report_incidents.MAX_SHOWN - 1)
    assert f"Not listed: {left_out} stalls of less weight ({left_out} idle-drop). --json has them all." in text
    assert [json.loads(line)["verdict"] for line in shown(capsys, "report", path, "--json").splitlines()[1:702]]


def test_incidents_are_kept_in_bounded_memory() -> None:
    kept = ReportIncidents()
    for number in range(5000):
        stall = event("stall", number * 60, phase="end", verdict="idle-drop", outcome="timed-out", duration_ms=number)
        kept.add(stall, "h", "idle-drop")
    kept.add(event("stall", 1, phase="end", verdict="x", outcome="recovered", duration_ms=1), "h", "x")
    heaviest = kept.heaviest()
    assert len(heaviest) <= 2 * report_incidents.MAX_KEPT
    assert heaviest[0].lasted_ms.greatest == 4999 and heaviest[-1].key.verdict == "x"


def test_stalls_that_end_out_of_order_are_one_incident() -> None:
    incidents = Incidents()
    found = [
        incidents.put(event("stall", at + 50, phase="end", verdict="idle-drop", duration_ms=50_000, pid=pid))
        for at, pid in ((0, 1), (100, 2), (1, 3), (101, 4))
    ]
    assert len({id(each) for each in found}) == 4
    assert [(each.count, set(each.pids)) for each in merged(found)] == [(2, {1, 3}), (2, {2, 4})]


def advised(stall: Event, here: str = "h") -> list[Line]:
    data = ReportData(IdleTimeouts(), here=here, is_filtered=False)
    data.opened(header(host="h"))
    for _ in data.take(stall):
        pass
    data.take_rest()
    return data.advice_of(next(iter(data.services)))


def test_a_stall_that_ended_needs_no_release() -> None:
    fields = {"phase": "end", "verdict": "idle-drop", "idle_ms": 80_000, **OWNED}
    ended = advised(event("stall", 1, outcome="timed-out", **fields))
    assert ended and Step.RELEASE not in [line.step for line in ended]
    ongoing = advised(event("stall", 1, outcome="ongoing", **fields), here="elsewhere")
    (release,) = [line.text for line in ongoing if line.step is Step.RELEASE]
    assert release.startswith("Release: on h: sudo tcpwatch end --stuck")
