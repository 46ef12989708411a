"""The page of `tcpwatch report --html`: its elements, its numbers, its limits, and its file."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from builders import event
from html_pages import HOSTILE, Page, a_bad_week, a_state, axis, marks, page_file, position, read_off, words
from recording_files import header, record
from running import tcpwatch
from stall_events import HOUR_MS, LOSS_PROBE_MS, a_night, close, freeze, heard, rtx, window

from tracer.analysis.idle_timeouts import Service
from tracer.model.events import Event
from tracer.model.times import parse_time
from tracer.output.html import page as page_module
from tracer.output.html.blocks import advice_line
from tracer.output.owners_advice import Line
from tracer.output.report_services import advice_blocks
from tracer.output.report_timeline import Timeline
from tracer.output.report_traces import Traces

MAX_PAGE_BYTES = 200_000
MYSQL = Service("10.66.2.2", 3306, False)


@pytest.fixture(scope="module")
def week(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return Page(page_file(tmp_path_factory.mktemp("week") / "page.html", a_bad_week()))


def night(tmp_path: Path, *arguments: str) -> Page:
    return Page(page_file(tmp_path / "page.html", a_night(), *arguments))


def replayed(recording: Path) -> list[dict[str, Any]]:
    """The stalls of a recording: begins, updates and ends."""
    shown = tcpwatch("replay", recording, "--json", "-e", "stall").stdout
    return [json.loads(line) for line in shown.splitlines()]


class Tags(HTMLParser):
    """The elements that an HTML parser finds, and those that are left open."""

    VOID = frozenset({"meta", "link", "br"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_it_is_well_formed_and_loads_nothing(week: Page) -> None:
    tags = Tags(week.text)
    assert tags.open == [] and "script" not in {tag for tag, _ in tags.seen}
    for unwanted in ("<script", "http://", "https://", "url(", "src=", "@import", "onload", "<iframe", "<img"):
        assert unwanted not in week.text.lower(), unwanted
    references = {value for _, attributes in tags.seen for name, value in attributes.items() if name == "href"}
    ids = [attributes["id"] for _, attributes in tags.seen if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert references - {"data:,"} <= {f"#{each}" for each in ids}
    assert '<meta name="viewport" content="width=device-width, initial-scale=1"/>' in week.text
    assert "prefers-color-scheme:dark" in week.text and "@media print" in week.text


def test_the_sections_are_in_order_and_the_summary_is_first(week: Page) -> None:
    assert [each.get("id") for each in week.root.iter("section") if each.get("id")] == [
        "summary", "actions", "strips", "overview", "timeline", "advice", "table",
    ]  # fmt: skip
    heading = words(next(week.root.iter("header")))
    assert heading.startswith(
        "78 stalls 46 died, 1 not over at the end of the recording, 31 answered in the end db1: "
    )
    assert "527 events in 2d02h, from 2027-01-15 09:00:00 on. Times are in UTC+01:00." in heading
    assert "UTC 2027-01-15T08:00:00Z to 2027-01-17T10:01:41Z" in heading
    diagnosis = words(week.section("summary"))
    assert diagnosis.startswith("Diagnosis idle-drop 44 stalls, the worst of gunicorn (4 processes) → 10.66.2.3:5432")
    assert "Consistent with a firewall or NAT that forgot the session" in diagnosis


def test_actions_are_grouped_as_in_the_text(week: Page, tmp_path: Path) -> None:
    assert [words(each) for each in week.section("actions").iter("li")] == [
        "01-16 09:43:20 to 01-17 09:45:00: tcpwatch probe asked 2 connections of php → 10.66.2.2:3306, "
        "without an answer, by alice",
        f"01-16 10:01:40: tcpwatch end ended 40 connections of gunicorn → 10.66.2.3:5432, by {HOSTILE}",
    ]
    page_file(tmp_path / "page.html", a_bad_week())
    reported = " ".join(tcpwatch("report", tmp_path / "page.tw").stdout.split())
    for each in week.section("actions").iter("li"):
        assert words(each) in reported


def test_actions_without_a_stall_are_shown(tmp_path: Path) -> None:
    done = event("action", 1, action="protect", result="changed", raddr="10.66.2.2")
    page = Page(page_file(tmp_path / "page.html", [a_state(), done]))
    (line,) = page.section("actions").iter("li")
    assert words(line).startswith("09:00:01: tcpwatch protect changed 1 connection of ")


def test_the_diagnosis_and_the_advice_are_those_of_the_text(tmp_path: Path) -> None:
    page = night(tmp_path)
    reported = " ".join(tcpwatch("report", tmp_path / "page.tw").stdout.replace("→", " ").split())
    shown = [words(each) for name in ("summary", "advice") for each in page.section(name).iter("li")]
    assert shown
    for each in shown:
        for part in each.replace("→", " ").split(" Check ")[-1].split(":"):
            assert " ".join(part.split()) in reported, part


def test_the_marks_of_silences_are_where_their_lengths_are(tmp_path: Path) -> None:
    page = night(tmp_path)
    scale, mysql = page.rows("strips")
    labels = axis(scale)
    (survived,), fatal = marks(mysql, "survived"), marks(mysql, "fatal")
    assert read_off(labels, survived) == pytest.approx(58 * 60_000, rel=0.01)
    assert [read_off(labels, each) for each in fatal] == [pytest.approx(61 * 60_000, rel=0.01)]
    (band,) = [each for each in mysql.iter("rect") if each.get("class") == "range"]
    assert position(band, "x") == survived
    assert position(band, "x") + position(band, "width") == pytest.approx(fatal[0], abs=0.02)
    title = words(next(mysql.iter("title")))
    assert title == "Silences of 10.66.2.2:3306. ● 1 survived, the longest 58m00s. ✕ 2 fatal, the shortest 1h01m."
    assert "If the path has an idle timeout, it is between 58m00s and 1h01m." in words(mysql)
    assert "FortiGate" in words(mysql)


def test_the_picture_never_contradicts_the_range(tmp_path: Path) -> None:
    """Whatever a service's silences are, its band lies between the same two as the text's."""
    path = tmp_path / "page.html"
    page = Page(page_file(path, a_bad_week()))
    records = [json.loads(line) for line in tcpwatch("report", path.with_suffix(".tw"), "--json").stdout.splitlines()]
    services = {each["service"]: each for each in records if each.get("report") == "service"}
    scale, *rows = page.rows("strips")
    labels = axis(scale)
    assert {words(next(row.iter("h3"))) for row in rows} == {
        name for name, each in services.items() if "fatal_ms" in each or "survived_ms" in each
    }
    for row in rows:
        service = services[words(next(row.iter("h3")))]
        for name, member, choose in (("survived", "survived_ms", max), ("fatal", "fatal_ms", min)):
            lengths = [read_off(labels, each) for each in marks(row, name)]
            assert bool(lengths) == (member in service)
            if lengths:
                assert choose(lengths) == pytest.approx(service[member], rel=0.02)


def test_contradicting_silences_have_no_range(tmp_path: Path) -> None:
    events = [heard(0, silent_ms=2 * HOUR_MS, sock="survivor"), *freeze(start=1), *close(14.4)]
    page = Page(page_file(tmp_path / "page.html", events))
    (row,) = page.rows("strips")[1:]
    assert [each.get("class") for each in row.iter("rect")] == ["contradiction"]
    assert "no single idle timeout explains both" in words(row)


def test_a_bar_has_the_instants_of_its_stall(tmp_path: Path) -> None:
    page = night(tmp_path)
    scale, *rows = page.rows("timeline")
    labels = [each for each in axis(scale) if each[0] > 34]
    (row,) = [each for each in rows if "idle-drop" in words(each)]
    stalls = [each for each in replayed(tmp_path / "page.tw") if each.get("lport") == 40000]
    since_ns = parse_time(stalls[0]["since"])
    exact = next(each for each in stalls if "gives_up_at" in each and "gives_up_window_ms" not in each)
    predicted_ms = (parse_time(exact["gives_up_at"]) - since_ns) / 1e6
    lasted_ms = stalls[-1]["duration_ms"]
    assert stalls[-1]["outcome"] == "timed-out"
    assert [read_off(labels, each) for each in marks(row, "predicted")] == [pytest.approx(predicted_ms, rel=0.01)]
    assert [read_off(labels, each) for each in marks(row, "fatal")] == [pytest.approx(lasted_ms, rel=0.01)]
    assert marks(row, "survived") == []
    ticks = [position(each, "x1") for each in row.iter("line") if each.get("class") == "tick"]
    sent = [each.time_ns for each in a_night() if each.event == "retransmit" and each.lport == 40000]
    assert len(ticks) == len(sent) == 6
    for where, time_ns in zip(ticks, sent):
        assert read_off(labels, where) == pytest.approx((time_ns - since_ns) / 1e6, rel=0.01)
    (silence,) = [each for each in row.iter("rect") if each.get("class") == "idle"]
    before = [each for each in axis(scale) if each[0] < 34]
    assert read_off(before, position(silence, "x")) == pytest.approx(stalls[-1]["idle_ms"], rel=0.01)
    assert position(silence, "x") + position(silence, "width") == pytest.approx(34, abs=0.02)
    (bar,) = [each for each in row.iter("rect") if each.get("class") == "fatal"]
    assert position(bar, "x") == 34
    sentence = words(row)
    assert "Silent 1h01m, then unanswered for 13.6s, 5 retransmissions" in sentence
    assert "▼ After 200ms tcpwatch predicted the end after 13.5s. It came 88ms later." in sentence


def test_an_end_that_came_earlier_than_predicted_is_shown_so(week: Page) -> None:
    (row,) = [each for each in week.rows("timeline") if "keepalive-failed" in words(each)]
    assert "5 keepalive probes" in words(row)
    assert "▼ After 1m15s tcpwatch predicted the end after 11m21s. It came 5m06s earlier." in words(row)
    assert marks(row, "predicted")[0] > marks(row, "fatal")[0]


def test_nothing_predicts_the_end_of_a_window_whose_probes_are_answered(tmp_path: Path) -> None:
    lost = rtx("tlp", 0, snd_wnd=0, silent_ms=200, retries=15)
    probes = [replace(window(2**number / 10, number), probes_out=0, sock=lost.sock) for number in range(3, 10)]
    row = Page(page_file(tmp_path / "page.html", [lost, *probes])).rows("timeline")[-1]
    assert not marks(row, "predicted") and "gives up" not in words(row)
    assert "Window closed for 5" in words(row) and "nanswered" not in words(row)


def test_a_prediction_is_the_first_exact_one_and_of_the_stall_that_it_is_for() -> None:
    def stall(phase: str, at: float, since: str, **fields: Any) -> Event:
        given = {"phase": phase, "id": "1", "since": since, "verdict": "idle-drop", **fields}
        return event("stall", at, **given)

    early, late = "2027-01-15T08:00:00.000000Z", "2027-01-15T08:05:00.000000Z"
    timeline, traces = Timeline(), Traces()
    for each in (
        stall("begin", 0, early, gives_up_at="2027-01-15T08:10:00.000000Z", gives_up_window_ms=9000),
        stall("update", 1, early, gives_up_at="2027-01-15T08:10:04.000000Z"),
        stall("update", 2, early, gives_up_at="2027-01-15T08:10:09.000000Z"),
    ):
        traces.take("db1", each)
    end = stall("end", 604, early, outcome="timed-out", duration_ms=604_000)
    traces.take("db1", end)
    timeline.count("db1", end, "idle-drop", traces.of("db1", end))
    (row,) = timeline.rows()
    assert row.bar.prediction is not None and row.bar.prediction.is_exact
    assert row.bar.prediction.earliest_ns == row.bar.ended_ns == parse_time("2027-01-15T08:10:04.000000Z")
    # What waits now was sent later: the prediction for what was answered does not count.
    traces.take("db1", stall("begin", 0, early, gives_up_at="2027-01-15T08:10:00.000000Z"))
    other = stall("end", 310, late, outcome="timed-out", duration_ms=10_000, rport=5432)
    traces.take("db1", other)
    timeline.count("db1", other, "idle-drop", traces.of("db1", other))
    assert timeline.rows()[-1].bar.prediction is None


def test_a_revoked_end_is_one_stall_with_all_its_retransmissions(tmp_path: Path) -> None:
    """The retransmission that was missed came; what was presumed is shown nowhere."""
    first, *rest = freeze(5)
    events = [first, rest[0], rest[-1], *close(13.4)]
    page = Page(page_file(tmp_path / "page.html", events))
    phases = [(each["phase"], each.get("outcome")) for each in replayed(tmp_path / "page.tw")]
    assert ("end", "presumed") in phases and phases[-1] == ("end", "timed-out")
    assert words(next(page.root.iter("h1"))) == "1 stall"
    (row,) = page.rows("timeline")[1:]
    assert "presumed" not in words(row)
    assert len([each for each in row.iter("line") if each.get("class") == "tick"]) == 3


def test_an_end_that_nobody_saw_is_no_answer(tmp_path: Path) -> None:
    later = event("state", 60, sock="another", old_state="SYN_SENT", new_state="ESTABLISHED")
    page = Page(page_file(tmp_path / "page.html", [*freeze(5), later]))
    assert words(next(page.root.iter("header"))).startswith("1 stall 1 answered or given up unseen ")
    (row,) = page.rows("timeline")[1:]
    assert {each.get("href") for each in row.iter("use")} == {"#waits", "#predicted", "#ongoing"}
    assert "The kernel would have given up after 13.5s." in words(page.root)


def test_a_pool_is_one_incident(week: Page) -> None:
    rows = [each for each in week.rows("timeline") if "gunicorn" in words(each)]
    assert len(rows) == 1
    assert "40 × gunicorn in 4 processes → 10.66.2.3:5432" in words(rows[0])
    evidence = [each for each in week.section("table").iter("tr") if "gunicorn" in words(each)]
    assert len(evidence) == 1 and "one of 40" in words(evidence[0])


def test_harmful_incidents_are_not_hidden_by_harmless_ones(week: Page) -> None:
    shown = [words(each) for each in week.rows("timeline")[1:]]
    for verdict in ("idle-drop", "path-loss", "keepalive-failed", "idle-reset"):
        assert any(verdict in each for each in shown), verdict
    assert sum("packet-loss" in each for each in shown) <= page_module.MAX_HARMLESS
    assert "lighter stalls. tcpwatch report --json lists every stall." in words(week.section("timeline"))


def test_the_evidence_has_utc_instants_both_ends_and_bytes(tmp_path: Path) -> None:
    (row,) = [each for each in night(tmp_path).section("table").iter("tr") if "10.66.1.2:40000" in words(each)]
    cells = [words(each) for each in row.iter("td")]
    assert cells[0] == "2027-01-15 08:00:09.800"
    assert cells[1] == "10.66.1.2:40000 → 10.66.2.2:3306 php[8506]; one of 2"
    assert cells[2] == "1h01m last segment from the peer before it 06:59:09.800"
    assert cells[4].startswith("5, seen after 200ms, ") and cells[4].endswith("527 bytes unacknowledged")
    assert cells[5].startswith("08:00:23.400 timed-out (ETIMEDOUT), after 13.6s")
    assert "predicted: 08:00:23.3" in cells[5]


def test_commands_of_the_advice_are_code(tmp_path: Path) -> None:
    advice = night(tmp_path).section("advice")
    codes = [words(each) for each in advice.iter("code")]
    reported = tcpwatch("report", tmp_path / "page.tw", "--json").stdout
    services = [each for each in map(json.loads, reported.splitlines()) if each.get("report") == "service"]
    lines = [line for each in services for line in each["advice"]]
    assert codes and all("tcp_keepalive_time=" in each for each in codes if "sysctl" in each)
    for code in codes:
        assert any(line.endswith(f": {code}") for line in lines), code
    assert len(list(advice.iter("li"))) == len(lines)


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (Line("", "Check: open another: nc -vz 10.1.2.3 3306"), "<li><b>Check</b> open another"),
        (Line("", "Cure: lower it: sysctl -w a=1"), "<li><b>Cure</b> lower it:<code>sysctl -w a=1</code></li>"),
        (Line("php[1]", "Release: ss -K -t"), "<li><b>Release</b> php[1]:<code>ss -K -t</code></li>"),
        (Line("", "A sentence with <b> and: a colon"), "<li>A sentence with &lt;b&gt; and: a colon</li>"),
        (Line('"a<"[1]', "Cure: x"), "<li><b>Cure</b> &quot;a&lt;&quot;[1]: x</li>"),
    ],
)
def test_the_steps_of_advice_stand_out(line: Line, shown: str) -> None:
    assert advice_line(*advice_blocks([line])).startswith(shown)


def test_hostile_names_are_text(tmp_path: Path) -> None:
    hostile = "\x1b[2J</title></svg><script>alert('1')</script>\u202e\ud800&amp;\"'`"
    head = header(host=hostile)
    name: dict[str, Any] = {"comm": hostile, "pid": 1, "pids": [1], "raddr": hostile, "laddr": hostile}
    path = tmp_path / "x.tw"
    record(path, [*freeze(**name), *close(13.4, hostile, 1, **name)], head)
    assert tcpwatch("report", path, "--html", tmp_path / "page.html").returncode == 0
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script" not in page and "alert(&#x27;1&#x27;)" in page
    assert all(each.isprintable() for each in page.replace("\n", ""))
    root = Page(page).root
    assert {each.tag for each in root.iter()} == {each.tag for each in Page(page).root.iter()}
    assert any("<script>alert('1')</script>" in (each.text or "") for each in root.iter("title"))
    assert Tags(page).open == []


def test_the_hostile_name_of_the_week_is_text_in_the_drawing_too(week: Page) -> None:
    titles = [words(each) for each in week.root.iter("title")]
    assert any(HOSTILE in each for each in titles)


def test_several_hosts_are_named(tmp_path: Path) -> None:
    first = record(tmp_path / "1.tw", [*freeze(), *close(13.4)])
    second = record(tmp_path / "2.tw", [*freeze(sock="b"), *close(13.4, sock="b")], header(host="db2"))
    assert tcpwatch("report", first, second, "--html", tmp_path / "page.html").returncode == 0
    page = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "db1 and db2: 2 stalls" in words(next(page.root.iter("header")))
    assert [("on db1" in words(each), "on db2" in words(each)) for each in page.rows("timeline")[1:]] == [
        (True, False), (False, True),
    ]  # fmt: skip
    # One socket's name on two hosts is two connections.
    same = record(tmp_path / "3.tw", [*freeze(), *close(13.4)], header(host="db2"))
    assert tcpwatch("report", first, same, "--html", tmp_path / "page.html").returncode == 0
    rows = Page((tmp_path / "page.html").read_text(encoding="utf-8")).rows("timeline")[1:]
    assert [len([line for line in row.iter("line") if line.get("class") == "tick"]) for row in rows] == [6, 6]


def test_nothing_recorded_and_nothing_stalled(tmp_path: Path) -> None:
    empty = Page(page_file(tmp_path / "empty.html", []))
    assert words(next(empty.root.iter("header"))) == "No stall db1: no event to report."
    quiet = Page(page_file(tmp_path / "quiet.html", [a_state()]))
    assert words(next(quiet.root.iter("header"))).startswith("No stall db1: no stall, 1 event in 0ms, ")
    assert not list(empty.root.iter("section"))
    assert words(quiet.section("summary")) == "Diagnosis No connection stalled."
    assert [each.get("id") for each in quiet.root.iter("section") if each.get("id")] == ["summary"]


def test_survived_silences_alone_are_shown(tmp_path: Path) -> None:
    page = Page(
        page_file(tmp_path / "page.html", [heard(0, silent_ms=58 * 60_000), *freeze(2, silent_ms=210), heard(2)])
    )
    (row,) = page.rows("strips")[1:]
    assert len(marks(row, "survived")) == 1 and not list(row.iter("rect"))


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    lost = event("lost", 1, count=7, hook="tcp_retransmit_skb", sock=None)
    path = record(tmp_path / "x.tw", [lost, *freeze(start=2), *close(15.4)])
    done = tcpwatch("report", path, tmp_path / "gone<1>.tw", "--html", tmp_path / "page.html")
    assert done.returncode == 1
    page = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    (box,) = [each for each in page.root.iter("dl") if each.get("class") == "missing"]
    assert "gone<1>.tw : " in words(box) or "gone<1>.tw: " in words(box)
    assert "Events were lost while recording (7 at tcp_retransmit_skb)" in words(box)


def test_a_window_applies_and_is_named(tmp_path: Path) -> None:
    page = night(tmp_path, "--since", "2027-01-15T08:01:00Z")
    assert "Limited from 2027-01-15 09:01:00, by --since and --until" in words(next(page.root.iter("header")))
    assert all("idle-drop" not in words(each) for each in page.rows("timeline"))


def test_filters_apply(tmp_path: Path) -> None:
    page = night(tmp_path, "--rport", "6379")
    assert words(next(page.root.iter("h1"))) == "1 stall" and "10.66.2.2" not in page.text


def test_only_stalls_are_enough(tmp_path: Path) -> None:
    """Without the retransmissions there are no ticks, and the predictions stay."""
    page = night(tmp_path, "-e", "stall")
    (row,) = [each for each in page.rows("timeline") if "idle-drop" in words(each)]
    assert not [each for each in row.iter("line") if each.get("class") == "tick"]
    assert len(marks(row, "predicted")) == len(marks(row, "fatal")) == 1


def test_silent_for_less_than_a_second_is_in_use(tmp_path: Path) -> None:
    page = Page(page_file(tmp_path / "page.html", [*freeze(silent_ms=LOSS_PROBE_MS), *close(13.4)]))
    assert "Unanswered for 13.6s" in words(page.rows("timeline")[1])
