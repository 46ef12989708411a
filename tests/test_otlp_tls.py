"""Exporting with TLS: the receiver's certificate has to be valid, and one deadline holds for the handshake, too."""

from __future__ import annotations

import socket
import ssl
import subprocess
import time
from pathlib import Path

import pytest
from otlp_receiver import Receiver, answer, drip

from tracer.output.otlp.client import Client, Result
from tracer.output.otlp.complaints import hint_for
from tracer.output.otlp.endpoint import parse_url
from tracer.output.otlp.exporter import LOGS


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A file with a certificate of 127.0.0.1, signed by itself, and its key."""
    file = tmp_path / "receiver.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=receiver",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", file, "-out", tmp_path / "certificate"],
        check=True, capture_output=True,
    )  # fmt: skip
    with file.open("a") as both:
        both.write((tmp_path / "certificate").read_text())
    return file


def server(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def test_a_certificate_that_is_not_trusted(certificate: Path) -> None:
    with Receiver(tls=server(certificate)) as receiver:
        endpoint = parse_url(receiver.url)
        got = Client(endpoint).post(LOGS, {}, 10.0)
        assert got.result is Result.UNREACHABLE and "certificate" in got.detail and not receiver.requests
    assert hint_for(endpoint, LOGS, got).startswith("SSL_CERT_FILE=")


def test_the_hint_is_right(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With SSL_CERT_FILE it is trusted; two requests need one handshake."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with Receiver(tls=server(certificate)) as receiver:
        client = Client(parse_url(receiver.url))
        assert client.post(LOGS, {"number": 1}, 10.0).result is Result.ACCEPTED
        assert client.post(LOGS, {"number": 2}, 10.0).result is Result.ACCEPTED
        assert [each.message["number"] for each in receiver.requests] == [1, 2] and receiver.connections == 1
    with Receiver(drip, tls=server(certificate)) as receiver:
        assert Client(parse_url(receiver.url)).post(LOGS, {}, 1.0).result is Result.UNREACHABLE
    name = parse_url(f"https://localhost:{receiver.port}")
    with Receiver(tls=server(certificate)) as receiver:
        got = Client(name._replace(port=receiver.port)).post(LOGS, {}, 10.0)
        assert got.result is Result.UNREACHABLE and "certificate" in got.detail, "it is that of another host"


def test_a_receiver_without_tls() -> None:
    with Receiver(then=answer()) as receiver:
        got = Client(parse_url(f"https://127.0.0.1:{receiver.port}")).post(LOGS, {}, 3.0)
    assert got.result is Result.UNREACHABLE and got.detail


def test_a_handshake_that_never_ends() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        got = Client(parse_url(f"https://127.0.0.1:{silent.getsockname()[1]}")).post(LOGS, {}, 0.3)
    assert got.result is Result.UNREACHABLE and time.monotonic() - began < 20
