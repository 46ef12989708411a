"""`tcpwatch probe` on the running kernel: what it finds."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from acting import act
from probe_command import found_in, open_files, result, rows
from ss_comparison import MAPPED, ours, ss
from user_namespace import container
from watching import AS_NOBODY, PATIENCE_S, Json

from tracer.act import probing
from tracer.act.probing import Prober
from tracer.kernel.sockets import read_sockets
from tracer.lab.namespace import wait_until
from tracer.lab.network import SERVER, SERVER6, Lab
from tracer.lab.peers import Server, embedded_client
from tracer.model.actions import Probed
from tracer.model.filters import Filter

HERE = Path(__file__).parent


SETTINGS = ("state", "timer", "keepalive", "keepalive_idle_s", "keepalive_interval_s", "keepalive_probes",
            "user_timeout_ms", "unacked_bytes", "attempt", "backoff", "rto_ms", "snd_wnd", "srtt_ms",
            "ca_state")  # fmt: skip


_DROP_FROM = """
table ip dead {{
  chain forward {{
    type filter hook forward priority -5;
    tcp sport {{ {ports} }} drop
  }}
}}
"""


@pytest.fixture
def lab() -> Iterator[Lab]:
    """The firewall forgets nothing by itself."""
    with Lab(ttl_s=600, retries2=15) as made:
        yield made


def assert_untouched(before: Json, after: Json) -> None:
    """The settings of a socket are as they were, its countdown goes on, and nothing counts as sent."""
    assert {name: before.get(name) for name in SETTINGS} == {name: after.get(name) for name in SETTINGS}
    assert after["since_sent_ms"] > before["since_sent_ms"]
    assert ("timer_ms" in before) == ("timer_ms" in after)
    assert after.get("timer_ms", 0) <= before.get("timer_ms", 0)


@pytest.mark.parametrize("keepalive", [(), ("--no-keepalive",)])
@pytest.mark.parametrize("host", [SERVER, SERVER6, MAPPED])
def test_an_idle_connection_is_alive_and_nothing_else_changes(
    lab: Lab, host: str, keepalive: tuple[str, ...]
) -> None:
    with (
        Server(lab.server, SERVER6 if host == SERVER6 else SERVER, 3306),
        embedded_client(lab.client, host, 3306, *keepalive) as client,
    ):
        assert client.ask("query")["ok"]
        (before,) = ours("--netns", str(lab.client.netns))
        ((row,), status) = rows("--netns", lab.client.netns)
        (after,) = ours("--netns", str(lab.client.netns))
        assert (row["result"], row["action"], row["pid"], status) == ("alive", "probe", client.pid, 0)
        assert 0 < row["rtt_ms"] < 1000
        assert_untouched(before, after)
        assert client.ask("query")["ok"]


def test_a_forgotten_session_has_no_answer_and_a_new_connection_opens() -> None:
    with (
        Lab(ttl_s=2) as lab,
        Server(lab.server, SERVER, 3306),
        embedded_client(lab.client, SERVER, 3306) as client,
    ):
        assert client.ask("query")["ok"]
        wait_until(lambda: not lab.sessions(3306), PATIENCE_S, "the session expires")
        (before,) = ours("--netns", str(lab.client.netns))
        done = act("probe", "--netns", lab.client.netns, "--lport", client.connected["lport"], "--connect")
        assert done.returncode == 1, done.stderr
        (after,) = ours("--netns", str(lab.client.netns))
        assert_untouched(before, after)
        assert lab.dropped_packets() == 3
    line, connected = done.stdout.splitlines()
    assert line.startswith(f"no-answer    worker[{client.pid}]  ") and "3 probes in 3.0s, silent for " in line
    assert connected.startswith(f"a new connection to {SERVER}:3306 opens (")
    assert "forgot the session of the one that does not answer" in connected
    assert "refreshed" not in done.stderr, "nothing answered"


def test_an_answered_probe_refreshes_the_firewall() -> None:
    with Lab(ttl_s=6) as lab, Server(lab.server, SERVER, 3306), embedded_client(lab.client, SERVER, 3306) as client:
        assert client.ask("query")["ok"]

        def left_s() -> int:
            return int(lab.sessions(3306)[0].split()[2])

        wait_until(lambda: left_s() <= 3, PATIENCE_S, "half of the timeout has passed")
        done = act("probe", "--netns", lab.client.netns)
        assert (done.returncode, left_s() > 3) == (0, True), done.stderr
        assert "refreshed the session in every firewall and NAT" in done.stderr


def test_without_host_or_path_the_new_connection_fails_too(lab: Lab) -> None:
    with Server(lab.server, SERVER, 3306), embedded_client(lab.client, SERVER, 3306):
        lab.drop_everything()
        done = act("probe", "--netns", lab.client.netns, "--connect", "--wait", "1s")
        assert "fails (ETIMEDOUT), too: the host or the path is down" in done.stdout
        ((row, connect), status) = rows("--netns", lab.client.netns, "--connect", "--wait", "1s")
    assert (row["result"], connect["action"], connect["result"], connect["error"], status) == (
        "no-answer", "connect", "failed", "ETIMEDOUT", 1,
    )  # fmt: skip


def test_a_peer_that_lost_the_connection_resets_it(lab: Lab) -> None:
    with Server(lab.server, SERVER, 3306, "--abort") as server, embedded_client(lab.client, SERVER, 3306) as client:
        assert client.ask("query")["ok"]
        lab.drop_everything()
        server.kill()
        wait_until(lambda: not ss(lab.server), PATIENCE_S, "the server's kernel forgot it")
        lab.restore()
        assert result(lab) == "reset: "
        answer = client.ask("query")
    assert answer["error"] == "ECONNRESET", "the error is left for the process"


def test_a_firewall_that_resets_forgotten_sessions(lab: Lab) -> None:
    with Server(lab.server, SERVER, 3306), embedded_client(lab.client, SERVER, 3306):
        lab.reject_with_reset()
        lab.forget_sessions()
        assert result(lab) == "reset: "


def test_a_shared_socket_is_probed_once(lab: Lab) -> None:
    with Server(lab.server, SERVER, 3306), embedded_client(lab.client, SERVER, 3306) as client:
        children = client.ask("fork 2")["pids"]
        before = lab.client.counter("TcpExtTCPWinProbe")
        ((row,), _) = rows("--netns", lab.client.netns)
        assert (row["result"], set(row["pids"])) == ("alive", {client.pid, *children})
        assert lab.client.counter("TcpExtTCPWinProbe") == before + 1


def test_what_cannot_be_probed_has_a_reason(lab: Lab) -> None:
    with Server(lab.server, SERVER, 3306, "--mptcp"), embedded_client(lab.client, SERVER, 3306, "--mptcp") as client:
        assert client.ask("query")["ok"]
        assert result(lab) == "unreachable: a subflow of Multipath TCP has no descriptor"
        assert client.ask("query")["ok"]


def test_a_half_closed_connection_cannot_be_probed(lab: Lab) -> None:
    with Server(lab.server, SERVER, 3306) as server, embedded_client(lab.client, SERVER, 3306) as client:
        assert client.ask("query")["ok"]
        server.kill()
        wait_until(
            lambda: [row["state"] for row in ss(lab.client).values()] == ["CLOSE_WAIT"], PATIENCE_S, "CLOSE_WAIT"
        )
        assert result(lab) == "unreachable: the kernel sends no probe in CLOSE_WAIT"


def test_sixty_of_two_hundred_are_dead_and_the_others_answer(lab: Lab) -> None:
    with Server(lab.server, SERVER, 3306):
        argv: list[str | Path] = [sys.executable, HERE / "pool.py", SERVER, "3306", "200"]
        with lab.client.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as pool:
            assert pool.stdin is not None and pool.stdout is not None
            ports = json.loads(pool.stdout.readline())
            dead, alive = ports[::3][:60], sorted(set(ports) - set(ports[::3][:60]))
            lab.firewall.run("nft", "-f", "-", stdin=_DROP_FROM.format(ports=", ".join(map(str, dead))))
            results: list[tuple[float, Probed]] = []
            found = read_sockets(Filter(netns=frozenset([lab.client.netns])))
            open_before, began_s = open_files(), time.monotonic()
            Prober(3.0, lambda each: results.append((time.monotonic() - began_s, each))).probe(found)
            took_s = time.monotonic() - began_s
            assert open_files() == open_before
            by_result = {
                answer: sorted(each.socket.lport or 0 for _, each in results if each.answer.value == answer)
                for answer in ("alive", "no-answer")
            }
            assert by_result == {"alive": alive, "no-answer": sorted(dead)}
            assert took_s < 4
            assert max(at_s for at_s, each in results if each.answer.value == "alive") < 2, "as they come"
            pool.stdin.write(json.dumps(alive) + "\n")
            pool.stdin.close()
            became = {int(port): what for port, what in json.loads(pool.stdout.readline()).items()}
            pool.kill()
    assert became == dict.fromkeys(alive, "ok")


def test_a_container_with_a_user_namespace() -> None:
    with container() as (pid, port):
        found, status = rows("--pid", pid, "--lport", port, "--connect")
    assert [(row["action"], row["result"]) for row in found] == [("probe", "alive"), ("connect", "connected")]
    assert status == 0


def test_more_than_at_once(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "MAX_AT_ONCE", 5)
    most = 0
    with Server(lab.server, SERVER, 3306):
        clients = [embedded_client(lab.client, SERVER, 3306) for _ in range(12)]
        lab.drop_everything()
        found, results = found_in(lab), list[Probed]()
        before = set(filter(_is_socket, open_files()))

        def count_open() -> bool:
            nonlocal most
            most = max(most, len(set(filter(_is_socket, open_files())) - before))
            return False

        Prober(0.3, results.append, count_open).probe(found)
        for client in clients:
            client.close()
    assert [each.answer.value for each in results] == ["no-answer"] * 12
    assert most == 5


def _is_socket(number: str) -> bool:
    try:
        return (Path("/proc/self/fd") / number).readlink().name.startswith("socket:")
    except OSError:
        return False


def test_refusals(lab: Lab) -> None:
    assert act("probe").returncode == 2
    done = subprocess.run([*AS_NOBODY, "probe", "--rport", "3306"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "") and "\nHint: run it again with sudo\n" in done.stderr
    with Server(lab.server, SERVER, 3306), embedded_client(lab.client, SERVER, 3306):
        for capability in ("sys_ptrace", "net_admin"):
            without = ("setpriv", f"--bounding-set=-{capability}", f"--inh-caps=-{capability}")
            done = act("probe", "--netns", lab.client.netns, before=without)
            assert (done.returncode, done.stdout) == (1, "")
            assert f"CAP_{capability.upper()} is missing\nHint: " in done.stderr
        done = act("probe", "--netns", lab.client.netns, "--lport", "1")
        assert (done.returncode, done.stdout) == (0, "") and done.stderr.endswith("no connection matches\n")
