"""Recordings that are kept for as long as their version of the format is read, and what is shown of them.

Beside recordings/vN/NAME stand NAME.replay.txt, NAME.replay.json, NAME.report.txt and NAME.report.json, what these
commands print, and NAME.said.txt, what they say on stderr; none where that is nothing. A sample itself never
changes. Where what is shown changes on purpose:

    scripts/test tests/test_samples.py --write-golden

and look at the difference before it is committed.
"""

from __future__ import annotations

import ipaddress
import json
from dataclasses import fields
from pathlib import Path

import pytest

from tracer.cli import main
from tracer.model.events import Event
from tracer.model.kinds import EVENTS
from tracer.recordings.header import VERSION, Header
from tracer.recordings.reader import RecordingReader

RECORDINGS = Path(__file__).parent / "recordings"
SAMPLES = sorted(path for path in RECORDINGS.glob("v*/*.tw*") if path.suffix in (".tw", ".gz", ".zst"))
COMMANDS: dict[str, list[str]] = {
    "replay.txt": ["replay", "--all", "--verbose"],
    "replay.json": ["replay", "--json"],
    "report.txt": ["report"],
    "report.json": ["report", "--json"],
}
DOCUMENTATION = [
    ipaddress.ip_network(each) for each in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32")
]


def name_of(path: Path) -> str:
    return path.relative_to(RECORDINGS).as_posix()


@pytest.mark.parametrize("golden", [*COMMANDS, "said.txt"])
@pytest.mark.parametrize("sample", SAMPLES, ids=name_of)
def test_a_sample_is_shown_as_ever(
    sample: Path,
    golden: str,
    pytestconfig: pytest.Config,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(sample.parent)
    status = main.run([*COMMANDS.get(golden, ["replay"]), sample.name])
    shown, said = capsys.readouterr()
    text = said if golden == "said.txt" else shown
    expected = sample.with_name(f"{sample.name}.{golden}")
    if pytestconfig.getoption("--write-golden"):
        expected.unlink(missing_ok=True)
        if text:
            expected.write_text(text)
    assert text == (expected.read_text() if expected.exists() else "")
    assert status == (0 if sample.parent.name <= f"v{VERSION}" else 1)


def test_every_version_is_kept_and_one_that_is_still_to_come() -> None:
    assert {path.parent.name for path in SAMPLES} == {f"v{version}" for version in range(1, VERSION + 2)}


def test_nothing_is_kept_of_a_sample_that_is_not_there() -> None:
    names = {f"{name_of(sample)}.{golden}" for sample in SAMPLES for golden in (*COMMANDS, "said.txt")}
    assert {name_of(path) for path in RECORDINGS.glob("v*/*")} - {name_of(path) for path in SAMPLES} <= names


def test_the_samples_of_this_version_have_everything() -> None:
    """A field or a kind of event that is new gets a sample of its own: what is kept does not change."""
    records: list[dict[str, object]] = []
    headers: list[dict[str, object]] = []
    for sample in (RECORDINGS / f"v{VERSION}").glob("*.tw"):
        for line in sample.read_bytes().splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            (headers if "format" in record else records).append(record)
    events = {field.name for field in fields(Event)} - {"time_ns"} | {"time"}
    assert events <= {name for record in records for name in record}
    assert set(EVENTS) <= {record["event"] for record in records}
    assert {field.name for field in fields(Header)} <= {name for record in headers for name in record}


@pytest.mark.parametrize("sample", [path for path in SAMPLES if path.parent.name <= f"v{VERSION}"], ids=name_of)
def test_a_sample_is_of_no_real_host(sample: Path) -> None:
    with RecordingReader(sample, lambda _: None) as reader:
        is_next = True
        while is_next:
            assert reader.header.host.endswith(".example")
            for event in (each for batch in reader for each in batch.events):
                for address in (event.laddr, event.raddr):
                    assert address is None or any(ipaddress.ip_address(address) in each for each in DOCUMENTATION)
            is_next = reader.begin_next()
