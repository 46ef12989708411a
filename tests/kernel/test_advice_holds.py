"""What the advice says about the kernel."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from typed import command_of, run

from tracer.analysis.advice.context import AdviceContext
from tracer.analysis.idle_timeouts import IdleTimeoutRange
from tracer.analysis.verdicts import Verdict
from tracer.lab.mariadb import DATABASE, PASSWORD, USER, MariaDB
from tracer.lab.namespace import Namespace, wait_until
from tracer.lab.network import CLIENT, SERVER, Lab
from tracer.lab.peers import Client, Server, embedded_client
from tracer.model.events import Event

TWO_HOURS_S = 7200
HZ = 250  # only rounds what is advised

PHP_CLIENT = f"""
$database = new PDO('mysql:host={SERVER};dbname={DATABASE}', '{USER}', '{PASSWORD}');
echo json_encode(['connected' => true, 'pid' => getmypid()]), "\\n";
while (fgets(STDIN) !== false) {{
    $began = microtime(true);
    try {{
        $ok = $database->query('SELECT 1') !== false;
    }} catch (PDOException $error) {{
        $ok = false;
    }}
    echo json_encode(['ok' => $ok, 'seconds' => microtime(true) - $began]), "\\n";
}}
"""


def advised(client: Client, verdict: str = "idle-drop", *, idle_ms: int | None = 6500, **fields: Any) -> list[str]:
    """The advice about that client's connection."""
    where = {name: value for name, value in client.connected.items() if name in ("pid", "laddr", "lport", "rport")}
    ordinary: dict[str, Any] = {
        "raddr": client.connected.get("raddr"),
        "pids": [client.pid],
        "keepalive": True,
        "keepalive_idle_s": TWO_HOURS_S,
        "keepalive_idle_own": False,
        "keepalive_interval_s": 75,
        "user_timeout_ms": 0,
    }
    event = Event(time_ns=0, ktime_ns=0, event="stall", **{**where, **ordinary, **fields})
    for end in ("laddr", "raddr"):  # as the kernel side names a v4-mapped address
        setattr(event, end, str(getattr(event, end)).removeprefix("::ffff:"))
    context = AdviceContext(event, idle_ms, False, HZ, IdleTimeoutRange(None, idle_ms), False, False)
    known = Verdict.of(verdict)
    assert known is not None
    return known.advice(context)


def keepalive_timers_s(namespace: Namespace, lport: int) -> list[float]:
    """Seconds until the keepalive timers expire of the IPv4 connections of a local port, where no other is armed."""
    timers = []
    for line in Path(f"/proc/{namespace.pid}/net/tcp").read_text(encoding="ascii").splitlines()[1:]:
        _, local, _, state, _, timer, *_ = line.split()
        kind, hundredths = timer.split(":")
        if (int(local.split(":")[1], 16), state, int(kind, 16)) == (lport, "01", 2):
            timers.append(int(hundredths, 16) / 100)
    return timers


def keepalive_timer_s(namespace: Namespace, client: Client) -> float:
    """The same of one connection, once what it sent is acknowledged."""
    lport = client.connected["lport"]
    wait_until(lambda: keepalive_timers_s(namespace, lport), 60, "the keepalive timer is the one that is armed")
    return keepalive_timers_s(namespace, lport)[0]


def probes(namespace: Namespace) -> int:
    return namespace.counter("TcpExtTCPKeepAlive")


def test_a_lowered_time_is_for_new_connections_and_leaves_armed_timers_alone(lab: Lab) -> None:
    with (
        Server(lab.server, SERVER, 3306),
        embedded_client(lab.client, SERVER, 3306) as old,
        embedded_client(lab.client, SERVER, 3306, "--idle", str(TWO_HOURS_S)) as own,
    ):
        run(command_of(advised(old), "Cure: "))
        with (
            embedded_client(lab.client, SERVER, 3306) as new,
            embedded_client(lab.client, SERVER, 3306, "--idle", "7000") as new_own,
        ):
            assert keepalive_timer_s(lab.client, new) <= 2.1
            assert keepalive_timer_s(lab.client, new_own) > 6000, "no sysctl changes its own"
            for client in (old, own):
                assert keepalive_timer_s(lab.client, client) > 7000
                assert client.ask("query")["ok"]
                assert keepalive_timer_s(lab.client, client) > 7000, "data does not arm it anew"


def test_when_the_armed_timer_ends_the_new_time_is_in_force(lab: Lab) -> None:
    lab.client.set_sysctl("net.ipv4.tcp_keepalive_time", 3)
    lab.client.set_sysctl("net.ipv4.tcp_keepalive_intvl", 1)
    before = probes(lab.client)
    began = time.monotonic()
    with Server(lab.server, SERVER, 3306), embedded_client(lab.client, SERVER, 3306) as client:
        lab.client.set_sysctl("net.ipv4.tcp_keepalive_time", 1)
        wait_until(lambda: probes(lab.client) > before, 60, "the first probe")
        assert time.monotonic() - began >= 3, "not after one second: the timer had been armed for three"
        wait_until(lambda: probes(lab.client) > before + 1, 60, "the second")
        assert keepalive_timer_s(lab.client, client) <= 1.1


def test_after_a_probe_the_interval_decides_so_it_is_lowered(lab: Lab) -> None:
    lab.client.set_sysctl("net.ipv4.tcp_keepalive_time", 1)
    before = probes(lab.client)
    with Server(lab.server, SERVER, 3306), embedded_client(lab.client, SERVER, 3306) as client:
        wait_until(lambda: probes(lab.client) > before, 60, "the first probe")
        assert keepalive_timer_s(lab.client, client) > 60, "75 s, though the idle time is 1 s"
        lowering = command_of(advised(client, keepalive_idle_s=1), "Cure: ")
        run(lowering)
    assert lowering.endswith("sysctl -w net.ipv4.tcp_keepalive_intvl=2"), "the idle time must not grow"
    before = probes(lab.client)
    with Server(lab.server, SERVER, 3306), embedded_client(lab.client, SERVER, 3306) as client:
        wait_until(lambda: probes(lab.client) > before, 60, "the first probe")
        assert keepalive_timer_s(lab.client, client) <= 2.1


def test_the_printed_ss_ends_a_connect(lab: Lab) -> None:
    lab.drop_everything()
    with embedded_client(lab.client, SERVER, 3306, "--bind-port", "20000", wait=False) as client:
        wait_until(lambda: lab.client.believes(20000, 3306) == "SYN_SENT", 60, "the SYN is out")
        where: dict[str, Any] = {"pid": client.pid, "laddr": CLIENT, "lport": 20000, "raddr": SERVER, "rport": 3306}
        lines = advised(client, "handshake", idle_ms=None, kind="syn", state="SYN_SENT", **where)
        run(command_of(lines, "Cure: "))  # by the client's process, which ends with its connect()
        run(command_of(lines, "ss -K"))
        assert client.answer(5) == {"connected": False, "errno": 103, "error": "ECONNABORTED"}
    began = time.monotonic()
    with embedded_client(lab.client, SERVER, 3306) as client:
        assert client.connected["error"] == "ETIMEDOUT"
    assert 5 < time.monotonic() - began < 20, "some 7 s, not two minutes"


def test_the_settings_of_mysqlnd_and_mariadb(lab: Lab) -> None:
    with MariaDB(lab.server, SERVER) as server:
        php = ["php", "-d", "mysqlnd.net_read_timeout=1", "-r", PHP_CLIENT]
        where: dict[str, Any] = {"laddr": SERVER, "lport": 3306, "raddr": CLIENT, "rport": 40000, "comm": "mariadbd"}
        with Client(lab.client, php) as client:
            (line,) = [line for line in advised(client, **where) if "SET GLOBAL tcp" in line]
            server.sql(line.partition("mariadb -e '")[2].removesuffix("'"))
            (bound,) = [
                line
                for line in advised(client, comm="php", rport=3306, lport=40000)
                if "To limit the wait next" in line
            ]
            assert "mysqlnd.net_read_timeout=N in php.ini (N: seconds" in bound
            with Client(lab.client, php) as later:
                wait_until(lambda: len(keepalive_timers_s(lab.server, 3306)) == 2, 60, "both connections are idle")
                short, long = sorted(keepalive_timers_s(lab.server, 3306))
                assert server.sql("SELECT @@GLOBAL.tcp_keepalive_interval") == [["2"]]
                assert short <= 2.1 and long > 7000, "connections that are open keep theirs"
                lab.drop_everything()
                later.send("query")
                failed = later.answer()
                assert not failed["ok"]
                assert 0.9 < failed["seconds"] < 10, "the timeout, not the 13 s that the kernel tries on"
