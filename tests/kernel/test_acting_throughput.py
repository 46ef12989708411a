"""A busy connection keeps its throughput while it is probed beside a hundred idle ones."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median

import pytest
from probe_command import rows
from protect_command import be_silent
from watching import Json

from tracer.lab.network import SERVER, Lab
from tracer.lab.peers import Client, Server

pytestmark = pytest.mark.alone

HERE = Path(__file__).parent
IDLE_PORT, BUSY_PORT = 3306, 3307
IDLE = 100
BYTES_PER_S = 100_000_000
"""The rate that the kernel holds the source to. It leaves a processor for tcpwatch, so the connection is compared."""
MIN_ROUNDS, MAX_ROUNDS = 3, 15


def rate(sink: Client, meanwhile: Callable[[], object]) -> float:
    """Bytes that arrive in a second."""
    before = sink.ask("count")
    meanwhile()
    after = sink.ask("count")
    return float((after["bytes"] - before["bytes"]) / (after["at_s"] - before["at_s"]))


def probes_of(row: Json) -> int:
    """How many probes were sent for this result."""
    if row["result"] == "busy":
        return 0
    return 1 if "rtt_ms" in row else int(re.findall(r"(\d+) probe", row["detail"])[0])


def test_a_busy_connection_keeps_its_throughput() -> None:
    with Lab(ttl_s=600, ports=(IDLE_PORT, BUSY_PORT), retries2=15) as lab:
        # Half a second of data: the sink's window stays open, so that the kernel itself sends no probe of a closed
        # one, and something is always left to send.
        lab.server.set_sysctl("net.ipv4.tcp_rmem", "4096 67108864 67108864")
        lab.client.set_sysctl("net.ipv4.tcp_wmem", "4096 67108864 67108864")
        address = (SERVER, str(BUSY_PORT))
        pool: list[str | Path] = [sys.executable, HERE / "pool.py", SERVER, str(IDLE_PORT), str(IDLE)]
        with (
            Server(lab.server, SERVER, IDLE_PORT),
            lab.client.popen(pool, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as idle,
            Client(lab.server, [sys.executable, HERE / "bulk.py", "sink", *address]) as sink,
            Client(lab.client, [sys.executable, HERE / "bulk.py", "source", *address, str(BYTES_PER_S)]) as source,
        ):
            assert idle.stdout is not None and idle.stdin is not None
            assert len(json.loads(idle.stdout.readline())) == IDLE
            busy = source.connected["lport"]
            found: list[Json] = []

            def probe() -> None:
                shown, _ = rows("--netns", lab.client.netns, "--port", f"{IDLE_PORT},{BUSY_PORT}", "--wait", "1s")
                found.extend(shown)

            before = lab.client.counter("TcpExtTCPWinProbe")
            shares: list[float] = []
            while len(shares) < MIN_ROUNDS or (median(shares) < 0.7 and len(shares) < MAX_ROUNDS):
                without = rate(sink, lambda: be_silent(1))
                shares.append(rate(sink, probe) / without)
            assert median(shares) >= 0.7, shares
            assert lab.client.counter("TcpExtTCPWinProbe") - before == sum(map(probes_of, found))
            assert {row["result"] for row in found if row["lport"] == busy} == {"busy"}
            assert {row["result"] for row in found if row["lport"] != busy} == {"alive"}
            assert len(found) == len(shares) * (IDLE + 1)
            assert len([row for row in found if row["lport"] == busy]) == len(shares)
            idle.kill()
