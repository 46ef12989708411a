"""Compact recordings: a report of one says what a report of the full recording says, and no more than it knows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from builders import SECOND, event
from compact_recordings import Report, compact_header, comparable, raw_events, record_both
from recording_files import header, read
from stall_events import OWNED, a_night, close, freeze, heard, probe, reset, rtx, waiting

from tracer.cli import main
from tracer.model.events import Event
from tracer.model.kinds import COMPACT
from tracer.recordings.header import header_from_line

SAMPLES = Path(__file__).parent / "recordings/v1"
WHOLE = ["everything", "acted", "appended", "counted", "late", "lost", "namespaces", "owners", "unsent", "series"]
MINUTE_MS = 60_000


@pytest.fixture
def report(capsys: pytest.CaptureFixture[str]) -> Report:
    def made(*arguments: str | Path, status: int = 0) -> list[dict[str, Any]]:
        assert main.run(["report", "--json", *map(str, arguments)]) == status
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return made


def opens_and_closes(number: int) -> list[Event]:
    """A connection without trouble."""
    who: dict[str, Any] = {"sock": f"healthy{number}", "lport": 20_000 + number, "rport": 8080}
    return [
        event("state", 100 + number / 100, old_state=old, new_state=new, **who)
        for old, new in (("CLOSE", "SYN_SENT"), ("SYN_SENT", "ESTABLISHED"), ("ESTABLISHED", "FIN_WAIT1"))
    ]


@pytest.mark.parametrize("sample", WHOLE)
def test_the_reports_of_a_real_recording_agree(sample: str, report: Report, tmp_path: Path) -> None:
    head, events = raw_events(SAMPLES / f"{sample}.tw")
    pair = record_both(tmp_path, events, head=head)
    full, compact = report(pair.full), report(pair.compact)
    assert comparable(compact) == comparable(full)
    assert compact[-1]["compact"] is True and "events" not in compact[-1]


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_the_reports_of_a_night_agree(suffix: str, report: Report, tmp_path: Path) -> None:
    dies: dict[str, Any] = {"sock": "dead again", "lport": 51_000, **OWNED}
    events = [
        *a_night(),
        waiting(-300, sock="asked", lport=50_010, **OWNED),
        *freeze(start=200, silent_ms=62 * MINUTE_MS, **dies),
        *close(213.4, **dies),
        *(each for number in range(200) for each in opens_and_closes(number)),
    ]
    pair = record_both(tmp_path, events, suffix)
    full = report(pair.full)
    assert comparable(report(pair.compact)) == comparable(full)
    mysql = next(each for each in full if each.get("report") == "service" and each["rport"] == 3306)
    assert (mysql["survived_ms"], mysql["fatal_ms"]) == (58 * MINUTE_MS, 61 * MINUTE_MS)


def test_healthy_connections_take_no_space(tmp_path: Path) -> None:
    quiet = record_both(tmp_path, a_night())
    sizes = quiet.compact.stat().st_size
    for file in quiet:
        file.unlink()
    busy = record_both(tmp_path, [*a_night(), *(each for number in range(300) for each in opens_and_closes(number))])
    assert busy.compact.stat().st_size == sizes
    assert busy.full.stat().st_size > 4 * sizes


def test_a_peer_with_keepalive_does_not_look_like_a_long_silence(report: Report, tmp_path: Path) -> None:
    """The kernel's clock of silence ignores the peer's probes: only each distance between two of them counts."""
    probed = [heard(at * 60, "probe", silent_ms=(at + 5) * MINUTE_MS, unacked_bytes=0) for at in range(20)]
    pair = record_both(tmp_path, [*probed, *freeze(start=1300, sock="other"), *close(1313.4, sock="other")])
    full = report(pair.full)
    assert comparable(report(pair.compact)) == comparable(full)
    (service,) = (each for each in full if each.get("report") == "service")
    assert service["survived_ms"] == 5 * MINUTE_MS


def test_advice_knows_what_the_connection_went_through(report: Report, tmp_path: Path) -> None:
    """It survived as much before, and refused a reset: neither is an event of a compact recording."""
    longer = heard(0, silent_ms=90 * MINUTE_MS, sock="other", unacked_bytes=0)
    before = heard(1, silent_ms=70 * MINUTE_MS, unacked_bytes=0)
    dies = [*freeze(start=100, silent_ms=61 * MINUTE_MS), reset(100.2, "refused"), *close(113.4)]
    pair = record_both(tmp_path, [longer, before, *dies])
    assert {each.event for each in read(pair.compact)[0]} == {"resume", "stall"}
    ends = [each for each in read(pair.compact)[0] if each.phase == "end"]
    assert [(end.survived_before, end.refused_reset) for end in ends] == [(True, True)]
    assert comparable(report(pair.compact)) == comparable(report(pair.full))


def test_a_window_agrees(report: Report, tmp_path: Path) -> None:
    pair = record_both(tmp_path, a_night())
    window = "--since", "2027-01-15T08:00:15Z", "--until", "2027-01-15T08:01:10Z"
    full = report(pair.full, *window)
    assert comparable(report(pair.compact, *window)) == comparable(full)
    assert full[-1]["stalls"] == 4


def shown_lines(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that the text shows: stalls, services and the summary."""
    return [each for each in records if each.get("report", "service") in ("service", "summary")]


def test_half_a_file_has_the_stall_that_was_open(report: Report, tmp_path: Path) -> None:
    """The recorder was killed in the middle of a line."""
    pair = record_both(tmp_path, freeze(5, start=10, silent_ms=61 * MINUTE_MS))
    lines = pair.compact.read_bytes().splitlines(keepends=True)
    assert b'"phase":"end"' in lines[-1]
    pair.compact.write_bytes(b"".join(lines[:-1]) + lines[-1][:100])
    stall, service, summary = shown_lines(report(pair.compact))
    assert (stall["phase"], stall["outcome"], stall["verdict"]) == ("end", "ongoing", "idle-drop")
    assert stall["since"] == "2027-01-15T08:00:09.800000Z" and stall["duration_ms"] == 200
    assert "fatal_ms" not in service, "an answer may have been in the missing part"
    assert summary["stalls"] == 1


def test_parts_of_a_series_are_one_recording(report: Report, tmp_path: Path) -> None:
    pair = record_both(tmp_path, a_night())
    head, *lines = pair.compact.read_bytes().splitlines(keepends=True)
    for cut in range(1, len(lines)):
        parts = [tmp_path / "part1.tw", tmp_path / "part2.tw"]
        later = json.loads(head)
        later["started"] = json.loads(lines[cut - 1])["time"]
        parts[0].write_bytes(b"".join([head, *lines[:cut]]))
        parts[1].write_bytes(b"".join([json.dumps(later, separators=(",", ":")).encode(), b"\n", *lines[cut:]]))
        assert comparable(report(*parts)) == comparable(report(pair.full))


def test_a_part_has_each_stall_that_was_open_at_its_end(report: Report, tmp_path: Path) -> None:
    pair = record_both(tmp_path, a_night())
    lines = pair.compact.read_bytes().splitlines(keepends=True)
    opened: set[str] = set()
    most = 0
    for number, line in enumerate(lines[1:], 2):
        stall = json.loads(line)
        if stall["event"] == "stall":
            (opened.discard if stall["phase"] == "end" else opened.add)(stall["id"])
        pair.compact.write_bytes(b"".join(lines[:number]))
        assert {each["id"] for each in report(pair.compact) if each.get("outcome") == "ongoing"} == opened
        most = max(most, len(opened))
    assert most == 2 and not opened


@pytest.mark.parametrize("is_lost", [True, False])
def test_lost_events_are_not_taken_for_a_death(is_lost: bool, report: Report, tmp_path: Path) -> None:
    """An answer may have been among them. Without a loss, five unanswered retransmissions are a death."""
    events = freeze(5, start=10, silent_ms=61 * MINUTE_MS)
    if is_lost:
        events.append(event("lost", events[-1].ktime_ns / SECOND, count=3, hook="tcp_probe", sock=None))
    pair = record_both(tmp_path, events)
    full = report(pair.full)
    assert comparable(report(pair.compact)) == comparable(full)
    stall, service, _ = shown_lines(full)
    assert (stall["outcome"], "fatal_ms" in service) == ("ongoing", not is_lost)


def test_the_kernels_counts_are_compared_with_what_was_seen(report: Report, tmp_path: Path) -> None:
    of_netns: dict[str, Any] = {"netns": 4026532000}
    events = [
        *(rtx(attempt=number, at=number, segments=2) for number in (1, 2)),
        probe(30, 1),
        event("counters", 60, retrans_segs=9, keepalives=1, timeouts=2, sock=None, **of_netns),
        event("counters", 120, retrans_segs=1, keepalives=0, timeouts=0, sock=None, **of_netns),
    ]
    pair = record_both(tmp_path, events)
    counters = [each for each in read(pair.compact)[0] if each.event == "counters"]
    assert [(each.seen_retrans_segs, each.seen_keepalives, each.seen_timeouts) for each in counters] == [
        (4, 1, 2), (0, 0, 0),
    ]  # fmt: skip
    full = report(pair.full)
    assert comparable(report(pair.compact)) == comparable(full)
    assert full[-1]["is_incomplete"] is True


def test_a_silence_is_repeated_after_ten_minutes(tmp_path: Path) -> None:
    lengths = {0: 60, 60: 90, 120: 80, 180: 91, 779: 70, 790: 70, 800: 69, 1391: 50}
    silences = [heard(at, silent_ms=minutes * MINUTE_MS, unacked_bytes=0) for at, minutes in lengths.items()]
    pair = record_both(tmp_path, silences)
    kept = [each.idle_ms for each in read(pair.compact)[0]]
    assert kept == [minutes * MINUTE_MS for minutes in (60, 90, 91, 70, 50)]


@pytest.mark.parametrize("form", [[], ["--markdown"], ["--evidence"]])
def test_the_report_says_what_it_lacks(form: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair = record_both(tmp_path, a_night())
    assert main.run(["report", *form, str(pair.compact)]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Left out by record --compact: single retransmissions, probes" in text
    assert "0 events" not in text
    assert main.run(["report", *form, str(pair.full)]) == 0
    assert "--compact" not in capsys.readouterr().out


def test_the_page_says_what_it_lacks(tmp_path: Path) -> None:
    shorter = [heard(at, silent_ms=50 * MINUTE_MS, sock=f"{at}", unacked_bytes=0) for at in range(1, 6)]
    pair = record_both(tmp_path, [*a_night(), *shorter])
    pages = []
    for file in pair:
        assert main.run(["report", str(file), "--html", str(file.with_suffix(".html"))]) == 0
        pages.append(file.with_suffix(".html").read_text())
    assert "6 survived" in pages[0] and "--compact" not in pages[0]
    assert "at least 1 survived" in pages[1] and "--compact" in pages[1]


def test_a_quiet_recording_shows_that_nothing_stalled(
    report: Report, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = record_both(tmp_path, [])
    assert shown_lines(report(pair.compact)) == [
        {
            "report": "summary", "hosts": ["db1"], "compact": True, "first": "2027-01-15T08:00:00.000000Z",
            "last": "2027-01-15T08:00:00.000000Z", "stalls": 0, "lost": 0, "utc_offsets_s": [3600],
        }
    ]  # fmt: skip
    assert main.run(["report", str(pair.compact)]) == 0
    text = capsys.readouterr().out
    assert "db1: no stall, from 2027-01-15 09:00:00 on." in text and "2027-01-15T08:00:00Z on\n" in text
    assert "No connection stalled, as far as was recorded." in text, "when it ended is not known"
    assert main.run(["report", str(pair.compact), "--since", "2027-01-15T08:30:00Z"]) == 0
    assert "db1: no stall to report." in capsys.readouterr().out


def test_replay_warns_of_what_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair = record_both(tmp_path, a_night())
    assert main.run(["replay", str(pair.compact), "-e", "retransmit"]) == 0
    shown, said = capsys.readouterr()
    assert shown == "" and "recorded with --compact" in said
    assert main.run(["replay", str(pair.full), "-e", "retransmit"]) == 0
    assert "--compact" not in capsys.readouterr().err


def test_replay_shows_the_same_stalls(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = []
    for file in record_both(tmp_path, a_night()):
        assert main.run(["replay", str(file), "-e", "stall", "--json"]) == 0
        shown.append([json.loads(line) for line in capsys.readouterr().out.splitlines()])
    assert shown[0] == shown[1] and shown[0]


def test_an_older_reader_takes_it_for_a_recording_with_a_filter() -> None:
    line = compact_header(header()).to_line()
    assert json.loads(line)["filters"] == {"events": sorted(COMPACT)}
    read_again = header_from_line(line.encode())
    assert read_again.compact and read_again.has_all_stalls and read_again.keeps_counts
    assert not read_again.is_whole
    assert "compact" not in header().to_line()


@pytest.mark.parametrize(
    "arguments",
    [["record", "-o", "x.tw", "--compact", "-e", "stall"], ["-w", "x.tw", "--compact", "-e", "stall"], ["--compact"]],
)
def test_contradictions_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(arguments) == 2
    assert "--compact" in capsys.readouterr().err
