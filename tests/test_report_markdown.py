"""`tcpwatch report --markdown`: tables, code blocks, and nothing of a recording that a ticket would interpret."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from incident_recordings import POOL, VERDICTS, bad_night, shown, unanswered
from recording_files import header, record
from stall_events import OWNED, close

from tracer.output.report_blocks import Advice, Name, Section, Table
from tracer.output.report_markdown import as_markdown

_CODE = re.compile(r"(?<!`)(`+)(?!`)(.*?)(?<!`)\1(?!`)")


def cells(line: str) -> list[str]:
    """The cells of a row, as GitHub splits it: a backslash takes the pipe behind it out."""
    inner = line.strip().removeprefix("|").removesuffix("|")
    return [cell.strip() for cell in re.split(r"(?<!\\)(?:\\\\)*\|", inner)]


def tables(text: str) -> list[list[list[str]]]:
    """The cells of each table: its headings, and its rows without the rule below the headings."""
    blocks = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    found = [[cells(line) for line in block.splitlines()] for block in blocks]
    for rows in found:
        assert all(re.fullmatch(r":?-+:?", cell) for cell in rows[1])
    return [[rows[0], *rows[2:]] for rows in found]


def test_the_tables_and_commands_of_a_night(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "report", bad_night(tmp_path / "night.tw"), "--markdown")
    incidents = next(rows for rows in tables(text) if rows[0][0] == "BEGAN")
    assert all(len(row) == 7 for row in incidents)
    found = {row[3].strip("`"): int(row[1].replace(",", "")) for row in incidents[1:]}
    assert found == VERDICTS
    pool = next(row for row in incidents if row[1] == f"{POOL:,}")
    assert pool[-1] == "`gunicorn (4 processes)` → `10.77.2.3:5432`"
    services = next(rows for rows in tables(text) if rows[0][0] == "STALLS")
    assert [f"{POOL:,}", "-", "1m19s", "13.6s", "`10.77.2.3:5432`"] in services
    blocks = re.findall(r"^  ```sh\n  (.*)\n  ```$", text, re.MULTILINE)
    assert any("sysctl -w net.ipv4.tcp_keepalive_time=" in block for block in blocks)
    assert [line for line in text.splitlines() if line.startswith("### ")] == [
        "### Diagnosis", "### Incidents", "### Services"
    ]  # fmt: skip
    assert shown(capsys, "report", tmp_path / "night.tw", "--format", "markdown") == text


HOSTILE = ["a|b", "a\\|b", "a``b`", "<script>x</script>", "@everyone #1 *b* _i_ [l](x)", "a\nb\n| c |\n# d", "&amp;"]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_text_and_change_no_table(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    owner = {**OWNED, "comm": name, "sock": "x"}
    path = record(tmp_path / "x.tw", unanswered(1, 80_000, **owner) + close(14.4, **owner), header(host=name))
    text = shown(capsys, "report", path, "--markdown", "--evidence")
    assert all(len(row) == len(rows[0]) for rows in tables(text) for row in rows)
    outside = _CODE.sub("", text)
    assert "<script" not in outside and "@" not in outside and "&amp;" not in outside.replace("&amp;amp;", "")
    assert not re.search(r"^(#|\|) ?[cd]\b", text, re.MULTILINE), "no line begins within a name"


def test_text_and_code_are_escaped() -> None:
    table = Table(["A", "B"], [["x|y*z*<b>", (Name("a``b|c"), " & @me")]])
    text = as_markdown([Section("H", [table, Advice("Cure", "type *this*", "echo '```' | cat")])])
    assert "| x\\|y\\*z\\*&lt;b&gt; | ```a``b\\|c``` &amp; &#64;me |" in text
    assert "- **Cure** type \\*this\\*:\n\n  ````sh\n  echo '```' | cat\n  ````" in text


def test_two_formats_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--markdown", "--json"], ["--markdown", "--format", "text"]):
        shown(capsys, "report", "x.tw", *arguments, status=2)
    shown(capsys, "report", "x.tw", "--evidence", "--json", status=2)
