"""What the advice says to set helps when it is typed in: real libraries and servers, a firewall that forgets.

Each client connects, is silent for longer than the firewall remembers, and uses its connection again. With the
setting the connection still works, or the wait is limited. Without, the client hangs.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import services
from knob_client import CLIENTS as CLIENT_LIBRARIES
from knob_trials import (
    CLI_PORT,
    LIMIT_S,
    PGBOUNCER_PORT,
    PROBE_S,
    TRIALS,
    Argv,
    Trial,
    ping,
    row,
    slow_http,
    ssh,
    through_pool,
    typed,
)
from typed import PATH

from tracer.analysis.clients import CLIENTS, SERVERS
from tracer.lab.mariadb import MariaDB
from tracer.lab.namespace import Namespace, wait_until
from tracer.lab.network import SERVER, Lab
from tracer.lab.peers import Answer, Client
from tracer.model.errors import TcpwatchError

FORGETS_S = 6
SILENT_S = 8
HANGS_S = 5
"""What has not been answered after this hangs: the kernel gives up after some 13 s."""
HTTP_PORT, SSH_PORT, SSH_ALIVE_PORT, FRONTEND_PORT = 80, 22, 2222, 7002
PORTS = (3306, 5432, 6379, 11211, 5672, HTTP_PORT, SSH_PORT, SSH_ALIVE_PORT, FRONTEND_PORT, PGBOUNCER_PORT)
WITHOUT = "without"

# In what no package has, the setting was read and not typed in.
READ_ONLY = {"Lettuce", "Npgsql", "an Oracle client"}
"""Neither PyPI, npm nor Debian has them with what they need to run, or their server."""
FAILS_SOON = {"kombu", "Celery"}
"""py-amqp sets a TCP_USER_TIMEOUT of a second by itself."""
CONNECTS_AGAIN = {"redis-py"}
"""Since 8.0 it waits 5 s by itself (_defaults.py). In this time it hangs."""
COUNTS_SILENCE = {"node-redis", "curl"}
"""Their limit is over before the connection is used again: they have connected anew, or ended."""
TURNED_ON = ("mysql-connector-python", "pgjdbc", "Connector/J")
"""Their setting has no times: the sysctls have."""
TURNED_OFF = {"Connector/J": "tcpKeepAlive=false"}
"""What has it on by default."""
SAME_LIBRARY = {"a libpq client"}
"""psql and psycopg are libpq."""


class Site:
    """The lab with every server, and what is typed in on them."""

    def __init__(self, lab: Lab, directory: Path, enter: Callable[[Any], Any]) -> None:
        self.lab = lab
        self.directory = directory
        self._enter = enter
        rabbitmq = enter(services.RabbitMQ(lab.server, SERVER, directory))
        self.mariadb: MariaDB = enter(MariaDB(lab.server, SERVER))
        self.postgresql: services.PostgreSQL = enter(services.PostgreSQL(lab.server, SERVER, directory))
        enter(services.redis(lab.server, SERVER, directory))
        enter(services.memcached(lab.server, SERVER, directory))
        enter(services.Service(lab.server, HTTP_PORT, slow_http(HTTP_PORT, SILENT_S), directory))
        alive = typed(row("sshd", server=True), "heartbeat")
        enter(services.SSHServer(lab.server, SERVER, SSH_PORT, directory))
        enter(services.SSHServer(lab.server, SERVER, SSH_ALIVE_PORT, directory, alive))
        rabbitmq.wait()

    def start(self, service: services.Service) -> services.Service:
        """Another service, for as long as this lasts."""
        started: services.Service = self._enter(service)
        return started

    def type_on_redis(self, command: str) -> str:
        """Type it on Redis' host."""
        return self.lab.server.run("sh", "-c", command)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    assert CLIENT_LIBRARIES.exists(), f"{CLIENT_LIBRARIES} is missing: sudo scripts/test makes it"
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", PATH)  # with sudo
        directory = stack.enter_context(services.open_directory())
        lab = stack.enter_context(Lab(ttl_s=FORGETS_S, ports=PORTS))
        yield Site(lab, directory, stack.enter_context)


def after_silence(
    namespace: Namespace, programs: Mapping[str, Argv], before: Mapping[str, Callable[[], object]] | None = None
) -> dict[str, Answer | None]:
    """Run all these clients, and let each use its connection again after the silence; None: it hangs.

    One that cannot connect has {"failed": why}. before: what to do before a client is started, and after those that
    stand before it have connected.
    """
    with ExitStack() as stack:
        clients: dict[str, Client] = {}
        answers: dict[str, Answer | None] = {}

        def wait_for_all() -> None:
            for name in clients.keys() - answers.keys():
                answers[name] = None
                try:
                    clients[name].answer()
                except TcpwatchError as failure:
                    answers[name] = {"ok": False, "seconds": 0.0, "failed": str(failure)}

        for name, argv in programs.items():
            if before and name in before:
                wait_for_all()
                before[name]()
            clients[name] = stack.enter_context(Client(namespace, argv, connect_timeout_s=None))
        wait_for_all()
        time.sleep(SILENT_S)  # the silence is what is tested
        for name, client in clients.items():
            if answers[name] is None:
                client.send("use it")
        began = time.monotonic()
        while None in answers.values() and time.monotonic() - began < HANGS_S:
            for name, client in clients.items():
                if answers[name] is None and client.answered():
                    answers[name] = client.answer()
            time.sleep(0.05)
        return answers


def proxies(site: Site) -> dict[str, Argv]:
    """HAProxy and PgBouncer at either side of the firewall, with their settings and without."""
    found: dict[str, Argv] = {}
    for number, name in enumerate(("with", WITHOUT)):
        inner = CLI_PORT + 10 + number
        lines = typed(row("HAProxy"), "probes").split(", ") if name == "with" else []
        site.start(
            services.haproxy(site.lab.client, ("127.0.0.1", inner), (SERVER, 6379), site.directory, backend=lines)
        )
        found[f"HAProxy's backend {name}"] = ping("127.0.0.1", inner)
        pool = PGBOUNCER_PORT + 10 + number
        lines = typed(row("PgBouncer"), "probes").split(", ") if name == "with" else []
        site.start(services.pgbouncer(site.lab.client, ("127.0.0.1", pool), SERVER, site.directory, lines))
        found[f"PgBouncer's servers {name}"] = through_pool("127.0.0.1", pool)
    limited = PGBOUNCER_PORT + 20
    bound = typed(row("PgBouncer"), "bound").split(", ")
    site.start(services.pgbouncer(site.lab.client, ("127.0.0.1", limited), SERVER, site.directory, bound))
    found["PgBouncer bound"] = through_pool("127.0.0.1", limited)
    lines = typed(row("HAProxy", server=True), "probes").split(", ")
    site.start(
        services.haproxy(site.lab.server, (SERVER, FRONTEND_PORT), (SERVER, 6379), site.directory, frontend=lines)
    )
    found["HAProxy's frontend with"] = ping(SERVER, FRONTEND_PORT)
    lines = typed(row("PgBouncer", server=True), "probes").split(", ")
    site.start(services.pgbouncer(site.lab.server, (SERVER, PGBOUNCER_PORT), SERVER, site.directory, lines))
    found["PgBouncer's clients with"] = through_pool(SERVER, PGBOUNCER_PORT)
    return found


@pytest.fixture(scope="module")
def answers(site: Site) -> dict[str, Answer | None]:
    """Of every client, at once."""
    key = site.directory / "key"
    alive = typed(row("ssh"), "heartbeat")
    return after_silence(
        site.lab.client,
        {
            **{trial.name: trial.argv for trial in TRIALS},
            "ssh with": ssh(key, SSH_PORT, alive),
            f"ssh {WITHOUT}": ssh(key, SSH_PORT, ""),
            "sshd with": ssh(key, SSH_ALIVE_PORT, ""),
            **proxies(site),
        },
    )


@pytest.mark.parametrize("trial", TRIALS, ids=lambda trial: trial.name)
def test_a_librarys_setting(answers: dict[str, Answer | None], trial: Trial) -> None:
    answer = answers[trial.name]
    assert answer is None or "failed" not in answer, answer
    if trial.column is None:
        if answer is not None and trial.client.name in CONNECTS_AGAIN:
            assert answer["seconds"] > HANGS_S - 1
        else:
            assert answer is None or (trial.client.name in FAILS_SOON and not answer["ok"]), (
                "without a setting it hangs"
            )
    elif trial.column == "bound":
        assert answer is not None, "its wait is limited"
        assert trial.client.name in COUNTS_SILENCE or answer["seconds"] > LIMIT_S / 2
    else:
        assert answer is not None and answer["ok"], answer
        assert answer["seconds"] < 1, "the same connection, at once"


@pytest.mark.parametrize("what", ["ssh", "sshd"])
def test_ssh(answers: dict[str, Answer | None], what: str) -> None:
    assert answers[f"ssh {WITHOUT}"] is None
    answer = answers[f"{what} with"]
    assert answer is not None and answer["ok"] and answer["seconds"] < 1, answer


@pytest.mark.parametrize(
    "what", ["HAProxy's backend", "HAProxy's frontend", "PgBouncer's servers", "PgBouncer's clients"]
)
def test_a_proxy(answers: dict[str, Answer | None], what: str) -> None:
    without = answers[f"{what.replace('frontend', 'backend').replace('clients', 'servers')} {WITHOUT}"]
    assert without is None
    answer = answers[f"{what} with"]
    assert answer is not None and answer["ok"] and answer["seconds"] < 1, answer


def test_a_pools_wait_is_limited(answers: dict[str, Answer | None]) -> None:
    answer = answers["PgBouncer bound"]
    assert answer is not None and answer["seconds"] > LIMIT_S / 2


def without_keepalive(name: str) -> Trial:
    """A client that has it off, so that only the server can probe."""
    return next(each for each in TRIALS if each.client.name == name and each.column is None)


@pytest.fixture(scope="module")
def later_answers(site: Site, answers: dict[str, Answer | None]) -> dict[str, Answer | None]:
    """Of clients for which something was typed in on their host, or on the server's.

    After the others, of which those that have keepalive on would survive by it.
    """
    turned_on = {name: without_keepalive(name) for name in TURNED_ON}
    for name in ("time", "intvl"):
        site.lab.client.set_sysctl(f"net.ipv4.tcp_keepalive_{name}", PROBE_S)
    servers = {
        "MariaDB": (site.mariadb.type, without_keepalive("mysql-connector-python").argv),
        "PostgreSQL": (site.postgresql.type, without_keepalive("asyncpg").argv),
        "Redis": (site.type_on_redis, ping(SERVER, 6379)),
    }
    return after_silence(
        site.lab.client,
        {
            **{name: each.connect(typed(each.client, "probes")) for name, each in turned_on.items()},
            **{f"{name} {WITHOUT}": each.connect(TURNED_OFF.get(name, "")) for name, each in turned_on.items()},
            **{name: argv for name, (_, argv) in servers.items()},
        },
        before={
            name: partial(enter, typed(row(name, server=True), "probes")) for name, (enter, _) in servers.items()
        },
    )


@pytest.mark.parametrize("name", TURNED_ON)
def test_keepalive_that_is_turned_on_has_the_times_of_the_sysctls(
    later_answers: dict[str, Answer | None], name: str
) -> None:
    assert later_answers[f"{name} {WITHOUT}"] is None
    answer = later_answers[name]
    assert answer is not None and answer["ok"] and answer["seconds"] < 1, answer


@pytest.mark.parametrize("server", ["MariaDB", "PostgreSQL", "Redis"])
def test_a_servers_setting(later_answers: dict[str, Answer | None], server: str) -> None:
    """It is in force for connections made afterwards; of MariaDB's and PostgreSQL's clients others hang."""
    answer = later_answers[server]
    assert answer is not None and answer["ok"] and answer["seconds"] < 1, answer


def test_a_server_that_limits_its_wait(site: Site) -> None:
    """Its answer comes after the firewall has forgotten. The backend ends soon, not after a quarter of an hour."""
    site.postgresql.type(typed(row("PostgreSQL", server=True), "bound"))
    backends = "psql -Atc \"SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%sleep%' AND client_port > 0\""
    query = f"SELECT pg_sleep({SILENT_S})"
    client = site.lab.client.popen(
        ["psql", f"host={SERVER} user={services.USER} dbname=postgres keepalives=0", "-c", query],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_until(lambda: site.postgresql.type(backends).strip() == "1", 30, "the query runs")
        time.sleep(SILENT_S + LIMIT_S)  # the silence is what is tested
        wait_until(lambda: site.postgresql.type(backends).strip() == "0", 10, "the backend has ended")
    finally:
        client.kill()
        client.wait()


def test_every_setting_was_typed_in_or_is_known_not_to_be() -> None:
    tried = {(trial.client.name, trial.client.ports, trial.column) for trial in TRIALS}
    tried |= {(name, row(name).ports, "probes") for name in TURNED_ON}
    tried |= {("ssh", (), "heartbeat"), ("HAProxy", (), "probes")}
    tried |= {("PgBouncer", (), "probes"), ("PgBouncer", (), "bound")}
    for client in CLIENTS:
        if client.name in READ_ONLY | SAME_LIBRARY:
            continue
        for column in ("probes", "server_probes", "heartbeat", "bound"):
            assert getattr(client, column) is None or (client.name, client.ports, column) in tried, client.name
    assert {each.name for each in SERVERS} == {"MariaDB", "PostgreSQL", "Redis", "sshd", "HAProxy", "PgBouncer"}
