"""The normal case: everything hangs already, and then somebody starts tcpwatch.

Connections die in every way at once. One tcpwatch watches from before that, others start 5, 40 and 100 s later. All
must say the same, and what they say must be what happened.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from reruns import Gathered
from watching import ROOT, Json, Watch, both_ends

from tracer.lab.network import SERVER, Lab
from tracer.lab.peers import Client, Server, embedded_client
from tracer.model.times import parse_time

IDLE_S = 62.0
"""Longer than what counts as long, a minute."""
STARTS_S = (5, 40, 100)
IDLE, USED, SYN, PROBES, WINDOW, WAITING, ALIVE, ICMP, ONE_WAY, SILENT, READER, HEALTHY = range(3301, 3313)
PORTS = range(IDLE, HEALTHY + 1)
VERDICTS = {
    IDLE: "idle-drop",
    USED: "path-loss",
    SYN: "handshake",
    PROBES: "keepalive-failed",
    WINDOW: "zero-window",
    WAITING: "unanswered",
    ICMP: "unreachable",
    ONE_WAY: "idle-drop",
    SILENT: "unanswered",
}
"""What is to be said of the clients' ends; of the others nothing."""
AT_SERVER = {ONE_WAY: "path-loss", SILENT: "idle-drop", READER: "zero-window"}
"""What is to be said of the server's ends: its answers are lost, or a client does not read them."""
NAMES = {
    IDLE: "Silent",
    USED: "The connection was in use",
    SYN: "No answer to the SYN since",
    PROBES: "keepalive probes since",
    WINDOW: "The peer's window has been closed since",
    WAITING: "no reply has come",
    ICMP: "The network reports the peer as unreachable. An ICMP error came back (EHOSTUNREACH).",
}
SLACK_MS = 700
"""What a busy machine may take between an action and the kernel's clock of it."""
EXACT_MS = 60

_DEATH = f"""
table inet death {{
  chain lost {{
    type filter hook prerouting priority raw; policy accept;
    tcp dport {{ {IDLE}, {USED}, {SYN}, {PROBES}, {SILENT} }} drop
    tcp sport {{ {IDLE}, {USED}, {SYN}, {PROBES}, {SILENT}, {ONE_WAY} }} drop
  }}
  chain refused {{
    type filter hook forward priority -1; policy accept;
    tcp dport {ICMP} reject with icmpx type host-unreachable
  }}
}}
"""


@dataclass
class Late:
    """What happened, and what each tcpwatch said of it, by how long after the death it was started."""

    asked_ns: dict[int, int] = field(default_factory=dict)  # wall clock, by port
    answered_ns: dict[int, int] = field(default_factory=dict)
    said: dict[float, list[Json]] = field(default_factory=dict)
    first_ms: dict[float, float] = field(default_factory=dict)  # from the ready line to the last found stall
    text: str = ""

    def stalls(self, start: float, port: int, end: str = "rport") -> list[Json]:
        """Those of the client's end of the connection to that port, or with `lport` of the server's."""
        return [each for each in self.said[start] if each["event"] == "stall" and each[end] == port]


class Chatter:
    """Asks every tenth of a second, and notes when it last did."""

    def __init__(self, client: Client, asked_ns: dict[int, int], port: int) -> None:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(client, asked_ns, port), daemon=True)
        self._thread.start()

    def _run(self, client: Client, asked_ns: dict[int, int], port: int) -> None:
        while not self._over.wait(0.1):
            asked_ns[port] = time.time_ns()
            client.send("query")
            while not client.answered():
                if self._over.wait(0.01):
                    return
            client.answer()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()


def clients_of(lab: Lab, stack: ExitStack) -> dict[int, Client]:
    options = {
        PROBES: ["--idle", "4", "--interval", "10", "--probes", "30"],
        WAITING: ["--no-keepalive"],
        SILENT: ["--no-keepalive"],
        ALIVE: ["--idle", "2", "--interval", "2"],
    }
    return {
        port: stack.enter_context(embedded_client(lab.client, SERVER, port, *options.get(port, [])))
        for port in PORTS
        if port != SYN
    }


def die_and_watch() -> Late:
    with ExitStack() as stack:
        recording = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "x.tw"
        lab = stack.enter_context(Lab(ttl_s=900, ports=list(PORTS), retries2=15))
        lab.server.set_sysctl("net.ipv4.tcp_rmem", "4096 65536 262144")
        lab.client.set_sysctl("net.ipv4.tcp_rmem", "4096 65536 262144")
        lab.client.set_sysctl("net.ipv4.tcp_wmem", "4096 65536 262144")
        servers = {port: stack.enter_context(Server(lab.server, SERVER, port)) for port in PORTS}
        clients = clients_of(lab, stack)
        told = Late()
        for port in (IDLE, ICMP, ONE_WAY, PROBES):
            assert clients[port].ask("query")["ok"]
            told.answered_ns[port] = time.time_ns()
        watches: dict[float, Watch] = {0.0: start(stack, lab)}
        for port in (USED, HEALTHY):
            in_use = Chatter(clients[port], told.asked_ns, port)
            stack.callback(in_use.stop)
        for port, slow_s in ((WAITING, 900), (ALIVE, 900), (SILENT, IDLE_S + 0.5)):
            clients[port].send(f"slow {slow_s}")
            told.asked_ns[port] = time.time_ns()
        assert clients[READER].ask("download 8000000")["ok"]
        servers[WINDOW].stop()
        clients[WINDOW].send("flood")
        time.sleep(max(0.0, told.answered_ns[PROBES] / 1e9 + IDLE_S - time.time()))  # they are idle meanwhile
        died = time.monotonic()
        lab.firewall.run("nft", "-f", "-", stdin=_DEATH)
        for port in (IDLE, ICMP, ONE_WAY):
            clients[port].send("query")
            told.asked_ns[port] = time.time_ns()
        stack.enter_context(embedded_client(lab.client, SERVER, SYN, wait=False))
        told.asked_ns[SYN] = time.time_ns()
        for after_s in STARTS_S:
            time.sleep(max(0.0, died + after_s - time.monotonic()))
            extra: list[str | Path] = ["-w", recording] if after_s == 40 else []
            watches[after_s] = start(stack, lab, *extra)
            ready = time.monotonic()
            watches[after_s].wait_for(
                count=len(VERDICTS) + len(AT_SERVER) - (after_s < 40), event="stall", phase="begin"
            )
            told.first_ms[after_s] = (time.monotonic() - ready) * 1000
        for started_s, watch in watches.items():
            watch.stop()
            told.said[started_s] = watch.events
        replay = [sys.executable, "-m", "tracer", "replay", str(recording), "--verbose"]
        told.text = subprocess.run(replay, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        return told


_gathered = Gathered(die_and_watch)


@pytest.fixture
def late(request: pytest.FixtureRequest) -> Late:
    return _gathered.of(request)


def start(stack: ExitStack, lab: Lab, *options: str | Path) -> Watch:
    watch = Watch("--netns", both_ends(lab), *options)
    stack.callback(watch.kill)
    return watch


ALL = (0.0, *STARTS_S)


@pytest.mark.parametrize("start", ALL)
@pytest.mark.parametrize("port", VERDICTS)
def test_the_verdict_is_what_happened(late: Late, start: float, port: int) -> None:
    stalls = late.stalls(start, port)
    assert {each["phase"] for each in stalls} >= {"begin", "end"}
    # One that an event was missed of is presumed to be over, and that is taken back.
    stands = [each for each in stalls if each.get("outcome") != "presumed"]
    assert stands[-1]["verdict"] == VERDICTS[port], stalls[-1]
    if start:
        assert {each["verdict"] for each in stands} == {VERDICTS[port]}, "from the first word on"
        assert len({each["id"] for each in stalls}) == 1, "one stall"


@pytest.mark.parametrize("start", ALL)
@pytest.mark.parametrize("port", AT_SERVER)
def test_the_servers_end(late: Late, start: float, port: int) -> None:
    end = late.stalls(start, port, "lport")[-1]
    assert (end["verdict"], end["outcome"]) == (AT_SERVER[port], "ongoing"), end
    assert end.get("one_way") is (True if port == ONE_WAY else None), "it hears the client, which hears nothing"
    if port == SILENT:
        assert abs(end["idle_ms"] - IDLE_S * 1000 - 500) <= SLACK_MS, "since it was asked"


@pytest.mark.parametrize("start", ALL)
def test_nothing_else_is_said_to_stall(late: Late, start: float) -> None:
    said = [each for each in late.said[start] if each["event"] in ("stall", "found", "waiting")]
    assert {each["rport"] for each in said if each["rport"] in PORTS} <= VERDICTS.keys()
    # The end that an answer was on its way from when the path died may wait for its acknowledgement.
    assert {each["lport"] for each in said if each["lport"] in PORTS} <= AT_SERVER.keys() | {USED}
    assert not [each for each in said if each.get("outcome") in ("recovered", "alive")]
    last = {each["id"]: each for each in said if each["event"] == "stall"}
    assert {each["outcome"] for each in last.values()} <= {"ongoing", "presumed"}


@pytest.mark.parametrize("start", ALL)
@pytest.mark.parametrize("port", [IDLE, USED, SYN, ICMP, ONE_WAY, WAITING, SILENT])
def test_since_when(late: Late, start: float, port: int) -> None:
    for each in late.stalls(start, port):
        off_ms = (parse_time(each["since"]) - late.asked_ns[port]) / 1e6
        assert abs(off_ms) <= SLACK_MS, each


@pytest.mark.parametrize("start", ALL)
@pytest.mark.parametrize("port", [IDLE, ICMP, ONE_WAY])
def test_how_long_it_was_idle_before(late: Late, start: float, port: int) -> None:
    idle_ms = (late.asked_ns[port] - late.answered_ns[port]) / 1e6
    for each in late.stalls(start, port):
        assert abs(each["idle_ms"] - idle_ms) <= SLACK_MS, each
    assert all(each["idle_ms"] < 1000 for each in late.stalls(start, USED))
    assert not any("idle_ms" in each for each in late.stalls(start, SYN))


@pytest.mark.parametrize("start", STARTS_S)
@pytest.mark.parametrize("port", [IDLE, USED, SYN, ICMP, ONE_WAY])
def test_how_often_it_was_sent_again(late: Late, start: float, port: int) -> None:
    """What the one that saw each of them had counted by then, or the next one counts."""
    (begin,) = [each for each in late.stalls(start, port) if each["phase"] == "begin"]
    seen, mine = (
        [each for each in late.said[which] if each["event"] == "retransmit" and each["rport"] == port]
        for which in (0.0, start)
    )
    before = [each["attempt"] for each in seen if each["ktime_ns"] <= begin["ktime_ns"]][-1:]
    assert begin["retransmits"] in [*before, *(each["attempt"] - 1 for each in mine[:1])]


@pytest.mark.parametrize("port", [IDLE, USED, SYN, ONE_WAY, PROBES])
def test_when_the_kernel_gives_up(late: Late, port: int) -> None:
    """From whichever moment on: exactly, and the same."""
    exact = {
        start: [
            parse_time(each["gives_up_at"])
            for each in late.stalls(start, port)
            if "gives_up_at" in each and "gives_up_window_ms" not in each
        ]
        for start in ALL
    }
    assert all(exact.values()), exact
    every = [at_ns for start in ALL for at_ns in exact[start][-1:]]
    assert max(every) - min(every) <= EXACT_MS * 1e6, exact


@pytest.mark.parametrize("start", ALL)
def test_a_wait_without_keepalive_has_no_end(late: Late, start: float) -> None:
    for each in late.stalls(start, WAITING):
        assert "gives_up_at" not in each and each["keepalive"] is False
        assert each["silent_ms"] >= 60_000 and each["asked_ms"] >= each["silent_ms"] - SLACK_MS
    for each in late.stalls(start, WINDOW):
        assert "gives_up_at" not in each or each["verdict"] != "zero-window"


@pytest.mark.parametrize("start", STARTS_S)
def test_what_hangs_is_said_at_once(late: Late, start: float) -> None:
    assert late.first_ms[start] < 5000, "within a second where the machine is calm"
    assert {each["kind"] for each in late.said[start] if each["event"] == "found"} == {
        "retransmit",
        "keepalive",
        "window-probe",
    }
    for each in late.said[start]:
        if each["event"] in ("found", "waiting"):
            assert each["comm"] == ("worker" if each["rport"] in PORTS else "server") and each["pid"] in each["pids"]


def test_no_duration_runs_backwards(late: Late) -> None:
    for start in ALL:
        for port in VERDICTS:
            for each in late.stalls(start, port):
                assert parse_time(each["since"]) <= parse_time(each["time"])
            (end,) = [each for each in late.stalls(start, port) if each["phase"] == "end"][-1:]
            lasted_ms = (parse_time(end["time"]) - parse_time(end["since"])) / 1e6
            assert abs(end["duration_ms"] - lasted_ms) <= 2


@pytest.mark.parametrize("port", NAMES)
def test_in_words(late: Late, port: int) -> None:
    text = " ".join(late.text.split())
    assert NAMES[port] in text
    assert "GCP" not in text and "AWS" not in text and "Azure" not in text, "nobody is accused"


def test_the_recording_gives_the_same_stalls(late: Late) -> None:
    """That its lines are those of live, byte for byte, is asserted in test_incident."""
    live = [each for each in late.said[40] if each["event"] == "stall" and each["phase"] == "begin"]
    assert len(live) == len(VERDICTS) + len(AT_SERVER)
    begun = [line for line in late.text.splitlines() if " STALL " in line or " WAIT " in line]
    for each in live:
        ends = f"{each['laddr']}:{each.get('lport', '*')} → {each['raddr']}:{each['rport']}"
        assert any(f" {each['verdict']} " in line and ends in line for line in begun), ends
