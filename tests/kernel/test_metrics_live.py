"""The metrics of a real run equal the report of its recording, whatever the clients of the listener do."""

from __future__ import annotations

import json
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from metrics_comparison import of_metrics, of_report, series_of
from prometheus import free_port, get, running, wait_for_line
from running import tcpwatch
from watching import PATIENCE_S, both_ends

from tracer.lab.namespace import wait_until
from tracer.lab.network import SERVER, Lab
from tracer.lab.peers import Client, Server, embedded_client

PORT = 3306
CAP_DAC_OVERRIDE, CAP_NET_ADMIN, CAP_SYS_ADMIN = 1, 12, 21


@contextmanager
def attack(port: int) -> Iterator[None]:
    """Slow clients, a POST, and a header of a megabyte, again and again."""
    ends = threading.Event()

    def slow() -> None:
        held: list[socket.socket] = []
        while not ends.wait(0.02):
            with suppress(OSError):
                held.append(socket.create_connection(("127.0.0.1", port), 1))
                held[-1].send(b"GET /metrics HTTP/1.1\r\nx: ")
            for each in held[-100:]:
                with suppress(OSError):
                    each.send(b"y")
        for each in held:
            each.close()

    def rude() -> None:
        requests = (
            b"POST /metrics HTTP/1.1\r\n\r\n" + b"x" * 1000,
            b"GET /metrics HTTP/1.1\r\nx: " + b"y" * (1 << 20),
        )
        while not ends.wait(0.05):
            for request in requests:
                with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as client:
                    client.sendall(request)
                    client.recv(1)

    threads = [threading.Thread(target=slow), threading.Thread(target=rude)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ends.set()
        for thread in threads:
            thread.join()


def capabilities(pid: int) -> dict[str, int]:
    """The effective capabilities by name of the thread."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        status = (task / "status").read_text()
        effective = re.search(r"^CapEff:\s*(\w+)", status, re.MULTILINE)
        assert effective is not None
        found[(task / "comm").read_text().strip()] = int(effective[1], 16)
    return found


def test_metrics_equal_the_report_under_attack(tmp_path: Path) -> None:
    recording, prom = tmp_path / "x.tw", tmp_path / "tcpwatch.prom"
    port, exporter_port = free_port(), free_port()
    with Lab(ttl_s=4, retries2=4) as lab, Server(lab.server, SERVER, PORT):
        command: list[str | Path] = [
            sys.executable, "-m", "tracer", "record", "-o", recording, "--netns", both_ends(lab), "--min-idle", "2s",
            "--metrics", prom, "--metrics-listen", str(port),
        ]  # fmt: skip
        log = tmp_path / "log"
        with running(command, log) as process:
            wait_for_line(log, "tracing")
            second = tcpwatch("--metrics", prom, "--duration", "1")
            assert (second.returncode, second.stdout) == (1, "")
            assert second.stderr.startswith(
                f"tcpwatch: another tcpwatch that is running writes its metrics to {prom}\n"
            )
            url = f"http://127.0.0.1:{port}/metrics"
            held = capabilities(process.pid)
            for name in (CAP_DAC_OVERRIDE, CAP_NET_ADMIN, CAP_SYS_ADMIN):
                assert not any(mask >> name & 1 for thread, mask in held.items() if thread != "metrics-listener"), (
                    held
                )
            assert 0 in held.values(), "the listener keeps none"
            with (
                attack(port),
                embedded_client(lab.client, SERVER, PORT) as a,
                embedded_client(lab.client, SERVER, PORT) as b,
            ):
                a.ask("query")
                b.ask("query")
                time.sleep(2.5)  # a silence that the firewall allows
                a.ask("query")
                wait_until(lambda: not lab.sessions(PORT), PATIENCE_S, "the firewall forgets")
                a.send("query")
                wait_until(a.answered, PATIENCE_S, "the kernel gives up")
                b.send("query")

                def is_open() -> bool:
                    counts = series_of(get(url)).get("tcpwatch_stalls_open", {})
                    fatal = series_of(get(url)).get("tcpwatch_silence_fatal_min_seconds", {})
                    return any(counts.values()) and bool(fatal)

                wait_until(is_open, PATIENCE_S, "a stall is open")
                exporter = ["prometheus-node-exporter", f"--web.listen-address=127.0.0.1:{exporter_port}",
                            "--collector.disable-defaults", "--collector.textfile",
                            f"--collector.textfile.directory={tmp_path}"]  # fmt: skip
                with running(exporter, tmp_path / "exporter", ends=-signal.SIGTERM):
                    wait_until(
                        lambda: "tcpwatch_build_info{" in _read(f"http://127.0.0.1:{exporter_port}/metrics"),
                        PATIENCE_S, "node_exporter has the file",
                    )  # fmt: skip
                    assert "node_textfile_scrape_error 0" in get(f"http://127.0.0.1:{exporter_port}/metrics")
    assert " 0 lost" in log.read_text()
    report = tcpwatch("report", recording, "--json")
    counted, expected = of_metrics(prom.read_text()), of_report(map(json.loads, report.stdout.splitlines()))
    assert counted.stalls == expected.stalls and any(key[3] == "timed-out" for key in counted.stalls)
    assert expected.segments is None or counted.segments == expected.segments
    assert counted.segments
    assert counted.fatal_s == expected.fatal_s and counted.fatal_s
    assert {key: counted.survived_s.get(key) for key in expected.survived_s} == expected.survived_s
    assert expected.survived_s
    assert counted.lost == expected.lost == 0
    hooks = series_of(prom.read_text())["tcpwatch_hook_attached"]
    assert set(hooks.values()) == {0}, "the run has ended"
    assert not (tmp_path / ".tcpwatch.prom.tmp").exists()


def _read(url: str) -> str:
    with suppress(OSError):
        return get(url)
    return ""


def test_connections_at_risk(tmp_path: Path) -> None:
    """Once one is found dead, a walk counts those that have been silent for longer, until their silence ends."""
    port = free_port()
    log = tmp_path / "log"
    with Lab(ttl_s=2, retries2=15) as lab, Server(lab.server, SERVER, PORT), ExitStack() as opened:
        command: list[str | Path] = [
            sys.executable, "-m", "tracer", "--netns", str(lab.client.netns), "--min-idle", "2s",
            "--metrics-listen", str(port),
        ]  # fmt: skip

        def client() -> Client:
            return opened.enter_context(embedded_client(lab.client, SERVER, PORT, "--no-keepalive"))

        with running(command, log):
            wait_for_line(log, "tracing")
            dead, stalling, closing, silent = client(), client(), client(), client()
            for each in (dead, stalling, closing, silent):
                assert each.ask("query")["ok"]
            wait_until(lambda: not lab.sessions(PORT), PATIENCE_S, "the firewall forgets")
            busy = client()

            def wait_for(count: int) -> None:
                """While another connection is in use, which is never at risk for long."""

                def is_count() -> bool:
                    assert busy.ask("query")["ok"]
                    found = series_of(get(f"http://127.0.0.1:{port}/metrics"))
                    at_risk = found.get("tcpwatch_connections_at_risk", {})
                    return at_risk.get(("client", f"{SERVER}:{PORT}"), 0) == count

                wait_until(is_count, PATIENCE_S, f"{count} connections are at risk")

            wait_for(0)
            dead.send("query")
            wait_for(3)
            stalling.send("query")
            wait_for(2)
            closing.close()
            wait_for(1)
