"""The programs and libraries at our end of a connection, and their settings against idle timeouts.

Found by the program's name and the service's port. That is a guess, and presented as one ("if this is …"): an
interpreter loads many libraries. tests/kernel/test_knobs.py applies each setting of a library that has a package.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

from tracer.model.dataclass import dataclass

INTERVAL_S = 75
"""net.ipv4.tcp_keepalive_intvl by default."""
MAX_CANDIDATES = 2
"""Libraries that one sentence names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """A library or program at our end of a connection, as client or as server.

    Settings may contain {seconds} or {milliseconds}, the silence before the first probe, and {interval}, the seconds
    between probes. None: there is no such setting, or none is known.
    """

    name: str
    source: str
    """Where this was read."""
    programs: tuple[str, ...] = ()
    """Names of the program, as `_program` returns them. Empty: any program that has no other row for the port."""
    ports: tuple[int, ...] = ()
    """The service's ports. Empty: any."""
    is_on: bool | None = None
    """Whether it sets SO_KEEPALIVE by default. None: that depends on its version."""
    probes: str | None = None
    """Sets SO_KEEPALIVE and, where it contains {seconds}, the socket's own times."""
    server_probes: str | None = None
    """Makes the server send the keepalive probes."""
    heartbeat: str | None = None
    """Makes the library or program send messages of its own while idle."""
    bound: str | None = None
    """Limits the wait for an answer. N stands for the limit, in bound_unit."""
    bound_unit: str = ""
    """Unit of N. Empty: `bound` limits how long sent data stays unacknowledged, so it needs no N."""
    permanent: str = ""
    """How a server keeps `probes` after a restart. Empty: it does."""

    @property
    def sets_times(self) -> bool:
        """Whether `probes` also sets when a probe is due."""
        return self.probes is not None and "seconds}" in self.probes


def filled(setting: str, seconds: int) -> str:
    """The setting for a first probe after that silence."""
    # After a probe the interval decides when the next one is due, so it must not be longer.
    values = {"seconds": seconds, "milliseconds": seconds * 1000, "interval": min(seconds, INTERVAL_S)}
    return re.sub(r"\{(seconds|milliseconds|interval)\}", lambda name: str(values[name[1]]), setting)


MYSQL, POSTGRESQL, REDIS, ORACLE = 3306, 5432, 6379, 1521
_AMQP, _AMQPS, _MEMCACHED, _SSH, _KAFKA, _MONGODB = 5672, 5671, 11211, 22, 9092, 27017

_LIBPQ_PROBES = "keepalives_idle={seconds} keepalives_interval={interval}"
# The server applies a session's settings to the session's own socket: src/backend/libpq/pqcomm.c.
_SESSION_OPTIONS = "-c tcp_keepalives_idle={seconds} -c tcp_keepalives_interval={interval}"
_LIBPQ_OPTIONS = f"options='{_SESSION_OPTIONS}'"
_LIBPQ_SOURCE = "postgres: src/interfaces/libpq/fe-connect.c (keepalives is 1 by default)"
_PYTHON_TIMES = "{socket.TCP_KEEPIDLE: {seconds}, socket.TCP_KEEPINTVL: {interval}}"

# Of several rows for one program and port the first is the likeliest.
CLIENTS = (
    Client(
        name="Celery",
        programs=("celery",),
        ports=(_AMQP, _AMQPS),
        is_on=True,
        probes=f"broker_transport_options = {{'socket_settings': {_PYTHON_TIMES}}}",
        source="py-amqp: amqp/transport.py; kombu: transport/pyamqp.py",
    ),
    Client(
        name="Celery",
        programs=("celery",),
        ports=(REDIS,),
        is_on=False,
        probes="broker_transport_options = "
        f"{{'socket_keepalive': True, 'socket_keepalive_options': {_PYTHON_TIMES}}}",
        source="kombu: transport/redis.py (its socket_keepalive, None by default, replaces redis-py's)",
    ),
    Client(
        name="PyMySQL or mysqlclient",
        programs=("python",),
        ports=(MYSQL,),
        is_on=True,
        bound="read_timeout=N",
        bound_unit="seconds",
        source="PyMySQL: connections.py; MySQL's C API: vio_keepalive()",
    ),
    Client(
        name="mysql-connector-python",
        programs=("python",),
        ports=(MYSQL,),
        is_on=False,
        probes="use_pure=False",
        bound="read_timeout=N",
        bound_unit="seconds",
        source="mysql-connector-python: network.py sets no option; its C extension is MySQL's C API",
    ),
    Client(
        name="psycopg",
        programs=("python",),
        ports=(POSTGRESQL,),
        is_on=True,
        probes=_LIBPQ_PROBES,
        server_probes=_LIBPQ_OPTIONS,
        bound="tcp_user_timeout=30000",
        source=_LIBPQ_SOURCE,
    ),
    Client(
        name="asyncpg",
        programs=("python",),
        ports=(POSTGRESQL,),
        is_on=False,
        server_probes="server_settings={'tcp_keepalives_idle': '{seconds}', 'tcp_keepalives_interval': '{interval}'}",
        bound="command_timeout=N",
        bound_unit="seconds",
        source="asyncpg: connect_utils.py sets no SO_KEEPALIVE",
    ),
    Client(
        name="pg8000",
        programs=("python",),
        ports=(POSTGRESQL,),
        is_on=True,
        server_probes="startup_params={'tcp_keepalives_idle': '{seconds}', 'tcp_keepalives_interval': '{interval}'}",
        bound="timeout=N",
        bound_unit="seconds",
        source="pg8000: core.py (tcp_keepalive is True by default)",
    ),
    Client(
        name="redis-py",
        programs=("python",),
        ports=(REDIS,),
        probes=f"socket_keepalive=True, socket_keepalive_options={_PYTHON_TIMES}",
        bound="socket_timeout=N",
        bound_unit="seconds",
        source="redis-py: connection.py, _defaults.py (on with 30 s since 8.0, off before)",
    ),
    Client(
        name="pika",
        programs=("python",),
        ports=(_AMQP, _AMQPS),
        is_on=False,
        probes="tcp_options={'TCP_KEEPIDLE': {seconds}, 'TCP_KEEPINTVL': {interval}}",
        heartbeat="heartbeat={seconds}",
        source="pika: tcp_socket_opts.py, connection.py",
    ),
    Client(
        name="kombu",
        programs=("python",),
        ports=(_AMQP, _AMQPS),
        is_on=True,
        probes=f"transport_options={{'socket_settings': {_PYTHON_TIMES}}}",
        source="py-amqp: amqp/transport.py (on, TCP_KEEPIDLE 60); kombu: transport/pyamqp.py",
    ),
    Client(
        name="pymemcache",
        programs=("python",),
        ports=(_MEMCACHED,),
        is_on=False,
        probes="socket_keepalive=KeepaliveOpts(idle={seconds}, intvl={interval}, cnt=5)",
        bound="timeout=N",
        bound_unit="seconds",
        source="pymemcache: client/base.py",
    ),
    Client(
        name="PDO or mysqli",
        programs=("php",),
        ports=(MYSQL,),
        is_on=True,
        bound="mysqlnd.net_read_timeout=N in php.ini",
        bound_unit="seconds",
        source="php-src: ext/mysqlnd/mysqlnd_vio.c, mysqlnd_set_sock_keepalive()",
    ),
    Client(
        name="PDO_PGSQL or pgsql",
        programs=("php",),
        ports=(POSTGRESQL,),
        is_on=True,
        probes=_LIBPQ_PROBES,
        server_probes=_LIBPQ_OPTIONS,
        bound="tcp_user_timeout=30000",
        source=_LIBPQ_SOURCE,
    ),
    # Java sets no times through SO_KEEPALIVE. Both timeouts are 0, for ever, by default.
    Client(
        name="Connector/J",
        programs=("java",),
        ports=(MYSQL,),
        is_on=True,
        probes="tcpKeepAlive=true in its URL",
        bound="socketTimeout=N in its URL",
        bound_unit="milliseconds",
        source="mysql-connector-j: StandardSocketFactory.java; mariadb-connector-j: Options.java",
    ),
    Client(
        name="pgjdbc",
        programs=("java",),
        ports=(POSTGRESQL,),
        is_on=False,
        probes="tcpKeepAlive=true in its URL",
        server_probes="options=-c%20tcp_keepalives_idle={seconds}%20-c%20tcp_keepalives_interval={interval}"
        " in its URL",
        bound="socketTimeout=N in its URL",
        bound_unit="seconds",
        source="pgjdbc: PGProperty.java",
    ),
    Client(
        name="Lettuce",
        programs=("java",),
        ports=(REDIS,),
        probes="KeepAliveOptions.builder().enable().idle(Duration.ofSeconds({seconds}))"
        ".interval(Duration.ofSeconds({interval})) in its SocketOptions",
        source="lettuce: SocketOptions.java (on since 7.x, off before)",
    ),
    Client(
        name="mysql2",
        programs=("node",),
        ports=(MYSQL,),
        probes="enableKeepAlive: true, keepAliveInitialDelay: {milliseconds}",
        source="mysql2: lib/base/connection.js (on since its pull request 1086, off before)",
    ),
    Client(
        name="node-postgres",
        programs=("node",),
        ports=(POSTGRESQL,),
        is_on=False,
        probes="keepAlive: true, keepAliveInitialDelayMillis: {milliseconds}",
        server_probes=f"options: '{_SESSION_OPTIONS}'",
        bound="query_timeout: N",
        bound_unit="milliseconds",
        source="node-postgres: lib/connection.js, lib/client.js",
    ),
    Client(
        name="ioredis",
        programs=("node",),
        ports=(REDIS,),
        probes="keepAlive: {milliseconds}",
        bound="socketTimeout: N",
        bound_unit="milliseconds",
        source="ioredis: built/Redis.js, RedisOptions.js (0 by default, the system's time; 30000 since 6.0)",
    ),
    Client(
        name="node-redis",
        programs=("node",),
        ports=(REDIS,),
        is_on=True,
        probes="socket: {keepAlive: true, keepAliveInitialDelay: {milliseconds}}",
        bound="socket: {socketTimeout: N}",
        bound_unit="milliseconds",
        source="node-redis: client/socket.js (5 s by default, 30 s since 6.0)",
    ),
    Client(
        name="amqplib",
        programs=("node",),
        ports=(_AMQP, _AMQPS),
        is_on=False,
        probes="{keepAlive: true, keepAliveDelay: {milliseconds}} as its socket options",
        heartbeat="?heartbeat={seconds} in its URL",
        source="amqplib: lib/connect.js, lib/heartbeat.js",
    ),
    Client(
        name="Npgsql",
        programs=("dotnet",),
        ports=(POSTGRESQL,),
        is_on=False,
        probes="Tcp Keepalive=true in its connection string",
        source="npgsql: src/Npgsql/Internal/NpgsqlConnector.cs, SetSocketOptions()",
    ),
    Client(
        name="psql",
        programs=("psql",),
        ports=(POSTGRESQL,),
        is_on=True,
        probes=_LIBPQ_PROBES,
        server_probes=_LIBPQ_OPTIONS,
        bound="tcp_user_timeout=30000",
        source=_LIBPQ_SOURCE,
    ),
    Client(
        name="curl",
        programs=("curl",),
        is_on=True,
        probes="--keepalive-time {seconds}",
        bound="--max-time N",
        bound_unit="seconds",
        source="curl: lib/cf-socket.c, tcpkeepalive() (60 s by default, for idle time and interval)",
    ),
    Client(
        name="ssh",
        programs=("ssh",),
        is_on=True,
        heartbeat="ServerAliveInterval {seconds} in ssh_config",
        source="ssh_config(5): TCPKeepAlive is yes, ServerAliveInterval 0 by default",
    ),
    Client(
        name="HAProxy",
        programs=("haproxy",),
        is_on=False,
        probes="option srvtcpka, srvtcpka-idle {seconds}s, srvtcpka-intvl {interval}s in its backend",
        source="HAProxy's configuration manual: option srvtcpka (2.3 for its times)",
    ),
    Client(
        name="PgBouncer",
        programs=("pgbouncer",),
        is_on=True,
        probes="tcp_keepalive = 1, tcp_keepidle = {seconds}, tcp_keepintvl = {interval} in pgbouncer.ini",
        bound="tcp_user_timeout = 30000 in pgbouncer.ini",
        source="pgbouncer: src/util.c, tune_socket()",
    ),
    Client(
        name="an Oracle client",
        ports=(ORACLE,),
        is_on=False,
        probes="(ENABLE=BROKEN) in its connect descriptor",
        source="Oracle Net Services Reference: ENABLE",
    ),
    Client(
        name="a libpq client",
        ports=(POSTGRESQL,),
        is_on=True,
        probes=_LIBPQ_PROBES,
        server_probes=_LIBPQ_OPTIONS,
        bound="tcp_user_timeout=30000",
        source=_LIBPQ_SOURCE,
    ),
)

# Their settings are commands to type on their host.
SERVERS = (
    Client(
        name="MariaDB",
        programs=("mariadbd",),
        is_on=True,
        probes="sudo mariadb -e 'SET GLOBAL tcp_keepalive_time={seconds}, tcp_keepalive_interval={interval}'",
        permanent="SET GLOBAL lasts until MariaDB restarts. To make it permanent, set tcp_keepalive_time and "
        "tcp_keepalive_interval in the section [mariadb] of its configuration.",
        source="MariaDB 10.3.3 (MySQL has no such variables; either may run as mysqld)",
    ),
    Client(
        name="PostgreSQL",
        programs=("postgres",),
        is_on=True,
        probes="sudo -u postgres psql -c 'ALTER SYSTEM SET tcp_keepalives_idle = {seconds}' "
        "-c 'ALTER SYSTEM SET tcp_keepalives_interval = {interval}' -c 'SELECT pg_reload_conf()'",
        bound="sudo -u postgres psql -c 'ALTER SYSTEM SET tcp_user_timeout = 30000' -c 'SELECT pg_reload_conf()'",
        source="postgres: src/backend/libpq/pqcomm.c",
    ),
    Client(
        name="Redis",
        programs=("redis-server",),
        is_on=True,
        probes="redis-cli CONFIG SET tcp-keepalive {seconds}",
        permanent="To write this into Redis's configuration file: redis-cli CONFIG REWRITE",
        source="redis: src/networking.c, src/anet.c (300 by default; the interval is a third of it)",
    ),
    Client(
        name="sshd",
        programs=("sshd", "sshd-session"),
        is_on=True,
        heartbeat="ClientAliveInterval {seconds} in sshd_config",
        source="sshd_config(5): TCPKeepAlive is yes, ClientAliveInterval 0 by default",
    ),
    Client(
        name="HAProxy",
        programs=("haproxy",),
        is_on=False,
        probes="option clitcpka, clitcpka-idle {seconds}s, clitcpka-intvl {interval}s in its frontend",
        source="HAProxy's configuration manual: option clitcpka (2.3 for its times)",
    ),
    Client(
        name="PgBouncer",
        programs=("pgbouncer",),
        is_on=True,
        probes="tcp_keepalive = 1, tcp_keepidle = {seconds}, tcp_keepintvl = {interval} in pgbouncer.ini",
        source="pgbouncer: src/util.c, tune_socket()",
    ),
)

HEARTBEATS = {_AMQP: "AMQP", _AMQPS: "AMQP", _KAFKA: "Kafka", _MONGODB: "MongoDB", _SSH: "SSH"}
"""Protocols with clients that may have their own heartbeats or request timeouts, by port."""
MAX_HEARTBEAT_S = 120
"""The longest silence between two heartbeats: RabbitMQ's 60 s, sent by both ends, with one missed."""


@lru_cache(maxsize=1024)
def clients_of(
    comm: str | None, exe: str | None, service_port: int | None, keepalive: bool | None = None
) -> tuple[Client, ...]:
    """What may connect to that port in that process, the likeliest first, MAX_CANDIDATES at most.

    comm: the process's name (15 bytes of it). exe: its program file, which counts where comm is a thread's name or a
    script's that has no row. keepalive: whether SO_KEEPALIVE is set on the socket; rows that contradict it are left
    out.
    """
    at_port = [each for each in CLIENTS if not each.ports or service_port in each.ports]
    found = _of_program(at_port, comm) or _of_program(at_port, exe) or [each for each in at_port if not each.programs]
    fitting = [each for each in found if _fits(each, keepalive)]
    if keepalive:
        fitting.sort(key=lambda each: each.is_on is False)
    return tuple(fitting[:MAX_CANDIDATES])


@lru_cache(maxsize=1024)
def server_of(comm: str | None, exe: str | None = None) -> Client | None:
    """The server program of that process, for a connection that it accepted."""
    return next(iter(_of_program(SERVERS, comm) or _of_program(SERVERS, exe)), None)


def if_this_is(candidates: Sequence[Client], setting_of: Callable[[Client], str | None], *, is_server: bool) -> str:
    """`if this is psycopg: …; if pg8000: …`, of a server `for MariaDB alone: …`; empty where none has the setting."""
    names: dict[str, list[str]] = {}
    for each in candidates:
        text = setting_of(each)
        if text:
            names.setdefault(text, []).append(each.name)
    start = "for {} alone: {}" if is_server else "if this is {}: {}"
    return "; ".join(
        ("if {}: {}" if number else start).format(one_of(those), text)
        for number, (text, those) in enumerate(names.items())
    )


def one_of(names: Iterable[str]) -> str:
    """`PyMySQL, mysqlclient or asyncpg`. A name may stand for two libraries itself."""
    parts = [part for name in names for part in name.split(" or ")]
    return " or ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)


def _of_program(rows: Sequence[Client], name: str | None) -> list[Client]:
    program = _program(name or "")
    return [each for each in rows if program in each.programs]


def _fits(client: Client, keepalive: bool | None) -> bool:
    """Whether a socket with SO_KEEPALIVE on, or off, may be this client's."""
    if keepalive is None:
        return True
    if keepalive:
        return client.is_on is not False or client.probes is not None
    return not client.is_on


def _program(name: str) -> str:
    """`php` of php8.2, php-fpm8.2, `php-fpm: pool www`; `python` of python3.11; `node` of node."""
    word = re.split(r"[\s:]", name.strip(), maxsplit=1)[0].lower()
    return re.sub(r"(-fpm|-cgi)?[\d.]*$", "", word)
