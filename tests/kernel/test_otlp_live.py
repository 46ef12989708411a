"""What a real run exports is what it records and what its Prometheus text has; a receiver never delays the run."""

from __future__ import annotations

import ctypes
import json
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from acting import act
from google.protobuf.json_format import Parse
from metrics_comparison import series_of
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from otlp_receiver import Json, Receiver, attributes_of, series_of_metrics, silence
from prometheus import running, wait_for_line
from watching import PATIENCE_S, both_ends

from tracer.lab.namespace import Namespace, wait_until
from tracer.lab.network import SERVER, Lab
from tracer.lab.peers import Server, embedded_client
from tracer.model.times import parse_time
from tracer.output.otlp.log_records import ACTION, STALL_END, STALL_FOUND
from tracer.output.otlp.names import name_of

PORT = 3306
_CLONE_NEWNET = 0x40000000


def recorded(path: Path, **fields: Any) -> list[Json]:
    """The events of a recording that have these fields, as far as it is written."""
    lines = path.read_text().splitlines() if path.exists() else []
    events = [json.loads(line) for line in lines[1:] if line.endswith("}")]
    return [each for each in events if all(each.get(name) == value for name, value in fields.items())]


def named(receiver: Receiver, name: str) -> list[Json]:
    """The log records of that name."""
    return [each for each in receiver.records() if each["eventName"] == name]


def assert_same(records: list[Json], events: list[Json]) -> None:
    """Each event has one log record, with its time and all its values."""
    assert len(records) == len(events)
    for record, event in zip(records, events):
        attributes = attributes_of(record["attributes"])
        assert int(record["timeUnixNano"]) == parse_time(event["time"])
        for field, value in event.items():
            if field not in ("time", "event", "family", "state"):
                assert attributes[name_of(field)] == value, field


def threads_without_capabilities(pid: int) -> int:
    """The number of threads with neither an effective nor a permitted capability."""
    count = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        masks = [line.split() for line in (task / "status").read_text().splitlines()]
        count += all(int(each[1], 16) == 0 for each in masks if each and each[0] in ("CapEff:", "CapPrm:"))
    return count


def test_what_is_exported_is_what_is_recorded(tmp_path: Path) -> None:
    recording, prom, log = tmp_path / "x.tw", tmp_path / "tcpwatch.prom", tmp_path / "log"
    with (
        Receiver() as receiver,
        Lab(ttl_s=600, retries2=15) as lab,
        Server(lab.server, SERVER, PORT),
        embedded_client(lab.client, SERVER, PORT) as early,
        embedded_client(lab.client, SERVER, PORT) as late,
    ):
        assert early.ask("query")["ok"] and late.ask("query")["ok"]
        lab.drop_everything()
        early.send("query")
        retransmitted = lab.client.counter("TcpExtTCPTimeouts")
        wait_until(lambda: lab.client.counter("TcpExtTCPTimeouts") > retransmitted, PATIENCE_S, "it stalls")
        command: list[str | Path] = [
            sys.executable, "-m", "tracer", "record", "-o", recording, "--netns", both_ends(lab),
            "--metrics", prom, "--otlp", receiver.url, "--otlp-header", "x-api-key=s3cr3t",
        ]  # fmt: skip
        with running(command, log) as process:
            wait_for_line(log, "tracing")
            receiver.wait_for(lambda: receiver.requests)
            wait_until(
                lambda: threads_without_capabilities(process.pid) == 2,
                PATIENCE_S,
                "its thread and that of actions keep none",
            )
            receiver.wait_for(lambda: named(receiver, STALL_FOUND))
            late.send("query")
            wait_until(lambda: len(recorded(recording, event="stall", phase="begin")) == 2, PATIENCE_S, "two stalls")
            assert act("end", "--netns", lab.client.netns, "--yes").returncode == 0
            receiver.wait_for(lambda: len(named(receiver, STALL_END)) == 2 and len(named(receiver, ACTION)) == 2)
    assert_same(named(receiver, STALL_END), recorded(recording, event="stall", phase="end"))
    assert_same(named(receiver, ACTION), recorded(recording, event="action"))
    [found] = named(receiver, STALL_FOUND)
    attributes = attributes_of(found["attributes"])
    [began] = recorded(recording, event="stall", phase="begin", id=attributes["tcpwatch.id"])
    assert_same([found], [began])
    assert attributes["process.pid"] == early.pid and attributes["server.port"] == PORT
    for each in receiver.requests:
        is_logs = each.path == "/v1/logs"
        Parse(each.body, ExportLogsServiceRequest() if is_logs else ExportMetricsServiceRequest())
        assert each.headers["x-api-key"] == "s3cr3t"
    last = receiver.of("/v1/metrics")[-1].message
    assert series_of_metrics(last) == series_of(prom.read_text())
    assert set(series_of_metrics(last)["tcpwatch_hook_attached"].values()) == {0}, "of the end of the run"
    assert f"exported 5 log records to {receiver.url}\n" in log.read_text()
    assert "s3cr3t" not in log.read_text() + recording.read_text()


def test_a_receiver_that_never_answers_costs_nothing_of_the_recording(tmp_path: Path) -> None:
    """It is reported with its hint, ^C flushes for a while, and ^C again ends that at once."""
    recording, log = tmp_path / "x.tw", tmp_path / "log"
    patient = "import tracer.output.otlp.exporter as e; e.FLUSH_S = e.TIMEOUT_S = 3600; "
    with (
        Receiver(then=silence) as receiver,
        Lab(ttl_s=600, retries2=15) as lab,
        Server(lab.server, SERVER, PORT),
        embedded_client(lab.client, SERVER, PORT) as client,
    ):
        assert client.ask("query")["ok"]
        command: list[str | Path] = [
            sys.executable, "-c", f"{patient}from tracer.cli.main import main; main()",
            "record", "-o", recording, "--netns", both_ends(lab), "--otlp", receiver.url,
        ]  # fmt: skip
        with running(command, log, ends=-signal.SIGINT, is_over=True) as process:
            wait_for_line(log, "tracing")
            receiver.wait_for(lambda: receiver.requests)
            lab.drop_everything()
            client.send("query")
            wait_until(lambda: recorded(recording, event="stall", phase="begin"), PATIENCE_S, "the stall is recorded")
            process.send_signal(signal.SIGINT)
            wait_until(lambda: recorded(recording, event="stall", phase="end"), PATIENCE_S, "so is its end")
            assert process.poll() is None, "it still waits for the receiver"
            process.send_signal(signal.SIGINT)
    assert recorded(recording, event="stall", phase="end", outcome="ongoing")
    assert "Traceback" not in log.read_text()


def listening_in(namespace: Namespace, host: str, port: int) -> socket.socket:
    """A listener in that network namespace. Later, any thread may use it."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/thread-self/ns/net").open() as own, Path(f"/proc/{namespace.pid}/ns/net").open() as other:
        assert libc.setns(other.fileno(), _CLONE_NEWNET) == 0
        try:
            return socket.create_server((host, port))
        finally:
            assert libc.setns(own.fileno(), _CLONE_NEWNET) == 0


def test_stalls_of_its_own_connection_do_not_feed_themselves(tmp_path: Path) -> None:
    """They are recorded and exported as any other: one for each attempt at most, and none once the path is good."""
    recording, log = tmp_path / "x.tw", tmp_path / "log"
    impatient = (
        "import tracer.output.otlp.exporter as e, tracer.output.otlp.retrying as r; "
        "e.TIMEOUT_S = 3.0; e.METRICS_EVERY_S = 0.2; e.BATCH_EVERY_S = 0.1; r.MAX_S = 1.0; "
    )
    with (
        Lab(ttl_s=600, retries2=15) as lab,
        Receiver(listening=listening_in(lab.server, SERVER, PORT)) as receiver,
    ):
        command = lab.client.command([
            sys.executable, "-c", f"{impatient}from tracer.cli.main import main; main()",
            "record", "-o", recording, "--netns", both_ends(lab), "--otlp", receiver.url,
        ])  # fmt: skip
        with running(command, log) as process:
            receiver.wait_for(lambda: len(receiver.requests) >= 3)
            assert receiver.connections == 1
            lab.drop_everything()
            wait_until(lambda: len(ended_stalls(recording)) >= 3, PATIENCE_S, "three attempts stall")
            lab.restore()
            receiver.wait_for(lambda: set(exported_stalls(receiver)) >= set(ended_stalls(recording)))
            before = len(receiver.of("/v1/metrics"))
            receiver.wait_for(lambda: len(receiver.of("/v1/metrics")) >= before + 20)
            attempts = 1 + len(recorded(recording, event="state", new_state="SYN_SENT"))
            stalls = ended_stalls(recording)
            assert len(stalls) <= attempts
    assert set(exported_stalls(receiver)) == set(ended_stalls(recording)) == set(stalls)
    own = recorded(recording, event="stall", phase="end", pid=process.pid)
    assert own and {each["rport"] for each in own} == {PORT}
    assert "dropped" not in log.read_text()


def ended_stalls(recording: Path) -> list[str]:
    """The ids of the stalls that have ended."""
    return [each["id"] for each in recorded(recording, event="stall", phase="end")]


def exported_stalls(receiver: Receiver) -> list[str]:
    """The ids of the stalls with a log record of their end."""
    ends = named(receiver, STALL_END)
    return [str(attributes_of(each["attributes"])["tcpwatch.id"]) for each in ends]


def test_a_run_without_a_receiver_ends_by_itself(tmp_path: Path) -> None:
    recording, log = tmp_path / "x.tw", tmp_path / "log"
    with Receiver() as gone:
        url = gone.url
    command: list[str | Path] = [
        sys.executable, "-m", "tracer", "record", "-o", recording, "--netns", "1", "--otlp", url, "--duration", "1",
    ]  # fmt: skip
    with running(command, log, is_over=True):
        pass
    text = log.read_text()
    assert f"cannot export to {url}/v1/metrics: Connection refused; trying again" in text and "Hint: curl" in text
    assert f"exported 0 log records to {url}; its metrics are out of date: Connection refused" in text
