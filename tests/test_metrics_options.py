"""The options for metrics: addresses as they are typed, and what is missing."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from running import ROOT, tcpwatch

from tracer.cli.metrics import parse_address
from tracer.model.errors import UsageError


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("9718", ("127.0.0.1", 9718)),
        (":9718", ("127.0.0.1", 9718)),
        ("localhost:9718", ("127.0.0.1", 9718)),
        ("0.0.0.0:80", ("0.0.0.0", 80)),
        ("[::1]:9718", ("::1", 9718)),
        ("[2001:DB8::1]:1", ("2001:db8::1", 1)),
        ("[::]:0", ("::", 0)),
        ("[fe80::1%eth0]:9718", ("fe80::1%eth0", 9718)),
    ],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "127.0.0.1:9718"),
        ("127.0.0.1", "127.0.0.1:9718"),
        ("127.0.0.1:65536", "127.0.0.1:9718"),
        ("127.0.0.1:http", "127.0.0.1:9718"),
        ("::1:9718", "[::1]:9718"),
        ("[127.0.0.1]:9718", "127.0.0.1:9718"),
        ("db1:9718", "127.0.0.1:9718"),
        ("[fe80::1]:9718", "[fe80::1%eth0]:9718"),
        ("*:9718", "0.0.0.0:9718"),
        ("http://127.0.0.1:9718", "127.0.0.1:9718"),
        ("127.0.0.1:٩", "127.0.0.1:9718"),
        ("x" * 5000, "127.0.0.1:9718"),
    ],
)
def test_what_is_not_an_address(text: str, hint: str) -> None:
    with pytest.raises(UsageError, match="expected ADDR:PORT") as failed:
        parse_address(text)
    assert hint in failed.value.hint and len(str(failed.value)) < 300


@pytest.mark.parametrize("command", [[], ["record", "-o", "x.tw"]])
def test_mistakes_are_found_before_anything_starts(command: list[str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for arguments, status, message in (
            (["--metrics-services", "9"], 2, "needs --metrics, --metrics-listen or --otlp"),
            (["--metrics-listen", "x"], 2, "invalid address 'x'"),
            (["--metrics-services", "0", "--metrics-listen", "1"], 2, "--metrics-services"),
            (["--metrics", str(tmp_path / "x.txt")], 2, "does not end in .prom"),
            (["--metrics-listen", str(port)], 1, "another program uses this port"),
        ):
            done = tcpwatch(*command, *arguments, "--duration", "1")
            if "needs root" in done.stderr:
                pytest.skip("not root")
            assert (done.returncode, done.stdout) == (status, ""), done.stderr
            assert message in done.stderr and "Hint: " in done.stderr and "Traceback" not in done.stderr


def test_without_the_library(tmp_path: Path) -> None:
    """Only who asks for metrics needs it."""
    (tmp_path / "prometheus_client.py").write_text("raise ImportError")
    done = tcpwatch("--metrics-listen", "0", "--duration", "1", PYTHONPATH=f"{tmp_path}:.")
    assert done.returncode == 1
    if "needs root" not in done.stderr:
        assert "python3-prometheus-client" in done.stderr


def test_who_does_not_ask_imports_nothing() -> None:
    program = (
        "import sys, tracer.cli.main, tracer.run.live\n"
        "print([each for each in sys.modules if 'metrics' in each or each in ('prometheus_client', 'asyncio')])"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert shown.stdout.strip() == "['tracer.cli.metrics']"
