"""The limits of the page of `tcpwatch report --html`: its size, and the memory of what collects it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from builders import event
from html_pages import Page, page_file, words
from recording_files import header
from stall_events import OWNED, heard, rtx

from tracer.analysis.idle_timeouts import Service
from tracer.analysis.silence_marks import MAX_MARKS, SilenceMarks
from tracer.model.events import Event
from tracer.output.html.markup import fitting, text
from tracer.output.html.page import MAX_BYTES
from tracer.output.html.report import HtmlReport
from tracer.output.html.scale import LABELS, log_scale
from tracer.output.report_actions import MAX_GROUPS
from tracer.output.report_timeline import MAX_INCIDENTS, Timeline
from tracer.output.report_traces import MAX_TICKS, MAX_TRACKED, Traces

MAX_PAGE_BYTES = 200_000
MYSQL = Service("10.66.2.2", 3306, False)


def many_stalls(count: int) -> list[Event]:
    """Stalls of long hostile names, each an incident of its own."""
    events = []
    for number in range(count):
        name: dict[str, Any] = {
            "sock": f"{number}", "raddr": f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}",
            "comm": f"<{number}>" + "&\"'😀" * 30, "pid": number + 1, "pids": [number + 1], "cgroup": "/&" * 20,
        }  # fmt: skip
        since = f"2027-01-15T{8 + number // 3600:02d}:{number // 60 % 60:02d}:{number % 60:02d}.000000Z"
        events.append(
            event(
                "stall", number, phase="end", id=f"{number}", since=since, idle_ms=70_000 + number, retransmits=9,
                verdict="idle-drop", outcome="timed-out", duration_ms=900_000 + number, advice=["x" * 4000] * 50,
                **name,
            )
        )  # fmt: skip
    return events


def many_actions(count: int) -> list[Event]:
    """Actions of different users with long hostile names."""
    done = {"action": "end", "result": "ended", "raddr": "10.66.2.2", "comm": "\"'&<" * 30}
    return [event("action", number, sock=None, by_user=f"{number}" + "<&" * 99, **done) for number in range(count)]


def test_ten_thousand_stalls_make_a_small_page_in_bounded_memory() -> None:
    pages: list[str] = []
    marks_of_silences = SilenceMarks()
    report = HtmlReport(pages.append, marks_of_silences)
    report.opened(header(host="&" * 200))
    for number in range(30):
        report.missing("<" * 5000, "&" * 5000, number, is_failure=True)
    events = many_stalls(10_000)
    for each in events:
        marks_of_silences.fatal(Service(each.raddr or "", 3306, False), 70_000)
    report.write(events)
    report.write(many_actions(10_000))
    assert report.state.timeline is not None and len(report.state.timeline._rows) <= MAX_INCIDENTS
    report.close()
    (page,) = pages
    assert len(page.encode()) < MAX_BYTES < MAX_PAGE_BYTES
    assert words(next(Page(page).root.iter("h1"))) == "10,000 stalls"
    assert len(Page(page).rows("timeline")) > 20
    listed = len(list(Page(page).section("actions").iter("li")))
    assert 5 <= listed < MAX_GROUPS
    assert words(Page(page).section("actions")).endswith(f"Not listed: {10_000 - listed:,} other actions.")


def test_ten_thousand_real_stalls_of_a_recording(tmp_path: Path) -> None:
    events: list[Event] = []
    for number in range(10_000):
        name: dict[str, Any] = {
            "sock": f"{number}",
            "raddr": f"10.66.{number % 40}.2",
            "lport": number + 1024,
            **OWNED,
        }
        at = number * 2.0
        events += [rtx("tlp", at, **name), rtx("rto", at + 0.2, 1, **name), heard(at + 1, silent_ms=99, **name)]
    page = page_file(tmp_path / "page.html", events)
    assert len(page.encode()) < MAX_PAGE_BYTES
    assert words(next(Page(page).root.iter("h1"))) == "10,000 stalls"


def test_a_stall_keeps_a_bounded_number_of_instants() -> None:
    timeline, traces = Timeline(), Traces()
    for number in range(10_000):
        traces.take("db1", event("window-probe", number, attempt=number))
    end = event("stall", 10_000, phase="end", id="1", since="2027-01-15T08:00:00.000000Z", duration_ms=10_000_000,
                verdict="zero-window", outcome="ongoing", retransmits=10_000)  # fmt: skip
    traces.take("db1", end)
    timeline.count("db1", end, "zero-window", traces.of("db1", end))
    (row,) = timeline.rows()
    assert len(row.bar.ticks) == MAX_TICKS and row.bar.ticks_left_out == 10_000 - MAX_TICKS
    assert row.bar.ticks[-1] == event("window-probe", 9_999).time_ns


def test_of_too_many_silences_those_near_the_range_have_marks() -> None:
    known = SilenceMarks()
    for number in range(200):
        known.survived(MYSQL, round(1.15**number) + 1)
        known.fatal(MYSQL, round(1.15 ** (400 - number)))
    survived, fatal, left_out = known.marks_of(MYSQL)
    assert len(survived) == len(fatal) == MAX_MARKS
    assert survived[-1].ms == known.range_of(MYSQL).survived_ms and fatal[0].ms == known.range_of(MYSQL).fatal_ms
    assert sum(mark.silences for mark in (*survived, *fatal)) + left_out == 400
    many = SilenceMarks()
    for number in range(5000):
        many.survived(Service(str(number), 1, False), 70_000)
    assert len(many._marks) < 2000
    assert [mark.ms for mark in many.marks_of(Service("0", 1, False)).survived] == [70_000], (
        "the range is still known"
    )


def test_a_scale_puts_each_decade_at_the_same_distance() -> None:
    scale = log_scale(1000, 1_000_000, 0, 100)
    steps = [scale.at(10.0**number) for number in range(3, 7)]
    assert steps[1] - steps[0] == pytest.approx(steps[2] - steps[1]) == pytest.approx(steps[3] - steps[2])
    assert steps[0] > 0 and steps[3] < 100
    assert scale.at(0) == 0 and scale.at(10**30) == pytest.approx(100)
    assert log_scale(0, 0, 0, 100).at(1) == pytest.approx(50)
    positions = [where for where, _ in scale.labels()]
    assert len(positions) > 3 and all(b - a >= 9 for a, b in zip(positions, positions[1:]))
    assert len({label for _, label in LABELS}) == len(LABELS) == len({ms for ms, _ in LABELS})


def test_parts_beyond_a_share_of_the_page_are_counted() -> None:
    assert fitting(["aa", "é", "b"], 4) == (["aa", "é"], 1)
    assert fitting(["aaaa", "b"], 3) == ([], 2)
    assert text("<" * 200, 10) == "&lt;" * 9 + "…"


def test_connections_that_retransmit_are_kept_in_bounded_number() -> None:
    traces = Traces()
    for number in range(3 * MAX_TRACKED):
        traces.take("db1", rtx("rto", 0, sock=f"{number}"))
        traces.take("db1", event("stall", 1, phase="end", sock=f"{number}", id=f"{number}", outcome="presumed"))
    assert len(traces._tracks) == len(traces._ended) == MAX_TRACKED


def test_instants_of_any_recording_have_a_place() -> None:
    """A damaged recording may have the last year of RFC 3339, and any duration."""
    pages: list[str] = []
    report = HtmlReport(pages.append, SilenceMarks())
    report.opened(header())
    last = {"time_ns": 253_402_300_799_999_999_000, "sock": "x"}
    extremes: dict[str, Any] = {
        "since": "1970-01-01T00:00:00.000000Z",
        "idle_ms": 2**63 - 1,
        "retransmits": 2**63 - 1,
    }
    report.write([Event.of({**rtx("rto").known(), **last})])
    for phase in ("begin", "end"):
        stall = event("stall", 0, phase=phase, id="1", verdict="idle-drop", outcome="timed-out", **extremes)
        end = {
            "duration_ms": 2**63 - 1,
            "gives_up_at": "9999-12-31T23:59:59.999999Z",
            "gives_up_window_ms": 2**63 - 1,
        }
        stall = Event.of({**stall.known(), **last, **end})
        report.write([stall])
    report.close()
    assert words(next(Page(pages[0]).root.iter("h1"))) == "1 stall"
