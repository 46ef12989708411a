"""Keepalive probes: answered, unanswered, and what must not be taken for one."""

from __future__ import annotations

import pytest
from watching import Start, both_ends

from tracer.lab.namespace import wait_until
from tracer.lab.network import CLIENT6, SERVER, SERVER6, Lab
from tracer.lab.peers import Server, embedded_client

EVERY_SECOND = ("--idle", "1", "--interval", "1", "--probes", "3")


@pytest.mark.parametrize("host", [SERVER, SERVER6])
def test_answered_then_unanswered_to_the_end(lab: Lab, watch: Start, host: str) -> None:
    seen = watch("--netns", both_ends(lab))
    with Server(lab.server, host, 3306), embedded_client(lab.client, host, 3306, *EVERY_SECOND) as client:
        assert client.ask("query")["ok"]
        before = lab.client.counter("TcpExtTCPKeepAlive")
        answered = seen.wait_for(3, event="keepalive")
        assert {each["attempt"] for each in answered} == {1}, "an answer makes the next probe the first again"
        lab.drop_everything()
        error = seen.wait_for(event="error")[0]
        wait_until(lambda: lab.client.counter("TcpExtTCPKeepAlive") >= before, 60, "the counter is there")
        counted = lab.client.counter("TcpExtTCPKeepAlive") - before
    seen.stop()
    probes = seen.of(event="keepalive")
    assert counted == len(probes), ("as many as the kernel counted", seen.lines)
    unanswered = [each["attempt"] for each in probes[-3:]]
    assert unanswered == [1, 2, 3]
    for each in probes:
        assert (each["state"], each["pid"], each["keepalive"]) == ("ESTABLISHED", client.pid, True)
        times = (each["keepalive_idle_s"], each["keepalive_interval_s"], each["keepalive_probes"])
        assert times == (1, 1, 3), "the socket's own, not its namespace's"
        assert each["silent_ms"] >= 1000 * each["attempt"] - 10
        assert each["unacked_bytes"] == 0
    end = [
        each
        for each in seen.events
        if each["ktime_ns"] > probes[-1]["ktime_ns"] and each.get("sock") == probes[-1]["sock"]
    ]
    assert [each["event"] for each in end] == ["reset", "state", "error", "stall"]
    assert (end[3]["phase"], end[3]["outcome"]) == ("end", "timed-out")
    assert (end[0]["direction"], end[1]["new_state"], error["error"]) == ("sent", "CLOSE", "ETIMEDOUT")
    if host == SERVER6:
        assert (probes[0]["family"], probes[0]["laddr"], probes[0]["raddr"]) == (6, CLIENT6, SERVER6)


def test_the_namespaces_times_are_in_force_where_the_socket_has_none(lab: Lab, watch: Start) -> None:
    lab.client.set_sysctl("net.ipv4.tcp_keepalive_time", 1)
    lab.client.set_sysctl("net.ipv4.tcp_keepalive_intvl", 7)
    lab.client.set_sysctl("net.ipv4.tcp_keepalive_probes", 5)
    seen = watch("--netns", both_ends(lab))
    with Server(lab.server, SERVER, 3306), embedded_client(lab.client, SERVER, 3306):
        probe = seen.wait_for(event="keepalive")[0]
    assert (probe["keepalive_idle_s"], probe["keepalive_interval_s"], probe["keepalive_probes"]) == (1, 7, 5)


def test_no_keepalive_is_said_and_no_probe_is_seen(lab: Lab, watch: Start) -> None:
    seen = watch("--netns", both_ends(lab))
    with (
        Server(lab.server, SERVER, 3306),
        embedded_client(lab.client, SERVER, 3306, "--no-keepalive", *EVERY_SECOND) as silent,
        embedded_client(lab.client, SERVER, 3306, *EVERY_SECOND) as talking,
    ):
        # By the time that the one has probed twice the other would have, too.
        seen.wait_for(2, event="keepalive", lport=talking.connected["lport"])
        assert seen.of(event="keepalive", lport=silent.connected["lport"]) == []
        assert seen.of(lport=silent.connected["lport"], new_state="ESTABLISHED")[0]["keepalive"] is False


def test_a_zero_window_probe_is_no_keepalive(lab: Lab, watch: Start) -> None:
    """tcp_write_wakeup() sends both; here the peer's application does not read."""
    lab.client.set_sysctl("net.ipv4.tcp_wmem", "4096 4096 4096")
    seen = watch("--netns", both_ends(lab))
    before = lab.client.counter("TcpExtTCPWinProbe")
    with (
        Server(lab.server, SERVER, 3306, "--deaf"),
        embedded_client(lab.client, SERVER, 3306, *EVERY_SECOND) as client,
    ):
        client.send("flood")
        wait_until(lambda: lab.client.counter("TcpExtTCPWinProbe") >= before + 2, 60, "zero-window probes go out")
        # What the kernel side was told by then is out before the process that would probe ends.
    seen.wait_for(event="state", new_state="FIN_WAIT1")
    assert seen.of(event="keepalive", lport=client.connected["lport"]) == []
