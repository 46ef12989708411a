"""What is fuzzed: functions of bytes that raise nothing, whatever the bytes are.

Each stands for one door through which something strange may come in: a recording, a record of the ring buffer, the
words of the command line. What comes in through the first two goes on to everything that shows or keeps events.
"""

from __future__ import annotations

import io
import ipaddress
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from stories import story

from tracer.analysis.idle_timeouts import IdleTimeouts
from tracer.analysis.risk import at_risk
from tracer.analysis.stalls import StallTracker
from tracer.analysis.stuck import mark
from tracer.cli.options import cli_filter
from tracer.kernel.layout import SIZE
from tracer.kernel.program.ring import HEADER_BYTES
from tracer.kernel.socket_records import SocketRecords
from tracer.kernel.wire import Decoder, WireError
from tracer.model.errors import TcpwatchError, UsageError
from tracer.model.events import Batch, Event
from tracer.model.filters import Filter
from tracer.model.kinds import EVENTS
from tracer.model.validation import from_json, to_json
from tracer.output.format import safe
from tracer.output.jsonlines import JsonSink
from tracer.output.page import Page
from tracer.output.report import Report
from tracer.output.sockets import View, sockets_as_json, sockets_as_text
from tracer.output.sockets_risk import risks_as_text
from tracer.output.sockets_stuck import stuck_as_text
from tracer.output.text import TextSink
from tracer.recordings.header import Header, describe_filter, header_from_line
from tracer.recordings.writer import RecordingWriter
from tracer.run.pipeline import Totals, finish, run
from tracer.run.replay import play

HEADER = Header(
    tool="0.1.0", kernel="6.18", host="db1", started="2027-01-15T08:00:00.000000Z",
    clock_offset_ns=1_799_999_999_000_000_000, utc_offset_s=3600, hz=250,
)  # fmt: skip
FILTERS = (
    Filter(ports=frozenset({3306}), lports=frozenset({33356}), rports=frozenset({3306})),
    Filter(hosts=(ipaddress.ip_network("10.66.0.0/16"), ipaddress.ip_network("fd66::/16")), family=4),
    Filter(netns=frozenset({4026532000}), pids=frozenset({8506}), comms=frozenset({"php"})),
    Filter(events=frozenset({"stall", "error"}), min_idle_ms=60_000),
)
OFFSET_NS = 1_700_000_000_000_000_000
DECODER = Decoder(hz=250, reasons={1: "NO_SOCKET"}, key=b"k" * 16)
OPTIONS = ("--port", "--lport", "--rport", "--host", "--pid", "--comm", "--netns", "--event", "--min-idle")
_DIRECTORY = tempfile.TemporaryDirectory(prefix="tcpwatch-fuzz-")
_SCRATCH = Path(_DIRECTORY.name) / "x.tw"


def recording(data: bytes) -> None:
    """The bytes as a file, by `replay` and `report`."""
    _SCRATCH.write_bytes(data)
    for wanted in (Filter(), FILTERS[3]):
        outputs = _Outputs()
        try:
            play([_SCRATCH], wanted, outputs.sinks, warn=outputs.warn, idle_timeouts=outputs.idle_timeouts)
        except TcpwatchError as error:
            outputs.warn(f"{error}\n{error.hint}")
        outputs.check()


def lines(data: bytes) -> None:
    """The same with a header in front: every byte is an event's."""
    recording(HEADER.to_line().encode() + data)


def fields(data: bytes) -> None:
    """A recording that is well formed, with events of any content: see stories.py."""
    recording(story(data))


def wire(data: bytes) -> None:
    """The bytes as what the ring buffer handed over, one record after the other; a live run of them."""
    records = [data[start : start + SIZE] for start in range(0, len(data), SIZE)]
    events, valid = [], []
    for record in records:
        try:
            event, _ = DECODER.decode(record, OFFSET_NS)
        except WireError as error:
            _check_text(safe(f"{error} {error.hint}"))
            continue
        valid.append(record)
        if event.event in EVENTS:
            events.append(event)
    _check_taken(records)
    outputs = _Outputs()
    for sink in outputs.sinks:
        sink.opened(HEADER)
    tracker = StallTracker(hz=250, idle_timeouts=outputs.idle_timeouts)
    totals = Totals()
    events.sort(key=lambda event: event.ktime_ns)
    run([Batch(events, events[-1].ktime_ns if events else 0)], Filter(), tracker, outputs.sinks, totals)
    finish(tracker, Filter(), outputs.sinks, totals)
    for sink in outputs.sinks:
        sink.close()
    outputs.check()
    sockets = list(SocketRecords(250, {}, OFFSET_NS).decode(b"".join(valid)))
    risky, hanging = at_risk(sockets, 3600.0, 250), mark(sockets, 250)
    for each in (False, True):
        view = View(hz=250, ttl_s=3600.0, each=each)
        for lines in (
            sockets_as_text(sockets, view), risks_as_text(risky, 3600.0, view), stuck_as_text(hanging, view)
        ):  # fmt: skip
            _check_text("".join(lines))
    for line in sockets_as_json([*sockets, *risky]):
        _check_json(line)


def words(data: bytes) -> None:
    """The bytes as values of options, one between two NULs; the first byte of each says of which."""
    for word in data.split(b"\0"):
        if not word:
            continue
        option = OPTIONS[word[0] % len(OPTIONS)]
        try:
            wanted = cli_filter([f"{option}={os.fsdecode(word[1:])}"])
        except UsageError as error:
            assert error.hint
            _check_text(safe(f"{error} {error.hint}"))
            continue
        header = replace(HEADER, filters=describe_filter(wanted))
        assert header_from_line(header.to_line().encode()) == header


TARGETS: dict[str, Callable[[bytes], None]] = {
    "recording": recording,
    "lines": lines,
    "fields": fields,
    "wire": wire,
    "words": words,
}


class _Outputs:
    """Every sink there is, and whether all of them said what they should."""

    def __init__(self) -> None:
        self.idle_timeouts = IdleTimeouts()
        self._texts = [io.StringIO() for _ in range(3)]
        self._jsons = [io.StringIO() for _ in range(2)]
        self.sinks: list[Any] = [
            TextSink(self._texts[0], Page()),
            TextSink(self._texts[1], Page(folded=True, columns=80, rows=24)),
            JsonSink(self._jsons[0]),
            RecordingWriter(Path("/dev/null"), HEADER),
            Report(self._texts[2], self.idle_timeouts, as_json=False, width=80),
            Report(self._jsons[1], self.idle_timeouts, as_json=True, width=80),
            _ThereAndBack(),
        ]
        self._said: list[str] = []

    def warn(self, text: str) -> None:
        self._said.append(safe(text))

    def check(self) -> None:
        for text in self._texts:
            _check_text(text.getvalue())
        for stream in self._jsons:
            for line in stream.getvalue().splitlines():
                _check_json(line)
        _check_text("\n".join(self._said))


class _ThereAndBack:
    """A sink that reads again what a recording would hold of each event."""

    def opened(self, header: Header) -> None:
        pass

    def write(self, events: Sequence[Event]) -> None:
        for event in events:
            assert from_json(json.loads(json.dumps(to_json(event)))) == event, event
            for wanted in FILTERS:
                assert not wanted.wants(event) or wanted.follows(event), event

    def flush(self, until_ns: int) -> None:
        pass

    def close(self) -> None:
        pass


def _check_taken(records: list[bytes]) -> None:
    """Together, as the ring has them, they are the same events in the order of time, or refused."""
    taken = b"".join(bytes(HEADER_BYTES) + record + bytes(-SIZE % 8) for record in records)
    try:
        apart = [DECODER.decode(record, OFFSET_NS) for record in records]
    except WireError:
        with suppress(WireError):
            DECODER.decode_all(taken, OFFSET_NS)
            raise AssertionError("what is refused by itself was taken with others") from None
        return
    together = DECODER.decode_all(taken, OFFSET_NS)
    times = [event.ktime_ns for event, _ in together]
    assert times == sorted(times)
    assert sorted(map(repr, together)) == sorted(map(repr, apart))


def _check_text(text: str) -> None:
    assert all(line.isprintable() for line in text.split("\n")), text


def _check_json(line: str) -> None:
    assert line.isascii(), line
    json.loads(line, parse_constant=_refuse)


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")
