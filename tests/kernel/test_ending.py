"""`tcpwatch end` on the running kernel: a frozen call returns, and nobody else notices."""

from __future__ import annotations

import json
import os
import shlex
import socket as sockets
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from churn import LIVES_S, Churn
from end_command import Question, end
from ss_comparison import MAPPED, ss
from user_namespace import container
from watching import AS_NOBODY, PATIENCE_S, ROOT, Json, both_ends

from tracer.act.ending import end as end_target
from tracer.act.ending import look_again, plan
from tracer.act.selection import Selection, select
from tracer.analysis.stuck import stuck
from tracer.kernel.sock_diag import Ends, Named, SockDiag
from tracer.kernel.sockets import read_sockets
from tracer.lab.namespace import Namespace, wait_until
from tracer.lab.network import SERVER, SERVER6, Lab
from tracer.lab.peers import Client, Server, embedded_client
from tracer.model.actions import Left, Outcome, Result
from tracer.model.filters import Filter
from tracer.model.sockets import Socket

HOME = "127.0.0.1"
HERE = Path(__file__).parent
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
    """The kernel gives up on nothing while a test runs."""
    with Lab(ttl_s=600, retries2=15) as made:
        yield made


def hang(lab: Lab, client: Client) -> None:
    """Have the client's query be retransmitted, until it counts as hanging."""
    assert client.ask("query")["ok"]
    lab.drop_everything()
    client.send("query")
    key = (client.connected["lport"], 3306)
    wait_until(lambda: (ss(lab.client)[key]["attempt"] or 0) > 2, PATIENCE_S, "the third retransmission")


def named(client: Client, netns: int) -> tuple[str, ...]:
    """Filters that name the client's end of its connection."""
    return "--netns", str(netns), "--lport", str(client.connected["lport"]), "--rport", "3306"


def results(stdout: str) -> list[Json]:
    return [json.loads(line) for line in stdout.splitlines()]


@pytest.mark.parametrize("host", [SERVER, SERVER6, MAPPED])
def test_a_frozen_worker_returns_within_a_second(lab: Lab, host: str) -> None:
    with (
        Server(lab.server, SERVER6 if host == SERVER6 else SERVER, 3306),
        embedded_client(lab.client, host, 3306) as client,
    ):
        hang(lab, client)
        done = end("--stuck", "--host", host, "--rport", "3306", "--netns", lab.client.netns, "--yes", "--json")
        assert done.returncode == 0, done.stderr
        answer = client.answer(1)
        (row,) = results(done.stdout)
        lport = client.connected["lport"]
    assert (answer["ok"], answer["error"]) == (False, "ECONNABORTED")
    assert (row["action"], row["result"], row["lport"], row["pid"]) == ("end", "ended", lport, client.pid)
    assert (row["state"], row["timer"], row["netns"]) == ("ESTABLISHED", "on", lab.client.netns)
    assert done.stderr.endswith("tcpwatch: ended 1 connection\n")


def test_sixty_of_two_hundred_end_and_the_others_answer(lab: Lab) -> None:
    with Server(lab.server, SERVER, 3306):
        argv: list[str | Path] = [sys.executable, HERE / "pool.py", SERVER, "3306", "200"]
        with lab.client.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as pool:
            assert pool.stdin is not None and pool.stdout is not None
            ports = json.loads(pool.stdout.readline())
            dead, alive = ports[::3][:60], sorted(set(ports) - set(ports[::3][:60]))
            lab.firewall.run("nft", "-f", "-", stdin=_DROP_FROM.format(ports=", ".join(map(str, dead))))
            pool.stdin.write(json.dumps(dead) + "\n")
            pool.stdin.flush()
            wait_until(
                lambda: sum((row["attempt"] or 0) > 2 for row in ss(lab.client).values()) == 60, PATIENCE_S, "60 hang"
            )
            done = end("--stuck", "--netns", both_ends(lab), "--yes", "--json")
            assert done.returncode == 0, done.stderr
            assert {row["lport"] for row in results(done.stdout)} == set(dead)
            assert {row["result"] for row in results(done.stdout)} == {"ended"}
            pool.stdin.write(json.dumps(alive) + "\n")
            pool.stdin.close()
            became = {int(port): what for port, what in json.loads(pool.stdout.readline()).items()}
    assert became == {**dict.fromkeys(dead, "ECONNABORTED"), **dict.fromkeys(alive, "ok")}


def test_another_connection_on_the_same_ports_is_left_alone(lab: Lab) -> None:
    with Server(lab.server, SERVER, 3306, "--abort"):
        first = embedded_client(lab.client, SERVER, 3306, "--bind-port", "40404")
        with first, Question(*named(first, lab.client.netns)) as question:
            assert first.ask("close")["ok"]
            wait_until(lambda: not ss(lab.client), PATIENCE_S, "the ports are free")
            with embedded_client(lab.client, SERVER, 3306, "--bind-port", "40404") as second:
                assert second.connected["lport"] == 40404
                assert question.answer("y\n") == 0
                assert second.ask("query")["ok"]
    assert "\ngone " in question.screen and "ended 0 connections, 1 already gone" in question.screen


def test_only_sockets_that_were_chosen_end_however_fast_their_ports_are_taken_again() -> None:
    """A connection lives for some milliseconds, and the choice is as old when it is acted on."""
    outcomes: list[Outcome] = []
    netns = Path("/proc/self/ns/net").stat().st_ino
    with Churn(range(21000, 21008)) as churn:

        def end_those_of_a_moment_ago() -> bool:
            chosen = [
                Socket(time_ns=0, laddr=HOME, lport=port, raddr=HOME, rport=churn.rport, inode=inode, netns=netns)
                for port, inode in dict(churn.current).items()
            ]
            made = plan(Selection([(None, each) for each in chosen]))
            threading.Event().wait(LIVES_S / 2)
            outcomes.extend(map(end_target, made.targets))
            results = Counter(outcome.result for outcome in outcomes)
            return len(churn.aborted) >= 30 and results[Result.GONE] >= 30

        wait_until(end_those_of_a_moment_ago, PATIENCE_S, "some end in time, and some are gone")
    ended = {outcome.socket.inode for outcome in outcomes if outcome.result is Result.ENDED}
    assert churn.aborted <= ended, "nobody else noticed"
    assert not churn.errors


def test_a_listener_on_the_same_port_is_left_alone(lab: Lab) -> None:
    with Server(lab.server, SERVER, 3306):
        client = embedded_client(lab.client, SERVER, 3306)
        with client, Question("--netns", lab.server.netns, "--lport", "3306") as question:
            client.kill()
            wait_until(lambda: not ss(lab.server), PATIENCE_S, "the accepted connection is closed")
            assert question.answer("y\n") == 0
        with embedded_client(lab.client, SERVER, 3306) as later:
            assert later.ask("query")["ok"]
    assert "\ngone " in question.screen


def test_the_request_itself_spares_a_listener() -> None:
    """The kernel finds one where there is no connection, and would close it."""
    with sockets.create_server((HOME, 0)) as listener, SockDiag() as diag:
        client = sockets.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
        ends = Ends(*accepted.getsockname(), *accepted.getpeername())
        (found,) = diag.find([Named(ends, os.fstat(accepted.fileno()).st_ino)]).values()
        assert diag.find([Named(ends, 1)]) == {}, "another socket with the same ends"
        assert found.snd_wnd and found.silent_ms is not None and found.silent_ms < 1000 * PATIENCE_S
        for end_of_it in (client, accepted):
            end_of_it.close()
        wait_until(lambda: diag.look(found.identity) is None, PATIENCE_S, "it is closed")
        assert not diag.destroy(found.identity)
        sockets.create_connection(listener.getsockname()).close()
        with pytest.raises(ValueError, match="cookie"):
            diag.destroy(found.identity._replace(number=found.identity.number[:40] + b"\xff" * 8))


def test_the_same_ports_in_another_namespace() -> None:
    namespaces = Namespace(), Namespace()
    try:
        for each in namespaces:
            each.run("ip", "link", "set", "lo", "up")
        first, second = namespaces
        with (
            Server(first, HOME, 3306),
            Server(second, HOME, 3306),
            embedded_client(first, HOME, 3306, "--bind-port", "40404") as ours,
            embedded_client(second, HOME, 3306, "--bind-port", "40404") as other,
        ):
            done = end(*named(ours, first.netns), "--yes")
            assert done.stdout.startswith("ended ") and done.returncode == 0
            assert ours.ask("query")["error"] == "ECONNABORTED"
            assert other.ask("query")["ok"]
    finally:
        for each in namespaces:
            each.close()


def test_a_connect_without_an_answer(lab: Lab) -> None:
    lab.drop_everything()
    with embedded_client(lab.client, SERVER, 3306, wait=False) as client:
        wait_until(lambda: any((row["attempt"] or 0) >= 2 for row in ss(lab.client).values()), PATIENCE_S, "two SYNs")
        done = end("--stuck", "--netns", lab.client.netns, "--yes", "--json")
        assert client.answer(1)["error"] == "ECONNABORTED"
    (row,) = results(done.stdout)
    assert (row["state"], row["result"], row["pid"]) == ("SYN_SENT", "ended", client.pid)


def test_a_shared_socket_is_one_connection(lab: Lab) -> None:
    with Server(lab.server, SERVER, 3306), embedded_client(lab.client, SERVER, 3306) as client:
        children = client.ask("fork 2")["pids"]
        with Question(*named(client, lab.client.netns)) as question:
            assert question.answer("yes\n") == 0
    assert f"worker[{min(client.pid, *children)}] +2  " in question.screen
    assert "End this connection? [y/N]" in question.screen and "ended 1 connection\n" in question.screen


@pytest.mark.parametrize("path", ["open", "dead"])
def test_a_process_that_ends_before_the_answer(lab: Lab, path: str) -> None:
    """Its connection closes, or becomes an orphan: neither is touched."""
    with Server(lab.server, SERVER, 3306), embedded_client(lab.client, SERVER, 3306) as client:
        if path == "dead":
            hang(lab, client)
        with Question(*(["--stuck"] if path == "dead" else []), *named(client, lab.client.netns)) as question:
            client.kill()
            orphan = {"FIN_WAIT1"} if path == "dead" else set()
            wait_until(lambda: {row["state"] for row in ss(lab.client).values()} == orphan, PATIENCE_S, "closed")
            assert question.answer("y\n") == 0
        assert {row["state"] for row in ss(lab.client).values()} == orphan
    assert "\ngone " in question.screen


def test_one_that_recovers_before_the_answer_is_left_alone(lab: Lab) -> None:
    with Server(lab.server, SERVER, 3306), embedded_client(lab.client, SERVER, 3306) as client:
        hang(lab, client)
        with Question("--stuck", *named(client, lab.client.netns)) as question:
            lab.restore()
            assert client.answer()["ok"], "its next retransmission is answered"
            assert question.answer("y\n") == 0
        assert client.ask("query")["ok"]
    assert "ESTABLISHED, retransmitting, silent for" in question.screen
    assert "\nrecovered " in question.screen and "ended 0 connections, 1 recovered and left" in question.screen


def test_one_that_recovers_between_two_looks_is_left_alone(lab: Lab) -> None:
    wanted = Filter(netns=frozenset([lab.client.netns]))
    with Server(lab.server, SERVER, 3306), embedded_client(lab.client, SERVER, 3306) as client:
        hang(lab, client)
        made = plan(select(read_sockets(wanted), only_stuck=True))
        assert [target.socket.pid for target in made.targets] == [client.pid]
        assert [target.socket.pid for target in look_again(made).targets] == [client.pid]
        lab.restore()
        assert client.answer()["ok"]
        after = look_again(made)
        assert (after.targets, [why for why, _ in after.left]) == ([], [Left.RECOVERED])
        assert end_target(made.targets[0]).result is Result.RECOVERED, "an earlier look does not count"
        assert client.ask("query")["ok"]


def test_a_closed_window_is_left_alone_until_it_is_named(lab: Lab) -> None:
    lab.client.set_sysctl("net.ipv4.tcp_wmem", "4096 4096 4096")
    with Server(lab.server, SERVER, 3306, "--deaf"), embedded_client(lab.client, SERVER, 3306) as client:
        client.send("flood")
        wanted = Filter(netns=frozenset({lab.client.netns}))
        wait_until(lambda: any(map(stuck, read_sockets(wanted))), PATIENCE_S, "it is closed for ten seconds")
        done = end("--stuck", "--netns", lab.client.netns, "--yes")
        assert (done.returncode, done.stdout) == (0, "")
        assert "left 1 connection (the peer answers with a closed window" in done.stderr
        printed = done.stderr.partition("To end one: sudo tcpwatch end ")[2].splitlines()[0]
        assert not client.answered()
        assert end(*shlex.split(printed), "--netns", lab.client.netns, "--yes").returncode == 0
        assert client.answer(1)["error"] == "ECONNABORTED"


def test_multipath_and_orphans_are_left_alone(lab: Lab) -> None:
    with (
        Server(lab.server, SERVER, 3306, "--mptcp"),
        embedded_client(lab.client, SERVER, 3306, "--mptcp") as multipath,
        embedded_client(lab.client, SERVER, 3306) as closing,
    ):
        assert multipath.ask("query")["ok"]
        lab.drop_everything()
        closing.kill()
        key = (closing.connected["lport"], 3306)
        wait_until(lambda: ss(lab.client)[key]["state"] == "FIN_WAIT1", PATIENCE_S, "an orphan")
        done = end("--netns", lab.client.netns, "--yes")
        assert (done.returncode, done.stdout) == (0, "")
        lab.restore()
        assert multipath.ask("query")["ok"]
    assert "left 1 connection (closed by the application" in done.stderr
    assert "left 1 connection (a subflow of Multipath TCP" in done.stderr


def test_a_socket_that_is_bound_to_a_device(lab: Lab) -> None:
    program = (
        "import socket, sys; s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'eth0');"
        f"s.connect(('{SERVER}', 3306)); print(s.getsockname()[1], flush=True)\n"
        "try: s.recv(1)\nexcept OSError as error: print(error.errno)"
    )
    argv = [sys.executable, "-c", program]
    with Server(lab.server, SERVER, 3306), lab.client.popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        done = end("--netns", lab.client.netns, "--lport", port, "--yes")
        if not done.stdout.startswith("ended "):
            process.kill()
        assert process.communicate(timeout=PATIENCE_S)[0] == "103\n", done.stderr


def test_nothing_but_a_yes_ends_anything(lab: Lab) -> None:
    with Server(lab.server, SERVER, 3306), embedded_client(lab.client, SERVER, 3306) as client:
        filters = named(client, lab.client.netns)
        for typed, status in (("n\n", 1), ("\n", 1), ("no, yes\n", 1), ("\x04", 1), ("\x03", 130)):
            with Question(*filters) as question:
                assert question.answer(typed) == status, question.screen
            assert question.screen.endswith("tcpwatch: nothing was ended\n")
        shown = end(*filters, "--dry-run")
        row = results(end(*filters, "--dry-run", "--json").stdout)[0]
        assert (shown.returncode, row["result"]) == (0, "would-end")
        assert shown.stdout.startswith(f"  worker[{client.pid}]  ")
        assert end(*filters).returncode == 2
        assert client.ask("query")["ok"]


def test_a_reader_that_has_seen_enough(lab: Lab) -> None:
    with Server(lab.server, SERVER, 3306):
        clients = [embedded_client(lab.client, SERVER, 3306) for _ in range(3)]
        shell = (
            f"set -o pipefail; {shlex.quote(sys.executable)} -m tracer end --netns {lab.client.netns} --yes | head -0"
        )
        done = subprocess.run(
            ["bash", "-c", shell], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert {client.ask("query")["error"] for client in clients} == {"ECONNABORTED"}, "what was begun is finished"
        for client in clients:
            client.close()


def test_who_may_not(lab: Lab) -> None:
    with Server(lab.server, SERVER, 3306), embedded_client(lab.client, SERVER, 3306) as client:
        filters = named(client, lab.client.netns)
        nobody = subprocess.run(
            [*AS_NOBODY, "end", *filters, "--yes"], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        assert (
            nobody.returncode == 1
            and "needs root" in nobody.stderr
            and "Hint: run it again with sudo" in nobody.stderr
        )
        less = end(*filters, "--yes", before=("setpriv", "--bounding-set=-net_admin"))
        assert less.returncode == 1 and "CAP_NET_ADMIN, which is missing" in less.stderr
        assert client.ask("query")["ok"]


def test_a_container_with_a_user_namespace() -> None:
    with container() as (pid, port):
        ended = end("--pid", pid, "--lport", port, "--yes", "--json")
        assert [(row["result"], row["lport"]) for row in map(json.loads, ended.stdout.splitlines())] == [
            ("ended", port)
        ]
        assert end("--pid", pid, "--lport", port, "--yes").stderr.endswith("no connection matches\n")
