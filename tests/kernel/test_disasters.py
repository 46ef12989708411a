"""What can befall a connection besides a firewall that forgets: each leaves the traces that it is known by."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lab.disasters import Forger, cut_cable, power_off, restart
from watching import PATIENCE_S

from tracer.lab.namespace import wait_until
from tracer.lab.network import SERVER, Lab
from tracer.lab.peers import Client, Server, embedded_client


@pytest.fixture
def server(lab: Lab) -> Iterator[Server]:
    """That leaves nothing behind when it is killed."""
    with Server(lab.server, SERVER, 3306, "--abort") as started:
        yield started


@pytest.fixture
def client(lab: Lab, server: Server) -> Iterator[Client]:
    """Connected, and answered once; it gives up after some 3 s."""
    lab.client.set_sysctl("net.ipv4.tcp_retries2", 2)
    with embedded_client(lab.client, SERVER, 3306) as connected:
        assert connected.ask("query")["ok"]
        yield connected


@pytest.fixture
def small_buffers(lab: Lab) -> None:
    """Else a receive buffer may grow until it holds all that the tests send."""
    for end in (lab.client, lab.server):
        end.set_sysctl("net.ipv4.tcp_rmem", "4096 131072 262144")


def believes(lab: Lab, client: Client) -> tuple[str | None, str | None]:
    """Which state the client's end has, and the server's."""
    port = client.connected["lport"]
    return lab.client.believes(port, 3306), lab.server.believes(3306, port)


@pytest.mark.parametrize(("why", "reverts"), [("host-unreachable", True), ("admin-prohibited", False)])
def test_an_icmp_error_is_what_the_client_gives_up_with(lab: Lab, client: Client, why: str, reverts: bool) -> None:
    lab.reject(why)
    answer = client.ask("query")
    assert (answer["ok"], answer["error"]) == (False, "EHOSTUNREACH")
    retransmitted = lab.client.counter("TcpRetransSegs")
    assert lab.client.counter("IcmpInDestUnreachs") >= retransmitted
    # An unreachable host takes back what the timer had backed off: tcp_ld_RTO_revert(), net/ipv4/tcp_ipv4.c.
    assert (retransmitted > 4) == reverts
    lab.restore()
    with embedded_client(lab.client, SERVER, 3306) as again:
        assert again.ask("query")["ok"]


def test_a_refused_connection_attempt_fails_at_once(lab: Lab, server: Server) -> None:
    lab.reject("admin-prohibited")
    with embedded_client(lab.client, SERVER, 3306) as client:
        assert (client.connected["connected"], client.connected["error"]) == (False, "EHOSTUNREACH")


def test_a_cut_cable_makes_the_router_say_so(lab: Lab, client: Client) -> None:
    lab.client.set_sysctl("net.ipv4.tcp_retries2", 5)
    cut_cable(lab)
    client.send("query")
    wait_until(lambda: lab.client.counter("IcmpInDestUnreachs") >= 1, PATIENCE_S, "the router reports the host")
    assert not client.answered()


def test_a_host_without_power_says_nothing(lab: Lab, server: Server, client: Client) -> None:
    power_off(lab, server)
    answer = client.ask("query")
    assert (answer["ok"], answer["error"]) == (False, "ETIMEDOUT")
    assert lab.client.counter("IcmpInDestUnreachs") == 0
    assert lab.server.believes(3306, client.connected["lport"]) is None


def test_a_host_that_restarted_knows_nothing(lab: Lab, server: Server, client: Client) -> None:
    with restart(lab, server, SERVER, 3306):
        assert believes(lab, client) == ("ESTABLISHED", None), "and the client does not know"
        answer = client.ask("query")
        assert (answer["ok"], answer["error"]) == (False, "ECONNRESET")
        assert lab.client.counter("TcpRetransSegs") == 0
        with embedded_client(lab.client, SERVER, 3306) as again:
            assert again.ask("query")["ok"]


def test_loss_slows_a_busy_connection_down_and_no_more(lab: Lab, server: Server) -> None:
    with embedded_client(lab.client, SERVER, 3306) as client:
        lab.lose(20)
        client.send("busy 2")
        wait_until(
            lambda: min(lab.client.counter("TcpRetransSegs"), lab.server.counter("TcpRetransSegs")) >= 1,
            PATIENCE_S,
            "both ends have retransmitted",
        )
        lab.restore()
        answer = client.answer()
        assert answer["ok"] and answer["count"] > 10
        assert answer["slowest_s"] >= 0.1, "no retransmission comes sooner"


def test_a_forgotten_session_goes_on_from_another_port(lab: Lab, server: Server) -> None:
    lab.masquerade()
    with embedded_client(lab.client, SERVER, 3306) as client:
        assert client.ask("query")["ok"]
        (session,) = lab.sessions(3306)
        (before,) = [word for word in session.split() if word.startswith("dport=") and word != "dport=3306"]
        lab.forget_sessions()
        answer = client.ask("query")
        assert (answer["ok"], answer["error"]) == (False, "ECONNRESET")
        port = int(before.removeprefix("dport="))
        assert lab.server.believes(3306, port) == "ESTABLISHED", "the server keeps what nobody will speak to again"


def test_an_exact_reset_ends_both_ends(lab: Lab, server: Server) -> None:
    with Forger(lab) as forger, embedded_client(lab.client, SERVER, 3306) as client:
        assert client.ask("query")["ok"]
        forger.reset(client)
        wait_until(lambda: believes(lab, client) == (None, None), PATIENCE_S, "both ends are gone")
        assert client.ask("query")["error"] == "ECONNRESET"


def test_a_reset_to_one_end_leaves_the_other(lab: Lab, server: Server) -> None:
    with Forger(lab) as forger, embedded_client(lab.client, SERVER, 3306) as client:
        assert client.ask("query")["ok"]
        forger.reset(client, to_client=False)
        wait_until(lambda: believes(lab, client) == ("ESTABLISHED", None), PATIENCE_S, "the server's end is gone")


def test_an_inexact_reset_is_answered_and_has_no_effect(lab: Lab, server: Server) -> None:
    with Forger(lab) as forger, embedded_client(lab.client, SERVER, 3306) as client:
        assert client.ask("query")["ok"]
        forger.reset(client, off_by=100)
        ends = (lab.client, lab.server)
        wait_until(lambda: all(end.counter("TcpExtTCPChallengeACK") == 1 for end in ends), PATIENCE_S, "challenges")
        assert believes(lab, client) == ("ESTABLISHED", "ESTABLISHED")
        assert client.ask("query")["ok"]


@pytest.mark.usefixtures("small_buffers")
def test_a_stopped_server_closes_its_window(lab: Lab, server: Server) -> None:
    with embedded_client(lab.client, SERVER, 3306) as client:
        server.stop()
        client.send("send 8000000")
        wait_until(lambda: lab.client.counter("TcpExtTCPWinProbe") >= 1, PATIENCE_S, "the client probes the window")
        assert not client.answered()
        server.go_on()
        assert client.answer()["ok"] and client.ask("query")["ok"]


@pytest.mark.usefixtures("small_buffers")
def test_a_client_that_reads_no_more_closes_its_window(lab: Lab, server: Server) -> None:
    with embedded_client(lab.client, SERVER, 3306) as client:
        assert client.ask("download 8000000")["ok"]
        wait_until(lambda: lab.server.counter("TcpExtTCPWinProbe") >= 1, PATIENCE_S, "the server probes the window")


def test_a_slow_query_takes_its_time(lab: Lab, server: Server) -> None:
    with embedded_client(lab.client, SERVER, 3306) as client:
        answer = client.ask("slow 0.5")
    assert answer["ok"] and answer["seconds"] >= 0.5


def test_a_user_timeout_is_the_sockets_own(lab: Lab, server: Server) -> None:
    with embedded_client(lab.client, SERVER, 3306, "--user-timeout", "1000") as client:
        assert client.ask("query")["ok"]
        lab.drop_everything()
        answer = client.ask("query")
    assert (answer["ok"], answer["error"]) == (False, "ETIMEDOUT")
    assert 1 <= answer["seconds"] < 5, "tcp_retries2=5 alone would take 13 s"
