"""The exporter and a slow, absent, busy or broken receiver: what arrives, what is counted, how long it takes."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

import pytest
from builders import START, event
from otlp_receiver import Behaviour, Json, Receiver, answer, drip, raw, records_of, silence

from tracer.model.errors import TcpwatchError
from tracer.model.events import Event
from tracer.output.otlp import exporter, retrying
from tracer.output.otlp.backlog import MAX_BATCH, Backlog
from tracer.output.otlp.client import Answer, Client, Result
from tracer.output.otlp.endpoint import parse_url, with_headers
from tracer.output.otlp.exporter import LOGS, METRICS, Exporter
from tracer.output.otlp.log_records import STALL_END, Noticed
from tracer.output.otlp.retrying import MAX_BUSY_S, MAX_RETRY_AFTER_S, MAX_S, Retrying
from tracer.output.otlp.values import resource


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter, "BATCH_EVERY_S", 0.01)
    monkeypatch.setattr(exporter, "TIMEOUT_S", 0.5)
    monkeypatch.setattr(retrying, "FIRST_S", 0.02)


def stall_end(number: int) -> Event:
    return event(
        "stall", number, phase="end", id=f"stall{number}", verdict="idle-drop", outcome="timed-out",
        error="ETIMEDOUT", errno=110, retransmits=5, duration_ms=13_400, idle_ms=60_000, advice=[],
    )  # fmt: skip


class Run:
    """An exporter, its complaints, and its log records."""

    def __init__(self, url: str, most: int = 100, **headers: str) -> None:
        self.backlog = Backlog(most)
        self.complaints: list[TcpwatchError] = []
        self.exporter = Exporter(
            with_headers(parse_url(url), headers.items()), self.backlog, resource("0.1.0", "db1"), "0.1.0",
            metrics=lambda: {"resourceMetrics": []}, complain=self.complaints.append, prepare=lambda: None,
        )  # fmt: skip
        self.exporter.start()

    def put(self, count: int, first: int = 0) -> None:
        for number in range(first, first + count):
            self.backlog.put(Noticed(STALL_END, stall_end(number), START))

    def finish(self) -> float:
        """End it. Returns the seconds that this took."""
        began = time.monotonic()
        self.exporter.close()
        return time.monotonic() - began

    @property
    def dropped(self) -> int:
        return sum(self.backlog.dropped.values())


def ids(records: list[Json]) -> list[str]:
    found = []
    for record in records:
        found += [each["value"]["stringValue"] for each in record["attributes"] if each["key"] == "tcpwatch.id"]
    return found


def test_each_record_arrives_once_in_order_over_one_connection() -> None:
    with Receiver() as receiver:
        run = Run(receiver.url + "/otlp/", most=5000, **{"X-Api-Key": "s3cret"})
        run.put(2 * MAX_BATCH + 1)
        receiver.wait_for(lambda: run.backlog.delivered == 2 * MAX_BATCH + 1)
        run.put(1, first=2 * MAX_BATCH + 1)
        assert run.finish() < exporter.FLUSH_S
        requests = receiver.of(f"/otlp{LOGS}")
        records = [record for each in requests for record in records_of(each.message)]
        assert ids(records) == [f"stall{number}" for number in range(2 * MAX_BATCH + 2)]
        assert all(len(list(records_of(each.message))) <= MAX_BATCH for each in requests)
        assert receiver.of(f"/otlp{METRICS}"), "the last metrics"
        assert receiver.connections == 1
        for each in receiver.requests:
            assert each.headers["content-type"] == "application/json" and each.headers["x-api-key"] == "s3cret"
            assert each.headers["host"] == f"127.0.0.1:{receiver.port}"
    assert not run.complaints
    assert run.exporter.summary() == f"exported 1,026 log records to {receiver.url}/otlp"


@pytest.mark.parametrize(
    "behaviour",
    [
        answer("429 Too Many Requests", b"", "Retry-After: 0"),
        answer("503 Service Unavailable", b"overloaded"),
        answer("502 Bad Gateway", b"<html>", kind="text/html"),
        answer("504 Gateway Timeout"),
        raw(b""),
        raw(b"HT"),
        raw(b"HTTP/1.1 20"),
        raw(b"HTTP/1.1 503 Service Unavailable\r\nRetry-"),
        silence,
        drip,
    ],
    ids=["429", "503", "502", "504", "closes", "after 2 bytes", "in the status", "in a header", "silence", "drips"],
)
def test_what_may_succeed_later_is_sent_again(behaviour: Behaviour) -> None:
    with Receiver(*[behaviour] * 3) as receiver:
        run = Run(receiver.url)
        run.put(3)
        receiver.wait_for(lambda: run.backlog.delivered == 3)
        run.finish()
        attempts = [ids(list(records_of(each.message))) for each in receiver.of(LOGS)]
    assert attempts and all(each == ["stall0", "stall1", "stall2"] for each in attempts)
    assert run.dropped == 0
    assert len(run.complaints) == 1, "it is reported once"
    assert "trying again" in str(run.complaints[0]) and run.complaints[0].hint.startswith("curl ")


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        (answer("400 Bad Request", json.dumps({"code": 3, "message": "no such field"}).encode()), "no such field"),
        (answer("401 Unauthorized"), "401 Unauthorized"),
        (answer("404 Not Found", b"404 page not found", kind="text/plain"), "404"),
        (answer("413 Content Too Large"), "413"),
        (answer("500 Internal Server Error"), "500"),
        (answer("302 Found", b"", "Location: http://127.0.0.1:1/elsewhere"), "302"),
        (answer("200 OK", b"<html>It works!</html>", kind="text/html"), "not OTLP"),
        (answer("200 OK", b"[" * 100_000), "not OTLP"),
        (raw(b"SSH-2.0-OpenSSH_9.2\r\n"), "does not speak HTTP"),
        (raw(b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000), "does not speak HTTP"),
        (raw(b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x05\x00\x00\x40\x00"), "does not speak HTTP"),
    ],
    ids=["400", "401", "404", "413", "500", "redirect", "HTML", "deep JSON", "SSH", "a long header", "HTTP/2"],
)
def test_what_is_refused_is_dropped_and_counted(behaviour: Behaviour, words: str) -> None:
    with Receiver(then=behaviour) as receiver:
        run = Run(receiver.url)
        run.put(2)
        receiver.wait_for(lambda: run.dropped == 2)
        run.put(1, first=2)
        receiver.wait_for(lambda: run.dropped == 3)
        run.finish()
        assert ids(receiver.records()) == ["stall0", "stall1", "stall2"], "no record is sent twice"
    assert run.backlog.dropped == {"queue-full": 0, "rejected": 3, "undelivered": 0}
    [complaint] = [each for each in run.complaints if "are dropped" in str(each)]
    assert words in str(complaint) and complaint.hint
    assert "dropped 3: 3 rejected" in run.exporter.summary()


@pytest.mark.parametrize("rejected", ["2", 2])
def test_a_partial_success_is_counted_and_not_sent_again(rejected: Any) -> None:
    partial = {"partialSuccess": {"rejectedLogRecords": rejected, "errorMessage": "too \x1b[31mold"}}
    with Receiver(then=answer(body=json.dumps(partial).encode())) as receiver:
        run = Run(receiver.url)
        run.put(3)
        receiver.wait_for(lambda: run.dropped == 2)
        run.finish()
        assert len(receiver.records()) == 3
    assert run.backlog.delivered == 1
    complaint = next(each for each in run.complaints if "log records" in str(each))
    assert "it rejected 2: too \\x1b[31mold" in str(complaint)


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b'{"partialSuccess":{}}', b'{"partialSuccess":null}', b'{"partialSuccess":{"errorMessage":7}}'],
)
def test_a_full_success(body: bytes) -> None:
    with Receiver(then=answer(body=body)) as receiver:
        run = Run(receiver.url)
        run.put(1)
        run.finish()
    assert (run.backlog.delivered, run.dropped, run.complaints) == (1, 0, [])


@pytest.mark.parametrize("end", ["\r\nContent-Ty", "\r\nContent-Length: 7\r\n\r\n{"])
def test_what_was_accepted_is_not_sent_again_though_the_answer_is_truncated(end: str) -> None:
    with Receiver(then=raw(b"HTTP/1.1 200 OK" + end.encode())) as receiver:
        run = Run(receiver.url)
        run.put(1)
        receiver.wait_for(lambda: run.backlog.delivered == 1)
        run.finish()
        assert ids(receiver.records()) == ["stall0"]


def test_of_too_many_that_wait_the_oldest_are_dropped_and_the_rest_arrives_later() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    run = Run(f"http://127.0.0.1:{port}", most=10)
    run.put(MAX_BATCH + 25)
    deadline = time.monotonic() + 30
    while not any("are dropped" in str(each) for each in run.complaints):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert run.backlog.dropped["queue-full"] >= MAX_BATCH + 25 - 10 - MAX_BATCH
    with Receiver(listening=socket.create_server(("127.0.0.1", port))) as receiver:
        receiver.wait_for(lambda: not run.backlog.batch())
        run.finish()
        arrived = ids(receiver.records())
    assert arrived[-10:] == [f"stall{number}" for number in range(MAX_BATCH + 15, MAX_BATCH + 25)]
    assert run.backlog.delivered + run.dropped == MAX_BATCH + 25
    assert [str(each)[:13] for each in run.complaints] == ["cannot export", "log records f"]
    assert all(each.hint for each in run.complaints)


@pytest.mark.parametrize("behaviour", [silence, drip, answer("429 Too Many Requests", b"", "Retry-After: 3600")])
def test_the_end_is_bounded(behaviour: Behaviour, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter, "FLUSH_S", 0.3)
    monkeypatch.setattr(exporter, "TIMEOUT_S", 60.0)
    with Receiver(then=behaviour) as receiver:
        run = Run(receiver.url)
        run.put(3)
        receiver.wait_for(lambda: receiver.requests)
        run.put(2, first=3)
        took = run.finish()
    assert took < 5, "far less than the timeout of a request"
    assert run.backlog.dropped["undelivered"] == 5
    assert "dropped 5: 5 undelivered" in run.exporter.summary()


def test_what_waits_at_the_end_is_sent() -> None:
    with Receiver(answer("503 Service Unavailable")) as receiver:
        run = Run(receiver.url, most=2 * MAX_BATCH)
        receiver.wait_for(lambda: receiver.requests)
        run.put(2 * MAX_BATCH)
        run.finish()
    assert (run.backlog.delivered, run.dropped) == (2 * MAX_BATCH, 0)


def test_putting_never_waits_for_the_receiver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter, "TIMEOUT_S", 60.0)
    with Receiver(then=silence) as receiver:
        run = Run(receiver.url, most=1000)
        run.put(1)
        receiver.wait_for(lambda: receiver.requests)
        run.put(2000)
        assert len(receiver.requests) == 1 and not run.complaints, "the first exchange still goes on"
        run.exporter.end()


def test_the_thread_drops_its_capabilities_before_it_connects() -> None:
    with Receiver() as receiver:
        connections: list[int] = []
        run = Exporter(
            parse_url(receiver.url), Backlog(), resource("0.1.0", "db1"), "0.1.0", metrics=dict,
            complain=lambda error: None, prepare=lambda: connections.append(receiver.connections),
        )  # fmt: skip
        run.start()
        run.close()
        assert connections == [0] and receiver.of(METRICS)


def test_pauses_grow_and_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 1000.0
    monkeypatch.setattr(retrying, "FIRST_S", 1.0)
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    retry, gone, pauses = Retrying(), Answer(Result.UNREACHABLE), []
    for _ in range(200):
        assert retry.failed(gone), "a receiver that is gone may come back"
        pauses.append(retry.wait_s)
        assert not retry.is_due
        now_s += retry.wait_s
        assert retry.is_due
    assert 0.75 <= pauses[0] <= 1.25 < pauses[1] <= 2.5 < 2 * MAX_S and max(pauses) <= 1.25 * MAX_S
    retry.settled()
    assert retry.is_due
    assert retry.failed(Answer(Result.BUSY, retry_after_s=7.0)) and retry.wait_s == 7
    assert retry.failed(Answer(Result.BUSY, retry_after_s=1e9)) and retry.wait_s == MAX_RETRY_AFTER_S
    now_s += MAX_BUSY_S
    assert not retry.failed(Answer(Result.BUSY)), "it would hold up the records behind it for ever"


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7.0), ("Fri, 31 Dec 1999 23:59:59 GMT", 0.0), ("soon", None), ("-3", None), ("9" * 400, 999_999_999.0),
     ("", None), ("Fri, 99 Foo", None)],
)  # fmt: skip
def test_retry_after(header: str, seconds: float | None) -> None:
    with Receiver(answer("503 Service Unavailable", b"", f"Retry-After: {header}")) as receiver:
        got = Client(parse_url(receiver.url)).post(LOGS, {}, 5.0)
    assert (got.result, got.retry_after_s, got.status) == (Result.BUSY, seconds, 503)


def test_no_proxy_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    with Receiver() as receiver:
        assert Client(parse_url(receiver.url)).post(LOGS, {}, 5.0).result is Result.ACCEPTED


def test_a_redirect_is_not_followed() -> None:
    with Receiver() as other, Receiver(then=answer("307 Temporary Redirect", b"", f"Location: {other.url}")) as first:
        got = Client(with_headers(parse_url(first.url), [("x-key", "s3cret")])).post(LOGS, {}, 5.0)
        assert (got.result, got.status, other.connections) == (Result.REFUSED, 307, 0)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 64 + ".example", "..", "[::1]"])
def test_hosts_that_cannot_be_reached(host: str) -> None:
    got = Client(parse_url(f"http://{host}:1")).post(LOGS, {}, 5.0)
    assert got.result is Result.UNREACHABLE and got.detail


def test_a_connection_that_the_receiver_closed_meanwhile_is_opened_again() -> None:
    def close_later(connection: socket.socket) -> bool:
        answer()(connection)
        return False

    with Receiver(then=close_later) as receiver:
        client = Client(parse_url(receiver.url))
        for _ in range(3):
            assert client.post(LOGS, {}, 5.0).result is Result.ACCEPTED
        assert receiver.connections == 3


def test_hints() -> None:
    run = Run("http://127.0.0.1:4317/x")
    run.finish()
    from tracer.output.otlp.complaints import hint_for

    grpc = parse_url("https://collector.example:4317/x")
    assert "--otlp https://collector.example:4318/x" in hint_for(grpc, LOGS, Answer(Result.UNREACHABLE, "reset"))
    http = parse_url("http://collector.example:4318")
    assert "--otlp-header" in hint_for(http, LOGS, Answer(Result.REFUSED, "401", status=401))
    assert "base URL" in hint_for(http, LOGS, Answer(Result.REFUSED, "404", status=404))
