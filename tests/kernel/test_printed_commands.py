"""Each command that advice can print, typed exactly as it is printed, against real stalls.

The connections are in the network namespace of the lab's client. If that is the host's own namespace, a command is
typed there. If not, it is typed here, and enters that namespace by itself.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from all_advice import commands
from stalling import Stalls
from typed import command_of, run, run_on_terminal, sysctl
from watching import ROOT

from tracer.act.selection import HOPELESS
from tracer.analysis.advice.context import AdviceContext
from tracer.analysis.idle_timeouts import IdleTimeoutRange
from tracer.analysis.stuck import stuck
from tracer.analysis.verdicts import Verdict
from tracer.kernel.sockets import read_sockets
from tracer.lab.namespace import Namespace, wait_until
from tracer.lab.network import CLIENT, SERVER, SERVER6, Lab
from tracer.lab.peers import Client, Server, embedded_client
from tracer.model.events import Event
from tracer.model.filters import Filter

pytestmark = pytest.mark.alone

PORT = 13306
"""Not that of other tests: a command that ends all connections to a service does so in every namespace."""
PROMPT_S = 60
BOUND_PORT = 20000
SILENT_MS = 2500
"""Half of it leaves room for a keepalive time of a second."""
SETTINGS = "test_printed_settings"
_SERVICE = r"--host ADDRESS --[lr]port PORT"
_OPTIONS = (
    rf"echo OPTIONS={_SERVICE} --idle TIME "
    r"\| sudo install -D -m 644 /dev/stdin /etc/tcpwatch/port-PORT\.conf"
)
SHAPES = {
    r"nc -zvw5 ADDRESS PORT": "test_a_handshake",
    rf"tcpwatch probe {_SERVICE}( --connect)?": "test_an_idle_drop",
    r"tcpwatch probe --lport PORT --rport PORT( --connect)?": "test_a_reply_that_does_not_come",
    rf"tcpwatch protect {_SERVICE} --idle TIME": "test_an_idle_drop",
    rf"tcpwatch protect {_SERVICE} --idle TIME --interval TIME --user-timeout TIME": "test_an_idle_drop",
    rf"tcpwatch protect {_SERVICE} --idle TIME --follow": "test_a_client_without_a_setting",
    _OPTIONS: "test_a_client_without_a_setting",
    r"systemctl enable --now tcpwatch-protect@port-PORT": "test_a_client_without_a_setting",
    r"sysctl -w( net\.ipv4\.tcp_keepalive_(time|intvl)=N)+": "test_an_idle_drop",
    r"sysctl -w net\.ipv4\.tcp_syn_retries=N": "test_a_handshake",
    r"ss -K -t -n src ADDRESS sport = :PORT dst ADDRESS dport = :PORT": "test_an_idle_drop",
    r"tcpwatch end --stuck --host ADDRESS --[lr]port PORT": "test_an_idle_drop",
    r"tcpwatch end --lport PORT --host ADDRESS --rport PORT": "test_a_reply_that_does_not_come",
    r"echo \S+=N \| sudo tee -a /etc/sysctl\.d/99-tcpwatch\.conf": "test_the_permanent_form",
    r"printf '%s\\n'( \S+=N){2} \| sudo tee -a /etc/sysctl\.d/99-tcpwatch\.conf": "test_the_permanent_form",
    r"ip route get ADDRESS": "test_an_unreachable_peer",
    r"ip -s -s link": "test_what_shows_drops",
    r"nft list ruleset": "test_a_local_drop",
    r"tc -s qdisc": "test_a_local_drop",
    r"lsns -t net": "test_the_list_of_namespaces",
    r"ss -tno sport = :PORT dst ADDRESS dport = :PORT": "test_a_reply_that_does_not_come",
    r"ss -tn sport = :PORT": "test_a_closed_window",
    r"ss -tiM": "test_what_shows_subflows",
    r"-u postgres psql( -c '(ALTER SYSTEM SET \w+ = N|SELECT pg_reload_conf\(\)|SHOW \w+)')+": SETTINGS,
    r"mariadb -e ('SET GLOBAL .*'|\"SHOW GLOBAL VARIABLES LIKE 'wait_timeout'\")": SETTINGS,
    r"redis-cli CONFIG (SET tcp-keepalive N|GET timeout|REWRITE)": SETTINGS,
}
"""Every shape of a command, and the test that types it: one of this file, or a file of its own."""


def shape_of(command: str) -> str:
    """The command without sudo, without its network namespace, and without its values."""
    command = re.sub(r"^sudo (nsenter -t \d+ -n )?", "", command)
    command = re.sub(r"'\[[\da-f:]+\]'|\b[\da-f]+(:+[\da-f]+)+\b|\b\d+(\.\d+){3}\b", "ADDRESS", command)
    command = re.sub(r"(?<==)\d+\b|(?<== )\d+\b|(?<=keepalive )\d+$", "N", command)
    command = re.sub(r"(--(idle|interval|user-timeout)) \d+[smh]\b", r"\1 TIME", command)
    return re.sub(r"(?<=port )\d+|(?<=port-)\d+|(?<=:)\d+(?= |$)|(?<=ADDRESS )\d+$", "PORT", command)


def test_every_command_has_a_test_that_types_it() -> None:
    shapes = {shape_of(command) for command in commands()}
    for shape in shapes:
        found = [name for pattern, name in SHAPES.items() if re.fullmatch(pattern, shape)]
        assert len(found) == 1, shape
        assert callable(globals().get(found[0])) or Path(__file__).with_name(f"{found[0]}.py").exists()
    for pattern in SHAPES:
        assert any(re.fullmatch(pattern, shape) for shape in shapes), f"nothing prints {pattern}"


class Place(NamedTuple):
    """Where the commands about the lab's client are typed.

    own_netns: the host's own network namespace. shell: the namespace of the shell; None: that of this process.
    """

    own_netns: int
    shell: Namespace | None

    def type(self, lines: list[str], contains: str, *, status: int = 0) -> str:
        """Type the command of the line that has it. Returns what it prints."""
        command = command_of(lines, contains)
        reaches_all = command.startswith("sudo tcpwatch ")  # every network namespace
        assert ("nsenter" in command) is (self.shell is None and not reaches_all), command
        return run(command, self.shell, status=status)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(ttl_s=600, ports=(PORT,), retries2=15) as made:
        yield made


@pytest.fixture(params=["own", "other"])
def place(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Place]:
    own = request.param == "own"
    yield Place(lab.client.netns, lab.client) if own else Place(1, None)
    lab.restore()


def advised(
    place: Place, lab: Lab, client: Client, verdict: str, *, idle_ms: int | None = None, **fields: Any
) -> list[str]:
    """The advice about that client's connection."""
    ends = {name: client.connected.get(name) for name in ("laddr", "lport", "raddr", "rport")}
    ordinary: dict[str, Any] = {"pids": [client.pid], "netns": lab.client.netns, "keepalive": True}
    stall = Event(time_ns=0, ktime_ns=0, event="stall", **{**ends, **ordinary, **fields})
    context = AdviceContext(
        stall, idle_ms, False, 250, IdleTimeoutRange(None, idle_ms), False, False, place.own_netns
    )
    known = Verdict.of(verdict)
    assert known is not None
    return known.advice(context)


def hangs(lab: Lab, client: Client) -> bool:
    """Whether `tcpwatch end --stuck` selects the connection."""
    found = read_sockets(Filter(netns=frozenset({lab.client.netns})), lambda _: None)
    lport = client.connected.get("lport", BOUND_PORT)
    return any(stuck(each) in HOPELESS for each in found if each.lport == lport)


def release(lines: list[str]) -> str:
    """Type the release as printed, and answer its question."""
    screen = run_on_terminal(command_of(lines, "Release: "), "y\n")
    assert "ended 1 connection" in screen, screen
    return screen


def is_aborted(client: Client) -> None:
    """The waiting call has returned."""
    answer = client.answer(PROMPT_S)
    assert (answer["ok"], answer["error"]) == (False, "ECONNABORTED")


# --- what hangs


@pytest.mark.parametrize(
    ("place", "host"),
    [("own", SERVER), ("own", SERVER6), ("other", SERVER6), ("other", f"::ffff:{SERVER}")],
    indirect=["place"],
)
def test_an_idle_drop(lab: Lab, place: Place, tmp_path: Path, host: str) -> None:
    """The firewall forgot the sessions; what tcpwatch itself reports about that is typed."""
    with (
        Server(lab.server, SERVER6 if host == SERVER6 else SERVER, PORT),
        embedded_client(lab.client, host, PORT) as first,
        embedded_client(lab.client, host, PORT) as second,
        Stalls(lab, tmp_path, min_idle_s=0.2, own_netns=place.own_netns) as seen,
    ):
        for client in (first, second):
            assert client.ask("query")["ok"]
        wait_until(lambda: all(silent_ms(lab, each) > SILENT_MS for each in (first, second)), PROMPT_S, "a silence")
        lab.forget_sessions()
        for client in (first, second):
            client.send("query")
        one, other = (
            seen.wait_for(phase="begin", verdict="idle-drop", lport=each.connected["lport"]).advice or []
            for each in (first, second)
        )
        shown = place.type(one, "Check: ", status=1)
        assert len(re.findall(r"^busy +worker\[", shown, re.MULTILINE)) == 2, shown
        assert re.search(rf"a new connection to \S*{PORT} opens", shown), shown
        place.type(one, "ss -K")
        is_aborted(first)
        assert not second.answered(), "this ends one connection alone"
        wait_until(lambda: hangs(lab, second), PROMPT_S, "the third retransmission")
        with embedded_client(lab.client, host, PORT) as healthy:
            screen = release(other)
            is_aborted(second)
            assert healthy.ask("query")["ok"], screen
            assert re.search(r"^alive +worker\[", place.type(other, "Check: "), re.MULTILINE)
            open_ones(place, other)
        name = "tcp_keepalive_time"
        before = sysctl(lab.client, name)
        place.type(other, "Cure: ")
        assert (before, sysctl(lab.client, name), sysctl(lab.client, "tcp_keepalive_intvl")) == ("7200", "1", "1")
        lab.client.set_sysctl(f"net.ipv4.{name}", before)
        lab.client.set_sysctl("net.ipv4.tcp_keepalive_intvl", 75)


def open_ones(place: Place, lines: list[str]) -> None:
    """Type what is for connections that are open now."""
    protected = place.type(lines, "Protect: ")
    assert "changed       worker[" in protected and "→ 1s+9x1s" in protected, protected
    assert "user timeout none → " in place.type(lines, "To limit it to 30s on open connections")


def test_a_client_without_a_setting(lab: Lab, place: Place, tmp_path: Path) -> None:
    """Keepalive from outside: typed until ^C, and as a service with its file."""
    (tmp_path / "units").mkdir()
    shutil.copy(ROOT / "scripts/tcpwatch-protect@.service", tmp_path / "units")
    with (
        Server(lab.server, SERVER, PORT),
        embedded_client(lab.client, SERVER, PORT, "--no-keepalive") as client,
    ):
        lines = advised(place, lab, client, "idle-drop", idle_ms=3_600_000, keepalive=False, comm="worker")
        follow = command_of(lines, "Cure: keepalive is off; from outside: ")
        shown = run(f"{follow} --duration 1", place.shell)
        assert "keepalive off → 60s+9x60s" in shown, shown
        # Another /etc is mounted over the host's own. No systemd that runs here can start the service from it.
        (tmp_path / "etc").mkdir()
        write = command_of(lines, "As a service")
        start = command_of(lines, "Then start that service")
        script = (
            f"cp -r /etc/passwd /etc/group /etc/ld.so.cache {tmp_path}/etc && "
            f"mkdir -p {tmp_path}/etc/systemd/system && cp {tmp_path}/units/* {tmp_path}/etc/systemd/system && "
            f"mount --bind {tmp_path}/etc /etc && {write} && (SYSTEMD_OFFLINE=1 {start} || true)"
        )
        run(f"unshare --mount bash -c {shlex.quote(script)}")
        (options,) = (tmp_path / f"etc/tcpwatch/port-{PORT}.conf").read_text().splitlines()
        enabled = tmp_path / f"etc/systemd/system/multi-user.target.wants/tcpwatch-protect@port-{PORT}.service"
        assert enabled.is_symlink()
        again = run(f"sudo tcpwatch protect {options.removeprefix('OPTIONS=')} --dry-run")
        assert "1 had settings as short already" in again, again


def silent_ms(lab: Lab, client: Client) -> int:
    found = read_sockets(Filter(netns=frozenset({lab.client.netns})), lambda _: None)
    return next(each.silent_ms or 0 for each in found if each.lport == client.connected["lport"])


def test_a_handshake(lab: Lab, place: Place) -> None:
    lab.drop_everything()
    with embedded_client(lab.client, SERVER, PORT, "--bind-port", str(BOUND_PORT), wait=False) as client:
        wait_until(lambda: lab.client.believes(BOUND_PORT, PORT) == "SYN_SENT", PROMPT_S, "the SYN is out")
        ends: dict[str, Any] = {"laddr": CLIENT, "lport": BOUND_PORT, "raddr": SERVER, "rport": PORT}
        lines = advised(place, lab, client, "handshake", kind="syn", state="SYN_SENT", **ends)
        place.type(lines, "Check: ", status=1)  # it times out as well
        before = sysctl(lab.client, "tcp_syn_retries")
        place.type(lines, "Cure: ")
        assert (before, sysctl(lab.client, "tcp_syn_retries")) == ("6", "2")
        lab.client.set_sysctl("net.ipv4.tcp_syn_retries", before)
        wait_until(lambda: hangs(lab, client), PROMPT_S, "the second retransmission of the SYN")
        release(lines)
        assert client.answer(PROMPT_S)["error"] == "ECONNABORTED"


def test_keepalive_probes_in_vain(lab: Lab, place: Place) -> None:
    with (
        Server(lab.server, SERVER, PORT),
        embedded_client(lab.client, SERVER, PORT, "--idle", "1", "--interval", "1", "--probes", "60") as client,
    ):
        lab.drop_everything()
        wait_until(lambda: hangs(lab, client), PROMPT_S, "the second probe")
        release(advised(place, lab, client, "keepalive-failed"))
        assert client.ask("query")["error"] == "ECONNABORTED"


def test_a_local_drop(lab: Lab, place: Place) -> None:
    with Server(lab.server, SERVER, PORT), embedded_client(lab.client, SERVER, PORT) as client:
        lab.client.run(
            "nft", "add table inet own; add chain inet own out { type filter hook output priority 0; };"
            f"add rule inet own out tcp dport {PORT} counter drop",
        )  # fmt: skip
        try:
            client.send("query")
            lines = advised(place, lab, client, "local-drop", send_error="EPERM")
            rules = partial(place.type, lines, "Check: ")
            wait_until(lambda: "counter packets 0" not in rules(), PROMPT_S, "the counter of the rule grows")
            assert f"tcp dport {PORT} counter" in rules()
            unknown = advised(place, lab, client, "local-drop")
            assert "qdisc" in place.type(unknown, "tc -s qdisc") and "dev eth0" in place.type(unknown, "ip route get")
            assert "qdisc" in place.type(
                advised(place, lab, client, "local-drop", send_error="NET_XMIT_DROP"), "Check: "
            )
            wait_until(lambda: hangs(lab, client), PROMPT_S, "the third attempt")
            release(lines)
            is_aborted(client)
        finally:
            lab.client.run("nft", "delete table inet own")


def test_an_unreachable_peer(lab: Lab, place: Place) -> None:
    for host in (SERVER, SERVER6):
        with Server(lab.server, host, PORT), embedded_client(lab.client, host, PORT) as client:
            lab.reject("host-unreachable")
            client.send("query")
            lines = advised(place, lab, client, "unreachable", soft_error="EHOSTUNREACH")
            assert f"{host} via" in place.type(lines, "Check: ").replace("from :: ", "")
            wait_until(lambda: hangs(lab, client), PROMPT_S, "the third retransmission")
            release(lines)
            is_aborted(client)
            lab.restore()


@pytest.mark.parametrize("host", [SERVER, SERVER6])
def test_a_reply_that_does_not_come(lab: Lab, place: Place, host: str) -> None:
    """`--stuck` does not select it, so the release names the connection."""
    with (
        Server(lab.server, host, PORT, "--deaf"),
        embedded_client(lab.client, host, PORT) as client,
        embedded_client(lab.client, host, PORT) as other,
    ):
        client.send("query")
        lines = advised(place, lab, client, "unanswered")
        probed = place.type(lines, "Check: ")
        assert re.search(rf"^alive +worker\[{client.pid}\]", probed, re.MULTILINE) and " opens (" in probed, probed
        assert f":{other.connected['lport']} " not in probed
        place.type(lines, "To end this wait if the peer is dead")
        there = command_of(lines, "If it is alive, look at its socket, on the peer: ")
        peers_socket = partial(run, there, lab.server)
        wait_until(lambda: re.search(r"ESTAB +[1-9]\d* ", peers_socket()), PROMPT_S, "Recv-Q on the peer")
        assert f":{client.connected['lport']} " in run(there, lab.server)
        assert f":{other.connected['lport']} " not in run(there, lab.server)
        release(lines)
        is_aborted(client)
        other.send("query")
        assert not other.answered()


def test_a_closed_window(lab: Lab, place: Place) -> None:
    with Server(lab.server, SERVER, PORT, "--deaf"), embedded_client(lab.client, SERVER, PORT) as client:
        client.send("flood")
        lines = advised(place, lab, client, "zero-window")
        there = command_of(lines, "Check: its unread bytes are Recv-Q, on the peer: ")
        wait_until(lambda: re.search(r"ESTAB +[1-9]\d{4,} ", run(there, lab.server)), PROMPT_S, "Recv-Q on the peer")
        release(lines)
        assert client.answer(PROMPT_S)["error"] == "ECONNABORTED"


# --- what only shows


def test_what_shows_drops(lab: Lab, place: Place) -> None:
    with Server(lab.server, SERVER, PORT), embedded_client(lab.client, SERVER, PORT) as client:
        shown = place.type(advised(place, lab, client, "packet-loss"), "Check: ")
        assert "RX errors" in shown and "eth0" in shown
        back = place.type(advised(place, lab, client, "handshake", kind="synack"), "Check: ")
        assert f"{SERVER} via" in back


def test_what_shows_subflows(lab: Lab, place: Place) -> None:
    with Server(lab.server, SERVER, PORT, "--mptcp"), embedded_client(lab.client, SERVER, PORT, "--mptcp") as client:
        shown = place.type(advised(place, lab, client, "path-loss", mptcp=True), "Check: ")
        assert f":{client.connected['lport']}" in shown and "mptcp" in shown


def test_the_list_of_namespaces(lab: Lab) -> None:
    with Server(lab.server, SERVER, PORT), embedded_client(lab.client, SERVER, PORT) as client:
        lines = advised(Place(1, None), lab, client, "handshake", kind="syn", pids=None)
        shown = run(command_of(lines, "lsns"))
        (pid,) = [line.split()[3] for line in shown.splitlines() if line.split()[0] == str(lab.client.netns)]
        # As the line says: that process leads to the namespace.
        assert f"in netns {lab.client.netns}: nc" in lines[0] and [
            each for each in lines if "sudo nsenter -t PID -n" in each
        ]
        assert "succeeded" in run(f"sudo nsenter -t {pid} -n {command_of(lines, 'Check: ')}")


# --- what stays


@pytest.mark.parametrize("idle_ms", [3_600_000, 6_500])
def test_the_permanent_form(lab: Lab, tmp_path: Path, idle_ms: int) -> None:
    """Typed twice, and beside another setting. Not into the host's own /etc/sysctl.d: another one is mounted."""
    own = Place(lab.client.netns, lab.client)
    directory = tmp_path / "sysctl.d"
    directory.mkdir()
    (directory / "99-sysctl.conf").write_text("net.ipv4.tcp_keepalive_time = 7200\n")
    with Server(lab.server, SERVER, PORT), embedded_client(lab.client, SERVER, PORT) as client:
        keepalive = command_of(advised(own, lab, client, "idle-drop", idle_ms=idle_ms), "To make it permanent: ")
        handshake = command_of(advised(own, lab, client, "handshake", kind="syn"), "To make it permanent: ")
    for command in (keepalive, handshake, keepalive):
        mounted = f"mount --bind {shlex.quote(str(directory))} /etc/sysctl.d && {command}"
        run(f"unshare --mount bash -c {shlex.quote(mounted)}")
    assert not Path("/etc/sysctl.d/99-tcpwatch.conf").exists()
    before = {
        name: sysctl(lab.client, name) for name in ("tcp_keepalive_time", "tcp_keepalive_intvl", "tcp_syn_retries")
    }
    # As at the next start: in the order of the files' names.
    for file in sorted(directory.iterdir()):
        run(f"sysctl --load={shlex.quote(str(file))}", lab.client)
    set_now = {name: sysctl(lab.client, name) for name in before}
    for name, value in before.items():
        lab.client.set_sysctl(f"net.ipv4.{name}", value)
    seconds = "60" if idle_ms == 3_600_000 else "2"
    assert (set_now["tcp_keepalive_time"], set_now["tcp_syn_retries"]) == (seconds, "2")
    assert set_now["tcp_keepalive_intvl"] == ("75" if seconds == "60" else seconds)
