"""What tcpwatch saw is what the kernel counted: retransmitted segments, keepalive probes, timeouts."""

from __future__ import annotations

import errno
import json
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from scripted import PORT, Connection, ScriptedPeer
from watching import ROOT, Start, both_ends

from tracer.kernel.counters import KernelCounters
from tracer.lab.network import SERVER, Lab
from tracer.lab.peers import Server, embedded_client
from tracer.model.counts import Counts

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
        [sys.executable, "-m", "tracer", "report", str(path), "--json"],
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


def test_on_a_host_that_is_scanned_has_health_checks_and_a_firewall_of_its_own(watch: Start) -> None:
    """What was seen is what the kernel counts; no error that no call returns, no reset that nobody sent."""
    with ScriptedPeer(4, tcp_retries2=3, tcp_synack_retries=2) as peer:
        seen = watch("--netns", str(peer.netns))
        before = peer.counters()
        listener = peer.listening()
        for number in range(8):  # a scan: a port that is open, and one that is not
            peer.syn(listener).expect("SA")
            closed = Connection(peer, lport=PORT + 1, rport=60000 + number, window=1000)
            closed.send("S")
            closed.expect("RA")
        for number in range(8):  # health checks, which either end breaks off
            checked = peer.accepted(listener)
            if number % 2:
                checked.reset()
            else:
                checked.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                checked.socket.close()
        late, flying = peer.accepted(listener), peer.accepted(listener)
        flying.write(100)
        flying.expect(length=100)
        late.socket.close()  # and data comes that nobody reads any more
        late.expect("FA")
        late.send("PA", ack=late.end - 1, data=b"x" * 10)
        late.expect("R")
        unsent = peer.accepted(listener)
        peer.run(
            "nft", "add table inet own; add chain inet own output { type filter hook output priority 0; };"
            f"add rule inet own output tcp dport {{ {flying.rport}, {unsent.rport} }} drop",
        )  # fmt: skip
        unsent.write(100)
        for conn in (flying, unsent):
            assert conn.error() == errno.ETIMEDOUT
        peer.until(peer.is_over)
        seen.wait_for(2, event="error", error="ETIMEDOUT")
        counted = {name: count - before[name] for name, count in peer.counters().items()}
        said = seen.stop()
    segments = sum(each["segments"] for each in seen.of(event="retransmit"))
    assert counted["TcpRetransSegs"] == segments >= 16, "each SYN/ACK of the scan was sent twice more"
    assert "had no event" not in said
    assert f"{segments} retransmitted segments ({segments} seen)" in said
    assert len(seen.of(event="reset", direction="sent")) == counted["TcpOutRsts"]
    errors = seen.of(event="error")
    assert sorted(each["error"] for each in errors) == ["ECONNRESET"] * 4 + ["ETIMEDOUT"] * 2
    assert all(each["rport"] for each in errors)
    assert len(seen.of(event="reset", direction="received")) == 4
    verdicts = {each["rport"]: each["verdict"] for each in seen.of(event="stall", phase="end")}
    assert verdicts[unsent.rport] == "local-drop"
