"""The SQL of docs/fleet.md gives the numbers of `tcpwatch report --json` for the same files."""

from __future__ import annotations

import json
import re
import subprocess
from collections import Counter
from dataclasses import fields, replace
from itertools import product
from pathlib import Path
from typing import Any

import duckdb
import pytest
from compact_recordings import raw_events, record_both
from docs_sql import PAGE, Database, block_with, blocks

from tracer.analysis.idle_timeouts import service_of
from tracer.cli import main
from tracer.model.events import Event
from tracer.model.fields import json_types
from tracer.model.times import parse_time
from tracer.output.report_rows import service_name
from tracer.recordings.compression import compressor_for
from tracer.recordings.header import Header

SAMPLES = Path(__file__).parent / "recordings/v1"
WHOLE = ["everything", "acted", "appended", "counted", "late", "lost", "namespaces", "owners", "unsent", "series"]
TIMESTAMP = re.compile(r"TIMESTAMP '[^']*'")
SQL_TYPES = {"int": "BIGINT", "str": "VARCHAR"}


def fleet(directory: Path, suffix: str, *, is_compact: bool) -> list[Path]:
    """Real recordings, each of a host of its own, made anew by this version."""
    made = []
    for sample in WHOLE:
        head, events = raw_events(SAMPLES / f"{sample}.tw")
        host = directory / sample
        host.mkdir(parents=True)
        pair = record_both(host, events, suffix, head=replace(head, host=f"{sample}.example"))
        (pair.full if is_compact else pair.compact).unlink()
        made.append(pair.compact if is_compact else pair.full)
    return made


@pytest.fixture(params=["full", "compact"])
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["", ".gz", ".zst"])
def files(request: pytest.FixtureRequest, form: str, tmp_path: Path) -> list[Path]:
    return fleet(tmp_path, request.param, is_compact=form == "compact")


def reported(files: list[Path], capsys: pytest.CaptureFixture[str], status: int = 0) -> list[dict[str, Any]]:
    assert main.run(["report", "--json", *map(str, files)]) == status
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def name_of(stall: dict[str, Any]) -> str | None:
    """The service of a stall, as a report names it."""
    service = service_of(Event(time_ns=0, ktime_ns=0, event="stall", **{
        name: stall.get(name) for name in ("raddr", "rport", "lport")
    }))  # fmt: skip
    return None if service is None else service_name(service)


def compare(database: Database, report: list[dict[str, Any]]) -> None:
    """Insist that each answer is the report's."""
    stalls = [each for each in report if each.get("event") == "stall"]
    services = [each for each in report if each.get("report") == "service"]
    kinds = Counter((name_of(each), each["verdict"], each["outcome"]) for each in stalls)
    rows = database.answer("longest_s")
    assert {(row["service"], row["verdict"], row["outcome"]): row["stalls"] for row in rows} == kinds
    for row in rows:
        alike = [
            each
            for each in stalls
            if (name_of(each), each["verdict"], each["outcome"]) == (row["service"], row["verdict"], row["outcome"])
        ]
        assert row["hosts"] == len({each["host"] for each in alike})
        if row["outcome"] != "ongoing":
            assert row["longest_s"] == max(each["duration_ms"] for each in alike) / 1000

    ranges = {row["service"]: (row["survived_ms"], row["fatal_ms"]) for row in database.answer("AS survived_ms")}
    for service in services:
        expected = service.get("survived_ms"), service.get("fatal_ms")
        assert ranges.get(service["service"], (None, None)) == expected, service["service"]
    assert sum(row["lost"] for row in database.answer("AS lost")) == report[-1]["lost"]

    for stall in stalls:
        if stall["outcome"] != "ongoing":
            when_ns = parse_time(stall["since"]) + stall["duration_ms"] * 500_000
            frozen = database.run(TIMESTAMP.sub(f"make_timestamp_ns({when_ns})", block_with("ORDER BY since")))
            assert {(row["host"], row["pid"], row["service"], row["verdict"]) for row in frozen} == {
                (each["host"], each.get("pid"), name_of(each), each["verdict"])
                for each in stalls
                if (each["outcome"] != "ongoing" and parse_time(each["since"]) <= when_ns <= end_ns(each))
                or (each["outcome"] == "ongoing" and parse_time(each["since"]) <= when_ns)
            }  # fmt: skip


def end_ns(stall: dict[str, Any]) -> int:
    return parse_time(stall["since"]) + int(stall["duration_ms"]) * 1_000_000


def test_the_answers_are_those_of_the_report(
    files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = reported(files, capsys)
    assert len({each.get("verdict") for each in report}) > 5 and report[-1]["lost"]
    database = Database(tmp_path)
    assert (tmp_path / "events.parquet").stat().st_size
    compare(database, report)


def test_a_rotated_recording_is_one(form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A stall that begins in one file and ends in the next is one stall."""
    file = only("everything", tmp_path, fleet(tmp_path, "", is_compact=form == "compact"))
    first, *lines = file.read_bytes().splitlines(keepends=True)
    head = json.loads(first)
    cuts = [number + 1 for number, line in enumerate(lines) if b'"phase":"begin"' in line][:3]
    parts = []
    for number, (begin, end) in enumerate(zip([0, *cuts], [*cuts, len(lines)]), 1):
        started = json.loads(lines[begin])["time"] if begin else head["started"]
        part = {**head, "series": "x.tw", "number": number, "started": started}
        parts.append(file.with_name(f"x-{number}.tw"))
        text = json.dumps(part, separators=(",", ":")).encode()
        parts[-1].write_bytes(b"".join([text, b"\n", *lines[begin:end]]))
    file.unlink()
    assert len(parts) == 4
    compare(Database(tmp_path), reported(parts, capsys))


def only(sample: str, directory: Path, files: list[Path]) -> Path:
    """Remove the other files. Returns the one of the sample."""
    (file,) = [each for each in files if each.parent == directory / sample]
    for other in files:
        if other != file:
            other.unlink()
    return file


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_a_file_without_its_end(suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """DuckDB reads what precedes it. Version 2 wants the end of a .gz, which the page's command makes."""
    text = only("everything", tmp_path, fleet(tmp_path, "", is_compact=True))
    file = text.with_name(f"{text.name}{suffix}")
    compressor = compressor_for(file)
    data = compressor.compress(text.read_bytes()[:-20]) + compressor.flush()
    text.unlink()
    file.write_bytes(data)
    report = reported([file], capsys)
    if suffix == ".gz" and not duckdb.__version__.startswith("1."):
        with pytest.raises(duckdb.Error, match=file.name):
            Database(tmp_path)
        command = "zcat stalls.tw.gz | gzip >whole.tw.gz"
        assert f"`{command}`" in PAGE.read_text()
        subprocess.run(
            command.replace("stalls.tw.gz", file.name), shell=True, cwd=file.parent, check=False, capture_output=True
        )
        file.unlink()
    rows = Database(tmp_path).answer("longest_s")
    assert sum(row["stalls"] for row in rows) == report[-1]["stalls"] > 3


def test_the_columns_are_fields_of_events_and_headers() -> None:
    types = {**json_types(Event), "time": "TIMESTAMP", "since": "TIMESTAMP", "format": "str"}
    headers = {field.name for field in fields(Header)}
    columns = dict(re.findall(r"(\w+): '(\w+)'", blocks()[0]))
    assert len(columns) > 20
    for name, sql_type in columns.items():
        assert name in types or name in headers
        assert sql_type == SQL_TYPES.get(types.get(name, "str"), types.get(name))


def test_a_service_has_the_name_that_reports_give_it(tmp_path: Path) -> None:
    fleet(tmp_path, "", is_compact=True)
    database = Database(tmp_path)
    naming = re.search(r"(CASE WHEN lport IS NULL.*?END) AS service", blocks()[0], re.DOTALL)
    assert naming is not None
    addresses = ("10.1.2.3", "2001:db8::1")
    ports = [(3306, 40000), (40000, 22), (60000, 40000), (40000, 60000), (22, 25), (25, 22)]
    for raddr, (rport, lport) in product(addresses, ports):
        known = Event(time_ns=0, ktime_ns=0, event="stall", raddr=raddr, rport=rport, lport=lport)
        ((shown,),) = (row.values() for row in database.run(
            f"SELECT {naming[1]} FROM (SELECT '{raddr}' AS raddr, {rport} AS rport, {lport} AS lport)"
        ))  # fmt: skip
        service = service_of(known)
        assert service is not None and shown == service_name(service)
