"""The incident, start to end, in half a minute, told as it happens; or the same with one of its four fixes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from typing import Any

import click

from tracer.analysis.stalls import StallTracker
from tracer.kernel import host
from tracer.kernel.live import LiveSource
from tracer.lab.mariadb import MariaDB, mariadb_client
from tracer.lab.network import SERVER, Lab
from tracer.lab.peers import Client, Server, embedded_client
from tracer.model.errors import TcpwatchError
from tracer.model.events import Batch, Event, error_name
from tracer.model.filters import Filter
from tracer.output.format import clock, duration, plural
from tracer.output.messages import say
from tracer.output.sink import Sink
from tracer.output.text import TextSink
from tracer.recordings.header import Header
from tracer.run.pipeline import Totals, finish, run
from tracer.run.stopping import Stop

# A second here is ten minutes there: the firewall forgets after an hour, keepalive begins after two.
TTL_S = 6
KEEPALIVE_S = 12
# Half of it is what the advice counts on: the 3 s of the fix and its timer's lateness fit in, whatever the load.
SILENCE_S = 7
MIN_IDLE_S = 3
RETRIES2 = 5
PORT = 3306

FIXES = {
    "keepalive": f"tcp_keepalive_time is {TTL_S // 2} s in the worker's namespace, below the firewall's {TTL_S} s",
    "ttl": f"the firewall remembers for {KEEPALIVE_S + 4} s, longer than keepalive's {KEEPALIVE_S} s",
    "reset": "the firewall answers with a reset what it does not know any more, instead of dropping it",
    "ping": f"the worker asks a small question every {TTL_S // 2} s",
}
"""What each changes, of the same incident."""


class _Interrupted(Exception):
    """^C: tidy up and end."""


class _Kept:
    """A sink that keeps what the story comes back to."""

    def __init__(self) -> None:
        self.foretold: Event | None = None  # the stall, with an exact time
        self.stall: Event | None = None  # the stall, as it ended
        self.ended: Event | None = None  # the kernel's error
        self.probes = 0

    def opened(self, header: Header) -> None:
        """Nothing of it is kept."""

    def write(self, events: Sequence[Event]) -> None:
        """Take events."""
        for event in events:
            if event.event == "error":
                self.ended = event
            elif event.event == "keepalive":
                self.probes += 1
            elif event.event == "stall" and event.phase == "end":
                self.stall = event
            elif event.event == "stall" and event.gives_up_in_ms is not None and event.gives_up_window_ms is None:
                self.foretold = self.foretold or event

    def flush(self, until_ns: int) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Nothing is left to do."""


class _Stage:
    """Events and the story between them, in the order of time, on stdout."""

    def __init__(self, source: LiveSource, stop: Stop, sink: TextSink, *, colour: bool) -> None:
        self._batches: Iterator[Batch] = iter(source)
        self._tracker = StallTracker(hz=host.hz(), min_idle_ms=MIN_IDLE_S * 1000)
        self._stop = stop
        self._colour = colour
        self.kept = _Kept()
        self._sinks: list[Sink] = [sink, self.kept]
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
            batch = next(self._batches, Batch([], 0))
            run([batch], Filter(), self._tracker, self._sinks, self.totals)
            if self._stop():
                raise _Interrupted
            if over:
                return

    def watch_for(self, seconds: float) -> None:
        """Show events as they come, for so long."""
        until = time.monotonic() + seconds
        self.watch_until(lambda: time.monotonic() >= until)

    def finish(self) -> None:
        """The end of what is still open."""
        finish(self._tracker, Filter(), self._sinks, self.totals)


def demo(server: str, fix: str | None, stop: Stop, *, colour: bool, utc_offset_s: int) -> None:
    """Show the incident with an `embedded` server or with `mariadb`; with a fix (FIXES), show that it holds.

    Raises TcpwatchError for what is missing, and where a fix did not hold. Nothing is left behind, whatever happens.
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
        stage = _Stage(source, stop, TextSink(sys.stdout, colour=colour, utc_offset_s=utc_offset_s), colour=colour)
        connect = mariadb_client if database else embedded_client
        with connect(lab.client, SERVER, PORT) as client:
            answer = client.ask("query")
            stage.tell(f"A worker connects and asks a query: answered in {answer['seconds'] * 1000:.1f} ms.")
            if fix is None or fix == "reset":
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
        stage.tell(f"The fix: {FIXES[fix]}.")
    stage.tell(f"Then nobody talks. The firewall forgets a session after {TTL_S} s of silence.")
    stage.watch_until(lambda: time.monotonic() - silent_since >= SILENCE_S and not lab.sessions(PORT))
    stage.show("worker", _belief(lab.client.believes(lport, PORT)))
    stage.show("server", _belief(lab.server.believes(PORT, lport)) + _processlist(database))
    stage.show("firewall", "knows no such connection")
    stage.tell(f"After {duration((time.monotonic() - silent_since) * 1000)} the worker asks again. tcpwatch sees:")
    before = lab.client.counter("TcpRetransSegs")
    client.send("query")
    stage.watch_until(client.answered)
    answer = client.answer()
    # The error comes with the kernel's giving up, and its events with the next look.
    stage.watch_until(lambda: stage.kept.stall is not None)
    stage.tell(_ending(answer))
    if database is not None:
        stage.show("PyMySQL", f"says {answer['error']}")
    stage.show("worker", _belief(lab.client.believes(lport, PORT)))
    stage.show("server", _belief(lab.server.believes(PORT, lport)) + _processlist(database))
    packets = plural(lab.dropped_packets(), "packet")
    if fix == "reset":
        stage.show("firewall", f"answered {packets} with a reset")
        if answer["seconds"] > 1:
            raise TcpwatchError(f"the fix did not hold: the worker waited for {duration(answer['seconds'] * 1000)}")
        stage.tell("No freeze: the worker knows at once, and can connect again.")
        return
    retransmits = plural(stage.totals.seen.total().segments, "retransmission")
    stage.show("firewall", f"dropped {packets} without a word")
    stage.show("tcpwatch", f"saw {retransmits}; the kernel counted {lab.client.counter('TcpRetransSegs') - before}")
    for line in _prophecy(stage.kept, utc_offset_s):
        stage.show("", line)
    stage.tell(f"With the default tcp_retries2=15 the worker hangs for a quarter of an hour; here it is {RETRIES2}.")
    print("  Try the advice: tcpwatch demo --fix keepalive, or --fix ttl, reset, ping.")


def _survival(stage: _Stage, lab: Lab, client: Client, fix: str) -> None:
    stage.tell(f"The fix: {FIXES[fix]}.")
    stage.tell("Then nobody talks." if fix != "ping" else "Then nobody has any work.")
    silent_since = time.monotonic()
    if fix == "ping":
        for _ in range(3):
            stage.watch_for(TTL_S / 2)
            client.ask("query")
    else:
        # Past the time at which the session would have been forgotten, and past the first probe.
        wanted = 2 if fix == "keepalive" else 1
        stage.watch_until(lambda: stage.kept.probes >= wanted)
        stage.watch_for(TTL_S / 2)
    stage.show("firewall", "knows the connection" if lab.sessions(PORT) else "knows no such connection")
    waited = duration((time.monotonic() - silent_since) * 1000)
    answer = client.ask("query")
    stage.watch_until(lambda: True)
    stage.finish()
    if not answer["ok"] or answer["seconds"] > 1 or stage.kept.stall is not None:
        raise TcpwatchError(f"the fix did not hold: {_ending(answer)}")
    how = f" and {plural(stage.kept.probes, 'keepalive probe')}" if stage.kept.probes else ""
    stage.tell(f"After {waited}{how} the worker asks again: answered in {answer['seconds'] * 1000:.2f} ms.")
    if fix == "keepalive":
        print(f"  The firewall still forgets after {TTL_S} s of silence, but there never was so long a silence.")


def _prophecy(kept: _Kept, utc_offset_s: int) -> list[str]:
    """How well the time was foretold, and what the verdict was."""
    lines = []
    if kept.foretold is not None and kept.ended is not None and kept.foretold.gives_up_in_ms is not None:
        foretold_ns = kept.foretold.time_ns + kept.foretold.gives_up_in_ms * 1_000_000
        off_ms = (kept.ended.time_ns - foretold_ns) / 1_000_000
        lines.append(
            f"said {clock(kept.foretold.time_ns, utc_offset_s)} that the kernel gives up at "
            f"{clock(foretold_ns, utc_offset_s)}:"
        )
        lines.append(f"it gave up at {clock(kept.ended.time_ns, utc_offset_s)}, {off_ms:+.0f} ms from that")
    if kept.stall is not None:
        lines.append(f"verdict: {kept.stall.verdict}, {kept.stall.outcome}")
    return lines


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
