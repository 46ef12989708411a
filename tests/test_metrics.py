"""Metrics are those of a report of the same events, and the number of series is bounded for ever."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from builders import event
from metrics_comparison import of_metrics, of_report, series_of
from recording_files import record
from running import tcpwatch
from stall_events import HOUR_MS, a_night, close, freeze, heard, probe, reset, rtx, waiting

from tracer.analysis.outcomes import Outcome
from tracer.analysis.stalls import StallTracker
from tracer.analysis.verdicts import Verdict
from tracer.kernel import probes
from tracer.model.events import Batch, Event
from tracer.model.filters import Filter
from tracer.output.metrics.counting import HELD_NS, MetricsSink
from tracer.output.metrics.exposition import exposition
from tracer.output.metrics.services import Places, Silences
from tracer.output.metrics.snapshot import DURATIONS_S, SEGMENT_KINDS
from tracer.run.pipeline import Totals, finish, run

ROOT = Path(__file__).resolve().parent.parent
HOOKS = {"tcp_retransmit_skb": True, "tcp_probe": False}


class Metered:
    """A run whose metrics can be read at any time."""

    def __init__(self, services: int = 50, wanted: Filter | None = None, **options: Any) -> None:
        silences = Silences(Places(services))
        self.tracker = StallTracker(hz=250, idle_timeouts=silences)
        self.sink = MetricsSink(silences, min_idle_ms=60_000, hooks=HOOKS, version="0.1.0", kernel="6.18", **options)
        self._wanted = wanted or Filter()
        self._totals = Totals()

    def take(self, events: Iterable[Event], until_ns: int | None = None) -> Metered:
        for each in events:
            run([Batch([each], each.ktime_ns)], self._wanted, self.tracker, [], self._totals, observers=[self.sink])
        if until_ns is not None:
            run([Batch([], until_ns)], self._wanted, self.tracker, [], self._totals, observers=[self.sink])
        return self

    def end(self) -> Metered:
        finish(self.tracker, self._wanted, [], self._totals, observers=[self.sink])
        self.sink.close()
        return self

    @property
    def text(self) -> str:
        self.sink._next_s = 0  # a snapshot is due
        self.sink.flush(self._totals.until_ns)
        return exposition(self.sink.latest).decode()

    def value(self, name: str, *labels: str) -> float | None:
        return series_of(self.text).get(f"tcpwatch_{name}", {}).get(labels)


def lost(at: float, hook: str = "tcp_probe", count: int = 3) -> Event:
    return event("lost", at, hook=hook, count=count, sock=None, **dict.fromkeys(("laddr", "lport", "raddr", "rport")))


def revoked(at: float) -> list[Event]:
    """A stall whose next retransmission comes much later than it is due, so that its end is revoked."""
    names: dict[str, Any] = {"sock": "again", "silent_ms": 300}
    first, second, third = freeze(2, start=at, **names)
    return [first, second, third, freeze(5, start=at, **names)[-1], *close(at + 13.4, sock="again")]


def all_kinds() -> list[Event]:
    """A night, clients of a server that die, keepalive, a reset, a wait, loss; one end that is revoked."""
    server: dict[str, Any] = {"lport": 5432, "rport": 40000, "raddr": "10.66.9.1"}
    other: dict[str, Any] = {**server, "raddr": "10.66.9.2"}
    events = a_night()
    events += freeze(start=100, silent_ms=20 * 60_000, sock="a", **server) + close(113.4, sock="a", **server)
    events += freeze(start=120, silent_ms=30 * 60_000, sock="b", **other) + close(133.4, sock="b", **other)
    events += [
        heard(140, silent_ms=10 * 60_000, sock="c", **server),
        heard(141, silent_ms=15 * 60_000, sock="d", **other),
    ]
    events += [probe(150 + 75 * (n - 1), n, sock="kept") for n in range(1, 4)]
    events += [reset(200, sock="rst", unacked_bytes=50), *close(200, "ECONNRESET", 104, sock="rst")]
    events += [rtx("tlp", 300, sock="presumed", silent_ms=300), *revoked(310)]
    events += [waiting(20, sock="asked"), lost(600)]
    return sorted(events, key=lambda each: each.ktime_ns)


def reported(path: Path, events: list[Event]) -> list[dict[str, Any]]:
    shown = tcpwatch("report", record(path, events), "--json")
    assert shown.returncode == 0, shown.stderr
    return [json.loads(line) for line in shown.stdout.splitlines()]


@pytest.mark.parametrize("events", [a_night(), all_kinds()], ids=["a night", "all kinds"])
def test_they_equal_the_report_of_a_recording(events: list[Event], tmp_path: Path) -> None:
    counted = of_metrics(Metered().take(events).end().text)
    report = of_report(reported(tmp_path / "x.tw", events))
    assert counted.stalls == report.stalls and len(counted.stalls) >= 3
    assert counted.lost == report.lost
    assert {key: counted.survived_s[key] for key in report.survived_s} == report.survived_s
    assert counted.fatal_s == report.fatal_s and report.fatal_s
    assert counted.segments == sum(each.event == "retransmit" for each in events)
    assert counted.keepalives == sum(each.event == "keepalive" for each in events)


def test_a_filter_on_events_leaves_nothing_out_of_the_metrics() -> None:
    every = Metered().take(all_kinds()).end().text
    for wanted in (Filter(events=frozenset({"stall"})), Filter(min_idle_ms=HOUR_MS)):
        assert Metered(wanted=wanted).take(all_kinds()).end().text == every


def test_an_end_without_evidence_counts_when_nothing_revokes_it() -> None:
    metered = Metered().take([rtx("tlp", 0, silent_ms=300)], 30 * 10**9)
    assert series_of(metered.text).get("tcpwatch_stalls_total") is None
    metered.take([], 40 * 10**9 + HELD_NS)
    [(labels, count)] = series_of(metered.text)["tcpwatch_stalls_total"].items()
    assert (labels, count) == (("presumed", "client", "10.66.2.2:3306", "no-answer"), 1)
    assert metered.value("stall_duration_seconds_count", "client", "10.66.2.2:3306") == 1


def test_an_open_stall() -> None:
    """While it lasts: its number, its bytes, when the kernel gives up, and the silence that was fatal."""
    events = freeze(start=10, silent_ms=75_200, unsent_bytes=1000)
    metered = Metered().take([heard(0, silent_ms=70_000, sock="other"), *events[:2]])
    mysql = ("client", "10.66.2.2:3306")
    assert metered.value("stalls_open", *mysql, "idle-drop") == 1
    assert metered.value("stuck_bytes", *mysql) == 1527
    assert metered.value("silence_fatal_min_seconds", *mysql) is None, "one lost packet is no evidence"
    assert metered.value("silence_survived_max_seconds", *mysql) == 70
    metered.take(events[2:])
    assert metered.value("silence_fatal_min_seconds", *mysql) == 75
    gives_up_s = metered.value("stall_gives_up_timestamp_seconds", *mysql)
    assert gives_up_s == pytest.approx(1_800_000_000 + 10 + 13.4, abs=0.5)
    metered.take(close(23.4))
    assert metered.value("stalls_open", *mysql, "idle-drop") == 0
    assert metered.value("stuck_bytes", *mysql) == 0
    assert metered.value("stall_gives_up_timestamp_seconds", *mysql) is None
    assert metered.value("stalls_total", "timed-out", *mysql, "idle-drop") == 1


def test_a_revoked_end_does_not_count() -> None:
    metered = Metered()
    metered.take(revoked(0)[:3], 8 * 10**9)
    mysql = ("client", "10.66.2.2:3306")
    assert metered.value("stalls_open", *mysql, "no-answer") == 0
    metered.take(revoked(0)[3:4])
    assert metered.value("stalls_open", *mysql, "path-loss") == 1
    text = metered.take(revoked(0)[4:]).end().text
    assert of_metrics(text).stalls == {(mysql[1], mysql[0], "path-loss", "timed-out"): 1}


def test_silences_of_a_service_without_a_place_are_there_once_it_stalls() -> None:
    metered = Metered(services=1).take([heard(0, silent_ms=70_000, sock="other")])
    assert metered.value("silence_survived_max_seconds", "client", "10.66.2.2:3306") is None
    metered.take(freeze(1, start=10, silent_ms=75_200))
    assert metered.value("silence_survived_max_seconds", "client", "10.66.2.2:3306") == 70


def test_a_silence_before_a_stall_that_recovers_was_not_fatal() -> None:
    metered = Metered().take(freeze(4, silent_ms=75_200))
    assert metered.value("silence_fatal_min_seconds", "client", "10.66.2.2:3306") == 75
    metered.take([heard(20, silent_ms=95_000)])
    assert metered.value("silence_fatal_min_seconds", "client", "10.66.2.2:3306") is None


def test_connections_at_risk() -> None:
    dead: dict[str, Any] = {"kind": "idle", "silent_ms": 2 * HOUR_MS}
    idle = [event("found", 1, sock=f"idle{n}", **dead) for n in range(4)]
    mysql = ("client", "10.66.2.2:3306")
    metered = Metered().take([*freeze(), *idle])
    assert metered.value("connections_at_risk", *mysql) == 4
    metered.take([heard(60, sock="idle0"), *close(61, None, sock="idle1"), probe(61, 1, sock="idle2")])
    assert metered.value("connections_at_risk", *mysql) == 2, "a probe that is sent proves nothing"
    metered.take(freeze(start=62, sock="idle2"))
    assert metered.value("connections_at_risk", *mysql) == 1, "now it is an open stall"
    metered.take([lost(80)])
    assert metered.value("connections_at_risk", *mysql) == 0
    assert "connections_at_risk" not in Metered(sees_resumes=False).take([*freeze(), *idle]).text


def test_nothing_is_at_risk_beside_a_connection_that_recovers() -> None:
    """No silence was fatal then. Those of another service stay."""
    mysql, redis = ("client", "10.66.2.2:3306"), ("client", "10.66.2.2:6379")
    other: dict[str, Any] = {"rport": 6379, "sock": "other"}
    idle = [
        event("found", 1, sock=f"idle{port}", kind="idle", silent_ms=2 * HOUR_MS, rport=port) for port in (3306, 6379)
    ]
    metered = Metered().take([*freeze(4), *freeze(4, **other), *idle])
    assert [metered.value("connections_at_risk", *each) for each in (mysql, redis)] == [1, 1]
    metered.take([heard(4, silent_ms=HOUR_MS)])
    assert [metered.value("connections_at_risk", *each) for each in (mysql, redis)] == [0, 1]


def test_what_there_is_before_the_first_event() -> None:
    found = series_of(Metered().text)
    assert found["tcpwatch_hook_attached"] == {("tcp_retransmit_skb",): 1, ("tcp_probe",): 0}
    assert found["tcpwatch_lost_events_total"] == {("tcp_retransmit_skb",): 0, ("tcp_probe",): 0}
    assert found["tcpwatch_retransmitted_segments_total"] == {(kind,): 0 for kind in SEGMENT_KINDS}
    assert found["tcpwatch_build_info"] == {("6.18", "0.1.0"): 1}
    ended = series_of(Metered().end().text)
    assert ended["tcpwatch_hook_attached"] == {("tcp_retransmit_skb",): 0, ("tcp_probe",): 0}


def many(services: int, start: int = 0) -> Iterable[Event]:
    """A connection to each service that survives, and one that freezes and dies; every third is a server's."""
    for number in range(start, start + services):
        address = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
        ends: dict[str, Any] = {"raddr": address, "rport": 3306}
        if number % 3 == 0:
            ends = {"raddr": address, "rport": 50000, "lport": 1 + number % 30000}
        at, sock = number * 20.0, f"s{number}"
        yield heard(at, silent_ms=HOUR_MS, sock=f"alive{number}", **ends)
        yield rtx(at=at + 1, sock=sock, **ends)
        yield rtx(at=at + 2, attempt=2, sock=sock, **ends)
        yield rtx(at=at + 3, attempt=3, sock=sock, **ends)
        yield event("found", at + 4, kind="idle", silent_ms=2 * HOUR_MS, sock=f"idle{number}", **ends)
        yield from close(at + 5, sock=sock, **ends)


def test_ten_thousand_services_stay_within_the_bound() -> None:
    metered = Metered(services=50).take(many(60))
    named = {labels for labels in series_of(metered.text)["tcpwatch_stuck_bytes"] if "other" not in labels}
    assert len(named) == 50
    metered.take(many(10_000, start=60))
    found = series_of(metered.end().text)
    labels = 50 + 2
    bounds = {
        "tcpwatch_stalls_total": labels * len(Verdict) * len(Outcome),
        "tcpwatch_stalls_open": labels * len(Verdict),
        "tcpwatch_stall_duration_seconds_bucket": labels * (len(DURATIONS_S) + 1),
        "tcpwatch_retransmitted_segments_total": len(SEGMENT_KINDS) + 1,
        "tcpwatch_keepalive_probes_total": 1,
        "tcpwatch_lost_events_total": len(HOOKS) + 1,
        "tcpwatch_hook_attached": len(HOOKS),
        "tcpwatch_build_info": 1,
    }
    for name, values in found.items():
        assert len(values) <= bounds.get(name, labels), name
    assert sum(map(len, found.values())) < 1500
    assert {each for each in found["tcpwatch_stuck_bytes"] if "other" not in each} == named, "they keep their series"
    assert sum(found["tcpwatch_stalls_total"].values()) == 10_060
    assert not any("other" in each for each in found["tcpwatch_silence_fatal_min_seconds"])


def test_silences_leave_room_for_stalls() -> None:
    healthy = [heard(n, silent_ms=HOUR_MS, sock=f"s{n}", raddr=f"10.0.0.{n}") for n in range(1, 100)]
    metered = Metered(services=10).take([*healthy, *freeze(start=200)])
    assert metered.value("stalls_open", "client", "10.66.2.2:3306", "idle-drop") == 1
    assert len(series_of(metered.text)["tcpwatch_silence_survived_max_seconds"]) == 5


def test_no_label_names_a_process_a_port_or_a_client() -> None:
    ends: dict[str, Any] = {
        "laddr": "fd00::5",
        "raddr": "fd00::9",
        "lport": 5432,
        "rport": 40123,
        "family": 6,
        "pid": 77,
        "comm": "pg",
    }
    text = Metered().take([*freeze(sock="v6", **ends), *freeze(start=20)]).end().text
    labels = set(re.findall(r'"([^"]*)"', text))
    assert "*:5432" in labels and "10.66.2.2:3306" in labels
    assert not any(word in label for word in ("fd00", "40123", "33356", "pg", "10.66.1.2") for label in labels)
    client = Metered().take(freeze(sock="v6", **{**ends, "lport": 40123, "rport": 5432})).text
    assert 'service="[fd00::9]:5432"' in client


def test_promtool_accepts_them() -> None:
    for text in (Metered().text, Metered().take(all_kinds()).text, Metered(services=3).take(many(20)).end().text):
        checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True)
        assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_each_hook_has_its_name() -> None:
    class Everything:
        def hook_arguments(self, tracepoint: str) -> int:
            return 9

        def hook_type(self, tracepoint: str) -> int | None:
            return 1

        function = hook_type

    class Nothing(Everything):
        def hook_arguments(self, tracepoint: str) -> int:
            return 0

    def names(types: Any, timers: Sequence[int], **options: Any) -> dict[str, bool]:
        chosen = probes.choose(types, kprobes=False, timers=probes.TimerFunctions(*timers), **options)
        return probes.attached_hooks(chosen)

    every = {*probes.LOST_HOOKS, "task_file"}
    assert names(Everything(), (1, 1)) == dict.fromkeys(every, True)
    assert names(Nothing(), (0, 0)) == {**dict.fromkeys(every, False), "task_file": True}
    assert names(Everything(), (1, 1), resume=False)["tcp_probe"] is False
