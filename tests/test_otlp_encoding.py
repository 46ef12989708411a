"""What is exported, parsed by OpenTelemetry's definition of the protocol, is what recordings and metrics have."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from builders import START, event
from google.protobuf.json_format import Parse
from metrics_comparison import series_of
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import SeverityNumber
from otlp_receiver import Json, attributes_of, plain, series_of_metrics
from recording_files import HEADER, read
from stall_events import a_night, freeze, heard, waiting

from tracer.analysis.outcomes import Outcome
from tracer.analysis.stalls import StallTracker
from tracer.analysis.verdicts import Verdict
from tracer.model.events import DECLARATIONS, Event
from tracer.model.times import format_time
from tracer.output.metrics.counting import MetricsSink
from tracer.output.metrics.exposition import exposition
from tracer.output.metrics.families import families
from tracer.output.metrics.services import Places, Silences
from tracer.output.metrics.snapshot import Snapshot
from tracer.output.otlp import metric_points
from tracer.output.otlp.backlog import Backlog
from tracer.output.otlp.log_records import ACTION, STALL_END, STALL_FOUND, Noticed, Severity, log_record, request
from tracer.output.otlp.names import CONVENTIONAL, DERIVED, name_of
from tracer.output.otlp.sink import LogRecordSink
from tracer.output.otlp.values import resource
from tracer.recordings.encoding import to_line

RECORDINGS = Path(__file__).parent / "recordings/v1"
RESOURCE = resource("0.1.0", "db1")


def parsed(message: Json, kind: type) -> Any:
    """The message, which has no field that the protocol lacks."""
    return Parse(json.dumps(message), kind(), ignore_unknown_fields=False)


def recorded() -> list[Event]:
    """The stalls' ends and the actions of all samples: every field that there is."""
    found = []
    for path in sorted(RECORDINGS.glob("*.tw")):
        events, _ = read(path)
        found += [each for each in events if each.event == "action" or each.phase == "end"]
    return found


def exported(events: list[Event]) -> list[Json]:
    return [log_record(Noticed(ACTION if each.event == "action" else STALL_END, each, START)) for each in events]


def taken(events: list[Event], started_ns: int = START) -> list[Noticed]:
    """What a run with these events puts into the backlog."""
    backlog, tracker = Backlog(), StallTracker(hz=250)
    sink = LogRecordSink(backlog)
    sink.opened(dataclasses.replace(HEADER, started=format_time(started_ns)))
    for each in events:
        sink.write(tracker.feed(each))
    sink.write(tracker.finish(events[-1].ktime_ns))
    sink.flush(0)
    sink.close()
    return list(backlog.batch())


def keys_of(message: Any) -> Iterator[str]:
    if isinstance(message, dict):
        yield from message
        for each in message.values():
            yield from keys_of(each)
    elif isinstance(message, list):
        for each in message:
            yield from keys_of(each)


def test_log_records_have_every_field_of_the_events() -> None:
    events = recorded()
    kinds = {each.event for each in events}
    assert kinds == {"stall", "action"} and len(events) > 10
    message = request([Noticed(STALL_END, each, START) for each in events], RESOURCE, "0.1.0")
    logs = parsed(message, ExportLogsServiceRequest)
    assert all("_" not in key for key in keys_of(message)), "lowerCamelCase"
    records = message["resourceLogs"][0]["scopeLogs"][0]["logRecords"]
    for record, of_protocol, of in zip(records, logs.resource_logs[0].scope_logs[0].log_records, events):
        attributes = attributes_of(record["attributes"])
        assert len(attributes) == len(of_protocol.attributes), "no key comes twice"
        assert of_protocol.time_unix_nano == of.time_ns and isinstance(record["timeUnixNano"], str)
        assert of_protocol.observed_time_unix_nano == START
        for name, value in json.loads(to_line(of)).items():
            if name in ("time", "event", "family", "state"):
                continue
            assert attributes[name_of(name)] == value, name
        assert attributes["network.transport"] == "tcp"
        if of.family:
            assert attributes["network.type"] == f"ipv{of.family}"
        assert of_protocol.body.string_value and "\n" not in of_protocol.body.string_value


def test_metrics_are_those_of_prometheus() -> None:
    silences = Silences(Places(3))
    tracker = StallTracker(hz=250, idle_timeouts=silences)
    hooks = {"tcp_retransmit_skb": True, "tcp_probe": False}
    counted = MetricsSink(
        silences, min_idle_ms=60_000, hooks=hooks, version="0.1.0", kernel="6.18",
        unexported=lambda: {"queue-full": 2, "rejected": 0, "undelivered": 0},
    )  # fmt: skip
    counted.write(tracker.feed(*a_night(), *freeze(start=200, sock="open", silent_ms=75_000)))
    counted.write([event("lost", 300, hook="tcp_probe", count=3, sock=None)])
    counted.flush(0)
    assert_equal(counted.latest)
    counted.close()
    assert_equal(counted.latest)


def assert_equal(snapshot: Snapshot) -> None:
    now_ns = START + 10**9
    message = metric_points.request(families(snapshot), RESOURCE, "0.1.0", started_ns=START, now_ns=now_ns)
    of_prometheus = series_of(exposition(snapshot).decode())
    assert series_of_metrics(message) == of_prometheus and len(of_prometheus) >= 14
    metrics = parsed(message, ExportMetricsServiceRequest).resource_metrics[0].scope_metrics[0].metrics
    types = {each.name: each for each in metrics}
    stalls = types["tcpwatch_stalls_total"].sum
    assert stalls.is_monotonic and stalls.aggregation_temporality == 2, "cumulative"
    assert {(each.start_time_unix_nano, each.time_unix_nano) for each in stalls.data_points} == {(START, now_ns)}
    durations = types["tcpwatch_stall_duration_seconds"]
    assert durations.unit == "s" and durations.histogram.aggregation_temporality == 2
    for each in durations.histogram.data_points:
        assert sum(each.bucket_counts) == each.count and len(each.bucket_counts) == len(each.explicit_bounds) + 1
    for metric in metrics:
        assert metric.description and metric.name.startswith("tcpwatch_")


def test_which_events_have_a_log_record() -> None:
    """The end of each stall, what was open when tracing began, and nothing else."""
    found = taken(a_night(), started_ns=START + 15 * 10**9)
    ends = [each for each in found if each.name == STALL_END]
    assert sorted(each.event.sock or "" for each in ends) == ["dead", "frozen0", "frozen1", "lossy"]
    assert [each.event.sock for each in found if each.name == STALL_FOUND] == ["frozen0"]
    assert len({each.event.id for each in ends}) == len(ends)
    answered = [waiting(), heard(600, silent_ms=180_000, unacked_bytes=0)]
    waits = taken(answered, started_ns=START + 490 * 10**9)
    assert [each.name for each in waits] == [STALL_FOUND, STALL_END]
    assert {each.event.verdict for each in waits} == {"unanswered"}
    assert [each.name for each in taken(answered, started_ns=START)] == [STALL_END]


def test_the_body_of_an_end_is_in_the_past() -> None:
    answered = [waiting(), heard(600, silent_ms=180_000, unacked_bytes=0)]
    [end] = taken(answered, started_ns=START)
    assert plain(log_record(end)["body"]) == (
        "unanswered: - 10.66.1.2:33356 → 10.66.2.2:3306: Waited for the reply to a request. Answered after 3m01s."
    )
    closed = event(
        "stall", phase="end", id="1", verdict="zero-window", outcome="recovered", retransmits=3, duration_ms=14_000
    )
    [record] = exported([closed])
    assert "The peer's window was closed: 3 probes. Answered after 14.0s." in plain(record["body"])


@pytest.mark.parametrize(
    ("fields", "severity", "error"),
    [
        ({"outcome": "timed-out", "error": "ETIMEDOUT"}, Severity.ERROR, "ETIMEDOUT"),
        ({"outcome": "reset"}, Severity.ERROR, "reset"),
        ({"outcome": "recovered"}, Severity.INFO, None),
        ({"outcome": "ongoing"}, Severity.WARN, None),
        ({"outcome": "closed"}, Severity.WARN, None),
        ({"outcome": "recovered", "verdict": "packet-loss"}, Severity.DEBUG, None),
        ({"outcome": "reset", "verdict": "packet-loss", "error": "ECONNRESET"}, Severity.ERROR, "ECONNRESET"),
        ({"outcome": "a later version's", "verdict": "its own"}, Severity.WARN, None),
    ],
)
def test_severities(fields: dict[str, Any], severity: Severity, error: str | None) -> None:
    ended = event("stall", phase="end", id="1", **{"verdict": "idle-drop", "duration_ms": 7, **fields})
    [record] = exported([ended])
    assert (record["severityNumber"], record["severityText"]) == (severity.value, severity.name)
    assert SeverityNumber.Name(record["severityNumber"]) == f"SEVERITY_NUMBER_{severity.name}"
    assert attributes_of(record["attributes"]).get("error.type") == error


def test_every_outcome_and_verdict_has_a_severity_and_a_sentence() -> None:
    for verdict in Verdict:
        for outcome in Outcome:
            ended = event("stall", phase="end", id="1", verdict=verdict.value, outcome=outcome.value, duration_ms=7)
            [record] = exported([ended])
            assert plain(record["body"]).startswith(f"{verdict}: - 10.66.1.2:33356 → 10.66.2.2:3306: ")


def test_the_ends_are_named_by_their_roles() -> None:
    client, server = exported([event("stall", phase="end"), event("stall", phase="end", lport=443, rport=50000)])
    of_client, of_server = attributes_of(client["attributes"]), attributes_of(server["attributes"])
    assert (of_client["server.address"], of_client["server.port"]) == ("10.66.2.2", 3306)
    assert (of_client["client.address"], of_client["client.port"]) == ("10.66.1.2", 33356)
    assert (of_server["server.address"], of_server["server.port"]) == ("10.66.1.2", 443)
    assert (of_server["client.address"], of_server["client.port"]) == ("10.66.2.2", 50000)
    assert of_server["network.peer.port"] == 50000 and of_server["network.local.port"] == 443


def test_owners_have_the_names_of_the_conventions() -> None:
    where: dict[str, Any] = {
        "container": "0f" * 32,
        "container_name": "app",
        "pod": "web-1",
        "pod_namespace": "prod",
        "unit": "x.service",
    }
    [record] = exported([event("stall", phase="end", pid=7, comm="gunicorn", exe="python3.11", pids=[7, 8], **where)])
    attributes = attributes_of(record["attributes"])
    for name, value in {
        "process.pid": 7, "process.executable.name": "python3.11",
        "tcpwatch.comm": "gunicorn", "tcpwatch.pids": [7, 8],
        "container.id": "0f" * 32, "container.name": "app", "k8s.container.name": "app", "k8s.pod.name": "web-1",
        "k8s.namespace.name": "prod", "tcpwatch.unit": "x.service",
    }.items():  # fmt: skip
        assert attributes[name] == value, name


def test_text_that_is_not_unicode_is_exported() -> None:
    ended = event("stall", phase="end", comm="a\udcff\x1b[31m", verdict="idle-drop", cgroup="/\u202e")
    message = request([Noticed(STALL_END, ended, START)], RESOURCE, "0.1.0")
    record = parsed(message, ExportLogsServiceRequest).resource_logs[0].scope_logs[0].log_records[0]
    assert {each.key: each.value.string_value for each in record.attributes}["tcpwatch.comm"] == "a\\udcff\x1b[31m"
    assert "\x1b" not in record.body.string_value


def test_the_page_has_every_name() -> None:
    page = (Path(__file__).parent.parent / "docs/fleet.md").read_text()
    assert f"`{name_of('verdict')}`" in page
    for field, name in CONVENTIONAL.items():
        assert field in DECLARATIONS
        assert f"| `{name}` | `{field}` |" in page, name
    for name, meaning in DERIVED.items():
        assert f"| `{name}` | {meaning} |" in page, name
    for word in (
        STALL_END,
        STALL_FOUND,
        ACTION,
        *(each.name for each in Severity),
        *attributes_of(RESOURCE["attributes"]),
    ):
        assert f"`{word}`" in page, word
