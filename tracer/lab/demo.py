"""`tcpwatch demo`: the incident in half a minute, with a line for each step; or with a fix; or a probe before it."""

from __future__ import annotations

import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from typing import Any

import click

from tracer.analysis.stalls import StallTracker
from tracer.kernel import host
from tracer.kernel.live import LiveSource
from tracer.lab.command import run_beside
from tracer.lab.mariadb import MariaDB, mariadb_client
from tracer.lab.network import SERVER, Lab
from tracer.lab.peers import Client, Server, embedded_client
from tracer.model.actions import Answer
from tracer.model.errors import TcpwatchError
from tracer.model.events import Batch, Event, error_name
from tracer.model.filters import Filter
from tracer.model.kinds import Kind
from tracer.output.format import clock, duration, plural
from tracer.output.messages import say
from tracer.output.page import Page
from tracer.output.sink import Sink
from tracer.output.text import TextSink
from tracer.recordings.header import Header
from tracer.run.pipeline import Totals, finish, run
from tracer.run.stopping import Stop

# One second stands for ten minutes: a firewall that forgets after an hour, keepalive that begins after two hours.
TTL_S = 6
KEEPALIVE_S = 12
# The advice is half of it, at most: the 3 s of the fix and the lateness of its timer fit in, whatever the load.
SILENCE_S = 7
MIN_IDLE_S = 3
RETRIES2 = 5
PORT = 3306

_INDENT = "    "
FIXES = {
    "keepalive": f"tcp_keepalive_time is {TTL_S // 2}s in the worker's namespace, less than the firewall's {TTL_S}s",
    "ttl": f"the firewall keeps an idle session for {KEEPALIVE_S + 4}s, longer than keepalive's {KEEPALIVE_S}s",
    "reset": "the firewall answers packets of a forgotten session with a reset, instead of dropping them",
    "protect": f"tcpwatch protect sets keepalive to {TTL_S // 2}s on the open connection, from outside the worker",
    "ping": f"the worker sends a small query every {TTL_S // 2}s",
}
"""What each fix changes."""


class _Interrupted(Exception):
    """The user pressed ^C."""


class _Kept:
    """A sink that keeps the events that later steps refer to."""

    def __init__(self) -> None:
        self.predicted: Event | None = None  # the stall, with the exact time of giving up
        self.stall: Event | None = None  # the end of the stall
        self.ended: Event | None = None  # the kernel's error
        self.probes = 0

    def opened(self, header: Header) -> None:
        """Nothing of it is kept."""

    def write(self, events: Sequence[Event]) -> None:
        """Take events."""
        for event in events:
            if event.event == Kind.ERROR:
                self.ended = event
            elif event.event == Kind.KEEPALIVE:
                self.probes += 1
            elif event.event == Kind.STALL and event.phase == "end":
                self.stall = event
            elif event.event == Kind.STALL and event.gives_up_in_ms is not None and event.gives_up_window_ms is None:
                self.predicted = self.predicted or event

    def flush(self, until_ns: int) -> None:
        """Do nothing: no event is buffered."""

    def close(self) -> None:
        """Do nothing."""


class _Stage:
    """Prints events and the steps of the demo to stdout, in the order of time."""

    def __init__(self, source: LiveSource, stop: Stop, sink: TextSink, page: Page) -> None:
        self._batches: Iterator[Batch] = iter(source)
        self._tracker = StallTracker(hz=host.hz(), min_idle_ms=MIN_IDLE_S * 1000, own_netns=host.own_netns())
        self._stop = stop
        self._page = page
        self.kept = _Kept()
        self._sinks: list[Sink] = [sink, self.kept]
        self.totals = Totals()

    def step(self, text: str) -> None:
        """Print what happens now."""
        print(click.style(f"● {text}", bold=True) if self._page.colour else f"● {text}", flush=True)

    def show(self, who: str, what: str) -> None:
        """Print what a host of the lab, or tcpwatch, reports."""
        print(f"    {who:<9} {what}", flush=True)

    def suggest(self, what: str, arguments: str, more: str = "") -> None:
        """Print a command of tcpwatch to type next."""
        print(f"  {what}: sudo {self._page.program} {arguments} {more}".rstrip(), flush=True)

    def watch_until(self, condition: Callable[[], bool]) -> None:
        """Print events until the condition holds, and those that happened before it held."""
        while True:
            over = condition()
            # One more batch after the condition holds has the events before it.
            batch = next(self._batches, Batch([], 0))
            run([batch], Filter(), self._tracker, self._sinks, self.totals)
            if self._stop():
                raise _Interrupted
            if over:
                return

    def watch_for(self, seconds: float) -> None:
        """Print events for that long."""
        until = time.monotonic() + seconds
        self.watch_until(lambda: time.monotonic() >= until)

    def run(self, arguments: Sequence[str], in_use: Client) -> tuple[int, list[str]]:
        """Run a command of tcpwatch, and print it and its output. in_use: a worker that asks a query a second.

        Returns the exit status and the lines.
        """
        print(f"    $ sudo {self._page.program} {' '.join(arguments)}", flush=True)
        status, lines = run_beside(arguments, lambda is_over: self.watch_until(asking(in_use, is_over)))
        for line in lines:
            self._print_indented(line)
        return status, lines

    def _print_indented(self, line: str) -> None:
        columns = self._page.columns
        if columns is None or len(line) + len(_INDENT) <= columns:
            print(f"{_INDENT}{line}".rstrip(), flush=True)
            return
        wrapped = textwrap.fill(
            line, columns, initial_indent=_INDENT, subsequent_indent=_INDENT + "  ", break_on_hyphens=False
        )
        print(wrapped, flush=True)

    def finish(self) -> None:
        """End the stalls that are open."""
        finish(self._tracker, Filter(), self._sinks, self.totals)


def asking(client: Client, condition: Callable[[], bool]) -> Callable[[], bool]:
    """The condition, with a query of that worker each second, as long as it is looked at."""
    next_s = time.monotonic()

    def look() -> bool:
        nonlocal next_s
        if time.monotonic() >= next_s:
            client.ask("query")
            next_s = time.monotonic() + 1
        return condition()

    return look


def demo(server: str, fix: str | None, stop: Stop, page: Page, *, probe: bool = False, utc_offset_s: int) -> None:
    """Run the incident with an `embedded` server or with `mariadb`, with one of FIXES or without.

    probe: probe the connection before the worker uses it, instead.
    Raises TcpwatchError if a tool is missing, or if a fix does not work. It always removes what it created.
    """
    with ExitStack() as stack, suppress(_Interrupted):
        say("setting up a client, a firewall and a server in network namespaces of their own")
        ttl_s = KEEPALIVE_S + 4 if fix == "ttl" else TTL_S
        lab = stack.enter_context(Lab(ttl_s=ttl_s, ports=[PORT], retries2=RETRIES2))
        keepalive_s = TTL_S // 2 if fix == "keepalive" else KEEPALIVE_S
        lab.client.set_sysctl("net.ipv4.tcp_keepalive_time", keepalive_s)
        lab.client.set_sysctl("net.ipv4.tcp_keepalive_intvl", 1)
        if fix == "reset":
            lab.reject_with_reset()
        database: MariaDB | None = None
        if server == "mariadb":
            database = stack.enter_context(MariaDB(lab.server, SERVER, PORT))
        else:
            stack.enter_context(Server(lab.server, SERVER, PORT))
        wanted = Filter(netns=frozenset({lab.client.netns}))
        source = stack.enter_context(LiveSource(wanted, stop, resume_after_s=MIN_IDLE_S))
        say("tracing the client's namespace")
        sink = TextSink(sys.stdout, page, utc_offset_s=utc_offset_s)
        stage = _Stage(source, stop, sink, page)
        connect = mariadb_client if database else embedded_client
        with connect(lab.client, SERVER, PORT) as client:
            answer = client.ask("query")
            stage.step(f"A worker connects and sends a query. The answer takes {answer['seconds'] * 1000:.1f} ms.")
            if probe:
                with connect(lab.client, SERVER, PORT) as other:
                    _probe(stage, lab, client, other)
            elif fix is None or fix == "reset":
                _incident(stage, lab, client, database, fix, utc_offset_s)
            else:
                _survival(stage, lab, client, fix)


def _incident(
    stage: _Stage, lab: Lab, client: Client, database: MariaDB | None, fix: str | None, utc_offset_s: int
) -> None:
    lport = int(client.connected["lport"])
    stage.watch_until(lambda: True)
    silent_since = time.monotonic()
    if fix is not None:
        stage.step(f"The fix: {FIXES[fix]}.")
    stage.step(f"The connection is idle. The firewall forgets a session after {TTL_S}s without a packet.")
    stage.watch_until(lambda: time.monotonic() - silent_since >= SILENCE_S and not lab.sessions(PORT))
    stage.show("worker", _socket_state(lab.client.believes(lport, PORT)))
    stage.show("server", _socket_state(lab.server.believes(PORT, lport)) + _processlist(database))
    stage.show("firewall", "has no session for it")
    silent = duration((time.monotonic() - silent_since) * 1000)
    stage.step(f"After {silent} of silence the worker sends its next query. tcpwatch reports:")
    before = lab.client.counter("TcpRetransSegs")
    client.send("query")
    stage.watch_until(client.answered)
    answer = client.answer()
    # The worker gets its error when the kernel gives up. The events follow with the next batch.
    stage.watch_until(lambda: stage.kept.stall is not None)
    stage.step(_ending(answer))
    if database is not None:
        stage.show("PyMySQL", f"reports {answer['error']}")
    stage.show("worker", _socket_state(lab.client.believes(lport, PORT)))
    stage.show("server", _socket_state(lab.server.believes(PORT, lport)) + _processlist(database))
    packets = plural(lab.dropped_packets(), "packet")
    if fix == "reset":
        stage.show("firewall", f"answered {packets} with a reset")
        if answer["seconds"] > 1:
            raise TcpwatchError(f"the fix did not work: the worker waited for {duration(answer['seconds'] * 1000)}")
        stage.step("No freeze: the worker gets an error at once, and can connect again.")
        return
    retransmits = plural(stage.totals.seen.total().segments, "retransmission")
    stage.show("firewall", f"dropped {packets} without a reply")
    stage.show("tcpwatch", f"saw {retransmits}; the kernel counted {lab.client.counter('TcpRetransSegs') - before}")
    for line in _prediction(stage.kept, utc_offset_s):
        stage.show("", line)
    stage.step(
        f"Here tcp_retries2 is {RETRIES2}. With the default of 15 the worker would hang for a quarter of an hour."
    )
    stage.suggest("Try the advice", "demo --probe", "(or --fix protect, keepalive, ttl, reset, ping)")


def _survival(stage: _Stage, lab: Lab, client: Client, fix: str) -> None:
    stage.step(f"The fix: {FIXES[fix]}.")
    if fix == "protect":
        status, _ = stage.run([*_connections(lab, "protect"), "--idle", f"{TTL_S // 2}s"], client)
        if status:
            raise TcpwatchError(f"tcpwatch protect failed with exit status {status}")
    stage.step("The connection is idle." if fix != "ping" else "The worker has no other queries.")
    silent_since = time.monotonic()
    if fix == "ping":
        for _ in range(3):
            stage.watch_for(TTL_S / 2)
            client.ask("query")
    else:
        # Longer than the firewall would have kept the session, and until after the first probe.
        wanted = 2 if fix in ("keepalive", "protect") else 1
        stage.watch_until(lambda: stage.kept.probes >= wanted)
        stage.watch_for(TTL_S / 2)
    stage.show("firewall", "still has the session" if lab.sessions(PORT) else "has no session for it")
    waited = duration((time.monotonic() - silent_since) * 1000)
    answer = client.ask("query")
    stage.watch_until(lambda: True)
    stage.finish()
    if not answer["ok"] or answer["seconds"] > 1 or stage.kept.stall is not None:
        raise TcpwatchError(f"the fix did not work: {_ending(answer)}")
    how = f" and {plural(stage.kept.probes, 'keepalive probe')}" if stage.kept.probes else ""
    stage.step(
        f"After {waited}{how} the worker sends its next query. The answer takes {answer['seconds'] * 1000:.2f} ms."
    )
    if fix in ("keepalive", "protect"):
        print(
            f"  The firewall still forgets a session after {TTL_S}s, but the probes never let it be silent that long."
        )


def _connections(lab: Lab, command: str) -> list[str]:
    """A command with filters that no connection outside of the lab matches."""
    return [command, "--netns", str(lab.client.netns), "--rport", str(PORT)]


def _probe(stage: _Stage, lab: Lab, client: Client, other: Client) -> None:
    """One connection that the firewall has forgotten, and one in use beside it: a probe finds out which is which."""
    lport, living = (int(each.connected["lport"]) for each in (client, other))
    stage.step("A second worker connects and sends a query a second. The first one is idle.")

    def is_forgotten() -> bool:
        return not any(f" sport={lport} " in session for session in lab.sessions(PORT))

    stage.watch_until(asking(other, is_forgotten))
    stage.show("worker", f"[{client.pid}] {_socket_state(lab.client.believes(lport, PORT))}")
    stage.show("firewall", "has no session for it")
    stage.step("Nobody has noticed. Before the first worker sends its next query, one command asks the path:")
    status, lines = stage.run([*_connections(lab, "probe"), "--connect"], other)
    expected = {Answer.NO_ANSWER.value: lport, Answer.ALIVE.value: living}
    found = {
        result: any(line.startswith(result) and f":{port} " in line for line in lines)
        for result, port in expected.items()
    }
    if status != 1 or not all(found.values()):
        raise TcpwatchError(f"the probe found something else, with exit status {status}")
    stage.step(f"The connection from port {lport} is dead. Its next query would hang.")
    stage.suggest("End such a connection before it is used", "end --help")
    stage.suggest("Keep the others alive", "demo --fix protect")


def _prediction(kept: _Kept, utc_offset_s: int) -> list[str]:
    """When tcpwatch predicted the end of the stall, when it ended, and the verdict."""
    lines = []
    if kept.predicted is not None and kept.ended is not None and kept.predicted.gives_up_in_ms is not None:
        predicted_ns = kept.predicted.time_ns + kept.predicted.gives_up_in_ms * 1_000_000
        off_ms = (kept.ended.time_ns - predicted_ns) / 1_000_000
        lines.append(
            f"predicted at {clock(kept.predicted.time_ns, utc_offset_s)} that the kernel gives up at "
            f"{clock(predicted_ns, utc_offset_s)}:"
        )
        lines.append(f"it gave up at {clock(kept.ended.time_ns, utc_offset_s)} ({off_ms:+.0f} ms)")
    if kept.stall is not None:
        lines.append(f"verdict: {kept.stall.verdict}, {kept.stall.outcome}")
    return lines


def _socket_state(state: str | None) -> str:
    return f"has the connection in state {state}" if state else "has no such connection any more"


def _processlist(database: MariaDB | None) -> str:
    if database is None:
        return ""
    return f"; its process list: {plural(database.sleeping_connections(), 'connection')} asleep"


def _ending(answer: dict[str, Any]) -> str:
    waited = duration(answer["seconds"] * 1000)
    if answer["ok"]:
        return f"The worker's query was answered after {waited}, although it should fail."
    return f"The worker's query fails after {waited}: {error_name(answer['errno'])}"
