"""What goes on while something watches: MariaDB, Redis, short connections, in namespaces of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import dies_with_us
from benchmarks.watchers import Target
from tracer.errors import TcpwatchError
from tracer.events import STATES
from tracer.lab.mariadb import DATABASE, PASSWORD, USER, MariaDB
from tracer.lab.namespace import Namespace, require_tools, wait_until
from tracer.lab.network import SERVER, Lab
from tracer.lab.peers import Client, Process, Server

_LOAD = Path(__file__).with_name("load.py")
PORT = 17306
"""Not one that something else on this host is likely to use: a filter by port is one for every namespace."""
VOID = "10.66.9.2"
"""Where packets vanish, in a namespace of `loopback`."""


@dataclass(frozen=True, slots=True)
class Workload:
    """run: go on for so many seconds, returning operations per second. traced: what strace is attached to."""

    what: str
    target: Target
    run: Callable[[float], float]


Workloads = Callable[[], AbstractContextManager[Workload]]


@dataclass(frozen=True, slots=True)
class Storm:
    """go: everything happens, and it returns when all of it has. count connections are in it."""

    what: str
    target: Target
    count: int
    go: Callable[[], None]


def load(namespace: Namespace, role: str, *arguments: object, before: Sequence[str] = ()) -> Client:
    """A process of load.py that is ready. before: a command that runs it."""
    return Client(namespace, [*before, sys.executable, _LOAD, role, *map(str, arguments)])


def _rate(client: Client, seconds: float) -> float:
    answer = client.ask(f"for {seconds}", timeout_s=seconds * 10 + 60)
    return float(answer["count"] / answer["seconds"])


@contextmanager
def loopback() -> Iterator[Namespace]:
    """A namespace with nothing but its own addresses, and one whose packets reach nobody."""
    require_tools("ip", "nsenter", "unshare")
    namespace = Namespace()
    try:
        namespace.run(
            "ip", "-batch", "-", stdin=f"""
            link set lo up
            link add near type veth peer name far
            address add {VOID.rpartition(".")[0]}.1/24 dev near
            link set near up
            link set far up
            neighbour add {VOID} lladdr 02:00:00:00:00:01 dev near
            """,
        )  # fmt: skip
        # As many ports as can be: those of connections in TIME_WAIT are not to be had for a minute.
        namespace.set_sysctl("net.ipv4.ip_local_port_range", "20000 65535")
        yield namespace
    finally:
        namespace.close()


@contextmanager
def mariadb() -> Iterator[Workload]:
    """A PyMySQL client asks a mariadbd behind a firewall one query after the other."""
    with ExitStack() as stack:
        lab = stack.enter_context(Lab(ttl_s=600, ports=[PORT]))
        stack.enter_context(MariaDB(lab.server, SERVER, PORT))
        settings = {"host": SERVER, "port": PORT, "user": USER, "password": PASSWORD, "database": DATABASE}
        client = stack.enter_context(load(lab.client, "queries", json.dumps(settings)))
        yield Workload("queries", Target(PORT, client.pid), lambda seconds: _rate(client, seconds))


@contextmanager
def redis() -> Iterator[Workload]:
    """redis-benchmark, GET on 50 connections, against a redis-server."""
    require_tools("redis-server", "redis-benchmark")
    with loopback() as namespace, ExitStack() as stack:
        server = stack.enter_context(_redis_server(namespace))
        wait_until(lambda: namespace.believes(PORT, 0) == "LISTEN", 30, "Redis listens")
        rate = 10_000.0

        def run(seconds: float) -> float:
            nonlocal rate
            said = namespace.run(
                *dies_with_us(["redis-benchmark", "-p", str(PORT), "-c", "50", "-t", "get", "--csv"]),
                "-n", str(round(rate * seconds)),
            )  # fmt: skip
            rate = float(said.splitlines()[1].split(",")[1].strip('"'))
            return rate

        run(1)
        yield Workload("requests", Target(PORT, server.pid), run)


@contextmanager
def _redis_server(namespace: Namespace) -> Iterator[Process]:
    process = namespace.popen(
        dies_with_us(["redis-server", "--port", str(PORT), "--save", "", "--appendonly", "no", "--dir", "/tmp"]),
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    server = Process(process)
    try:
        yield server
    finally:
        server.close()


@contextmanager
def storm() -> Iterator[Workload]:
    """Connections over loopback, one after the other: connect, one byte, close."""
    with loopback() as namespace, load(namespace, "sink", PORT), load(namespace, "short", PORT) as client:
        yield Workload("connections", Target(PORT, client.pid), lambda seconds: _rate(client, seconds))


@contextmanager
def short_connections(count: int, rate: float) -> Iterator[Storm]:
    """As `storm`, so many, `rate` of them a second."""
    with loopback() as namespace, load(namespace, "sink", PORT), load(namespace, "short", PORT) as client:

        def go() -> None:
            client.ask(f"times {count} {rate}", timeout_s=count / rate * 10 + 60)

        yield Storm("short connections", Target(PORT, client.pid), count, go)


@contextmanager
def trickle() -> Iterator[Target]:
    """Every few milliseconds a short connection and a SYN that is sent again, until the block ends."""
    with loopback() as namespace:
        # Every second and for two minutes, instead of doubling; Linux 6.5.
        with suppress(TcpwatchError):
            namespace.set_sysctl("net.ipv4.tcp_syn_linear_timeouts", 127)
            namespace.set_sysctl("net.ipv4.tcp_syn_retries", 127)
        with (
            load(namespace, "sink", PORT),
            load(namespace, "short", PORT) as client,
            load(namespace, "unanswered", VOID, PORT, 200) as caller,
        ):
            client.send("for 3600 200")
            caller.send("for 3600")
            yield Target(PORT, client.pid)


@contextmanager
def stalls(count: int, pause_s: float = 0) -> Iterator[Storm]:
    """So many connections that a firewall cuts off, written to pause_s apart, until the kernel gives them up."""
    with Lab(ttl_s=600, ports=[PORT], retries2=3) as lab:
        with Server(lab.server, SERVER, PORT), load(lab.client, "connections", SERVER, PORT, count) as client:

            def go() -> None:
                lab.drop_everything()
                client.ask(f"write {pause_s}", timeout_s=count * pause_s + 60)
                wait_until(lambda: "ESTABLISHED" not in _states(lab.client), 60, "the kernel gives up")

            yield Storm("stalls", Target(PORT, client.pid), count, go)
            lab.restore()
        # The server's ends would go on saying goodbye to nobody, beside whatever is measured next.
        wait_until(lambda: _states(lab.server) <= {"TIME_WAIT"}, 60, "all connections are gone")


def _states(namespace: Namespace) -> set[str | None]:
    lines = Path(f"/proc/{namespace.pid}/net/tcp").read_text(encoding="ascii").splitlines()[1:]
    return {STATES.get(int(line.split()[3], 16)) for line in lines}
