"""Whose socket it is, however a process came to hold it, and what is said of it once it has ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from holding import CROWD
from reused_memory import COUNT, ROUNDS
from watching import PATIENCE_S, ROOT, WITHOUT_ITERATOR, Json, Start, Watch, both_ends

from tracer.kernel.clocks import boottime_ns
from tracer.kernel.processes import started_ns
from tracer.lab.namespace import wait_until
from tracer.lab.network import SERVER, Lab
from tracer.lab.peers import Client, Server, embedded_client

HERE = Path(__file__).parent
HOLDING = HERE / "holding.py"
EXE = Path(sys.executable).resolve().name
"""The program of everything that is started here."""


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as entered:
        yield entered


@pytest.fixture
def server(lab: Lab, stack: ExitStack) -> Server:
    lab.client.set_sysctl("net.ipv4.tcp_retries2", 8)
    return stack.enter_context(Server(lab.server, SERVER, 3306))


def holding(lab: Lab, how: str, name: str = "holder") -> Client:
    return Client(lab.client, [sys.executable, HOLDING, SERVER, "3306", how, name])


def owner(each: Json) -> tuple[list[int] | None, int | None, str | None, str | None]:
    return each.get("pids"), each.get("pid"), each.get("comm"), each.get("exe")


def commands(stalls: list[Json]) -> str:
    return "\n".join(line for stall in stalls for line in stall["advice"])


@pytest.mark.parametrize("prelude", ["", WITHOUT_ITERATOR], ids=["iterator", "proc"])
@pytest.mark.parametrize("is_late", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("how", ["alone", "daemon", "passed", "crowded"])
def test_the_first_line_of_a_stall_has_the_holder(
    lab: Lab, stack: ExitStack, watch: Start, server: Server, how: str, is_late: bool, prelude: str
) -> None:
    ours = ("--netns", both_ends(lab), "--min-idle", "1s")
    watches = [] if is_late else [watch(*ours, prelude=prelude)]
    holder = stack.enter_context(holding(lab, how, "MainThread"))
    pid, opener = holder.connected["pid"], holder.connected["opener"]
    if pid != opener:
        wait_until(lambda: started_ns(opener) is None, PATIENCE_S, "the process that connected has ended")
    seen = watches[0] if watches else watch(*ours, prelude=prelude)
    connected_ns = boottime_ns()
    wait_until(lambda: boottime_ns() - connected_ns > 1_200_000_000, PATIENCE_S, "it has been silent for a second")
    lab.drop_everything()
    holder.send("query")
    begin = seen.wait_for(event="stall", phase="begin")[0]
    first = seen.of(event="retransmit")[0]
    known = ([pid], pid, "MainThread", EXE)
    if not prelude:  # a walk through /proc may take too long to be waited for
        assert owner(first) == owner(begin) == known
        assert f"nsenter -t {pid} " in commands([begin])
    seen.wait_for(3, event="retransmit")
    assert owner(seen.of(event="retransmit")[-1]) == known
    if pid != opener:
        assert f"-t {opener} " not in commands(seen.of(event="stall"))


def test_the_event_of_a_connect_has_who_connects(lab: Lab, stack: ExitStack, watch: Start, server: Server) -> None:
    seen = watch("--netns", str(lab.client.netns))
    pid = stack.enter_context(holding(lab, "alone")).connected["pid"]
    connecting = seen.wait_for(event="state", old_state="CLOSE")[0]
    assert owner(connecting) == ([pid], pid, "holder", EXE)


def test_the_first_event_of_an_accepted_socket_has_its_holder(
    lab: Lab, stack: ExitStack, watch: Start, server: Server
) -> None:
    seen = watch("--netns", str(lab.server.netns))
    client = stack.enter_context(embedded_client(lab.client, SERVER, 3306))
    lab.drop_everything(to_server=False)
    client.send("query")
    first = seen.wait_for(event="retransmit")[0]
    assert owner(first) == ([server.pid], server.pid, "server", EXE)


def test_the_process_of_another_connection_in_the_same_memory_is_no_owner(lab: Lab, watch: Start) -> None:
    """A connect() is recorded before its port is known, so that of an unwanted connection is, too."""
    lab.client.run("ip", "link", "set", "lo", "up")
    seen = watch("--netns", str(lab.client.netns), "--port", "7001", "-e", "state")
    ours, *others = map(int, lab.client.run(sys.executable, HERE / "reused_memory.py", "7002", "7001").split())
    accepted = seen.wait_for(COUNT * ROUNDS, lport=7001, old_state="SYN_RECV")
    owners = {each.get("pid") for each in accepted}
    assert not owners & set(others) and owners <= {ours, None}


def test_holders_come_and_go(lab: Lab, stack: ExitStack, watch: Start, server: Server) -> None:
    client = stack.enter_context(embedded_client(lab.client, SERVER, 3306, "--idle", "1", "--interval", "1"))
    assert client.ask("query")["ok"]
    seen = watch("--netns", str(lab.client.netns))
    assert owner(seen.wait_for(event="keepalive")[0])[0] == [client.pid]
    first, second = client.ask("fork 2")["pids"]
    seen.wait_for(event="keepalive", pids=sorted([client.pid, first, second]))
    os.kill(first, 9)
    seen.wait_for(event="keepalive", pids=sorted([client.pid, second]))


def test_a_name_that_was_known_stays_and_no_command_has_the_number_of_the_dead(
    lab: Lab, stack: ExitStack, watch: Start, server: Server
) -> None:
    lab.client.set_sysctl("net.ipv4.tcp_orphan_retries", 4)
    holder = stack.enter_context(holding(lab, "alone", "MainThread"))
    pid, lport = holder.connected["pid"], holder.connected["lport"]
    seen = watch("--netns", both_ends(lab), "--lport", str(lport))
    lab.drop_everything()
    holder.send("query")
    seen.wait_for(2, event="retransmit")
    holder.kill()
    left = seen.wait_for(2, event="retransmit", orphan=True)
    seen.wait_for(event="stall", phase="end")
    for each in seen.of(lport=lport):
        assert owner(each)[1:] == (pid, "MainThread", EXE), each
    assert not any("pids" in each for each in left)
    closed = seen.of(event="state", new_state="FIN_WAIT1")[0]
    later = [stall for stall in seen.of(event="stall") if stall["ktime_ns"] >= closed["ktime_ns"]]
    assert later and f"nsenter -t {pid} " not in commands(later)
    assert not any("pids" in each for each in later)


def test_a_filter_by_the_name_of_the_program(lab: Lab, stack: ExitStack, watch: Start, server: Server) -> None:
    """And a mere thread's name is not what a person is shown."""
    by_exe, elsewhere, shown = (
        watch("--netns", str(lab.client.netns), *options, text=text)
        for options, text in ((("--comm", EXE), False), (("--comm", "node"), False), (("-e", "retransmit"), True))
    )
    thread, named = (stack.enter_context(holding(lab, "alone", name)) for name in ("MainThread", "gunicorn"))
    lab.drop_everything()
    for holder in (thread, named):
        holder.send("query")
        by_exe.wait_for(event="retransmit", pid=holder.connected["pid"])
    by_exe.wait_for(event="state", new_state="ESTABLISHED", pid=thread.connected["pid"])
    elsewhere.stop()
    assert elsewhere.of(event="retransmit") == []
    shown.stop()
    owners = {line.split()[-1] for line in shown.lines if " tlp " in line}
    assert owners == {f"{EXE}[{thread.connected['pid']}]", f"gunicorn[{named.connected['pid']}]"}


def test_the_list_of_sockets_has_programs(lab: Lab, stack: ExitStack, server: Server) -> None:
    thread, other = (stack.enter_context(holding(lab, how, "MainThread")) for how in ("alone", "crowded"))
    rows = [json.loads(line) for line in sockets(lab, EXE, "--json")]
    pids = [holder.connected["pid"] for holder in (thread, other)]
    assert sorted(map(owner, rows)) == sorted(([pid], pid, "MainThread", EXE) for pid in pids)
    assert CROWD >= 5000 and len(rows) == 2
    shown = "\n".join(sockets(lab, EXE, "--all"))
    assert all(f"{EXE}[{pid}]" in shown for pid in pids)
    assert sockets(lab, "node", "--json") == []


def sockets(lab: Lab, name: str, *options: str) -> list[str]:
    return subprocess.run(
        [sys.executable, "-m", "tracer", "sockets", "--netns", str(lab.client.netns), "--comm", name, *options],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=PATIENCE_S,
    ).stdout.splitlines()  # fmt: skip


def test_a_process_in_a_pid_namespace_has_our_number(
    lab: Lab, stack: ExitStack, watch: Start, server: Server
) -> None:
    seen = watch("--netns", str(lab.client.netns))
    inside = ["unshare", "--pid", "--fork", "--kill-child"]
    holder = stack.enter_context(
        Client(lab.client, [*inside, sys.executable, HOLDING, SERVER, "3306", "alone", "worker"])
    )
    assert holder.connected["pid"] == 1
    (child,) = Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text().split()
    lab.drop_everything()
    holder.send("query")
    first = seen.wait_for(event="retransmit")[0]
    assert owner(first) == ([int(child)], int(child), "worker", EXE)
    assert {each.get("pid") for each in seen.of(lport=holder.connected["lport"])} == {int(child)}


def test_from_inside_a_pid_namespace(lab: Lab, stack: ExitStack, server: Server) -> None:
    """Processes have the numbers of the namespace that tcpwatch is in, and those outside have none."""
    anchor = subprocess.Popen(["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "sleep", "infinity"])
    stack.callback(anchor.wait)
    stack.callback(anchor.kill)
    children = Path(f"/proc/{anchor.pid}/task/{anchor.pid}/children")
    wait_until(lambda: children.read_text().split(), PATIENCE_S, "it has forked")
    within = ["nsenter", "--target", children.read_text().strip(), "--pid", "--mount"]
    wait_until(
        lambda: subprocess.run([*within, "cat", "/proc/1/comm"], capture_output=True, text=True).stdout == "sleep\n",
        PATIENCE_S, "it has its own /proc",
    )  # fmt: skip
    seen = Watch("--netns", str(lab.client.netns), before=within)
    stack.callback(seen.kill)
    outside = stack.enter_context(holding(lab, "alone", "outside"))
    inside = stack.enter_context(
        Client(lab.client, [*within, sys.executable, HOLDING, SERVER, "3306", "alone", "inside"])
    )
    lab.drop_everything()
    for holder in (outside, inside):
        holder.send("query")
        seen.wait_for(event="retransmit", lport=holder.connected["lport"])
    pid = inside.connected["pid"]
    for each in seen.of(lport=inside.connected["lport"]):
        assert owner(each) == ([pid], pid, "inside", EXE)
    for each in seen.of(lport=outside.connected["lport"]):
        assert owner(each) == (None, None, "outside", None)
