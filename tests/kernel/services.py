"""The real servers and proxies of the knob tests, each in a namespace and in a directory of its own.

The directory has to be open to every user: some of them refuse to be root.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from tracer.lab.namespace import Namespace, wait_until
from tracer.lab.peers import Process

USER = "app"
_START_S = 120
"""What a loaded machine may take to start RabbitMQ."""


def tool(name: str, *places: str) -> str:
    """The program of that name; also where it is not on PATH."""
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", *places]))
    assert found, f"{name} is not installed: sudo scripts/test does it"
    return found


def listens(namespace: Namespace, port: int) -> bool:
    """Whether anything listens on that port there."""
    files = [Path(f"/proc/{namespace.pid}/net/{name}") for name in ("tcp", "tcp6")]
    lines = [line.split() for file in files for line in file.read_text().splitlines()[1:]]
    return any(state == "0A" and local.endswith(f":{port:04X}") for _, local, _, state, *_ in lines)


def _descendants(pid: int) -> Iterator[int]:
    """sshd's sessions, for one, lead sessions of their own and outlive it."""
    with suppress(FileNotFoundError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            yield from _descendants(int(child))
            yield int(child)


class Service(Process):
    """A process that listens on a port of the namespace; it dies with us. What it says is in DIRECTORY/NAME.log."""

    def __init__(
        self,
        namespace: Namespace,
        port: int,
        argv: Sequence[str | Path],
        directory: Path,
        *,
        user: str | None = None,
        environment: dict[str, str] | None = None,
        wait: bool = True,
    ) -> None:
        name = f"{Path(argv[0]).name}-{port}"
        self.log = directory / f"{name}.log"
        become = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"] if user else []
        with self.log.open("w") as log:
            # The kernel forgets the wish to die with us when a process changes its user: it comes after that.
            super().__init__(
                namespace.popen(
                    [*become, "setpriv", "--pdeathsig", "KILL", *argv],
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=directory,
                    env={**os.environ, **(environment or {})},
                )
            )  # fmt: skip
        self._listens = partial(listens, namespace, port)
        if wait:
            self.wait()

    def __enter__(self) -> Service:
        return self

    def wait(self) -> None:
        """Until it listens. It is over with where it does not."""
        try:
            wait_until(lambda: self._failed() or self._listens(), _START_S, f"{self.log.stem} listens")
        except BaseException:
            self.close()
            raise

    def _failed(self) -> bool:
        status = self._process.poll()
        assert status is None, f"{self.log.name}: ended with {status}\n{self.log.read_text()[-2000:]}"
        return False

    def close(self) -> None:
        """As it is asked to end; if that takes long, by force. Of what it started nothing is left."""
        if self._process.poll() is None:
            started = list(_descendants(self._process.pid))
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
            for pid in started:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        super().close()


@contextmanager
def open_directory() -> Iterator[Path]:
    """A directory that is open to every user, for the time of the block."""
    with tempfile.TemporaryDirectory(prefix="tcpwatch-servers-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        yield directory


def owned_directory(parent: Path, name: str, user: str) -> Path:
    """A directory that this user can use."""
    made = parent / name
    made.mkdir()
    shutil.chown(made, user, user)
    return made


class PostgreSQL(Service):
    """A cluster whose superuser `app` needs no password."""

    def __init__(self, namespace: Namespace, host: str, directory: Path) -> None:
        home = owned_directory(directory, "postgresql", "postgres")
        binaries = [str(each) for each in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
        data = home / "data"
        done = subprocess.run(
            [
                "setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", tool("initdb", *binaries),
                "--no-sync", "--auth=trust", f"--username={USER}", f"--pgdata={data}",
            ],
            capture_output=True, text=True, cwd=home,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        with (data / "pg_hba.conf").open("a") as rules:
            rules.write("host all all all trust\n")
        settings = {
            "listen_addresses": f"{host},127.0.0.1", "unix_socket_directories": home, "fsync": "off",
            "max_connections": 40,
        }  # fmt: skip
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        super().__init__(namespace, 5432, [tool("postgres", *binaries), "-D", data, *options], home, user="postgres")
        # Listening comes before it lets anybody in.
        self._environment = {**os.environ, "PGHOST": str(home), "PGUSER": USER, "PGDATABASE": "postgres"}
        wait_until(
            lambda: self._type("psql -c 'SELECT 1'").returncode == 0, _START_S, "PostgreSQL accepts connections"
        )

    def _type(self, command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, shell=True, capture_output=True, text=True, env=self._environment)

    def type(self, command: str) -> str:
        """Type a command on its host, as its superuser."""
        done = self._type(command)
        assert done.returncode == 0, done.stderr
        return done.stdout


def redis(namespace: Namespace, host: str, directory: Path) -> Service:
    """Keeps nothing on disk."""
    options: list[str | Path] = [
        "--bind",
        host,
        "127.0.0.1",
        "--protected-mode",
        "no",
        "--save",
        "",
        "--dir",
        directory,
    ]
    return Service(namespace, 6379, [tool("redis-server"), *options], directory)


def memcached(namespace: Namespace, host: str, directory: Path) -> Service:
    """With little memory."""
    return Service(namespace, 11211, [tool("memcached"), "-u", "nobody", "-l", host, "-m", "16"], directory)


class RabbitMQ(Service):
    """A node without plugins, where `guest` may come from anywhere. It takes its time: `wait` for it."""

    def __init__(self, namespace: Namespace, host: str, directory: Path) -> None:
        home = directory / "rabbitmq"
        home.mkdir()
        configuration = home / "rabbitmq.conf"
        configuration.write_text(f"listeners.tcp.1 = {host}:5672\nloopback_users = none\n")
        plugins = home / "plugins"
        plugins.write_text("[].\n")
        (home / ".erlang.cookie").write_text("knobs")
        (home / ".erlang.cookie").chmod(0o400)
        # Erlang would leave its name server behind, as a daemon.
        self._names = Service(namespace, 4369, [tool("epmd")], home)
        try:
            super().__init__(
                namespace, 5672, ["/usr/lib/rabbitmq/bin/rabbitmq-server"], home,
                environment={
                    "HOME": str(home), "RABBITMQ_NODENAME": "knobs@localhost",
                    "RABBITMQ_CONFIG_FILE": str(configuration),
                    "RABBITMQ_MNESIA_BASE": str(home), "RABBITMQ_LOGS": "-", "RABBITMQ_LOG_BASE": str(home),
                    "RABBITMQ_ENABLED_PLUGINS_FILE": str(plugins), "RABBITMQ_PID_FILE": str(home / "pid"),
                    "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none",
                },
                wait=False,
            )  # fmt: skip
        except BaseException:
            self._names.close()
            raise

    def close(self) -> None:
        """With its name server."""
        if self._process.poll() is None:
            self.kill()  # nothing that it wrote is needed
        super().close()
        self._names.close()


class SSHServer(Service):
    """Lets root in with the key in DIRECTORY/key. settings: lines of sshd_config."""

    def __init__(self, namespace: Namespace, host: str, port: int, directory: Path, settings: str = "") -> None:
        key = directory / "key"
        if not key.exists():
            subprocess.run([tool("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        configuration = directory / f"sshd_config-{port}"
        configuration.write_text(
            f"ListenAddress {host}:{port}\nHostKey {key}\nAuthorizedKeysFile {key}.pub\nStrictModes no\nUsePAM no\n"
            f"PermitRootLogin yes\nPidFile none\n{settings}\n"
        )
        Path("/run/sshd").mkdir(exist_ok=True)  # it refuses to start without
        super().__init__(namespace, port, [tool("sshd"), "-D", "-e", "-f", configuration], directory)


def haproxy(
    namespace: Namespace, listen: tuple[str, int], server: tuple[str, int], directory: Path,
    *, frontend: Sequence[str] = (), backend: Sequence[str] = (),
) -> Service:  # fmt: skip
    """Forwards TCP. frontend, backend: lines of these sections."""
    configuration = directory / f"haproxy-{listen[1]}.cfg"
    configuration.write_text(
        "\n".join(
            [
                "defaults", "mode tcp", "timeout connect 5s", "timeout client 1h", "timeout server 1h",
                "frontend here", f"bind {listen[0]}:{listen[1]}", "default_backend there", *frontend,
                "backend there", f"server one {server[0]}:{server[1]}", *backend, "",
            ]
        )
    )  # fmt: skip
    return Service(namespace, listen[1], [tool("haproxy"), "-db", "-f", configuration], directory)


def pgbouncer(
    namespace: Namespace, listen: tuple[str, int], server: str, directory: Path, settings: Sequence[str] = ()
) -> Service:
    """A pool in front of PostgreSQL. settings: lines of pgbouncer.ini."""
    home = owned_directory(directory, f"pgbouncer-{listen[1]}", "postgres")
    (home / "users").write_text(f'"{USER}" ""\n')
    (home / "pgbouncer.ini").write_text(
        "\n".join(
            [
                "[databases]", f"postgres = host={server} port=5432 user={USER}", "[pgbouncer]",
                f"listen_addr = {listen[0]}", f"listen_port = {listen[1]}", "auth_type = any", "unix_socket_dir =",
                f"auth_file = {home / 'users'}", *settings, "",
            ]
        )
    )  # fmt: skip
    return Service(namespace, listen[1], [tool("pgbouncer"), home / "pgbouncer.ini"], home, user="postgres")
