"""The bench's arithmetic, its tables and how it refreshes its document, with results that nobody measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks import plot, programs, recordings, results, table, watchers
from benchmarks.programs import Runs
from benchmarks.results import Line, Result
from benchmarks.rows import ROWS, capacity
from benchmarks.spread import Spread, median_between, percentile, ratios
from benchmarks.watchers import Counts
from builders import event

from tracer.model.validation import to_json

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs/performance.md"


def result(name: str = "storm", rate: float = 10.0) -> Result:
    return Result(
        name,
        "short connections",
        "watched by",
        [
            Line("nobody", {"rate": Spread.of([rate]), "times": 1.0}),
            Line("somebody", {"rate": Spread.of([rate / 2] * 3), "times": 2.0, "lost": None}, "missed: 2 > 1"),
        ],
        ["on paper"],
    )


def test_a_spread_is_the_median_and_the_quartiles() -> None:
    assert Spread.of([5, 1, 4, 2, 3]) == Spread(median=3, low=2, high=4, count=5)
    assert Spread.of([1, 2]) == Spread(1.5, 1.25, 1.75, 2)
    assert Spread.of([7]) == Spread(7, 7, 7, 1)


@pytest.mark.parametrize(("percent", "expected"), [(0, 10), (50, 25), (99, 39.7), (100, 40)])
def test_a_percentile_lies_between_two_measurements(percent: float, expected: float) -> None:
    assert percentile([40, 10, 30, 20], percent) == pytest.approx(expected)


def test_there_is_no_percentile_of_nothing() -> None:
    with pytest.raises(ValueError, match="no measurement"):
        percentile([], 50)


def test_a_machine_that_becomes_slower_is_no_slowdown() -> None:
    assert ratios([95, 85], [100, 90, 80]) == [1, 1]
    with pytest.raises(ValueError, match="2 measurements between 2"):
        ratios([1, 2], [1, 2])


def test_a_budget_is_met_or_missed_and_says_by_how_much() -> None:
    assert results.at_most(1.004, 1.01) == "met: 1.004 ≤ 1.01"
    assert results.at_most(1.01004, 1.01) == "missed: 1.01004 > 1.01"
    assert results.at_most(1.01, 1.01) == "met: 1.01 ≤ 1.01"
    assert results.at_most(61.2, 50, " ms") == "missed: 61.2 > 50 ms"
    assert results.at_least(120_000, 100_000, "/s") == "met: 120,000 ≥ 100,000/s"
    assert results.at_least(41_234, 100_000, "/s") == "missed: 41,234 < 100,000/s"


def test_a_median_is_as_sure_as_there_are_measurements() -> None:
    """P(X ≤ 1) of 9 throws of a coin is 0.020, of X ≤ 2 0.090; P(X ≤ 11) of 36 is 0.014, of X ≤ 12 0.033."""
    assert median_between([3, 1, 2]) == (1, 3)
    assert median_between(range(1, 10)) == (2, 8)
    assert median_between(range(1, 37)) == (12, 25)


@pytest.mark.parametrize(
    ("budget", "accounted", "expected"),
    [
        (1.01, 1.02, "met: 1.000 to 1.009 ≤ 1.01"),
        (0.99, 0.98, "missed: 1.000 to 1.009 > 0.99"),
        (1.008, 1.007, "met by CPU time: 1.007 ≤ 1.008; by the clock unclear: 1.000 to 1.009"),
        (1.008, 1.009, "missed by CPU time: 1.009 > 1.008; by the clock unclear: 1.000 to 1.009"),
    ],
)
def test_a_budget_is_held_against_where_the_median_can_be(budget: float, accounted: float, expected: str) -> None:
    nine = [0.98, 1.0, 1.004, 1.006, 1.007, 1.008, 1.009, 1.0094, 1.03]
    assert results.median_at_most(nine, budget, accounted) == expected


def test_what_ran_since_then() -> None:
    before, now = [Runs("a", 1, 10), Runs("", 2, 20)], [Runs("a", 4, 15), Runs("", 2, 20)]
    assert programs.since(before, now) == [Runs("a", 3, 5), Runs("", 0, 0)]


def test_what_comes_no_faster_than_it_is_taken_tells_of_no_limit() -> None:
    assert capacity._verdict(98_687, lost=0) == "unclear: all of 98,687/s, and no more came"
    assert capacity._verdict(98_687, lost=1) == "missed: 98,687 < 100,000/s"
    assert capacity._verdict(100_582, lost=0) == "met: 100,582 ≥ 100,000/s"


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (None, "–"), ("none", "none"), (1.0049, "1.005"), (42.34, "42.3"), (41_234.5, "41,234"), (3, "3"),
        (Spread.of([2.0]), "2.000"), (Spread.of([1, 2, 3]), "2.000 (1.500–2.500)"),
    ],
)  # fmt: skip
def test_a_cell_is_shown_as_a_person_reads_it(cell: results.Cell, expected: str) -> None:
    assert table.shown(cell) == expected


def test_the_table_has_a_column_for_each_heading_and_one_for_the_budget() -> None:
    text = table.as_text(result())
    heading, _, nobody, somebody, note, *_ = text.splitlines()[1:]
    assert heading.split() == ["watched", "by", "rate", "times", "lost", "budget"]
    assert "10.0" in nobody and "1.000" in nobody
    assert "5.000 (5.000–5.000)" in somebody and "–" in somebody and somebody.endswith("missed: 2 > 1")
    assert note == "  on paper"


def test_without_a_budget_there_is_no_such_column() -> None:
    plain = result()
    plain.lines.pop()
    assert "budget" not in table.as_markdown(plain)


def test_only_the_part_of_its_row_is_refreshed() -> None:
    storm, redis = table.begin("storm"), table.begin("redis")
    document = f"before\n{storm}old\n{table.END}between\n{redis}theirs\n{table.END}after\n"
    once = table.refresh(document, [result()])
    assert (
        once == f"before\n{storm}{table.as_markdown(result())}{table.END}between\n{redis}theirs\n{table.END}after\n"
    )
    assert table.refresh(once, [result()]) == once
    assert "old" not in once and "5.000 (5.000–5.000)" in once
    changed = table.refresh(once, [result(rate=500), result("redis")])
    assert "250.0 (250.0–250.0)" in changed and "theirs" not in changed


def test_a_row_without_a_place_is_an_error() -> None:
    with pytest.raises(ValueError, match="storm"):
        table.refresh("nothing here\n", [result()])


def test_the_document_has_a_place_for_every_row() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    for row in ROWS:
        table.refresh(text, [result(row)])


def test_the_json_is_all_of_it() -> None:
    written = json.loads(json.dumps(results.as_json([result()], {"cpus": 2})))
    assert written["host"] == {"cpus": 2}
    somebody = written["rows"]["storm"]["lines"][1]
    assert somebody["cells"] == {
        "rate": {"median": 5, "low": 5, "high": 5, "count": 3}, "times": 2, "lost": None,
    }  # fmt: skip
    assert somebody["verdict"] == "missed: 2 > 1"


def test_the_curve_of_a_growth_leaves_out_what_was_not_measured() -> None:
    lines = [Line("10", {"s": 1.5}), Line("1,000", {"s": None}), Line("20,000", {"s": 3})]
    growth = Result("events", "growth", "events", lines)
    assert plot.curve(growth, "s") == ([10, 20_000], [1.5, 3])


def test_what_tcpwatch_counted_is_read_from_its_summary() -> None:
    said = "tcpwatch: tracing port 1\ntcpwatch: 36,000 events, 1,234 lost, 8 connections in 2s; 0 shown\n"
    assert watchers.counts(said) == Counts(36_000, 1_234)
    assert watchers.counts("tcpwatch: 1 event, 0 lost, 1 connection in 1s;") == Counts(1, 0)
    assert watchers.counts("Tracing retransmits ... Hit Ctrl-C to end\n") is None


def test_the_reason_why_a_peer_cannot_run_is_its_error_and_not_what_follows() -> None:
    said = (
        "ERROR: Unknown error -1: couldn't set RLIMIT_MEMLOCK for bpftrace.\n"
        "Unable to find kernel headers. Try rebuilding kernel with CONFIG_IKHEADERS=m\n"
        "chdir(/lib/modules/x/build): No such file or directory\n"
    )
    assert watchers._reason(said).startswith("Unable to find kernel headers")
    assert watchers._reason("one\ntwo\n\n") == "two"
    assert watchers._reason("") == ""


def test_a_multiplied_recording_has_other_sockets_later_each_time(tmp_path: Path) -> None:
    sample = tmp_path / "sample.tw"
    first, second = event("state", at=1, sock="00000000000000ff"), event("retransmit", at=3, sock="0000000000000001")
    lines = [json.dumps(to_json(each), separators=(",", ":")) for each in (first, second)]
    sample.write_text("\n".join(["header", *lines]) + "\n", encoding="utf-8")
    header, *made = b"".join(recordings.multiply(sample, 5)).decode().splitlines()
    assert header == "header"
    assert made[:2] == lines, "the first time as it was"
    copies = [json.loads(line) for line in made]
    assert len(copies) == 5
    times = [copy["ktime_ns"] for copy in copies]
    assert times == sorted(set(times)), "time goes on"
    assert len({copy["sock"] for copy in copies[::2]}) == 3
    changing = {"time", "ktime_ns", "sock"}
    for copy in copies[::2]:
        assert {name: copy[name] for name in copy.keys() - changing} == {
            name: value for name, value in to_json(first).items() if name not in changing
        }
