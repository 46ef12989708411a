"""A peer that is heard again: by what, after which silence, and what is no news; probes of a closed window."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lab.disasters import Forger
from listening import Listener

from tracer.lab.network import SERVER, Lab
from tracer.lab.peers import Client, Server, embedded_client

THRESHOLD_S = 1.0


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """One for all, which nothing is left wrong with after a test."""
    with Lab(ttl_s=60) as made:
        # Else a receive buffer may grow until it holds all that the tests send.
        made.server.set_sysctl("net.ipv4.tcp_rmem", "4096 131072 262144")
        yield made


@pytest.fixture(scope="module")
def heard(lab: Lab) -> Iterator[Listener]:
    """A silence of a second is news to it."""
    with Listener(lab, resume_after_s=THRESHOLD_S) as listener:
        yield listener


@pytest.fixture
def server(lab: Lab) -> Iterator[Server]:
    """That answers on port 3306. The path is mended afterwards."""
    with Server(lab.server, SERVER, 3306) as started:
        yield started
    lab.restore()


@pytest.fixture
def client(lab: Lab, server: Server) -> Iterator[Client]:
    """Connected, and answered once."""
    with embedded_client(lab.client, SERVER, 3306) as connected:
        assert connected.ask("query")["ok"]
        yield connected


def settled(heard: Listener, lab: Lab, server: Server) -> None:
    """Return when all events so far have been taken: those of a connection made now have."""
    with embedded_client(lab.client, SERVER, 3306) as late:
        heard.wait_for(late, new_state="ESTABLISHED")


def test_data_after_a_silence_and_its_acknowledgement(
    heard: Listener, lab: Lab, server: Server, client: Client
) -> None:
    assert client.ask("slow 1.3")["ok"]
    answer, acknowledgement = heard.wait_for(client, 2, event="resume")
    assert (answer.cause, answer.rport, answer.state, answer.netns) == ("data", 3306, "ESTABLISHED", lab.client.netns)
    assert (answer.pid, answer.comm) == (client.pid, "worker")
    assert answer.silent_ms is not None and 1000 <= answer.silent_ms <= 1310, "since the question was acknowledged"
    assert (acknowledgement.cause, acknowledgement.lport, acknowledgement.pid) == ("data", 3306, server.pid)
    assert acknowledgement.unacked_bytes, "the answer"
    settled(heard, lab, server)
    assert len(heard.of(client, event="resume")) == 2


def test_both_ends_hear_of_each_other_after_a_pause(
    heard: Listener, lab: Lab, server: Server, client: Client
) -> None:
    with embedded_client(lab.client, SERVER, 3306) as busy:
        answer = busy.ask("busy 1.3")
        assert client.ask("query")["ok"]
        resumed = heard.wait_for(client, 2, event="resume")
        settled(heard, lab, server)
        assert heard.of(busy, event="resume") == [], f"{answer['count']} queries back to back"
    assert [(event.cause, event.rport == 3306, event.pid) for event in resumed] == [
        ("data", False, server.pid),
        ("data", True, client.pid),
    ]
    assert all(event.silent_ms is not None and event.silent_ms >= 1000 for event in resumed)


def test_a_shorter_silence_is_no_news(heard: Listener, lab: Lab, server: Server, client: Client) -> None:
    assert client.ask("slow 0.7")["ok"]
    settled(heard, lab, server)
    assert heard.of(client, event="resume") == []


def test_a_probe_of_the_peers_and_the_answer_to_it(heard: Listener, lab: Lab, server: Server) -> None:
    with embedded_client(lab.client, SERVER, 3306, "--idle", "2", "--interval", "2") as client:
        heard.wait_for(client, event="keepalive")
        probed, answered = heard.wait_for(client, 2, event="resume")[:2]
    assert (probed.lport, probed.cause, probed.pid) == (3306, "probe", server.pid)
    assert (answered.rport, answered.cause, answered.pid) == (3306, "keepalive", client.pid)
    assert answered.silent_ms is not None and answered.silent_ms >= 1900


def test_an_answer_after_a_missed_one_is_news_after_any_silence(lab: Lab, server: Server) -> None:
    with (
        Listener(lab) as heard,
        embedded_client(lab.client, SERVER, 3306, "--idle", "1", "--interval", "1", "--probes", "9") as client,
    ):
        heard.wait_for(client, 2, event="keepalive", attempt=1)
        assert heard.of(client, event="resume") == [], "an answered probe is no news"
        lab.drop_everything()
        heard.wait_for(client, event="keepalive", attempt=2)
        lab.restore()
        resume = heard.wait_for(client, event="resume")[0]
        heard.wait_for(client, len(heard.of(client, event="keepalive", attempt=1)) + 1, event="keepalive", attempt=1)
        assert len(heard.of(client, event="resume")) == 1
    assert (resume.rport, resume.cause, resume.pid) == (3306, "keepalive", client.pid)
    assert resume.silent_ms is not None and resume.silent_ms >= 1900


def test_a_retransmission_is_acknowledged(heard: Listener, lab: Lab, server: Server, client: Client) -> None:
    lab.drop_everything()
    client.send("query")
    heard.wait_for(client, event="retransmit", kind="rto", attempt=1)
    lab.restore()
    assert client.answer()["ok"]
    resume = heard.wait_for(client, event="resume", rport=3306)[0]
    assert (resume.cause, resume.pid) == ("data", client.pid)
    assert resume.unacked_bytes == len("SELECT q FROM jobs WHERE id = 1\n"), "as it was before"
    retransmitted = heard.of(client, event="retransmit", rport=3306)[-1]
    assert resume.ktime_ns > retransmitted.ktime_ns


def test_a_tail_loss_probe_is_acknowledged(heard: Listener, lab: Lab, server: Server) -> None:
    # With several segments in flight the probe goes out at once, and with this route no RTO for two seconds.
    question = "slow 0.5" + "0" * 4000
    route = ("ip", "route", "change", "default", "via", "10.66.1.1")
    lab.client.run(*route, "rto_min", "2s")
    try:
        with embedded_client(lab.client, SERVER, 3306) as client:
            assert client.ask("query")["ok"]
            lab.drop_everything(to_server=False)
            client.send(question)
            heard.wait_for(client, event="retransmit", kind="tlp", rport=3306)
            lab.restore()
            assert client.answer()["ok"]
            resume = heard.wait_for(client, event="resume", rport=3306)[0]
            assert heard.of(client, event="retransmit", kind="rto", rport=3306) == []
    finally:
        lab.client.run(*route)
    assert (resume.cause, resume.pid) == ("data", client.pid)


def test_a_peer_that_is_not_heard_by_the_other_makes_no_progress(
    heard: Listener, lab: Lab, server: Server, client: Client
) -> None:
    lab.drop_everything(to_server=False)
    client.send("query")
    without = heard.wait_for(client, 2, event="resume", lport=3306)
    assert {event.cause for event in without} == {"no-progress"}
    assert {event.pid for event in without} == {server.pid}
    assert all(event.unacked_bytes for event in without)
    assert heard.of(client, event="resume", rport=3306) == [], "the client hears nobody"
    lab.restore()
    assert client.answer()["ok"]
    assert heard.wait_for(client, event="resume", rport=3306)[0].cause == "data"
    # The client's retransmission and its acknowledgement of the server's may come together.
    assert heard.wait_for(client, event="resume", lport=3306, cause="data")[0].pid == server.pid


def test_a_window_that_stays_closed_and_opens(heard: Listener, lab: Lab, server: Server, client: Client) -> None:
    before = lab.client.counter("TcpExtTCPWinProbe")
    server.stop()
    client.send("send 8000000")
    probes = heard.wait_for(client, 4, event="window-probe")
    assert heard.of(client, event="resume", cause="window") == []
    server.go_on()
    assert client.answer()["ok"]
    resume = heard.wait_for(client, event="resume", cause="window")[0]
    probes = heard.of(client, event="window-probe")
    counted = lab.client.counter("TcpExtTCPWinProbe") - before
    attempts = [probe.attempt or 0 for probe in probes]
    assert attempts[0] == 1 and attempts == sorted(set(attempts)), "each once, as the backoff counts them"
    # Without kprobes a probe is not seen whose timer found the socket in use: it is sent when that ends.
    assert counted - 1 <= len(probes) <= counted and attempts[-1] == counted
    for event in (*probes, resume):
        assert (event.rport, event.pid, event.state) == (3306, client.pid, "ESTABLISHED")
        assert (event.snd_wnd, event.unacked_bytes) == (0, 0) and event.unsent_bytes
    assert heard.of(client, event="keepalive") == []


def test_a_window_that_opens_right_after_a_probe(heard: Listener, lab: Lab, server: Server, client: Client) -> None:
    """The answer to the probe was heard a few milliseconds ago: too short a silence for any other news."""
    server.stop()
    client.send("send 8000000")
    heard.wait_for(client, 2, event="window-probe")
    server.go_on()
    assert client.answer()["ok"]
    assert len(heard.wait_for(client, event="resume", cause="window")) == 1


def test_a_reset_is_no_sign_of_life(heard: Listener, lab: Lab, server: Server) -> None:
    with (
        Forger(lab) as forger,
        embedded_client(lab.client, SERVER, 3306) as client,
        embedded_client(lab.client, SERVER, 3306) as other,
    ):
        assert client.ask("query")["ok"] and other.ask("slow 1.3")["ok"]
        lab.forget_sessions()  # so that no answer to the resets arrives
        forger.reset(client, off_by=100)
        heard.wait_for(client, 2, event="reset", direction="refused")
        forger.reset(client)
        heard.wait_for(client, 2, event="reset", direction="received")
        settled(heard, lab, server)
        assert heard.of(client, event="resume") == []


def test_it_can_be_left_off(heard: Listener, lab: Lab, server: Server, client: Client) -> None:
    with Listener(lab, resume=False, resume_after_s=THRESHOLD_S) as without:
        lab.drop_everything()
        client.send("slow 1.3")
        without.wait_for(client, event="retransmit", kind="rto")
        lab.restore()
        assert client.answer()["ok"]
        heard.wait_for(client, 2, event="resume")
        without.finish()
        assert without.of(client, event="resume") == []
        assert without.of(client, event="retransmit")
