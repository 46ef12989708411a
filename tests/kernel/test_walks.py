"""What no hook sees: connections in trouble from before tcpwatch started, and those that wait for an answer."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from capabilities import capabilities
from ss_comparison import JIFFY_MS, ss
from watching import PATIENCE_S, ROOT, Json, Start, both_ends

from tracer.kernel import host
from tracer.kernel.clocks import boottime_ns
from tracer.lab.namespace import wait_until
from tracer.lab.network import SERVER, Lab
from tracer.lab.peers import Client, Server, embedded_client

NOBODY = 65534
ANSWERING, DEAF = 3306, 3307
"""Ports of a server that answers, and of one that does not read."""
EVERY_TWO_SECONDS = ("--idle", "1", "--interval", "2", "--probes", "9")
SLACK_MS = 100
"""What a loaded machine may add to what is due at once."""
BPF = 39  # CAP_BPF


@pytest.fixture
def patient() -> Iterator[Lab]:
    """That network with a client whose kernel does not give up during a test."""
    with Lab(ttl_s=60, ports=[ANSWERING, DEAF], retries2=10) as made:
        made.client.set_sysctl("net.ipv4.tcp_wmem", "4096 4096 4096")
        made.server.set_sysctl("net.ipv4.tcp_rmem", "4096 65536 262144")
        yield made


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as entered:
        yield entered


def attempts(lab: Lab) -> dict[int, int]:
    """What ss shows of the client's connections, by local port."""
    return {lport: told["attempt"] or 0 for (lport, _), told in ss(lab.client).items()}


def port(client: Client) -> int:
    return int(client.connected["lport"])


def since_ms(event: Json, name: str) -> float:
    """The instant that a duration of an event began at, milliseconds of CLOCK_BOOTTIME."""
    return float(event["ktime_ns"] / 1e6 - event[name])


def is_late_ms(found: Json, following: Json) -> float:
    """How much later than foretold the event came that the timer of a found one was for."""
    return float((following["ktime_ns"] - found["ktime_ns"]) / 1e6 - found["timer_ms"])


def wheel_ms(timeout_ms: int) -> float:
    """How late a timer may be: by an eighth, as the timer wheel has it (kernel/time/timer.c), and the machine."""
    return timeout_ms / 8 + SLACK_MS


def test_trouble_from_before_the_start(patient: Lab, stack: ExitStack, watch: Start) -> None:
    stack.enter_context(Server(patient.server, SERVER, ANSWERING))
    probing, writing, ending = (
        stack.enter_context(embedded_client(patient.client, SERVER, ANSWERING, *options))
        for options in (EVERY_TWO_SECONDS, ("--uid", str(NOBODY)), ())
    )
    for client in (probing, writing, ending):
        assert client.ask("query")["ok"]
    children = writing.ask("fork 2")["pids"]
    patient.drop_everything()
    writing.send("query")
    assert ending.ask("shut")["ok"]
    connecting = stack.enter_context(embedded_client(patient.client, SERVER, ANSWERING, wait=False))
    ours = {port(probing), port(writing), port(ending)}

    def all_are_in_trouble() -> bool:
        tried = attempts(patient)
        return len(tried) == 4 and min(tried.values()) >= 2

    wait_until(all_are_in_trouble, PATIENCE_S, "four connections in trouble")
    before = attempts(patient)
    seen = watch("--netns", both_ends(patient))
    seen.wait_for(4, event="found", timeout_s=1)
    after = attempts(patient)
    found = {each["lport"]: each for each in seen.of(event="found")}
    assert len(found) == len(seen.of(event="found")) == 4
    (syn,) = found.keys() - ours
    for lport, each in found.items():
        assert before[lport] <= each["attempt"] <= after[lport]
    assert {found[port(client)]["kind"] for client in (writing, ending)} == {found[syn]["kind"]} == {"retransmit"}
    assert found[port(probing)]["kind"] == "keepalive"
    assert [found[lport]["state"] for lport in (port(writing), port(ending), syn)] == [
        "ESTABLISHED", "FIN_WAIT1", "SYN_SENT",
    ]  # fmt: skip
    assert [found[lport]["unacked_bytes"] for lport in (port(writing), port(ending), syn)] == [32, 0, 0]
    assert found[port(writing)]["pids"] == sorted([writing.pid, *children])
    owners = {lport: (each["pid"], each["comm"]) for lport, each in found.items()}
    assert owners == {
        **{port(client): (client.pid, "worker") for client in (probing, writing, ending)},
        syn: (connecting.pid, "worker"),
    }
    for lport, each in found.items():
        kind = "keepalive" if lport == port(probing) else "retransmit"
        following = seen.wait_for(event=kind, lport=lport, attempt=each["attempt"] + 1)[0]
        armed_ms = 2000 if kind == "keepalive" else each["rto_ms"]
        assert -JIFFY_MS <= is_late_ms(each, following) <= wheel_ms(armed_ms)
        assert following["sock"] == each["sock"]
        if kind == "retransmit":
            assert abs(since_ms(each, "stuck_ms") - since_ms(following, "stuck_ms")) <= JIFFY_MS
            assert following["retries"] == each["retries"] and following["rto_ms"] == each["rto_ms"]


def test_a_window_that_was_closed_before_the_start(patient: Lab, stack: ExitStack, watch: Start) -> None:
    server = stack.enter_context(Server(patient.server, SERVER, ANSWERING))
    client = stack.enter_context(embedded_client(patient.client, SERVER, ANSWERING))
    assert client.ask("query")["ok"]
    server.stop()
    client.send("send 8000000")
    wait_until(lambda: ss(patient.client)[port(client), ANSWERING].get("backoff", 0) >= 3, PATIENCE_S, "three probes")
    seen = watch("--netns", str(patient.client.netns))
    (found,) = seen.wait_for(event="found", timeout_s=1)
    following = seen.wait_for(event="window-probe", attempt=found["attempt"] + 1)[0]
    assert (found["kind"], found["snd_wnd"], found["unacked_bytes"]) == ("window-probe", 0, 0)
    assert found["unsent_bytes"] > 0 and found["attempt"] == found["backoff"]
    assert following["sock"] == found["sock"]
    assert -JIFFY_MS <= is_late_ms(found, following) <= wheel_ms(found["rto_ms"] << found["backoff"])
    assert abs(since_ms(found, "stuck_ms") - since_ms(following, "stuck_ms")) <= JIFFY_MS
    server.go_on()
    assert client.answer()["ok"]


def test_healthy_connections_are_not_found(lab: Lab, stack: ExitStack, watch: Start) -> None:
    stack.enter_context(Server(lab.server, SERVER, ANSWERING))
    every_second = ("--idle", "1", "--interval", "1", "--probes", "3")
    for options in ((), every_second):
        assert stack.enter_context(embedded_client(lab.client, SERVER, ANSWERING, *options)).ask("query")["ok"]
    wait_until(lambda: lab.client.counter("TcpExtTCPKeepAlive") >= 2, PATIENCE_S, "two probes are answered")
    seen = watch("--netns", both_ends(lab))
    seen.wait_for(2, event="keepalive")
    assert seen.of(event="found") == seen.of(event="waiting") == []


def test_who_waits_for_an_answer(patient: Lab, stack: ExitStack, watch: Start) -> None:
    """All walks but the first are made after the privileges were dropped."""
    stack.enter_context(Server(patient.server, SERVER, ANSWERING))
    stack.enter_context(Server(patient.server, SERVER, DEAF, "--deaf"))
    every_second = ("--idle", "1", "--interval", "1", "--probes", "3")
    answered = stack.enter_context(embedded_client(patient.client, SERVER, ANSWERING))
    assert answered.ask("query")["ok"]
    early, probing = (
        stack.enter_context(embedded_client(patient.client, SERVER, DEAF, *options)) for options in ((), every_second)
    )
    early.send("query")
    probing.send("query")
    # As an idle connection of a pool, whose last message needed no reply: nobody reads.
    pooled = stack.enter_context(embedded_client(patient.client, SERVER, DEAF))
    assert pooled.ask("send 9")["ok"]
    wait_until(lambda: is_waiting(patient, early), PATIENCE_S, "it has waited for a while")
    seen = watch("--netns", both_ends(patient), "--min-idle", "1s", walk_every_s=0.5)
    first = seen.wait_for(event="waiting", timeout_s=1)[0]
    process = seen.process_id
    late = stack.enter_context(embedded_client(patient.client, SERVER, DEAF, "--uid", str(NOBODY)))
    children = late.ask("fork 1")["pids"]
    asked_ns = boottime_ns()
    late.send("query")
    told = seen.wait_for(3, event="waiting", lport=port(late))
    seen.wait_for(3, event="keepalive", lport=port(probing))
    assert first["lport"] == port(early) and first["pid"] == early.pid
    assert {each["lport"] for each in seen.of(event="waiting")} == {port(early), port(late)}
    pooled.send("query")
    seen.wait_for(event="waiting", lport=port(pooled))
    for number, each in enumerate(told):
        assert 1000 << number <= each["silent_ms"] <= (1000 << number) + 1000 + SLACK_MS
        assert abs(each["asked_ms"] - each["silent_ms"]) <= JIFFY_MS
        assert -JIFFY_MS <= since_ms(each, "asked_ms") - asked_ns / 1e6 <= SLACK_MS
        assert (each["pids"], each["comm"]) == (sorted([late.pid, *children]), "worker")
        assert (each["unacked_bytes"], each["state"]) == (0, "ESTABLISHED")
    late.kill()
    closed = seen.wait_for(event="state", old_state="ESTABLISHED", lport=port(late))[0]
    assert {each["sock"] for each in told} == {closed["sock"]}
    assert [each["ktime_ns"] for each in seen.events] == sorted(each["ktime_ns"] for each in seen.events)
    assert (BPF in capabilities(process)[0]) == bool(needed_to_walk())


def is_waiting(lab: Lab, client: Client) -> bool:
    told = ss(lab.client)[port(client), DEAF]
    return bool(told["timer"] != "on" and told.get("lastsnd", 0) >= 1500)


def needed_to_walk() -> bool:
    """Whether this kernel makes an iterator only for the privileged: Linux 5.10 does, 6.1 does not."""
    return tuple(map(int, host.kernel_release().split(".")[:2])) < (6, 0)


def test_a_probe_says_how_long_ago_was_asked(patient: Lab, stack: ExitStack, watch: Start) -> None:
    stack.enter_context(Server(patient.server, SERVER, ANSWERING))
    stack.enter_context(Server(patient.server, SERVER, DEAF, "--deaf"))
    every_second = ("--idle", "1", "--interval", "1", "--probes", "3")
    answered, asking = (
        stack.enter_context(embedded_client(patient.client, SERVER, port, *every_second))
        for port in (ANSWERING, DEAF)
    )
    seen = watch("--netns", str(patient.client.netns))
    assert answered.ask("query")["ok"]
    asked_ns = boottime_ns()
    asking.send("query")

    def probes() -> list[Json]:
        """Those for whose timer the query was there in time."""
        return [
            each
            for each in seen.of(event="keepalive", lport=port(asking))
            if each["ktime_ns"] > asked_ns + 1_000_000_000
        ]

    wait_until(lambda: len(probes()) >= 3, PATIENCE_S, "three probes")
    for each in probes():
        assert -JIFFY_MS <= since_ms(each, "asked_ms") - asked_ns / 1e6 <= SLACK_MS
    assert not any("asked_ms" in each for each in seen.wait_for(2, event="keepalive", lport=port(answered)))


def test_since_when_it_is_stuck(patient: Lab, stack: ExitStack, watch: Start) -> None:
    stack.enter_context(Server(patient.server, SERVER, ANSWERING))
    writing, ending = (stack.enter_context(embedded_client(patient.client, SERVER, ANSWERING)) for _ in range(2))
    assert writing.ask("query")["ok"] and ending.ask("query")["ok"]
    seen = watch("--netns", str(patient.client.netns))
    patient.drop_everything()
    began_ns = boottime_ns()
    writing.send("query")
    ending.send("shut")
    connecting = stack.enter_context(embedded_client(patient.client, SERVER, ANSWERING, wait=False))
    wait_until(lambda: len(ss(patient.client)) == 3, PATIENCE_S, "a SYN is sent")
    sent_ns = boottime_ns()
    del connecting
    for kind, count in (("tlp", 1), ("rto", 3), ("fin", 3), ("syn", 2)):
        for each in seen.wait_for(count, event="retransmit", kind=kind):
            assert began_ns / 1e6 - JIFFY_MS <= since_ms(each, "stuck_ms") <= sent_ns / 1e6 + JIFFY_MS, kind
    patient.restore()
    assert writing.answer()["ok"]
    resume = seen.wait_for(event="resume", lport=port(writing))[0]
    assert began_ns / 1e6 - JIFFY_MS <= since_ms(resume, "stuck_ms") <= sent_ns / 1e6 + JIFFY_MS


def test_since_when_the_window_is_closed(patient: Lab, stack: ExitStack, watch: Start) -> None:
    server = stack.enter_context(Server(patient.server, SERVER, ANSWERING))
    client = stack.enter_context(embedded_client(patient.client, SERVER, ANSWERING))
    assert client.ask("query")["ok"]
    seen = watch("--netns", str(patient.client.netns))
    server.stop()
    began_ns = boottime_ns()
    client.send("send 8000000")
    probes = seen.wait_for(4, event="window-probe")
    for each in probes:
        assert began_ns / 1e6 - JIFFY_MS <= since_ms(each, "stuck_ms") <= probes[0]["ktime_ns"] / 1e6
        assert abs(since_ms(each, "stuck_ms") - since_ms(probes[0], "stuck_ms")) <= JIFFY_MS
    server.go_on()
    assert client.answer()["ok"]


def test_filters(patient: Lab, stack: ExitStack, watch: Start) -> None:
    stack.enter_context(Server(patient.server, SERVER, ANSWERING))
    first, second = (stack.enter_context(embedded_client(patient.client, SERVER, ANSWERING)) for _ in range(2))
    assert first.ask("query")["ok"] and second.ask("query")["ok"]
    patient.drop_everything()
    first.send("query")
    second.send("query")
    wait_until(lambda: min(attempts(patient).values()) >= 2, PATIENCE_S, "both are in trouble")
    by_port = watch("--lport", str(port(first)))
    elsewhere = watch("--netns", str(patient.server.netns))
    by_pid = watch("--pid", str(second.pid))
    (found,) = by_port.wait_for(event="found")
    assert found["pid"] == first.pid
    assert [each["lport"] for each in by_pid.wait_for(event="found")] == [port(second)]
    by_port.wait_for(event="retransmit")
    elsewhere.stop()
    assert elsewhere.of(event="found") == []


def test_a_recording_keeps_them(patient: Lab, stack: ExitStack, watch: Start, tmp_path: Path) -> None:
    stack.enter_context(Server(patient.server, SERVER, ANSWERING))
    client = stack.enter_context(embedded_client(patient.client, SERVER, ANSWERING))
    assert client.ask("query")["ok"]
    patient.drop_everything()
    client.send("query")
    wait_until(lambda: min(attempts(patient).values()) >= 2, PATIENCE_S, "it is in trouble")
    seen = watch("--netns", both_ends(patient), "-w", tmp_path / "x.tw")
    seen.wait_for(event="found")
    seen.wait_for(event="retransmit")
    seen.stop()
    replayed = subprocess.run(
        [sys.executable, "-m", "tracer", "replay", "--json", tmp_path / "x.tw"],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=PATIENCE_S,
    )  # fmt: skip
    assert replayed.stdout == "".join(seen.lines)


def test_others_that_have_been_silent_for_longer(patient: Lab, stack: ExitStack, watch: Start) -> None:
    """One freezes, and the others do not know yet that they are dead. Their processes are named."""
    stack.enter_context(Server(patient.server, SERVER, ANSWERING))
    stack.enter_context(Server(patient.server, SERVER, DEAF))
    older, sharer, elsewhere, frozen, younger = (
        stack.enter_context(embedded_client(patient.client, SERVER, to))
        for to in (ANSWERING, ANSWERING, DEAF, ANSWERING, ANSWERING)
    )
    assert elsewhere.connected["connected"]
    for client in (older, sharer):
        assert client.ask("query")["ok"]
    (fork,) = sharer.ask("fork 1")["pids"]
    assert frozen.ask("query")["ok"]
    silent_since = boottime_ns()
    seen = watch("--netns", both_ends(patient), "--min-idle", "1s")
    wait_until(lambda: boottime_ns() - silent_since > 5_000_000_000, 10, "it is idle")
    assert younger.ask("query")["ok"]
    patient.drop_everything()
    frozen.send("query")
    found = seen.wait_for(2, event="found", kind="idle")
    confirmed = seen.of(event="retransmit", lport=port(frozen))[-1]
    assert confirmed["attempt"] >= 3
    assert {each["lport"]: each["pids"] for each in found} == {
        port(older): [older.pid],
        port(sharer): sorted([sharer.pid, fork]),
    }
    for each in found:
        assert each["silent_ms"] >= confirmed["silent_ms"] - confirmed["stuck_ms"]
        assert "attempt" not in each and each["unacked_bytes"] == 0
    seen.wait_for(1, event="retransmit", lport=port(frozen), attempt=5)
    seen.stop()
    assert len(seen.of(event="found", kind="idle")) == 2, "once is enough"
