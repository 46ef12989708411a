"""Who probably owns a socket, by the process's name and the service's port, and what its settings are called.

A guess, and told as one ("if this is …"): the same interpreter loads many libraries. Settings only, no defaults
that change from release to release; where a library has no setting, None.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

INTERVAL_S = 75
"""net.ipv4.tcp_keepalive_intvl by default."""


@dataclass(frozen=True, slots=True)
class Client:
    """The library or program at our end of a connection.

    how_to_turn_on: what turns SO_KEEPALIVE on. how_to_set_times: what sets when a probe comes: {seconds} or
    {milliseconds} stand for the silence before the first, {interval} for the seconds to the next; None: the
    namespace's sysctls are in force. how_to_bound: what bounds the wait for an answer. None where it has no such
    setting, or none is known.
    """

    name: str
    how_to_turn_on: str | None = None
    how_to_set_times: str | None = None
    how_to_bound: str | None = None

    def times(self, seconds: int) -> str | None:
        """how_to_set_times for this silence, seconds."""
        if self.how_to_set_times is None:
            return None
        # After a probe the interval decides when the next comes: it must not be longer.
        values = {"seconds": seconds, "milliseconds": seconds * 1000, "interval": min(seconds, INTERVAL_S)}
        return re.sub(r"\{(\w+)\}", lambda name: str(values[name[1]]), self.how_to_set_times)


def _libpq(name: str) -> Client:
    # PostgreSQL, libpq: parameter key words; tcp_user_timeout is in milliseconds, 0 by default.
    return Client(
        name,
        "keepalives=1 in its connection string",
        "keepalives_idle={seconds} keepalives_interval={interval}",
        "tcp_user_timeout=30000",
    )


_MYSQL, _POSTGRESQL, _REDIS, _ORACLE = 3306, 5432, 6379, 1521

# By the first word of the process's name, without a version at its end.
_CLIENTS: dict[tuple[str, int], Client] = {
    # php-src ext/mysqlnd/mysqlnd_vio.c, mysqlnd_set_sock_keepalive(): always on, and no times of its own.
    ("php", _MYSQL): Client("PDO or mysqli", how_to_bound="mysqlnd.net_read_timeout, seconds, in php.ini"),
    ("php", _POSTGRESQL): _libpq("PDO_PGSQL or pgsql"),
    # PyMySQL (connections.py) and the C API (vio_keepalive()) turn it on by themselves.
    ("python", _MYSQL): Client(
        "a MySQL driver",
        how_to_turn_on="mysql-connector-python does it only with its C extension",
        how_to_bound="read_timeout of PyMySQL or mysqlclient, seconds",
    ),
    ("python", _POSTGRESQL): _libpq("psycopg"),
    ("python", _REDIS): Client(
        "redis-py",
        "socket_keepalive=True",
        "socket_keepalive_options, TCP_KEEPIDLE {seconds} and TCP_KEEPINTVL {interval}",
        "socket_timeout",
    ),
    # Connector/J: on by default; Java sets no times for it. socketTimeout is in milliseconds, 0 for ever.
    ("java", _MYSQL): Client(
        "MySQL Connector/J", "tcpKeepAlive=true in its URL", how_to_bound="socketTimeout, milliseconds, in its URL"
    ),
    # pgjdbc, PGProperty.java: off by default.
    ("java", _POSTGRESQL): Client(
        "pgjdbc", "tcpKeepAlive=true in its URL", how_to_bound="socketTimeout, seconds, in its URL"
    ),
    ("java", _REDIS): Client(
        "Lettuce", "SocketOptions.keepAlive", "SocketOptions.keepAlive, {seconds} s", "TcpUserTimeoutOptions"
    ),
    ("node", _MYSQL): Client("mysql2", "enableKeepAlive: true", "keepAliveInitialDelay: {milliseconds}"),
    ("node", _POSTGRESQL): Client("node-postgres", "keepAlive: true", "keepAliveInitialDelayMillis: {milliseconds}"),
    ("dotnet", _POSTGRESQL): Client("Npgsql", "Tcp Keepalive=true in its connection string"),
    ("psql", _POSTGRESQL): _libpq("psql"),
}
_ORACLE_CLIENT = Client("an Oracle client", "(ENABLE=BROKEN) in its connect descriptor")
_CURL = Client("curl", how_to_set_times="--keepalive-time {seconds}", how_to_bound="--max-time, seconds")

_SERVERS = {
    # MariaDB 10.3.3; 0, the default, stands for the system's. MySQL has no such variable, and either may be `mysqld`.
    "mariadbd": Client(
        "MariaDB", how_to_set_times="SET GLOBAL tcp_keepalive_time={seconds}, tcp_keepalive_interval={interval}"
    ),
    "postgres": Client(
        "PostgreSQL",
        how_to_set_times="tcp_keepalives_idle = {seconds}, tcp_keepalives_interval = {interval}",
        how_to_bound="tcp_user_timeout, milliseconds, in postgresql.conf",
    ),
    # redis.conf; sets TCP_KEEPIDLE, too, on Linux.
    "redis-server": Client(
        "Redis", "tcp-keepalive 300 in redis.conf", how_to_set_times="CONFIG SET tcp-keepalive {seconds}"
    ),
}


@lru_cache(maxsize=1024)
def client_of(comm: str | None, service_port: int | None) -> Client | None:
    """Who connects to that port under that process name (15 bytes of it); None where that tells nothing."""
    if service_port == _ORACLE:
        return _ORACLE_CLIENT
    if comm is None or service_port is None:
        return None
    program = _program(comm)
    return _CURL if program == "curl" else _CLIENTS.get((program, service_port))


def server_of(comm: str | None) -> Client | None:
    """The server program of that process name, for a connection that it accepted."""
    return None if comm is None else _SERVERS.get(comm)


def _program(comm: str) -> str:
    """`php` of php8.2, php-fpm8.2, `php-fpm: pool www`; `python` of python3.11; `node` of node."""
    word = re.split(r"[\s:]", comm.strip(), maxsplit=1)[0].lower()
    return re.sub(r"(-fpm|-cgi)?[\d.]*$", "", word)
