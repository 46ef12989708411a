"""A MariaDB server in a namespace, with a data directory of its own, and a PyMySQL client."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from tracer.lab.namespace import Namespace, wait_until
from tracer.lab.peers import Client, Process
from tracer.model.errors import TcpwatchError
from tracer.model.packages import installing

USER, PASSWORD, DATABASE = "app", "lab-only", "lab"
_CLIENT = Path(__file__).with_name("mariadb_peer.py")
_SETUP = f"""
CREATE DATABASE {DATABASE};
CREATE TABLE {DATABASE}.jobs (id INT PRIMARY KEY, q VARCHAR(64));
INSERT INTO {DATABASE}.jobs VALUES (1, 'first'), (2, 'second'), (3, 'third');
CREATE USER {USER}@'%' IDENTIFIED BY '{PASSWORD}';
GRANT ALL ON {DATABASE}.* TO {USER}@'%';
"""


class MariaDB(Process):
    """mariadbd on HOST:PORT of the namespace. The constructor waits the few seconds until it is ready.

    It writes only to a temporary directory, which `close` removes. Create it in the main thread: the server is killed
    when the thread that started it ends (prctl(2), PR_SET_PDEATHSIG).
    """

    def __init__(self, namespace: Namespace, host: str, port: int = 3306) -> None:
        for tool in ("mariadbd", "mariadb-install-db", "mariadb", "setpriv"):
            if _find(tool) is None:
                raise TcpwatchError(f"MariaDB is not installed ({tool})", hint=installing("mariadb-server"))
        self._namespace = namespace
        self._directory = Path(tempfile.mkdtemp(prefix="tcpwatch-mariadb-"))
        # Reads a pipe that only this process can write to: it removes the directory even when this process is killed.
        self._sweeper = subprocess.Popen(
            ["sh", "-c", 'cat; rm -rf "$0"', self._directory], stdin=subprocess.PIPE, start_new_session=True
        )
        self._socket = self._directory / "socket"
        self._log = self._directory / "log"
        try:
            self._install()
            # MariaDB's clients read this file last, so it overrides the others.
            (self._directory / ".my.cnf").write_text(f"[client]\nuser = root\nsocket = {self._socket}\n")
            super().__init__(self._start(host, port))
            wait_until(self._ready, 120, "MariaDB accepts connections")
            self.sql(_SETUP)
        except BaseException as error:
            log = self._log.read_text(encoding="utf-8", errors="replace") if self._log.exists() else ""
            self.close()
            if isinstance(error, TcpwatchError):
                raise TcpwatchError(f"MariaDB did not start: {error}\n{log[-2000:]}".rstrip()) from error
            raise

    def __enter__(self) -> MariaDB:
        return self

    def close(self) -> None:
        """End it and remove its directory. Closing again does nothing."""
        if hasattr(self, "_process"):
            super().close()
        if self._sweeper.stdin is not None:
            self._sweeper.stdin.close()
        self._sweeper.wait()

    def _install(self) -> None:
        install = subprocess.Popen(
            [
                _find("mariadb-install-db") or "", "--no-defaults", f"--datadir={self._directory / 'data'}",
                "--auth-root-authentication-method=normal", "--skip-test-db", "--user=root",
                "--innodb-log-file-size=4M", "--innodb-buffer-pool-size=16M",
            ],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        with install:
            try:
                output, _ = install.communicate()
            except BaseException:
                # It is a script. Its children would go on writing to the directory; its output ends with the last.
                os.killpg(install.pid, signal.SIGKILL)
                install.communicate()
                raise
        if install.returncode != 0:
            raise TcpwatchError(f"mariadb-install-db: {output.strip()[-500:]}")

    def _start(self, host: str, port: int) -> subprocess.Popen[str]:
        argv = [
            # It is killed when this process ends. The kernel clears that setting when a process changes its user: it
            # stays root.
            "setpriv", "--pdeathsig", "KILL", _find("mariadbd") or "", "--no-defaults", "--user=root",
            f"--datadir={self._directory / 'data'}", f"--socket={self._socket}",
            f"--pid-file={self._directory / 'pid'}",
            f"--bind-address={host}", f"--port={port}", f"--log-error={self._log}", "--skip-name-resolve",
            "--innodb-log-file-size=4M", "--innodb-buffer-pool-size=16M", "--performance-schema=off",
        ]  # fmt: skip
        return self._namespace.popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def _ready(self) -> bool:
        if self._process.poll() is not None:
            raise TcpwatchError(f"it ended with status {self._process.returncode}")
        return self._socket.exists() and self._client("SELECT 1").returncode == 0

    def _client(self, statements: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["mariadb", "--no-defaults", "--user=root", f"--socket={self._socket}", "--batch", "--skip-column-names"],
            input=statements, capture_output=True, text=True, start_new_session=True,
        )  # fmt: skip

    def sql(self, statements: str) -> list[list[str]]:
        """Run statements as root, through the unix socket, and return the rows."""
        done = self._client(statements)
        if done.returncode != 0:
            raise TcpwatchError(f"MariaDB: {done.stderr.strip()}")
        return [line.split("\t") for line in done.stdout.splitlines()]

    def type(self, command: str) -> str:
        """Run a shell command on its host, as root of the host and of the database."""
        done = subprocess.run(
            command, shell=True, capture_output=True, text=True, start_new_session=True,
            env={**os.environ, "HOME": str(self._directory)},
        )  # fmt: skip
        if done.returncode != 0:
            raise TcpwatchError(f"{command}: {done.stderr.strip()}")
        return done.stdout

    def sleeping_connections(self) -> int:
        """How many connections of the application are `Sleep` in the server's process list."""
        rows = self.sql(
            f"SELECT COUNT(*) FROM information_schema.processlist WHERE user = '{USER}' AND command = 'Sleep'"
        )
        return int(rows[0][0])


def mariadb_client(namespace: Namespace, host: str, port: int = 3306) -> Client:
    """A PyMySQL client with the command `query` of the embedded one."""
    if importlib.util.find_spec("pymysql") is None:
        raise TcpwatchError(
            "PyMySQL is not installed", hint=f"{installing('python3-pymysql')}, or pip install PyMySQL"
        )
    return Client(namespace, [sys.executable, _CLIENT, json.dumps(
        {"host": host, "port": port, "user": USER, "password": PASSWORD, "database": DATABASE}
    )])  # fmt: skip


_BESIDE_PATH = ":/usr/sbin:/usr/local/sbin:/usr/libexec"
"""Where else mariadbd is: RHEL has it in /usr/libexec."""


def _find(tool: str) -> str | None:
    return shutil.which(tool, path=os.environ.get("PATH", os.defpath) + _BESIDE_PATH)
