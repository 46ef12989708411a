"""The kernel's filters let through what Python's let through, and nothing else."""

from __future__ import annotations

from collections import Counter

import pytest
from watching import Json, Start, both_ends

from tracer.cli.options import cli_filter
from tracer.lab.network import CLIENT, SERVER, SERVER6, Lab
from tracer.lab.peers import Server, embedded_client
from tracer.model.validation import from_json


def key(event: Json) -> tuple[object, ...]:
    """What two tracers say in the same words: their clocks and their names for sockets are their own."""
    names = ("event", "netns", "laddr", "lport", "raddr", "rport", "old_state", "new_state", "direction", "error")
    return tuple(event.get(name) for name in names)


@pytest.mark.parametrize(
    "options",
    [
        ["--port", "3306"],
        ["--port", "3306,11300", "-6"],
        ["--rport", "11300"],
        ["--port", "3300-3310"],
        ["--lport", "1-11299,11301-65535"],
        ["--lport", "11300"],
        ["--lport", "3306", "--rport", "3306"],
        ["--port", "3306", "--host", "10.66.1.0/24"],
        ["--host", "fd66:2::/64"],
        ["--host", "0.0.0.0/0", "-4"],
        ["--host", "10.66.9.9"],
        ["--rport", "3306", "--port", "11300"],
    ],
    ids=" ".join,
)
def test_the_kernel_and_python_agree(watch: Start, options: list[str]) -> None:
    with Lab(ports=(3306, 11300)) as lab:
        everything = watch("--netns", both_ends(lab))
        filtered = watch("--netns", both_ends(lab), *options)
        for host in (SERVER, SERVER6):
            for port in (3306, 11300):
                with Server(lab.server, host, port), embedded_client(lab.client, host, port) as client:
                    client.ask("query")
                    client.ask("close")
                    everything.wait_for(raddr=host, rport=port, old_state="FIN_WAIT2", new_state="CLOSE")
                # Nobody listens any more.
                with embedded_client(lab.client, host, port) as refused:
                    assert refused.connected["error"] == "ECONNREFUSED"
        everything.wait_for(4, event="error")
        wanted = cli_filter(options)
        expected = Counter(key(each) for each in everything.events if wanted.wants(from_json(each)))
        filtered.stop()
        everything.stop()
        assert Counter(key(each) for each in filtered.events) == expected
        assert len(everything.events) >= 40
        hosts = {each["laddr"] for each in everything.events}
        assert CLIENT in hosts


def test_one_namespace_only(watch: Start) -> None:
    with Lab() as lab, Lab() as other:
        one_end = watch("--netns", str(lab.server.netns))
        for each in (other, lab):
            with Server(each.server, SERVER, 3306), embedded_client(each.client, SERVER, 3306) as client:
                client.ask("query")
        one_end.wait_for(lport=3306, new_state="ESTABLISHED")
        one_end.stop()
        assert {each["netns"] for each in one_end.events} == {lab.server.netns}


def test_process_event_and_silence(watch: Start) -> None:
    with Lab() as lab:
        seen = watch("--netns", both_ends(lab), "--comm", "worker", "-e", "keepalive,error", "--min-idle", "1.5s")
        options = ("--idle", "1", "--interval", "1", "--probes", "3")
        with Server(lab.server, SERVER, 3306), embedded_client(lab.client, SERVER, 3306, *options) as client:
            client.ask("query")
            lab.drop_everything()
            seen.wait_for(event="error")
        seen.stop()
        # The first probe goes out after a second of silence: too soon for --min-idle.
        assert [each.get("attempt", each["event"]) for each in seen.events] == [2, 3, "error"]
        assert {each["pid"] for each in seen.events} == {client.pid}


def test_a_filter_may_have_any_number_of_values(watch: Start) -> None:
    """More than the maps of the compiled program have room for."""
    blocks = ",".join(f"10.{100 + number // 256}.{number % 256}.0/24" for number in range(1200))
    ports = ",".join(map(str, range(2000, 22000)))
    namespaces = ",".join(map(str, range(4026530000, 4026530400)))
    with Lab(ports=(3306, 1999)) as lab:
        netns = f"{namespaces},{both_ends(lab)}"
        wanted = watch("--netns", netns, "--port", ports, "--host", f"{blocks},{SERVER}")
        others = watch("--netns", netns, "--port", ports, "--host", blocks)
        for port in (1999, 3306):
            with Server(lab.server, SERVER, port), embedded_client(lab.client, SERVER, port) as client:
                client.ask("query")
                client.ask("close")
        wanted.wait_for(raddr=SERVER, rport=3306, new_state="CLOSE")
        wanted.stop()
        others.stop()
        seen = [each for each in wanted.events if each["event"] == "state"]
        assert len(seen) >= 4 and {3306} == {each["rport"] for each in seen if each["raddr"] == SERVER}
        assert others.of(event="state") == []
