"""The options of OpenTelemetry: URLs and headers as they are typed, and secrets that are never shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from running import tcpwatch

from tracer.cli.failures import explain
from tracer.kernel.processes import command_line
from tracer.model.errors import UsageError
from tracer.model.secrets import without_secrets
from tracer.output.otlp.endpoint import headers_of, parse_header, parse_url, with_headers

KEY = "s3cr3t"


@pytest.mark.parametrize(
    ("text", "logs"),
    [
        ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/logs"),
        ("http://127.0.0.1:4318/", "http://127.0.0.1:4318/v1/logs"),
        ("HTTP://Collector.example:4318//", "http://collector.example:4318/v1/logs"),
        ("https://otlp.example", "https://otlp.example/v1/logs"),
        ("https://otlp.example:443/base/", "https://otlp.example/base/v1/logs"),
        ("http://[::1]:4318/a/b", "http://[::1]:4318/a/b/v1/logs"),
        ("http://[fe80::1%25eth0]:4318", "http://[fe80::1%eth0]:4318/v1/logs"),  # RFC 6874
        # As the specification has it for a base URL.
        ("http://collector:4318/v1/logs", "http://collector:4318/v1/logs/v1/logs"),
    ],
)
def test_urls(text: str, logs: str) -> None:
    assert parse_url(text).url("/v1/logs") == logs


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "http://127.0.0.1:4318"),
        ("collector:4318", "--otlp http://collector:4318"),
        ("127.0.0.1", "--otlp http://127.0.0.1"),
        ("//collector:4318", "--otlp http://collector:4318"),
        ("http:/collector:4318", "--otlp http://127.0.0.1:4318"),
        ("grpc://collector:4317", "http://127.0.0.1:4318"),
        ("http://", "http://127.0.0.1:4318"),
        ("http://:4318", "http://127.0.0.1:4318"),
        ("http://collector:port", "http://127.0.0.1:4318"),
        ("http://collector:0", "http://127.0.0.1:4318"),
        ("http://collector:65536", "http://127.0.0.1:4318"),
        ("http://::1:4318", "http://127.0.0.1:4318"),
        ("http://[::1:4318", "http://127.0.0.1:4318"),
        ("http://a b", "http://127.0.0.1:4318"),
        ("http://a\r\nx: y", "http://127.0.0.1:4318"),
        ("http://bücher.example", "http://127.0.0.1:4318"),
        (f"http://user:{KEY}@collector:4318", "OTEL_EXPORTER_OTLP_HEADERS"),
        (f"ftp://user:{KEY}@collector", "http://127.0.0.1:4318"),
        (f"user:{KEY}@collector:4318", "http://127.0.0.1:4318"),
        (f"http://collector?key={KEY}", "--otlp-header"),
        ("http://collector#x", "--otlp-header"),
        ("http://collector?", "--otlp-header"),
        ("x" * 5000, "http://127.0.0.1:4318"),
    ],
)
def test_what_is_not_a_base_url(text: str, hint: str) -> None:
    with pytest.raises(UsageError, match=r"expected|password") as failed:
        parse_url(text)
    assert hint in failed.value.hint and len(str(failed.value)) < 300
    assert KEY not in f"{failed.value}{failed.value.hint}"


def test_headers() -> None:
    assert parse_header("x-api-key=a=b") == ("x-api-key", "a=b")
    assert parse_header(" Authorization = Basic YTpi ") == ("Authorization", "Basic YTpi")
    assert headers_of("a=1, authorization=Basic%20YTpi ,,b=2%2C3") == {
        "a": "1", "authorization": "Basic YTpi", "b": "2,3",
    }  # fmt: skip
    assert headers_of("") == {}
    endpoint = with_headers(parse_url("http://a"), [("X-Key", "environment"), ("y", "1")], [("x-key", "typed")])
    assert endpoint.headers == {"x-key": "typed", "y": "1"}


@pytest.mark.parametrize(
    "text",
    [
        KEY,
        f"={KEY}",
        f"a b={KEY}",
        f"x:={KEY}",
        f"x={KEY}\r\ny: z",
        f"x={KEY}é",
        f"Host={KEY}",
        f"content-type={KEY}",
    ],
)
def test_what_is_not_a_header(text: str) -> None:
    with pytest.raises(UsageError) as failed:
        parse_header(text)
    assert failed.value.hint and KEY not in f"{failed.value}{failed.value.hint}"
    if "=" not in text:
        with pytest.raises(UsageError) as failed:
            headers_of(f"a=1,{text}")
        assert KEY not in f"{failed.value}{failed.value.hint}"


@pytest.mark.parametrize("command", [[], ["record", "-o", "x.tw"]])
def test_mistakes_are_found_before_anything_starts(command: list[str]) -> None:
    for arguments, words in (
        (["--otlp", "collector:4318"], "invalid URL 'collector:4318'"),
        (["--otlp-header", f"x-key={KEY}"], "--otlp-header needs --otlp"),
        (["--otlp", "http://127.0.0.1:1", "--otlp-header", KEY], "invalid header"),
        (["--otlp", "http://127.0.0.1:1", "--otlp-headers", f"x-key={KEY}"], "No such option"),
        (["--otlp", f"http://user:{KEY}@127.0.0.1:1"], "password"),
        (["--otlp", "http://127.0.0.1:1", "--otlp-header", f"x-key={KEY}", "--prot", "1"], "No such option"),
        (["--metrics-services", "9"], "needs --metrics, --metrics-listen or --otlp"),
    ):
        done = tcpwatch(*command, *arguments, "--duration", "1")
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert words in done.stderr and "Hint: " in done.stderr and "Traceback" not in done.stderr
        assert KEY not in done.stderr
    done = tcpwatch("--otlp", "http://127.0.0.1:1", "--duration", "1", OTEL_EXPORTER_OTLP_HEADERS=KEY)
    assert done.returncode == 2 and "OTEL_EXPORTER_OTLP_HEADERS" in done.stderr and KEY not in done.stderr


def test_command_lines_that_are_shown_have_no_secret(tmp_path: Path) -> None:
    typed = (
        f"tcpwatch --otlp http://u:{KEY}@h/x@y --otlp-header x={KEY} --otlp-header=y={KEY} --otlp-header {KEY} "
        f"--otlp-heder={KEY} --otlp-header --otlp-header --port 3306"
    ).split()
    shown = without_secrets(typed)
    assert " ".join(shown) == (
        "tcpwatch --otlp http://SECRET@h/x@y --otlp-header x=SECRET --otlp-header=y=SECRET --otlp-header SECRET "
        "--otlp-heder=SECRET --otlp-header SECRET --port 3306"
    )
    (tmp_path / "7").mkdir()
    (tmp_path / "7/cmdline").write_bytes("\0".join(typed).encode() + b"\0")
    assert command_line(7, tmp_path) == " ".join(shown)
    assert KEY not in explain(ZeroDivisionError(), typed).hint


def test_prometheus_is_not_needed(tmp_path: Path) -> None:
    """Only the file and the listener of metrics need its library."""
    (tmp_path / "prometheus_client.py").write_text("raise ImportError")
    done = tcpwatch("--otlp", "http://127.0.0.1:1", "--duration", "0.1", "--port", "1", PYTHONPATH=f"{tmp_path}:.")
    assert "prometheus" not in done.stderr
