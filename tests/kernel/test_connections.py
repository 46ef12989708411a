"""Whose connection it is, whatever the connection: families, namespaces, owners, ends."""

from __future__ import annotations

import pytest
from lab.disasters import Forger
from watching import Start, both_ends

from tracer.lab.network import CLIENT, CLIENT6, SERVER, SERVER6, Lab
from tracer.lab.peers import Server, embedded_client


@pytest.mark.parametrize(
    ("listen", "connect", "family", "laddr", "raddr"),
    [
        (SERVER, SERVER, 4, CLIENT, SERVER),
        (SERVER6, SERVER6, 6, CLIENT6, SERVER6),
        (SERVER, f"::ffff:{SERVER}", 4, CLIENT, SERVER),
    ],
    ids=["IPv4", "IPv6", "v4-mapped"],
)
def test_a_socket_opened_before_the_start(
    lab: Lab, watch: Start, listen: str, connect: str, family: int, laddr: str, raddr: str
) -> None:
    lab.client.set_sysctl("net.ipv4.tcp_retries2", 3)
    with Server(lab.server, listen, 3306), embedded_client(lab.client, connect, 3306) as client:
        assert client.ask("query")["ok"]
        seen = watch("--netns", both_ends(lab))
        lab.drop_everything()
        answer = client.ask("query")
        seen.wait_for(event="error")
    seen.stop()
    events = [each for each in seen.of(lport=client.connected["lport"]) if each["event"] != "stall"]
    kinds = [each.get("kind", each["event"]) for each in events]
    assert kinds[:4] == ["tlp", "rto", "rto", "rto"]
    assert kinds[-2:] == ["state", "error"]
    for each in events:
        assert (each["family"], each["laddr"], each["raddr"]) == (family, laddr, raddr)
        assert (each["pid"], each["comm"]) == (client.pid, "worker")
        assert each["silent_ms"] > 0
    assert len({each["sock"] for each in events}) == 1
    assert events[-1]["errno"] == answer["errno"] == 110


def test_two_namespaces_with_the_same_four_numbers(watch: Start) -> None:
    with Lab() as one, Lab() as other:
        seen = watch("--netns", f"{one.client.netns},{other.client.netns}")
        with (
            Server(one.server, SERVER, 3306),
            Server(other.server, SERVER, 3306),
            embedded_client(one.client, SERVER, 3306, "--bind-port", "40000") as first,
            embedded_client(other.client, SERVER, 3306, "--bind-port", "40000") as second,
        ):
            assert first.ask("query")["ok"] and second.ask("query")["ok"]
            one.drop_everything()
            other.drop_everything()
            first.send("query")
            second.send("query")
            for lab in (one, other):
                seen.wait_for(2, event="retransmit", netns=lab.client.netns)
        seen.stop()
    tuples = {(each["laddr"], each["lport"], each["raddr"], each["rport"]) for each in seen.of(event="retransmit")}
    assert tuples == {(CLIENT, 40000, SERVER, 3306)}
    of_connections = [each for each in seen.events if each["event"] != "counters"]
    for lab, client in ((one, first), (other, second)):
        events = [each for each in of_connections if each["netns"] == lab.client.netns]
        assert {each["pid"] for each in events} == {client.pid}
        assert len({each["sock"] for each in events}) == 1
    assert len({each["sock"] for each in of_connections}) == 2


def test_a_socket_that_forked_workers_share(lab: Lab, watch: Start) -> None:
    seen = watch("--netns", both_ends(lab))
    with Server(lab.server, SERVER, 3306), embedded_client(lab.client, SERVER, 3306) as client:
        client.ask("query")
        children = client.ask("fork 3")["pids"]
        lab.drop_everything()
        client.send("query")
        # A second after the first look, at the latest, the owners are looked up again.
        last = seen.wait_for(5, event="retransmit")[-1]
    assert last["pids"] == sorted([client.pid, *children])
    assert (last["pid"], last["comm"]) == (min(last["pids"]), "worker")


def test_a_process_that_exits_leaves_its_name(lab: Lab, watch: Start) -> None:
    seen = watch("--netns", both_ends(lab))
    with Server(lab.server, SERVER, 3306), embedded_client(lab.client, SERVER, 3306) as client:
        client.ask("query")
        lab.drop_everything()
        client.kill()
        fins = seen.wait_for(2, event="retransmit", kind="fin")
    for each in [*fins, *seen.of(new_state="FIN_WAIT1", lport=client.connected["lport"])]:
        assert (each["pid"], each["comm"], each["unacked_bytes"]) == (client.pid, "worker", 0)


def test_a_socket_older_than_the_start_whose_process_exits(lab: Lab, watch: Start) -> None:
    with Server(lab.server, SERVER, 3306), embedded_client(lab.client, SERVER, 3306) as client:
        client.ask("query")
        seen = watch("--netns", both_ends(lab))
        lab.drop_everything()
        client.kill()
        fin = seen.wait_for(event="retransmit", kind="fin")[0]
    assert (fin["pid"], fin["comm"]) == (client.pid, "worker")


def test_a_reset_in_answer_to_a_forgotten_session(lab: Lab, watch: Start) -> None:
    lab.reject_with_reset()
    seen = watch("--netns", both_ends(lab))
    with Server(lab.server, SERVER, 3306), embedded_client(lab.client, SERVER, 3306) as client:
        client.ask("query")
        lab.forget_sessions()
        assert client.ask("query")["error"] == "ECONNRESET"
        error = seen.wait_for(event="error")[0]
    course = [each["event"] for each in seen.of(sock=error["sock"])][-3:]
    assert course == ["reset", "state", "error"]
    assert [each["direction"] for each in seen.of(event="reset", sock=error["sock"])] == ["received"]
    assert (error["errno"], error["error"]) == (104, "ECONNRESET")


def test_a_reset_that_is_refused_changes_nothing(lab: Lab, watch: Start) -> None:
    seen = watch("--netns", both_ends(lab))
    with (
        Server(lab.server, SERVER, 3306),
        Forger(lab) as forger,
        embedded_client(lab.client, SERVER, 3306) as client,
    ):
        client.ask("query")
        forger.reset(client, to_server=False, off_by=1000)
        reset = seen.wait_for(event="reset")[0]
        assert lab.client.believes(client.connected["lport"], 3306) == "ESTABLISHED"
    assert (reset["direction"], reset["state"], reset["pid"]) == ("refused", "ESTABLISHED", client.pid)
    assert reset["lport"] == client.connected["lport"]


def test_a_connection_that_is_refused(lab: Lab, watch: Start) -> None:
    seen = watch("--netns", both_ends(lab))
    with embedded_client(lab.client, SERVER, 3306) as client:
        assert client.connected["error"] == "ECONNREFUSED"
        error = seen.wait_for(event="error")[0]
    assert (error["error"], error["comm"], error["unacked_bytes"]) == ("ECONNREFUSED", "worker", 0)
    sent = seen.of(event="reset", direction="sent")[0]
    assert (sent["netns"], sent["laddr"], sent["lport"], sent["raddr"]) == (lab.server.netns, SERVER, 3306, CLIENT)
    assert "sock" not in sent and "pid" not in sent
    received = seen.of(event="reset", direction="received")[0]
    assert (received["state"], received["lport"]) == ("SYN_SENT", sent["rport"])
    assert "silent_ms" not in received, "the server was never heard before"


def test_a_syn_into_nothing(lab: Lab, watch: Start) -> None:
    lab.client.set_sysctl("net.ipv4.tcp_syn_retries", 2)
    lab.drop_everything()
    seen = watch("--netns", both_ends(lab))
    with embedded_client(lab.client, SERVER, 3306, wait=False) as client:
        syns = seen.wait_for(2, event="retransmit")
        assert client.answer()["error"] == "ETIMEDOUT"
        error = seen.wait_for(event="error")[0]
    assert [(each["kind"], each["attempt"]) for each in syns[:2]] == [("syn", 1), ("syn", 2)]
    for each in [*syns, error]:
        assert (each["comm"], each["unacked_bytes"]) == ("worker", 0)
        assert "silent_ms" not in each, "never heard, so never silent"
    assert error["error"] == "ETIMEDOUT"


def test_a_syn_ack_into_nothing(lab: Lab, watch: Start) -> None:
    lab.drop_everything(to_server=False)
    seen = watch("--netns", both_ends(lab))
    with Server(lab.server, SERVER, 3306) as server, embedded_client(lab.client, SERVER, 3306, wait=False):
        synack = seen.wait_for(event="retransmit", kind="synack")[0]
    assert (synack["attempt"], synack["laddr"], synack["lport"]) == (1, SERVER, 3306)
    assert (synack["pid"], synack["comm"]) == (server.pid, "server"), "the listener's"
    assert "silent_ms" not in synack


def test_a_retransmission_that_cannot_even_be_sent(lab: Lab, watch: Start) -> None:
    seen = watch("--netns", both_ends(lab))
    with Server(lab.server, SERVER, 3306), embedded_client(lab.client, SERVER, 3306) as client:
        client.ask("query")
        lab.drop_everything()
        client.send("query")
        sent = seen.wait_for(event="retransmit", lport=client.connected["lport"])[0]
        lab.client.run("ip", "route", "add", "unreachable", SERVER)
        failed = seen.wait_for(event="retransmit", send_error="EHOSTUNREACH")[0]
    assert "send_error" not in sent
    assert failed["kind"] == "rto"
    assert failed["sock"] == sent["sock"]
