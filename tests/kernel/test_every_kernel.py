"""What must hold on every kernel, and is tried on each of them in a virtual machine (scripts/vm test).

One tcpwatch for all tests: there the compiler takes seconds.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Optional

import capabilities
import pytest
from end_command import end
from lab.disasters import Forger
from listening import Listener
from ss_comparison import compared, ss
from watching import PATIENCE_S, ROOT, Json, Watch, both_ends

from tracer.kernel import clocks, host
from tracer.kernel import probes as kernel_probes
from tracer.kernel.namespaces import BpfNamespaceFinder, ProcNamespaceFinder, namespace_finder
from tracer.kernel.probes import kprobes_available
from tracer.kernel.program.btf import KernelTypes
from tracer.kernel.program.compiler import compile_source
from tracer.kernel.program.program import Program
from tracer.kernel.program.source import TRACER, source_for
from tracer.lab.namespace import wait_until
from tracer.lab.network import CLIENT, CLIENT6, SERVER, SERVER6, Lab
from tracer.lab.peers import Client, Server, embedded_client

NOBODY = 65534
WRAPPED_NS = 305 * 1_000_000_000
CLOSED = 3307
"""A port that the firewall lets through, and where nobody listens."""
EVERY_SECOND = ("--idle", "1", "--interval", "1", "--probes", "3")
NO_MEMORY_LOCKED = ["prlimit", "--memlock=65536:65536"]
"""The limit that a process has by default, and that a privileged one can raise."""
MARGIN_NS = 20_000_000
TICKS = 5

with KernelTypes() as types:
    HAS = {
        "the report of errors": types.hook_arguments("inet_sk_error_report") > 0,
        "the reason of a dropped packet": types.hook_arguments("kfree_skb") >= 4,
        # Both came with 6.10.
        "the reason of a reset": types.hook_arguments("tcp_send_reset") >= 3,
        "resets that no socket sends": types.hook_arguments("tcp_send_reset") >= 3,
        "retransmissions that fail": types.hook_arguments("tcp_retransmit_skb") >= 3,
        # An atomic_t that is 0 until somebody asks, before 5.12.
        "cookie": types.member("net", "net_cookie") is not None and types.member("net", "net_cookie.counter") is None,
        "cgroup": types.member("sock", "sk_cgrp_data.cgroup") is not None,
    }
"""What this kernel offers; a version would not tell, because stable releases gain members, too."""


def tcpwatch(*arguments: str, before: list[str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*(before or []), sys.executable, "-m", "tracer", *arguments],
        capture_output=True, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=3 * PATIENCE_S,
    )  # fmt: skip


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """One for all, mended after each test."""
    with Lab(ttl_s=600, ports=[3306, CLOSED], retries2=3) as made:
        for end in (made.client, made.server):
            # Else a receive buffer may grow until it holds all that the tests send.
            end.set_sysctl("net.ipv4.tcp_rmem", "4096 65536 262144")
        yield made


@dataclass
class Servers:
    """On port 3306."""

    ipv4: Server
    ipv6: Server


@pytest.fixture(scope="module", autouse=True)
def servers(lab: Lab) -> Iterator[Servers]:
    with Server(lab.server, SERVER, 3306) as ipv4, Server(lab.server, SERVER6, 3306) as ipv6:
        yield Servers(ipv4, ipv6)


@pytest.fixture(scope="module", autouse=True)
def old(lab: Lab, servers: Servers) -> Iterator[Client]:
    """A connection of another user's that was there before anybody watched."""
    with embedded_client(lab.client, SERVER, 3306, "--uid", str(NOBODY)) as client:
        yield client


@pytest.fixture(scope="module", autouse=True)
def quiet(lab: Lab, servers: Servers) -> Iterator[tuple[Client, int]]:
    """A connection that nobody uses, and the uptime in milliseconds at which its peer was heard last."""
    with embedded_client(lab.client, SERVER, 3306) as client:
        assert client.ask("query")["ok"]
        yield client, clocks.boottime_ns() // 1_000_000


@pytest.fixture(scope="module")
def everything(lab: Lab, old: Client) -> Iterator[Watch]:
    """As root; where that makes no difference to the hooks, with the least capabilities that do."""
    watch = Watch("--netns", both_ends(lab), before=as_seen())
    yield watch
    said = watch.stop()
    assert ", 0 lost," in said
    watch.kill()


@pytest.fixture
def seen(lab: Lab, everything: Watch) -> Iterator[Watch]:
    """What it has seen; the path is mended afterwards."""
    yield everything
    lab.restore()


def own(client: Client) -> dict[str, Any]:
    """What picks the client's end of a connection out of all events."""
    return {"lport": client.connected["lport"], "rport": 3306}


def as_counted(lab: Lab, seen: Watch, counter: str, event: str) -> Callable[[], None]:
    """A function that waits until as many events have come since now as the client's kernel has counted."""

    def surplus() -> int:
        return lab.client.counter(counter) - len(seen.of(event=event, netns=lab.client.netns))

    before = surplus()
    return lambda: wait_until(lambda: surplus() == before, PATIENCE_S, f"as many as {counter}")


def test_check_names_every_hook() -> None:
    report = json.loads(tcpwatch("check", "--json").stdout)
    found = {finding["what"]: finding for finding in report["findings"]}
    assert report["live"]
    missing = {what for what, finding in found.items() if finding["status"] == "missing"}
    assert missing == (set() if HAS["the reason of a dropped packet"] else {"reset (refused)"})
    assert found["keepalive"]["status"] == ("ok" if kprobes_available() else "fallback")
    assert found["error"]["status"] == ("ok" if HAS["the report of errors"] else "fallback")
    assert found["resume"]["status"] == found["found, waiting"]["status"] == "ok"


def test_the_iterator_over_tasks_finds_the_namespaces_that_proc_shows(lab: Lab) -> None:
    with KernelTypes() as types:
        compiled = compile_source(source_for(TRACER, types, hz=host.hz()))
        task = types.function("bpf_iter_task")
    with Program(compiled) as program:
        in_kernel = namespace_finder(program, task)
        assert isinstance(in_kernel, BpfNamespaceFinder)
        found, in_proc = in_kernel(), ProcNamespaceFinder()()
    for each in (lab.client, lab.server):
        assert each.pid in found[each.netns].pids and each.pid in in_proc[each.netns].pids
    own = Path("/proc/self/ns/net").stat().st_ino
    assert [netns for netns, members in found.items() if os.getpid() in members.pids] == [own]
    assert HAS["cookie"] == all(members.cookie for members in found.values())
    cookies = [members.cookie for members in found.values() if members.cookie]
    assert len(cookies) == len(set(cookies))


def test_the_incident_and_its_prophecy() -> None:
    shown = tcpwatch("demo")
    assert shown.returncode == 0, shown.stderr
    assert "STALL idle-drop" in shown.stdout and "verdict: idle-drop, timed-out" in shown.stdout
    assert "net.ipv4.tcp_keepalive_time=3" in shown.stdout
    saw, counted = re.search(r"saw (\d+) retransmissions; the kernel counted (\d+)", shown.stdout).groups()  # type: ignore[union-attr]
    assert saw == counted
    off_ms = int(re.search(r"it gave up at [\d:.]+ \(([+-]\d+) ms\)", shown.stdout)[1])  # type: ignore[index]
    assert -50 <= off_ms <= 250, "50 ms on a calm machine"


@pytest.mark.parametrize(
    ("host", "family", "laddr", "raddr"),
    [(SERVER, 4, CLIENT, SERVER), (SERVER6, 6, CLIENT6, SERVER6), (f"::ffff:{SERVER}", 4, CLIENT, SERVER)],
    ids=["IPv4", "IPv6", "v4-mapped"],
)
def test_retransmissions_until_the_kernel_gives_up(
    lab: Lab, seen: Watch, host: str, family: int, laddr: str, raddr: str
) -> None:
    with embedded_client(lab.client, host, 3306) as client:
        assert client.ask("query")["ok"]
        settle = as_counted(lab, seen, "TcpRetransSegs", "retransmit")
        lab.drop_everything()
        client.send("query")
        answer = client.answer()
        error = seen.wait_for(event="error", **own(client))[0]
        settle()
    events = seen.of(event="retransmit", **own(client))
    by_timer = [each["attempt"] for each in events if each["kind"] == "rto"]
    assert by_timer == list(range(1, len(by_timer) + 1)) and 3 <= len(by_timer) <= 4
    assert [each["kind"] for each in events[: -len(by_timer)]] == ["tlp"]
    assert (error["error"], answer["error"]) == ("ETIMEDOUT", "ETIMEDOUT")
    for each in [*events, error]:
        assert (each["family"], each["laddr"], each["raddr"]) == (family, laddr, raddr)
        assert (each["pid"], each["comm"], each["netns"]) == (client.pid, "worker", lab.client.netns)
        assert each["unacked_bytes"] == 32 and ("cgroup" in each) == HAS["cgroup"]
        assert (each["keepalive"], each["keepalive_idle_s"], each["keepalive_interval_s"]) == (True, 7200, 75)
        assert (each["keepalive_probes"], each["user_timeout_ms"]) == (9, 0)
    assert len({each["sock"] for each in events}) == 1
    assert [each["silent_ms"] for each in events] == sorted(each["silent_ms"] for each in events)


def test_values_are_those_that_ss_shows(lab: Lab, seen: Watch) -> None:
    """Those of one retransmission, as the kernel itself shows them since the one before."""
    lab.client.set_sysctl("net.ipv4.tcp_retries2", 8)
    looks: list[Look] = []
    with embedded_client(lab.client, SERVER, 3306) as client:
        lab.drop_everything()
        client.send("query")
        while len(seen.of(event="retransmit", kind="rto", **own(client))) < 5:
            began_ns = time.time_ns()
            told = ss(lab.client).get((client.connected["lport"], 3306))
            looks.append((began_ns, told, time.time_ns()))
        lab.client.set_sysctl("net.ipv4.tcp_retries2", 3)  # enough
        client.answer()
    compare_with_ss(seen.of(event="retransmit", **own(client)), looks)


Look = tuple[int, Optional[Json], int]
"""When ss was asked, what it said, and when it had said it, nanoseconds of the wall clock."""


def compare_with_ss(events: list[Json], looks: list[Look]) -> None:
    """A look between one retransmission by the timer and the next shows the RTO and the backoff that the next has."""
    held = set()
    for earlier, later in zip(events, events[1:]):
        for began_ns, told, ended_ns in looks:
            meanwhile = time_ns(earlier) + MARGIN_NS < began_ns and ended_ns < time_ns(later) - MARGIN_NS
            if meanwhile and told is not None and earlier["kind"] == "rto":
                assert (later["rto_ms"], later["backoff"]) == (told["rto"], told.get("backoff", 0))
                assert (earlier["attempt"], later["unacked_bytes"]) == (told["attempt"], told["to be acknowledged"])
                held.add(earlier["attempt"])
    assert held, "ss was asked in time"


def time_ns(event: Json) -> float:
    return datetime.fromisoformat(event["time"].replace("Z", "+00:00")).timestamp() * 1e9


def test_a_stall_is_told_and_its_end_foretold(lab: Lab, seen: Watch) -> None:
    with embedded_client(lab.client, SERVER, 3306) as client:
        assert client.ask("query")["ok"]
        lab.drop_everything()
        client.send("query")
        end = seen.wait_for(event="stall", phase="end", **own(client))[0]
        assert client.answer()["error"] == "ETIMEDOUT"
    begin = seen.of(event="stall", phase="begin", id=end["id"])[0]
    first = seen.of(event="retransmit", **own(client))[0]
    assert begin["ktime_ns"] == first["ktime_ns"]
    assert (end["verdict"], end["outcome"], end["error"]) == ("path-loss", "timed-out", "ETIMEDOUT")
    told = [each for each in seen.of(event="stall", id=end["id"]) if "gives_up_in_ms" in each][-1]
    foretold_ns = told["ktime_ns"] + told["gives_up_in_ms"] * 1_000_000
    # A window where a tail loss probe was the first, and nothing had to be said anew at the RTO.
    latest_ms = told.get("gives_up_window_ms", 0) + 250
    assert -50 <= (end["ktime_ns"] - foretold_ns) / 1e6 <= latest_ms, "50 ms on a calm machine"


def test_it_is_heard_again(lab: Lab, seen: Watch) -> None:
    with embedded_client(lab.client, SERVER, 3306) as client:
        assert client.ask("query")["ok"]
        lab.drop_everything()
        client.send("query")
        seen.wait_for(event="retransmit", kind="rto", **own(client))
        lab.restore()
        resume = seen.wait_for(event="resume", cause="data", **own(client))[0]
        assert client.answer()["ok"]
        end = seen.wait_for(event="stall", phase="end", **own(client))[0]
    assert end["outcome"] == "recovered" and resume["pid"] == client.pid


def test_another_users_connection_from_before(lab: Lab, seen: Watch, old: Client) -> None:
    """The owner of a socket that nobody saw being opened is found among the descriptors of all processes."""
    lab.drop_everything()
    old.send("query")
    first = seen.wait_for(event="retransmit", **own(old))[0]
    assert (first["pid"], first["comm"], first["pids"]) == (old.pid, "worker", [old.pid])
    assert old.answer()["error"] == "ETIMEDOUT"


def test_forked_workers_share_a_socket(lab: Lab, seen: Watch) -> None:
    with embedded_client(lab.client, SERVER, 3306) as client:
        children = client.ask("fork 2")["pids"]
        lab.drop_everything()
        client.send("query")
        # A second after the first look, at the latest, the owners are looked up again. That is before the end, three
        # seconds later, though nobody knows after how many retransmissions: that is up to the RTO.
        error = seen.wait_for(event="error", **own(client))[0]
        assert error["pids"] == sorted([client.pid, *children])


@pytest.mark.parametrize("host", [SERVER, SERVER6])
def test_keepalive_probes_to_the_end(lab: Lab, seen: Watch, host: str) -> None:
    settle = as_counted(lab, seen, "TcpExtTCPKeepAlive", "keepalive")
    with embedded_client(lab.client, host, 3306, *EVERY_SECOND) as client:
        answered = seen.wait_for(2, event="keepalive", **own(client))
        assert {each["attempt"] for each in answered} == {1}
        lab.drop_everything()
        error = seen.wait_for(event="error", **own(client))[0]
        settle()
    probes = seen.of(event="keepalive", **own(client))
    assert [each["attempt"] for each in probes[-3:]] == [1, 2, 3]
    for each in probes:
        times = (each["keepalive_idle_s"], each["keepalive_interval_s"], each["keepalive_probes"])
        assert (each["state"], each["pid"], times) == ("ESTABLISHED", client.pid, (1, 1, 3))
        assert each["silent_ms"] >= 1000 * each["attempt"] - 10
    end = seen.wait_for(event="stall", phase="end", **own(client))[0]
    assert (end["verdict"], end["outcome"], error["error"]) == ("keepalive-failed", "timed-out", "ETIMEDOUT")
    reset = seen.of(event="reset", direction="sent", **own(client))[0]
    assert reset.get("reason") == ("TCP_KEEPALIVE_TIMEOUT" if HAS["the reason of a reset"] else None)


def test_probes_of_a_closed_window(lab: Lab, seen: Watch, servers: Servers) -> None:
    with embedded_client(lab.client, SERVER, 3306) as client:
        assert client.ask("query")["ok"]
        servers.ipv4.stop()
        try:
            client.send("send 8000000")
            probes = seen.wait_for(3, event="window-probe", **own(client))
            stall = seen.wait_for(event="stall", verdict="zero-window", **own(client))[0]
            told = ss(lab.client)[client.connected["lport"], 3306]
        finally:
            servers.ipv4.go_on()
        assert client.answer()["ok"]
        seen.wait_for(event="stall", phase="end", outcome="recovered", **own(client))
    assert [each["attempt"] for each in probes] == [1, 2, 3]
    assert {(each["snd_wnd"], each["unacked_bytes"]) for each in probes} == {(0, 0)}
    assert stall["unsent_bytes"] > 0 and told["timer"] == "persist"


def as_seen() -> list[str]:
    """What runs a tcpwatch: as root, or with the least capabilities where that makes no difference to the hooks."""
    return [] if kprobes_available() else capabilities.with_only(capabilities.least())


def test_trouble_from_before_the_start_is_found(lab: Lab, seen: Watch) -> None:
    lab.client.set_sysctl("net.ipv4.tcp_retries2", 8)
    with embedded_client(lab.client, SERVER, 3306, "--uid", str(NOBODY)) as client:
        assert client.ask("query")["ok"]
        lab.drop_everything()
        client.send("query")
        begun = seen.wait_for(3, event="retransmit", **own(client))
        second = Watch("--netns", str(lab.client.netns), before=as_seen())
        try:
            found = second.wait_for(event="found", **own(client))[0]
            # Another one may have come between the hooks and the walk.
            following = second.wait_for(event="retransmit", attempt=found["attempt"] + 1, **own(client))[0]
            second.stop()
        finally:
            second.kill()
        lab.client.set_sysctl("net.ipv4.tcp_retries2", 3)  # enough
        client.answer()
    assert (found["kind"], found["pid"], found["comm"], found["pids"]) == (
        "retransmit", client.pid, "worker", [client.pid],
    )  # fmt: skip
    assert following["sock"] == found["sock"] and following["ktime_ns"] > found["ktime_ns"]
    late_ms = (following["ktime_ns"] - found["ktime_ns"]) / 1e6 - found["timer_ms"]
    assert -10 <= late_ms <= found["rto_ms"] / 8 + 250
    sent_ms = [each["ktime_ns"] / 1e6 - each["stuck_ms"] for each in (*begun, found, following)]
    assert max(sent_ms) - min(sent_ms) <= 10


def test_who_waits_for_an_answer_is_told(lab: Lab, servers: Servers) -> None:
    """All walks but the first are made after the privileges were dropped."""
    watch = Watch("--netns", str(lab.client.netns), "--min-idle", "1s", before=as_seen(), walk_every_s=0.5)
    try:
        with embedded_client(lab.client, SERVER, 3306, "--uid", str(NOBODY)) as client:
            assert client.ask("query")["ok"]
            servers.ipv4.stop()
            try:
                time.sleep(0.05)  # so that it is not sent in the jiffy of the answer before it
                client.send("query")
                told = watch.wait_for(2, event="waiting", **own(client))
            finally:
                servers.ipv4.go_on()
            assert client.answer()["ok"]
        watch.stop()
    finally:
        watch.kill()
    for threshold_ms, each in zip((1000, 2000), told):
        assert threshold_ms <= each["silent_ms"] <= threshold_ms + 1500
        assert abs(each["asked_ms"] - each["silent_ms"]) <= 250
        assert (each["pid"], each["comm"], each["unacked_bytes"]) == (client.pid, "worker", 0)


def test_a_connection_that_is_refused(lab: Lab, seen: Watch) -> None:
    with embedded_client(lab.client, SERVER, CLOSED) as client:
        assert client.connected["error"] == "ECONNREFUSED"
        error = seen.wait_for(event="error", rport=CLOSED)[0]
    (received,) = seen.of(event="reset", direction="received", rport=CLOSED)
    sent = seen.of(event="reset", direction="sent", lport=CLOSED)
    assert (error["error"], error["comm"], error["unacked_bytes"]) == ("ECONNREFUSED", "worker", 0)
    assert received["state"] == "SYN_SENT"
    assert len(sent) == HAS["resets that no socket sends"]
    for each in sent:
        assert (each["netns"], each["laddr"], each["raddr"]) == (lab.server.netns, SERVER, CLIENT)
        assert "sock" not in each and "pid" not in each and each["rport"] == received["lport"]


def test_a_reset_that_is_refused_changes_nothing(lab: Lab, seen: Watch) -> None:
    with Forger(lab) as forger, embedded_client(lab.client, SERVER, 3306) as client:
        assert client.ask("query")["ok"]
        forger.reset(client, to_server=False, off_by=100)
        assert client.ask("query")["ok"]
        client.ask("close")
        seen.wait_for(event="state", new_state="CLOSE", **own(client))
    resets = seen.of(event="reset", **own(client))
    expected = [("refused", "ESTABLISHED")] if HAS["the reason of a dropped packet"] else []
    assert [(each["direction"], each["state"]) for each in resets] == expected


def test_a_reset_that_is_taken(lab: Lab, seen: Watch) -> None:
    with Forger(lab) as forger, embedded_client(lab.client, SERVER, 3306) as client:
        assert client.ask("query")["ok"]
        forger.reset(client, to_server=False)
        error = seen.wait_for(event="error", **own(client))[0]
    course = [each["event"] for each in seen.of(sock=error["sock"]) if each["event"] != "stall"]
    assert course[-3:] == ["reset", "state", "error"]
    assert (error["error"], error["pid"]) == ("ECONNRESET", client.pid)


def test_a_host_that_is_unreachable(lab: Lab, seen: Watch) -> None:
    with embedded_client(lab.client, SERVER, 3306) as client:
        assert client.ask("query")["ok"]
        lab.reject("host-unreachable")
        assert client.ask("query")["error"] == "EHOSTUNREACH"
        end = seen.wait_for(event="stall", phase="end", **own(client))[0]
    assert (end["verdict"], end["outcome"], end["error"]) == ("unreachable", "unreachable", "EHOSTUNREACH")
    assert seen.of(event="retransmit", **own(client))[0]["soft_error"] == "EHOSTUNREACH"


def test_a_syn_and_a_syn_ack_into_nothing(lab: Lab, seen: Watch) -> None:
    lab.drop_everything(to_server=False)
    with embedded_client(lab.client, SERVER, 3306, "--bind-port", "40000", wait=False):
        syn = seen.wait_for(event="retransmit", kind="syn", lport=40000)[0]
        synack = seen.wait_for(event="retransmit", kind="synack", rport=40000)[0]
    assert (syn["attempt"], syn["state"], syn["comm"], syn["unacked_bytes"]) == (1, "SYN_SENT", "worker", 0)
    assert "silent_ms" not in syn, "never heard, so never silent"
    assert (synack["attempt"], synack["laddr"], synack["comm"]) == (1, SERVER, "server")


def drop_here(lab: Lab, port: int) -> None:
    """The client's own firewall drops what it sends to that port."""
    lab.client.run(
        "nft", "add table inet own; add chain inet own output { type filter hook output priority 0; };"
        f"add rule inet own output tcp dport {port} drop",
    )  # fmt: skip


def test_what_this_host_itself_drops(lab: Lab, seen: Watch) -> None:
    """Of retransmissions that do not leave the host there are events since Linux 6.17, and else a walk finds them."""
    watch = Watch("--netns", str(lab.client.netns), walk_every_s=1)
    try:
        with embedded_client(lab.client, SERVER, 3306) as client:
            assert client.ask("query")["ok"]
            drop_here(lab, 3306)
            client.send("query")
            begin = watch.wait_for(event="stall", phase="begin", **own(client))[0]
            with embedded_client(lab.client, SERVER, 3306, "--bind-port", "40001", wait=False):
                syn = watch.wait_for(event="stall", phase="begin", lport=40001)[0]
            error = watch.wait_for(event="error", error="ETIMEDOUT", **own(client))[0]
        watch.stop()
    finally:
        watch.kill()
        lab.client.run("nft", "delete table inet own")
    assert (begin["verdict"], begin["unacked_bytes"], begin["pid"]) == ("local-drop", 0, client.pid)
    late_ms = (error["ktime_ns"] - begin["ktime_ns"]) // 1_000_000 - begin["gives_up_in_ms"]
    assert abs(late_ms) <= TICKS * 1000 / host.hz() + MARGIN_NS / 1e6
    assert syn["verdict"] == ("local-drop" if HAS["retransmissions that fail"] else "handshake")
    if not HAS["retransmissions that fail"]:
        assert watch.of(event="found", lport=40001)[0]["kind"] == "retransmit"


def test_sockets_as_ss_shows_them() -> None:
    """In a lab of their own, where nothing is left of other tests."""
    with (
        Lab() as lab,
        Server(lab.server, SERVER, 3306),
        Server(lab.server, SERVER6, 3306),
        embedded_client(lab.client, SERVER, 3306, "--idle", "5000", "--interval", "40") as probing,
        embedded_client(lab.client, SERVER6, 3306) as client,
    ):
        assert client.ask("query")["ok"] and probing.ask("query")["ok"]
        rows = compared(lab.client)
        assert rows[client.connected["lport"], 3306]["pid"] == client.pid
        assert rows[probing.connected["lport"], 3306]["keepalive_interval_s"] == 40


def test_a_call_that_hangs_is_ended() -> None:
    with (
        Lab(retries2=15) as lab,
        Server(lab.server, SERVER, 3306),
        embedded_client(lab.client, SERVER, 3306) as client,
    ):
        assert client.ask("query")["ok"]
        lab.drop_everything()
        client.send("query")
        wait_until(lambda: any((row["attempt"] or 0) > 2 for row in ss(lab.client).values()), PATIENCE_S, "it hangs")
        done = end("--stuck", "--netns", lab.client.netns, "--yes")
        assert done.stdout.startswith("ended "), done.stderr
        assert client.answer()["error"] == "ECONNABORTED"


def listener(lab: Lab, monkeypatch: pytest.MonkeyPatch, *, typed: bool, **options: Any) -> Listener:
    """typed: whether the programs on busy hooks may know the types of what they are passed."""
    with monkeypatch.context() as changed:
        if not typed:
            changed.setattr(KernelTypes, "hook_type", lambda _types, _hook: None)
        return Listener(lab, **options)


def test_a_typed_program_hears_the_same(lab: Lab, seen: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        listener(lab, monkeypatch, typed=True, resume_after_s=1) as typed,
        listener(lab, monkeypatch, typed=False, resume_after_s=1) as other,
        embedded_client(lab.client, SERVER, 3306) as client,
    ):
        assert {str(probe.attachment) for probe in typed.attached} >= {"typed raw tracepoint tcp_probe"}
        assert {str(probe.attachment) for probe in other.attached} >= {"raw tracepoint tcp_probe"}
        assert client.ask("slow 1.3")["ok"] and client.ask("query")["ok"]
        lab.drop_everything()
        client.send("query")
        typed.wait_for(client, event="retransmit", kind="rto", attempt=2)
        lab.restore()
        assert client.answer()["ok"]
        # The answer after a silence and its acknowledgement; the acknowledgement of what was sent again.
        told = [each.wait_for(client, 3, event="resume")[:3] for each in (typed, other)]
    assert [(each.cause, each.lport) for each in told[0]] == [(each.cause, each.lport) for each in told[1]]
    for one, same in zip(*told):
        # On a slow machine an event does not wait until its owner is found.
        assert one.pid == same.pid or None in (one.pid, same.pid)
        assert abs((one.silent_ms or 0) - (same.silent_ms or 0)) <= TICKS * 1000 / host.hz()


def test_each_keepalive_hook_sees_the_same_probes(lab: Lab, seen: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel has kprobes, the tracepoint of its timers beside them; that one in both ways."""
    ways = [(False, True), (False, False), *([(True, True)] if kprobes_available() else [])]
    with ExitStack() as stack:
        hooks = []
        for kprobes, typed in ways:
            monkeypatch.setattr(kernel_probes, "kprobes_available", partial(bool, kprobes))
            hooks.append(stack.enter_context(listener(lab, monkeypatch, typed=typed)))
        used = {str(probe.attachment) for hook in hooks for probe in hook.attached if probe.event == "keepalive"}
        assert len(used) == len(ways), used
        client = stack.enter_context(embedded_client(lab.client, SERVER, 3306, *EVERY_SECOND))
        assert client.ask("query")["ok"]
        before = lab.client.counter("TcpExtTCPKeepAlive")
        hooks[0].wait_for(client, 2, event="keepalive")
        lab.drop_everything()
        for hook in hooks:
            hook.wait_for(client, event="error")
        counted = lab.client.counter("TcpExtTCPKeepAlive") - before
        told = [hook.of(client, event="keepalive") for hook in hooks]
    assert counted == len(told[0]) >= 5
    for probes in told[1:]:
        assert [(each.attempt, each.pid) for each in probes] == [(each.attempt, each.pid) for each in told[0]]
        for one, other in zip(told[0], probes):
            # The hooks are some microseconds apart, and in a virtual machine a tick or two.
            assert abs((one.jiffies or 0) - (other.jiffies or 0)) <= TICKS
            assert abs((one.silent_ms or 0) - (other.silent_ms or 0)) <= TICKS * 1000 / host.hz()


@pytest.mark.parametrize("lacking", sorted(capabilities.TO_TRACE))
def test_without_a_capability_to_trace_it_says_which(lacking: str) -> None:
    shown = tcpwatch("--duration", "10ms", before=capabilities.with_only(capabilities.least() - {lacking}))
    assert shown.returncode == 1 and f"; CAP_{lacking.upper()} is missing" in shown.stderr
    assert shown.stderr.endswith(f"as in a container; start that with --cap-add={lacking.upper()}\n")


@pytest.mark.parametrize("lacking", ["nothing", *sorted(capabilities.TO_NAME_OWNERS)])
def test_with_the_least_capabilities_and_one_less(lab: Lab, lacking: str) -> None:
    """The owner of a socket from before is known anyway; the program of who just connected is not, nor the cgroup."""
    options = ("--uid", str(NOBODY), *EVERY_SECOND)
    kept = capabilities.least() - {lacking}
    with embedded_client(lab.client, SERVER, 3306, *options) as client:
        watch = Watch("--netns", both_ends(lab), before=capabilities.with_only(kept))
        try:
            watch.wait_for(event="keepalive", **own(client))
            with embedded_client(lab.client, SERVER, 3306, *options):
                connecting = watch.wait_for(event="state", new_state="SYN_SENT")[0]
            lab.drop_everything()
            client.send("query")
            first = watch.wait_for(event="retransmit", **own(client))[0]
            watch.stop()
        finally:
            watch.kill()
            lab.restore()
    exe = Path(sys.executable).resolve().name
    assert (first.get("pid"), first.get("comm"), first.get("exe")) == (client.pid, "worker", exe)
    # On a slow machine a walk may come before the event is read, and a walk has the program.
    assert connecting["comm"] == "worker" and connecting.get("exe") in (exe, None if lacking == "sys_ptrace" else exe)
    if lacking == "dac_read_search":
        assert "cgroup" not in first


_DROPS = """
from tracer.kernel import privileges
privileges.keep_only(privileges.TO_NAME_OWNERS + privileges.TO_WALK + privileges.TO_WALK)
print(privileges.effective())
"""


def test_a_capability_that_is_wanted_twice_is_kept() -> None:
    dropped = subprocess.run([sys.executable, "-c", _DROPS], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    assert int(dropped.stdout) == 1 << 2 | 1 << 19 | 1 << 39, "CAP_DAC_READ_SEARCH, CAP_SYS_PTRACE, CAP_BPF"


def test_without_the_others_it_says_what_is_missing() -> None:
    others = capabilities.least() - capabilities.TO_TRACE - capabilities.TO_NAME_OWNERS
    for lacking in others:
        before = [*NO_MEMORY_LOCKED, *capabilities.with_only(capabilities.least() - {lacking})]
        shown = tcpwatch("check", "--json", before=before)
        findings = json.loads(shown.stdout)["findings"]
        found = {each["what"]: each["status"] for each in findings}
        if lacking == "sys_resource":
            # What other programs of this user have locked counts, too: then not even an empty program is loaded.
            (missing,) = [each for each in findings if each["status"] == "missing" and each["needed"]]
            assert missing["what"] in ("bpf(2)", "BPF program") and "ulimit -l unlimited" in missing["hint"], shown
        else:
            assert found["keepalive"] == ("ok" if capabilities.kprobes_without_admin() else "missing")


def test_silence_across_the_wrap_of_jiffies(lab: Lab, seen: Watch, quiet: tuple[Client, int]) -> None:
    """They begin five minutes before they wrap (INITIAL_JIFFIES), so in a fresh machine this silence spans that."""
    client, heard_ms = quiet
    wait_until(lambda: clocks.boottime_ns() > WRAPPED_NS, 2 * WRAPPED_NS / 1e9, "five minutes after the boot")
    lab.drop_everything()
    client.send("query")
    first = seen.wait_for(event="retransmit", **own(client))[0]
    assert abs(first["silent_ms"] - (first["ktime_ns"] // 1_000_000 - heard_ms)) < 1000
