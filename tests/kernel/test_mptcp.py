"""Multipath TCP: what is seen is a subflow, and what the application has is another socket."""

from __future__ import annotations

from pathlib import Path

import pytest
from probe_command import found_in, result
from protect_command import protect
from stalling import Stalls, ended
from typed import command_of, run

from tracer.kernel import window_probe
from tracer.kernel.descriptors import Descriptors, Unreachable
from tracer.kernel.sock_diag import named_of
from tracer.lab.network import SERVER, Lab
from tracer.lab.peers import Server, embedded_client
from tracer.output.stall_sentences import how_it_ended, when_it_ends


def test_a_subflow_that_dies_is_told_as_one_and_its_owner_is_the_connections(tmp_path: Path) -> None:
    with Lab(ttl_s=60, retries2=3) as lab, Server(lab.server, SERVER, 3306, "--mptcp"), Stalls(lab, tmp_path) as seen:
        with embedded_client(lab.client, SERVER, 3306, "--mptcp") as client:
            assert client.ask("query")["ok"]
            lab.drop_everything()
            client.send("query")
            begin = seen.wait_for(phase="begin", rport=3306)
            end = seen.wait_for(phase="end", rport=3306)
            assert not client.answered(), "the connection itself waits for another subflow"
            shown = run(command_of(begin.advice or [], "the subflows of this connection"))
        lport = client.connected["lport"]
    assert {each.mptcp for each in seen.of("retransmit", lport=lport)} == {True}
    assert (begin.pid, begin.comm, begin.orphan) == (client.pid, "worker", None)
    assert "one subflow" in when_it_ends(seen.of(phase="update", lport=lport)[0], 0)
    assert (end.verdict, end.outcome, end.error) == ("path-loss", "timed-out", "ETIMEDOUT")
    assert "the application" not in how_it_ended(end) and "the subflow's error is ETIMEDOUT" in how_it_ended(end)
    assert "mptcp" in shown and f":{lport}" in shown, "the command shows the connection"
    assert "path-loss timed-out" in ended(seen.stop())


def test_a_connection_that_fell_back_to_tcp_is_left_alone() -> None:
    """The server has no Multipath TCP. The socket of the client still takes no TCP_REPAIR."""
    with (
        Lab(ttl_s=60) as lab,
        Server(lab.server, SERVER, 3306),
        embedded_client(lab.client, SERVER, 3306, "--mptcp") as client,
    ):
        assert client.ask("query")["ok"]
        assert result(lab).startswith("unreachable: a subflow of Multipath TCP")
        done = protect("--netns", lab.client.netns, "--idle", "60s")
        assert done.returncode == 1 and "a subflow of Multipath TCP" in done.stdout
        (found,) = found_in(lab)
        named = named_of(found)
        assert named is not None
        with (
            Descriptors().duplicate([client.pid], named) as duplicate,
            pytest.raises(Unreachable, match="a socket of Multipath TCP"),
        ):
            window_probe.send(duplicate.socket, reuses=False)
        assert client.ask("query")["ok"]
