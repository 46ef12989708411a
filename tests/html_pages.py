"""Pages of `tcpwatch report --html` for tests: recordings for them, and a page as its elements."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from builders import event
from recording_files import record
from running import tcpwatch
from stall_events import LOSS_PROBE_MS, OWNED, close, freeze, heard, probe, reset, window

from tracer.model.events import Event

HOSTILE = "worker & <script>alert(1)</script>"


def page_file(path: Path, events: list[Event], *arguments: str) -> str:
    """Record these events and write the page of their report to path. Returns its text."""
    recording = record(path.with_suffix(".tw"), events)
    done = tcpwatch("report", recording, *arguments, "--html", path)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    return path.read_text(encoding="utf-8")


def a_bad_week() -> list[Event]:
    """A pool that a firewall forgot, connections of other services with each kind of ending, a hostile name."""
    events = [
        heard(number * 0.2, silent_ms=int(60_000 * 1.12**number), sock=f"alive{number}") for number in range(36)
    ]
    for number in range(40):
        at = 20 + number / 100
        pool: dict[str, Any] = {
            "sock": f"pool{number}", "lport": 40000 + number, "rport": 5432, "raddr": "10.66.2.3",
            "comm": "gunicorn", "pid": 23949 + number % 4, "pids": [23949 + number % 4],
        }  # fmt: skip
        events += freeze(start=at, silent_ms=3_700_000 + number * 1000, **pool) + close(at + 13.4, **pool)
    for number, at in enumerate((500.0, 90_000.0, 180_000.0)):
        name: dict[str, Any] = {"sock": f"frozen{number}", "lport": 42000 + number, **OWNED}
        silent_ms = (61 + number) * 60_000 + LOSS_PROBE_MS
        events += freeze(start=at, silent_ms=silent_ms, **name) + close(at + 13.4, **name)
    for number in range(30):
        lossy: dict[str, Any] = {
            "sock": f"lossy{number}", "lport": 43000 + number, "raddr": f"10.66.3.{number % 3}", "rport": 443,
            "comm": "nginx", "pid": 77, "pids": [77],
        }  # fmt: skip
        at = 600.0 + 50 * number
        events += [*freeze(2, start=at, silent_ms=210, **lossy), heard(at + 0.9, silent_ms=1000, **lossy)]
    dead: dict[str, Any] = {
        "sock": "dead", "family": 6, "raddr": "2001:db8:66:1234:5678:9abc:def0:9", "laddr": "2001:db8:66:1::2",
        "rport": 6379, "comm": HOSTILE, "pid": 911, "pids": [911],
    }  # fmt: skip
    events += [*freeze(start=1000, silent_ms=210, **dead), *close(1013.4, **dead)]
    events += [
        probe(1200 + 75 * number, number + 1, sock="kept", lport=45000, raddr="10.66.2.7") for number in range(5)
    ]
    events += close(1575, sock="kept", lport=45000, raddr="10.66.2.7")
    events += [window(1300 + number**2, number) for number in range(5)]
    events += [
        reset(1400, sock="reset", lport=46000, raddr="10.66.2.8"),
        *close(1400, "ECONNRESET", 104, sock="reset"),
    ]
    for number in range(40):
        given = {"action": "end", "result": "ended", "by_user": HOSTILE, "sock": f"pool{number}", "rport": 5432}
        events.append(event("action", 90_100 + number / 100, raddr="10.66.2.3", comm="gunicorn", **given))
    asked: dict[str, Any] = {"action": "probe", "result": "no-answer", "raddr": "10.66.2.2", **OWNED}
    events += [event("action", at, sock="frozen1", by_user="alice", **asked) for at in (89_000.0, 175_500.0)]
    still: dict[str, Any] = {"sock": "still", "lport": 47000, "raddr": "10.66.2.9", **OWNED}
    return [*events, *freeze(3, start=180_100, **still)]


def a_state() -> Event:
    """A healthy connection that closes."""
    return event("state", new_state="CLOSE")


class Page:
    """A page as its elements. It has to be well-formed."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.root = ElementTree.fromstring(text)

    def section(self, name: str) -> ElementTree.Element:
        """The section with that id."""
        found = self.root.find(f".//section[@id='{name}']")
        assert found is not None, name
        return found

    def rows(self, section: str) -> list[ElementTree.Element]:
        """The drawings of a section with their words; the first is its axis."""
        return [each for each in self.section(section).iter("div") if "row" in each.get("class", "").split()]


def words(element: ElementTree.Element) -> str:
    """The text of an element and of those in it, with single spaces between."""
    return " ".join(" ".join(element.itertext()).split())


def marks(row: ElementTree.Element, name: str) -> list[float]:
    """The positions of a mark in a drawing, percent."""
    return [position(each, "x") for each in row.iter("use") if each.get("href") == f"#{name}"]


def position(element: ElementTree.Element, name: str) -> float:
    """A position of an element, percent."""
    value = element.get(name, "")
    assert value.endswith("%"), value
    return float(value.removesuffix("%"))


_UNITS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def axis(row: ElementTree.Element) -> list[tuple[float, float]]:
    """The labels of a logarithmic axis: position in percent, duration in milliseconds."""
    return list(_labels(row))


def _labels(row: ElementTree.Element) -> Iterator[tuple[float, float]]:
    for label in row.iter("text"):
        name = label.text or ""
        number = name.rstrip("msdh")
        if number.isdecimal():
            yield position(label, "x"), int(number) * _UNITS[name.removeprefix(number)]


def read_off(labels: list[tuple[float, float]], where: float) -> float:
    """The duration at a position, as a reader finds it between two labels, milliseconds."""
    (left, shorter), (right, longer) = labels[0], labels[-1]
    share = (where - left) / (right - left)
    return math.exp(math.log(shorter) + share * math.log(longer / shorter))
