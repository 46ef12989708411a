"""The watched workloads: MariaDB, Redis, short connections, in namespaces of their own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import dies_with_us
from benchmarks.watchers import Target
from tracer.lab.mariadb import DATABASE, PASSWORD, USER, MariaDB
from tracer.lab.namespace import Namespace, require_tools, wait_until
from tracer.lab.network import SERVER, Lab
from tracer.lab.peers import Client, Process, Server
from tracer.model.errors import TcpwatchError
from tracer.model.events import STATES

_LOAD = Path(__file__).with_name("load.py")
_POPULATION = Path(__file__).with_name("population.py")
PORT = 17306
"""Not one that something else on this host is likely to use: a filter by port is one for every namespace."""
VOID = "10.66.9.2"
"""Where packets vanish, in a namespace of `loopback`."""


@dataclass(frozen=True)
class Workload:
    """run: works for the given seconds, and returns operations per second. traced: what strace is attached to."""

    what: str
    target: Target
    run: Callable[[float], float]


Workloads = Callable[[], AbstractContextManager[Workload]]


@dataclass(frozen=True)
class Storm:
    """go: everything happens, and it returns when all of it has. count connections are in it."""

    what: str
    target: Target
    count: int
    go: Callable[[], None]


def load(namespace: Namespace, role: str, *arguments: object, before: Sequence[str] = ()) -> Client:
    """A process of load.py that is ready. before: a command that runs it."""
    return Client(namespace, [*before, sys.executable, _LOAD, role, *map(str, arguments)])


@contextmanager
def population(namespace: Namespace, processes: int, sockets: int, namespaces: int = 0) -> Iterator[None]:
    """Processes with this odd number of idle sockets each, the first of them in network namespaces of their own."""
    command = ["unshare", "--pid", "--fork", "--kill-child", sys.executable, str(_POPULATION)]
    arguments = map(str, (processes, sockets, namespaces))
    with Client(namespace, [*command, *arguments], connect_timeout_s=None) as client:
        client.answer(timeout_s=600)
        yield


def _rate(client: Client, seconds: float) -> float:
    answer = client.ask(f"for {seconds}", timeout_s=seconds * 10 + 60)
    return float(answer["count"] / answer["seconds"])


@contextmanager
def loopback() -> Iterator[Namespace]:
    """A namespace with its own addresses only, and one where packets vanish."""
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
    """redis-benchmark, GET on 50 connections that stay, against a redis-server that says how many it has served."""
    require_tools("redis-server", "redis-benchmark", "redis-cli")
    with loopback() as namespace, ExitStack() as stack:
        server = stack.enter_context(_redis(namespace, "redis-server", "--port", PORT, "--save", "", "--dir", "/tmp"))
        wait_until(lambda: namespace.believes(PORT, 0) == "LISTEN", 30, "Redis listens")
        console = stack.enter_context(_redis(namespace, "redis-cli", "-p", PORT))
        # One endless run, because new connections would be events. It is stopped outside the measurements.
        asked = ("redis-benchmark", "-p", PORT, "-c", 50, "-t", "get", "-q", "-n", 2**31 - 1)
        asking = Process(stack.enter_context(_redis(namespace, *asked)))

        def run(seconds: float) -> float:
            asking.go_on()
            time.sleep(0.1)
            served, began_s = _served(console)
            time.sleep(seconds)
            served_then, ended_s = _served(console)
            asking.stop()
            return (served_then - served) / (ended_s - began_s)

        wait_until(lambda: run(0.1) > 1000, 30, "Redis is asked")
        yield Workload("requests", Target(PORT, server.pid), run)


def _served(console: subprocess.Popen[str]) -> tuple[int, float]:
    """How many commands Redis has served, and the time of its clock at that moment, in seconds."""
    assert console.stdin and console.stdout
    console.stdin.write("MULTI\nINFO stats\nTIME\nEXEC\n")
    console.stdin.flush()
    served = None
    for line in console.stdout:
        name, _, value = line.strip().partition(":")
        if name == "total_commands_processed":
            served = int(value)
        elif served is not None and name.isdecimal():
            return served, int(name) + int(console.stdout.readline()) / 1e6
    raise TcpwatchError("redis-cli ended")


@contextmanager
def _redis(namespace: Namespace, *argv: object) -> Iterator[subprocess.Popen[str]]:
    process = namespace.popen(
        dies_with_us(list(map(str, argv))),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE if argv[0] == "redis-cli" else subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield process
    finally:
        Process(process).close()


@contextmanager
def storm() -> Iterator[Workload]:
    """Connections over loopback, one after the other: connect, one byte, close."""
    with loopback() as namespace, load(namespace, "sink", PORT), load(namespace, "short", PORT) as client:
        yield Workload("connections", Target(PORT, client.pid), lambda seconds: _rate(client, seconds))


@contextmanager
def short_connections(count: int, rate: float) -> Iterator[Storm]:
    """As `storm`, with a number of connections, `rate` a second."""
    with loopback() as namespace, load(namespace, "sink", PORT), load(namespace, "short", PORT) as client:

        def go() -> None:
            client.ask(f"times {count} {rate}", timeout_s=count / rate * 10 + 60)

        yield Storm("short connections", Target(PORT, client.pid), count, go)


@contextmanager
def trickle() -> Iterator[Target]:
    """Every few milliseconds a short connection and a SYN that is sent again, until the block ends."""
    with loopback() as namespace, trickling(namespace) as target:
        yield target


@contextmanager
def trickling(namespace: Namespace, connections: int = 200) -> Iterator[Target]:
    """The same in a namespace of `loopback`. connections: short ones, a second."""
    # Every second and for two minutes, instead of doubling; Linux 6.5.
    with suppress(TcpwatchError):
        namespace.set_sysctl("net.ipv4.tcp_syn_linear_timeouts", 127)
        namespace.set_sysctl("net.ipv4.tcp_syn_retries", 127)
    with (
        load(namespace, "sink", PORT),
        load(namespace, "short", PORT) as client,
        load(namespace, "unanswered", VOID, PORT, 200) as caller,
    ):
        client.send(f"for 3600 {connections}")
        caller.send("for 3600")
        yield Target(PORT, client.pid)


@contextmanager
def stalls(count: int, pause_s: float = 0) -> Iterator[Storm]:
    """Connections that a firewall drops, written to pause_s apart, until the kernel gives them up."""
    with Lab(ttl_s=600, ports=[PORT], retries2=3) as lab:
        with Server(lab.server, SERVER, PORT), load(lab.client, "connections", SERVER, PORT, count) as client:

            def go() -> None:
                lab.drop_everything()
                client.ask(f"write {pause_s}", timeout_s=count * pause_s + 60)
                wait_until(lambda: "ESTABLISHED" not in _states(lab.client), 60, "the kernel gives up")

            yield Storm("stalls", Target(PORT, client.pid), count, go)
            lab.restore()
        # The server's ends would retransmit their FINs during the next measurement.
        wait_until(lambda: _states(lab.server) <= {"TIME_WAIT"}, 60, "all connections are gone")


def _states(namespace: Namespace) -> set[str | None]:
    lines = Path(f"/proc/{namespace.pid}/net/tcp").read_text(encoding="ascii").splitlines()[1:]
    return {STATES.get(int(line.split()[3], 16)) for line in lines}
