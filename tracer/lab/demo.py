"""The incident, start to end, in half a minute, told as it happens."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import click

from tracer.events import Event, error_name
from tracer.filters import Filter
from tracer.kernel.live import LiveSource
from tracer.lab.mariadb import MariaDB, mariadb_client
from tracer.lab.network import SERVER, Lab
from tracer.lab.peers import Client, Server, embedded_client
from tracer.output.talk import say
from tracer.output.text import TextSink
from tracer.output.words import duration, plural
from tracer.pipeline import Totals, run
from tracer.stopping import Stop

TTL_S = 6
RETRIES2 = 5
PORT = 3306


class _Interrupted(Exception):
    """^C: tidy up and end."""


class _Stage:
    """Events and the story between them, in the order of time, on stdout."""

    def __init__(self, source: LiveSource, stop: Stop, sink: TextSink, *, colour: bool) -> None:
        self._batches: Iterator[list[Event]] = iter(source)
        self._stop = stop
        self._sink = sink
        self._colour = colour
        self.totals = Totals()

    def tell(self, text: str) -> None:
        """A line of the story."""
        print(click.style(f"● {text}", bold=True) if self._colour else f"● {text}", flush=True)

    def show(self, who: str, what: str) -> None:
        """What one of them believes or knows."""
        print(f"    {who:<9} {what}", flush=True)

    def watch_until(self, condition: Callable[[], bool]) -> None:
        """Show events as they come until the condition holds, and what had happened by then."""
        while True:
            over = condition()
            # One more look after it came true: its events are there.
            run([next(self._batches, [])], Filter(), [self._sink], self.totals)
            if self._stop():
                raise _Interrupted
            if over:
                return


def demo(server: str, stop: Stop, *, colour: bool, utc_offset_s: int) -> None:
    """Show the incident with an `embedded` server or with `mariadb`.

    Raises TcpwatchError for what is missing. Nothing is left behind, whatever happens.
    """
    with ExitStack() as stack, suppress(_Interrupted):
        say("setting up a client, a firewall and a server in network namespaces of their own")
        lab = stack.enter_context(Lab(ttl_s=TTL_S, ports=[PORT], retries2=RETRIES2))
        database: MariaDB | None = None
        if server == "mariadb":
            database = stack.enter_context(MariaDB(lab.server, SERVER, PORT))
        else:
            stack.enter_context(Server(lab.server, SERVER, PORT))
        source = stack.enter_context(LiveSource(Filter(netns=frozenset({lab.client.netns})), stop))
        say("tracing the client's namespace")
        stage = _Stage(source, stop, TextSink(sys.stdout, colour=colour, utc_offset_s=utc_offset_s), colour=colour)
        connect = mariadb_client if database else embedded_client
        with connect(lab.client, SERVER, PORT) as client:
            _incident(stage, lab, client, database)


def _incident(stage: _Stage, lab: Lab, client: Client, database: MariaDB | None) -> None:
    lport = int(client.connected["lport"])
    answer = client.ask("query")
    stage.tell(f"A worker connects and asks a query: answered in {answer['seconds'] * 1000:.1f} ms.")
    stage.watch_until(lambda: True)
    silent_since = time.monotonic()
    stage.tell(f"Then nobody talks. The firewall forgets a session after {TTL_S} s of silence.")
    stage.watch_until(lambda: not lab.sessions(PORT))
    stage.show("worker", _belief(lab.client.believes(lport, PORT)))
    stage.show("server", _belief(lab.server.believes(PORT, lport)) + _processlist(database))
    stage.show("firewall", "knows no such connection")
    stage.tell(f"After {duration((time.monotonic() - silent_since) * 1000)} the worker asks again. tcpwatch sees:")
    before = lab.client.counter("TcpRetransSegs")
    client.send("query")
    stage.watch_until(client.answered)
    answer = client.answer()
    stage.tell(_ending(answer))
    if database is not None:
        stage.show("PyMySQL", f"says {answer['error']}")
    retransmits = plural(stage.totals.retransmits, "retransmission")
    stage.show("worker", _belief(lab.client.believes(lport, PORT)))
    stage.show("server", _belief(lab.server.believes(PORT, lport)) + _processlist(database))
    stage.show("firewall", f"dropped {plural(lab.dropped_packets(), 'packet')} without a word")
    stage.show("tcpwatch", f"saw {retransmits}; the kernel counted {lab.client.counter('TcpRetransSegs') - before}")
    print(f"With the default tcp_retries2=15 the worker hangs for a quarter of an hour; here it is {RETRIES2}.")


def _belief(state: str | None) -> str:
    return f"believes the connection is {state}" if state else "has no such connection any more"


def _processlist(database: MariaDB | None) -> str:
    if database is None:
        return ""
    return f"; its process list: {plural(database.sleeping_connections(), 'connection')} asleep"


def _ending(answer: dict[str, Any]) -> str:
    waited = duration(answer["seconds"] * 1000)
    if answer["ok"]:
        return f"The worker's query was answered after {waited}, and should not have been."
    return f"The worker's query fails after {waited}: {error_name(answer['errno'])}"
