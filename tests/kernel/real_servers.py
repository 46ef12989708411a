"""MariaDB, PostgreSQL and Redis behind a firewall that forgets, and processes that use their client libraries."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import services
from knob_client import CLIENTS
from lab import disasters
from ss_comparison import ss
from watching import PATIENCE_S, Json

from tracer.lab.mariadb import MariaDB
from tracer.lab.namespace import Namespace, wait_until
from tracer.lab.network import SERVER, Lab
from tracer.lab.peers import Client

PORTS = {"PyMySQL": 3306, "psycopg": 5432, "redis": 6379}
"""The client libraries, and where their servers listen."""
_PROGRAM = Path(__file__).with_name("real_client.py")


class Ends(NamedTuple):
    """The ports of a connection."""

    lport: int
    rport: int


class Pool:
    """A process with `count` connections of each library. A context manager, which ends it."""

    def __init__(self, namespace: Namespace, name: str, count: int, libraries: Sequence[str] = tuple(PORTS)) -> None:
        python = CLIENTS / "python/bin/python"
        self._client = Client(
            namespace, [python, _PROGRAM, name, SERVER, str(count), *libraries], connect_timeout_s=None
        )
        # A JSON list, where other clients print an object.
        self._connections: Any = self._client.answer(PATIENCE_S)

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._client.pid

    def ends(self, positions: Iterable[int] | None = None) -> set[Ends]:
        """The ports of these connections, or of all."""
        chosen = range(len(self._connections)) if positions is None else positions
        return {Ends(self._connections[each]["lport"], self._connections[each]["rport"]) for each in chosen}

    def firsts(self, count: int = 1) -> list[int]:
        """The positions of the first connections of each library."""
        libraries = [each["library"] for each in self._connections]
        return [libraries.index(library) + number for library in dict.fromkeys(libraries) for number in range(count)]

    def others(self, positions: Iterable[int]) -> list[int]:
        """The positions that are not among these."""
        return sorted(set(range(len(self._connections))) - set(positions))

    def send_queries(self, positions: Iterable[int]) -> None:
        """Send a query on each of these, without waiting for the answers."""
        self._client.send(json.dumps(list(positions)))

    def answers(self, positions: Sequence[int], timeout_s: float = PATIENCE_S) -> dict[int, Json]:
        """What became of the queries on these, by position."""
        answered = [self._client.answer(timeout_s) for _ in positions]
        assert sorted(each["position"] for each in answered) == sorted(positions)
        return {each["position"]: each for each in answered}

    def library(self, position: int) -> str:
        """The library of this connection."""
        return str(self._connections[position]["library"])

    def session(self, position: int) -> int:
        """The session that the server opened for this connection at first."""
        return int(self._connections[position]["session"])

    def assert_working(self, positions: Iterable[int] | None = None) -> None:
        """These, or all, answer a query, on the connection that was opened at first."""
        chosen = self.others([]) if positions is None else list(positions)
        self.send_queries(chosen)
        for position, answer in self.answers(chosen).items():
            assert answer["error"] is None, answer
            assert answer["session"] == self.session(position), "the library has connected again"


class Site:
    """The lab with the three servers."""

    def __init__(self, lab: Lab, directory: Path, enter: Callable[[Any], Any]) -> None:
        self.lab = lab
        self.mariadb: MariaDB = enter(MariaDB(lab.server, SERVER))
        self.postgresql: services.PostgreSQL = enter(services.PostgreSQL(lab.server, SERVER, directory))
        enter(services.redis(lab.server, SERVER, directory))

    def forget_after(self, seconds: int) -> None:
        """Set how long the firewall remembers a silent session. It counts from the next packet on."""
        self.lab.firewall.set_sysctl("net.netfilter.nf_conntrack_tcp_timeout_established", seconds)

    def forget(self, connections: set[Ends]) -> None:
        """Have the firewall forget these connections and no other, once the servers' answers are acknowledged."""

        def is_quiet() -> bool:
            shown = ss(self.lab.server)
            return not any(shown[each.rport, each.lport]["to be acknowledged"] for each in connections)

        wait_until(is_quiet, PATIENCE_S, "everything is acknowledged")
        disasters.forget(self.lab, connections)

    def remembers(self) -> set[Ends]:
        """The connections that the firewall has a session for."""
        listed = [line.split() for port in PORTS.values() for line in self.lab.sessions(port)]
        words = [dict(word.split("=") for word in reversed(line) if "=" in word) for line in listed]
        return {Ends(int(each["sport"]), int(each["dport"])) for each in words}


@contextmanager
def running_site(ttl_s: int) -> Iterator[Site]:
    """Start the servers. ttl_s: how long the firewall remembers a silent session, at first."""
    assert CLIENTS.exists(), f"{CLIENTS} is missing: sudo scripts/test makes it"
    with ExitStack() as stack:
        directory = stack.enter_context(services.open_directory())
        lab = stack.enter_context(Lab(ttl_s=ttl_s, ports=list(PORTS.values()), retries2=15))
        yield Site(lab, directory, stack.enter_context)
