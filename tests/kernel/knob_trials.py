"""How each client library is used with a setting of the advice, and without: what a person would write."""

from __future__ import annotations

import re
import tempfile
import textwrap
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Union

from knob_client import CLIENTS, java, node, php, python
from services import USER, tool

from tracer.analysis.clients import CLIENTS as ROWS
from tracer.analysis.clients import SERVERS, Client, filled
from tracer.lab.mariadb import DATABASE, PASSWORD
from tracer.lab.network import SERVER

PROBE_S = 2
"""The silence before a probe that is set: the firewall forgets after three times as much."""
LIMIT_S = 2
"""N of the settings that limit a wait."""
CLI_PORT, PGBOUNCER_PORT = 7001, 6432
"""Where the proxies listen."""
Argv = list[Union[str, Path]]


def row(name: str, *, port: int | None = None, server: bool = False) -> Client:
    """The row of the table."""
    rows = SERVERS if server else ROWS
    found = [each for each in rows if each.name == name and (port is None or port in each.ports)]
    assert len(found) == 1, f"{name}: {len(found)} rows"
    return found[0]


def typed(client: Client, column: str) -> str:
    """The setting as it is typed in, for tests' short times and without the words that say where."""
    setting = getattr(client, column)
    assert setting is not None, f"{client.name} has no {column}"
    if column == "bound":
        limit = str(LIMIT_S if client.bound_unit == "seconds" else LIMIT_S * 1000)
        # A limit on unacknowledged data stands there with a value.
        setting = re.sub(r"\bN\b", limit, setting) if client.bound_unit else setting.replace("30000", limit)
    return re.sub(r" (in|as) [\w. ]+$", "", filled(setting, PROBE_S))


class Trial(NamedTuple):
    """One client with one setting. connect: its argv with the setting as typed, or with nothing."""

    client: Client
    column: str | None  # None: without any
    connect: Callable[[str], Argv]

    @property
    def name(self) -> str:
        """As pytest shows it."""
        return f"{self.client.name}, {self.client.ports or 'any port'}: {self.column or 'nothing'}"

    @property
    def argv(self) -> Argv:
        """What to run."""
        return self.connect(typed(self.client, self.column) if self.column else "")


def _python(body: str) -> Callable[[str], Argv]:
    body = textwrap.dedent(body)
    return lambda setting: python(body.replace("SETTING", setting), SERVER)


def _node(body: str) -> Callable[[str], Argv]:
    return lambda setting: node(body.replace("SETTING", setting), SERVER)


_ASYNCPG = f"""
    import asyncio, asyncpg
    loop = asyncio.new_event_loop()
    connection = loop.run_until_complete(asyncpg.connect(host=HOST, user={USER!r}, database="postgres", SETTING))
    def use():
        loop.run_until_complete(connection.fetch("SELECT 1"))
"""
_PSYCOPG = f"""
    import psycopg
    connection = psycopg.connect(f"host={{HOST}} user={USER} dbname=postgres " + \"\"\"SETTING\"\"\", autocommit=True)
    def use():
        connection.execute("SELECT 1").fetchall()
"""
_PG8000 = f"""
    import pg8000.native
    connection = pg8000.native.Connection({USER!r}, host=HOST, database="postgres", SETTING)
    def use():
        connection.run("SELECT 1")
"""
_PYMYSQL = f"""
    import pymysql
    connection = pymysql.connect(host=HOST, user={USER!r}, password={PASSWORD!r}, database={DATABASE!r}, SETTING)
    def use():
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
"""
_CONNECTOR = f"""
    import _mysql_connector  # before anything loads the distribution's libssl, which may be older than its own
    import mysql.connector
    connection = mysql.connector.connect(
        host=HOST, user={USER!r}, password={PASSWORD!r}, database={DATABASE!r},
        **{{"use_pure": True, **dict(SETTING)}}
    )
    def use():
        cursor = connection.cursor()
        cursor.execute("SELECT 1")
        cursor.fetchall()
"""
_REDIS_PY = """
    import redis
    connection = redis.Redis(host=HOST, SETTING)
    def use():
        connection.ping()
"""
_PIKA = """
    import pika
    connection = pika.BlockingConnection(pika.ConnectionParameters(HOST, SETTING))
    channel = connection.channel()
    def use():
        channel.basic_qos(prefetch_count=1)
"""
_PIKA_AT_WORK = (
    _PIKA
    + """
    def idle():
        connection.process_data_events(time_limit=0.2)
"""
)
_KOMBU = """
    import kombu
    connection = kombu.Connection(f"amqp://guest:guest@{HOST}", SETTING)
    channel = connection.default_channel
    def use():
        channel.basic_qos(0, 1, False)
"""
_CELERY = """
    import celery
    class settings:
        broker_url = f"BROKER://HOST_"
        SETTING
    application = celery.Celery()
    application.config_from_object(settings)
    connection = application.connection_for_write()
    channel = connection.default_channel
    def use():
        channel.basic_qos(0, 1, False) if "BROKER" == "amqp" else channel.client.ping()
"""
_PYMEMCACHE = """
    from pymemcache import KeepaliveOpts
    from pymemcache.client.base import Client
    connection = Client((HOST, 11211), SETTING)
    def use():
        connection.get("key")
"""
# A program that reads its standard input and answers it, line by line.
_DIALOGUE = """
    program = subprocess.Popen(PROGRAM, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
    def use():
        program.stdin.write(REQUEST)
        if not program.stdout.readline():
            raise EOFError
"""
_CURL = """
    program = None
    def use():
        global program
        if program is None:
            program = subprocess.Popen(PROGRAM)
        elif program.wait() != 0:
            raise OSError(program.returncode)
"""
_PING = """
    connection = socket.create_connection((PLACE, PORT))
    def use():
        connection.sendall(b"PING\\r\\n")
        if not connection.recv(100):
            raise EOFError
"""

_MYSQL2 = f"""
  const connection = await require('mysql2/promise').createConnection({{
    host: HOST, user: '{USER}', password: '{PASSWORD}', database: '{DATABASE}', SETTING
  }});
  const use = () => connection.query('SELECT 1');
"""
_NODE_POSTGRES = f"""
  const connection = new (require('pg').Client)({{host: HOST, user: '{USER}', database: 'postgres', SETTING}});
  await connection.connect();
  const use = () => connection.query('SELECT 1');
"""
_IOREDIS = """
  const connection = new (require('ioredis'))({host: HOST, SETTING});
  connection.on('error', () => {});
  const use = () => connection.ping();
"""
_NODE_REDIS = """
  const connection = require('redis').createClient({url: `redis://${HOST}`, SETTING});
  connection.on('error', () => {});
  await connection.connect();
  const use = () => connection.ping();
"""
_AMQPLIB = """
  const connection = await require('amqplib').connect(`amqp://guest:guest@${HOST}URL`, OPTIONS);
  const channel = await connection.createChannel();
  const use = () => channel.prefetch(1);
"""


def _amqplib(setting: str) -> Argv:
    url, options = (f"/{setting}", "{}") if setting.startswith("?") else ("", setting or "{}")
    return node(_AMQPLIB.replace("URL", url).replace("OPTIONS", options), SERVER)


def _celery(broker: str) -> Callable[[str], Argv]:
    address = f"guest:guest@{SERVER}" if broker == "amqp" else SERVER
    return _python(_CELERY.replace("BROKER", broker).replace("HOST_", address))


def _pdo_mysql(setting: str) -> Argv:
    connect = f"""
        $database = new PDO('mysql:host={SERVER};dbname={DATABASE}', '{USER}', '{PASSWORD}');
        $use = fn() => $database->query('SELECT 1')->fetchAll();
    """
    return php(connect, *([setting] if setting else []))


def _pdo_pgsql(setting: str) -> Argv:
    name = f"pgsql:host={SERVER} dbname=postgres user={USER} {setting}"
    return php(f'$database = new PDO("{name}"); $use = fn() => $database->query("SELECT 1")->fetchAll();')


@lru_cache
def _scripts() -> tempfile.TemporaryDirectory[str]:
    """It goes when we end."""
    return tempfile.TemporaryDirectory(prefix="tcpwatch-knobs-")


def _java(url: str) -> Callable[[str], Argv]:
    def connect(setting: str) -> Argv:
        name = re.sub(r"\W+", "-", f"{url}-{setting}")
        return java(f"{url}&{setting}", Path(_scripts().name) / f"{name}.bsh")

    return connect


def _psql(setting: str) -> Argv:
    program = [tool("psql"), "-AtqX", f"host={SERVER} user={USER} dbname=postgres {setting}"]
    body = _DIALOGUE.replace("PROGRAM", repr(program)).replace("REQUEST", repr("SELECT 1;\n"))
    return python(textwrap.dedent(body), SERVER)


def slow_http(port: int, seconds: float) -> Argv:
    """A server whose answers take that long."""
    return [
        CLIENTS / "python/bin/python",
        "-c",
        textwrap.dedent(f"""
            import http.server, time
            class Slow(http.server.BaseHTTPRequestHandler):
                def do_GET(self):
                    time.sleep({seconds})
                    self.send_response(200)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                def log_message(self, *_): pass
            http.server.ThreadingHTTPServer(("{SERVER}", {port}), Slow).serve_forever()
        """),
    ]


def _curl(setting: str) -> Argv:
    program = [tool("curl"), "-sS", *(setting.split() or ["--no-keepalive"]), f"http://{SERVER}/"]
    return python(textwrap.dedent(_CURL.replace("PROGRAM", repr(program))), SERVER)


def ssh(key: Path, port: int, setting: str) -> Argv:
    """A command on the server that says what it is told."""
    configuration = key.with_name(f"ssh_config-{'with' if setting else 'without'}-{port}")
    configuration.write_text(f"{setting}\nUserKnownHostsFile /dev/null\nStrictHostKeyChecking no\nLogLevel ERROR\n")
    program = [tool("ssh"), "-F", str(configuration), "-i", str(key), "-p", str(port), f"root@{SERVER}", "cat"]
    body = _DIALOGUE.replace("PROGRAM", repr(program)).replace("REQUEST", repr("anybody there?\n"))
    return python(textwrap.dedent(body), SERVER)


def ping(place: str, port: int) -> Argv:
    """Redis, asked without a library, which would connect again."""
    body = _PING.replace("PLACE", repr(place)).replace("PORT", str(port))
    return python(textwrap.dedent(body), SERVER)


def through_pool(place: str, port: int) -> Argv:
    """PostgreSQL through PgBouncer."""
    body = _PSYCOPG.replace("{HOST}", place).replace("SETTING", f"port={port}")
    return python(textwrap.dedent(body), SERVER)


def _all_of(client: Client, connect: Callable[[str], Argv], *columns: str) -> list[Trial]:
    return [Trial(client, column, connect) for column in (*columns, None)]


TRIALS = [
    *_all_of(row("psycopg"), _python(_PSYCOPG), "probes", "server_probes", "bound"),
    *_all_of(row("asyncpg"), _python(_ASYNCPG), "server_probes", "bound"),
    *_all_of(row("pg8000"), _python(_PG8000), "server_probes", "bound"),
    *_all_of(row("psql"), _psql, "probes", "server_probes", "bound"),
    *_all_of(row("PDO_PGSQL or pgsql"), _pdo_pgsql, "probes", "server_probes", "bound"),
    *_all_of(row("node-postgres"), _node(_NODE_POSTGRES), "probes", "server_probes", "bound"),
    *_all_of(row("PyMySQL or mysqlclient"), _python(_PYMYSQL), "bound"),
    *_all_of(row("mysql-connector-python"), _python(_CONNECTOR), "bound"),
    *_all_of(row("PDO or mysqli"), _pdo_mysql, "bound"),
    *_all_of(row("pgjdbc"), _java(f"jdbc:postgresql://{SERVER}/postgres?user={USER}"), "server_probes", "bound"),
    *_all_of(
        row("Connector/J"), _java(f"jdbc:mariadb://{SERVER}/{DATABASE}?user={USER}&password={PASSWORD}"), "bound"
    ),
    *_all_of(row("mysql2"), _node(_MYSQL2), "probes"),
    *_all_of(row("redis-py"), _python(_REDIS_PY), "probes", "bound"),
    *_all_of(row("ioredis"), _node(_IOREDIS), "probes", "bound"),
    *_all_of(row("node-redis"), _node(_NODE_REDIS), "probes", "bound"),
    *_all_of(row("Celery", port=6379), _celery("redis"), "probes"),
    *_all_of(row("pymemcache"), _python(_PYMEMCACHE), "probes", "bound"),
    *_all_of(row("pika"), _python(_PIKA), "probes"),
    Trial(row("pika"), "heartbeat", _python(_PIKA_AT_WORK)),
    *_all_of(row("kombu"), _python(_KOMBU), "probes"),
    *_all_of(row("Celery", port=5672), _celery("amqp"), "probes"),
    *_all_of(row("amqplib"), _amqplib, "probes", "heartbeat"),
    *_all_of(row("curl"), _curl, "probes", "bound"),
]
