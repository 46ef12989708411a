"""What tcpwatch saw is what the kernel counted: retransmitted segments, keepalive probes, timeouts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from scripted import PATIENCE_S, PORT, Connection, ScriptedPeer
from watching import ROOT, Start, both_ends

from tracer.counts import Counts
from tracer.kernel.counters import KernelCounters
from tracer.lab.namespace import wait_until
from tracer.lab.network import SERVER, Lab
from tracer.lab.peers import Server, embedded_client

NAMES = {"retrans_segs": "TcpRetransSegs", "keepalives": "TcpExtTCPKeepAlive", "timeouts": "TcpExtTCPTimeouts"}


def test_the_recording_holds_the_kernels_counts_and_as_many_events(watch: Start, tmp_path: Path) -> None:
    """A query into a black hole, keepalive probes that are answered, and ones that are not, until both give up."""
    path = tmp_path / "x.tw"
    with Lab(ttl_s=60, retries2=3) as lab, Server(lab.server, SERVER, 3306):
        seen = watch("--netns", both_ends(lab), "-w", path)
        before = {name: lab.client.counter(name) for name in NAMES.values()}
        asking = embedded_client(lab.client, SERVER, 3306)
        idle = embedded_client(lab.client, SERVER, 3306, "--idle", "1", "--interval", "1", "--probes", "3")
        with asking, idle:
            seen.wait_for(2, event="keepalive", attempt=1, lport=idle.connected["lport"])
            lab.drop_everything()
            asking.send("query")
            assert not asking.answer()["ok"]
            seen.wait_for(event="error", lport=asking.connected["lport"])
            seen.wait_for(event="error", lport=idle.connected["lport"])
            counted = {name: lab.client.counter(name) - before[name] for name in NAMES.values()}
            said = seen.stop()
    assert all(counted.values())
    recorded = [each for each in seen.of(event="counters") if each["netns"] == lab.client.netns]
    assert {NAMES[name]: sum(each[name] for each in recorded) for name in NAMES} == counted
    assert (
        sum(each["segments"] for each in seen.of(event="retransmit", netns=lab.client.netns))
        == (counted["TcpRetransSegs"])
    )
    report = subprocess.run(
        [sys.executable, "-m", "tracer.cli", "report", str(path), "--json"],
        capture_output=True, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=60,
    )  # fmt: skip
    summary = json.loads(report.stdout.splitlines()[-1])
    assert summary["seen"] == summary["counted"]
    assert f"{counted['TcpExtTCPTimeouts']} timeouts ({counted['TcpExtTCPTimeouts']} seen)" in said.replace(",", "")


def lose_once(peer: ScriptedPeer) -> None:
    conn = peer.accepted()
    conn.write(100)
    conn.expect("PA", length=100)
    conn.expect("PA", length=100)
    conn.ack()
    conn.reset()
    peer.until(peer.is_over)


def test_the_inode_of_a_dead_namespace_is_given_to_another() -> None:
    """Which counts from 0, however little or much the dead one had counted."""
    with ScriptedPeer() as first:
        lose_once(first)
        counters = KernelCounters()
        assert first.netns in counters.from_start
    others = []
    try:
        while True:
            peer = ScriptedPeer()
            others.append(peer.__enter__())
            if peer.netns == first.netns:
                break
            assert len(others) < 200, "it was not given to another"
            # One that is left has its own for as long as something holds it.
            wait_until(lambda: True, PATIENCE_S, "never")
        lose_once(peer)
        assert counters.newly()[peer.netns] == Counts(segments=1)
        assert peer.netns not in counters.from_start
    finally:
        for each in reversed(others):
            each.__exit__()


@pytest.mark.parametrize("family", [4, 6])
def test_a_reset_of_a_listener_is_of_its_namespace(watch: Start, family: int) -> None:
    with ScriptedPeer(family) as peer:
        listener = peer.listening()
        seen = watch("--netns", str(peer.netns))
        conn = Connection(peer, lport=PORT, rport=50000, window=20000, listener=listener)
        conn.send("A", ack=77)
        conn.expect("R")
        (told,) = seen.wait_for(event="reset", rport=50000)
    assert (told["direction"], told["netns"], told["lport"]) == ("sent", peer.netns, PORT)
    assert "sock" not in told
