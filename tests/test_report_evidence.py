"""`tcpwatch report --evidence`: what the network team gets is what the events have."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from builders import START, event
from incident_recordings import pool, shown, unanswered
from recording_files import header, record
from stall_events import OWNED, close, heard, probe, rtx, window

from tracer.model.durations import duration
from tracer.model.events import Event
from tracer.model.times import format_time
from tracer.output import report_evidence
from tracer.output.report_evidence import exact

CONNECTION = {**OWNED, "sock": "frozen", "lport": 47_720}


def utc(time_ns: int) -> str:
    return f"{format_time(time_ns)[:23]}Z"


def evidence(text: str) -> list[str]:
    """The lines of the section, each on its own without indent."""
    lines = text.splitlines()
    return [" ".join(line.split()) for line in lines[lines.index("Evidence for the network team") :]]


def test_each_retransmission_is_listed_as_its_event_has_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stalled = unanswered(10, 4_500_000, **CONNECTION)
    path = record(tmp_path / "x.tw", [*stalled, *close(23.4, **CONNECTION)])
    lines = evidence(shown(capsys, "report", path, "--evidence"))
    assert lines[1:4] == ["All times are in UTC.", "", "10.66.1.2:47720 → 10.66.2.2:3306: idle-drop"]
    for each in stalled:
        kind = "tlp" if each.kind == "tlp" else f"rto {each.attempt}"
        assert each.silent_ms is not None
        assert each.rto_ms is not None
        (row,) = [line for line in lines if line.startswith(f"{utc(each.time_ns)} {kind} ")]
        assert row == (f"{utc(each.time_ns)} {kind} {exact(each.silent_ms)} {duration(each.rto_ms)} 527 B")
    first = stalled[0]
    assert first.silent_ms is not None
    assert f"Last received {utc(first.time_ns - first.silent_ms * 1_000_000)}" in lines
    assert f"First sent {utc(first.time_ns - 200_000_000)} after a silence of 1h15m00.000s" in lines
    assert f"Host db1, network namespace {first.netns}" in lines and "Owner php[8506]" in lines
    assert "Bytes 527 B unacknowledged" in lines
    assert "Counted 5 retransmissions or probes by timer, as the kernel counts" in lines
    assert f"Ended {utc(START + 23_400_000_000)}: timed-out (ETIMEDOUT), 13.600s after it began" in " ".join(lines)


def test_what_a_walk_found_has_the_name_of_what_is_sent_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    syn = {"state": "SYN_SENT", "silent_ms": None, "unacked_bytes": 0, "rto_ms": 4000}
    connecting = rtx("retransmit", 20, 5, timer_ms=3000, stuck_ms=9000, **syn)
    connecting.event = "found"
    path = record(tmp_path / "x.tw", [connecting, rtx("syn", 23, 6, stuck_ms=12_000, **syn)])
    lines = evidence(shown(capsys, "report", path, "--evidence"))
    assert [line.partition("Z ")[2].split(" -")[0] for line in lines if re.match(r"\d{4}-", line)] == [
        "syn 5 (found)", "syn 6",
    ]  # fmt: skip


def test_a_peer_that_answers_with_a_closed_window_is_not_silent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    probes = [window(2**number / 10, number) for number in range(3, 8)]
    lines = evidence(shown(capsys, "report", record(tmp_path / "x.tw", probes), "--evidence"))
    assert f"Last received {utc(probes[-1].time_ns - 300_000_000)}" in lines


def test_in_markdown_the_figures_are_equal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = record(tmp_path / "x.tw", [*unanswered(10, 80_000, **CONNECTION), *close(23.4, **CONNECTION)])
    times = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
    text = shown(capsys, "report", path, "--evidence")
    markdown = shown(capsys, "report", path, "--evidence", "--markdown")
    assert len(times.findall(text)) == 10 and times.findall(markdown) == times.findall(text)
    assert "| 2027-01-15T08:00:10.000Z | `tlp` | 1m20.200s | 204ms | 527 B |" in markdown


def test_keepalive_probes_and_what_the_kernel_counted_without_an_event(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    probes = [probe(75 * number, attempt=number + 1, **CONNECTION) for number in range(5) if number != 3]
    lines = evidence(shown(capsys, "report", record(tmp_path / "x.tw", probes), "--evidence"))
    assert [line.split()[1:3] for line in lines if " keepalive " in line] == [
        ["keepalive", "1"], ["keepalive", "2"], ["keepalive", "3"], ["keepalive", "5"]
    ][-len([line for line in lines if " keepalive " in line]) :]  # fmt: skip
    assert any(line.startswith(f"{utc(probes[-1].time_ns)} keepalive 5 2h05m00.000s") for line in lines)
    assert any(line.startswith("Ended not by 20") for line in lines)


def test_two_stalls_of_one_connection_have_their_own_lists(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events: list[Event] = [
        *unanswered(0, 80_000, **CONNECTION)[:3], heard(1.5, silent_ms=81_500, **CONNECTION),
        *unanswered(200, 190_000, **CONNECTION), *close(213.4, **CONNECTION),
    ]  # fmt: skip
    text = shown(capsys, "report", record(tmp_path / "x.tw", events), "--evidence")
    first, second = re.split(r"(?m)^10\.66\.1\.2:47720", text.partition("Evidence")[2])[1:]
    assert "recovered" in first and "rto 5" not in first and "rto 2" in first
    assert "timed-out" in second and "08:00:00." not in second and "rto 5" in second


def test_another_host_with_that_socket_is_another_connection(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [
        record(tmp_path / f"{host}.tw", unanswered(at, 80_000, **CONNECTION), header(host=host))
        for at, host in ((0, "web-a"), (50, "web-b"))
    ]
    text = shown(capsys, "report", *files, "--evidence").partition("Evidence")[2]
    assert text.count("rto 5") == 2 and text.count("Host           web-") == 2


def test_the_evidence_of_a_pool_is_bounded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    most = report_evidence.MAX_CONNECTIONS
    path = record(tmp_path / "x.tw", pool(3 * most))
    lines = evidence(shown(capsys, "report", path, "--evidence"))
    assert sum(line.endswith(": idle-drop") for line in lines) == most
    assert lines[-1] == f"Not listed: {2 * most} stalls of less weight ({2 * most} idle-drop)."


def test_of_a_long_list_the_first_and_the_last_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    probes = [
        event("window-probe", number, attempt=number + 1, rto_ms=1000, snd_wnd=0, silent_ms=300, **CONNECTION)
        for number in range(60)
    ]
    lines = evidence(shown(capsys, "report", record(tmp_path / "x.tw", probes), "--evidence"))
    listed = [int(line.split()[2]) for line in lines if " window-probe " in line]
    assert listed == [*range(1, 25), *range(53, 61)]
    assert "Between the first 24 and the last 8, 28 events are left out." in " ".join(lines)
    assert [exact(ms) for ms in (204, 80_480, 3_660_204, 0)] == ["0.204s", "1m20.480s", "1h01m00.204s", "0.000s"]
