"""`tcpwatch probe`: ask the path of idle connections whether it still knows them."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import click

from tracer.cli import types
from tracer.cli.options import connection_filter_options, make_filter
from tracer.cli.screen import columns
from tracer.model.errors import UsageError
from tracer.output.messages import complain, say

if TYPE_CHECKING:
    from tracer.model.actions import Connected, Probed
    from tracer.model.filters import Filter
    from tracer.model.sockets import Socket


@click.command()
@connection_filter_options
@click.option(
    "--wait",
    "wait_s",
    metavar="DURATION",
    type=types.DURATION,
    default="3s",
    show_default=True,
    help="How long to wait for an answer, in which three probes are sent; at least 1s.",
)
@click.option("--connect", is_flag=True, help="Also open and close a new connection to each service.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object for each connection (docs/events.md).")
def probe(wait_s: float, connect: bool, as_json: bool, **filters: Any) -> int:
    """Find the connections that are dead already: does the path still know them? Requires root.

    Sends each connection a window probe: an empty segment that every living peer answers at once, as it does a
    keepalive probe. Nothing else changes in the socket, and its process does not notice. If three probes within the
    wait get no answer, a query would get none: a firewall or NAT forgot the connection, or path or peer are down.

    Results are `alive` with the round trip; `no-answer`; `reset`: the peer does not know the connection, and its
    answer ended it; `busy`: data is unacknowledged or unsent, so no probe was sent; `unreachable`: it could not
    be probed.

    An answered probe also refreshes the session in every firewall on the path, as any segment does.

    With --connect, a new connection that opens while old ones do not answer shows that host and path work, and that
    the sessions are forgotten. The server may count it as one that was aborted.

    Exits with 0 if every connection is alive, and with 1 if not.

    \b
    Examples:
      sudo tcpwatch probe --rport 3306 --min-idle 5m   idle connections to MySQL
      sudo tcpwatch probe --lport 47720 --connect      one, and its service
      sudo tcpwatch probe --comm gunicorn --json       for a script
    """
    wanted = make_filter(filters)
    _require_usable(wanted, wait_s)
    from tracer.act.answers import split
    from tracer.act.probing import MAX_AT_ONCE
    from tracer.act.selection import without_closed
    from tracer.kernel import host
    from tracer.kernel.presence import absent
    from tracer.kernel.sockets import read_sockets
    from tracer.model.durations import duration
    from tracer.model.sockets import longest_silence_first
    from tracer.output.format import plural

    host.require_privilege()
    host.require_for("probing connections", "CAP_SYS_PTRACE", "CAP_NET_ADMIN")
    found = without_closed(read_sockets(wanted, say), lambda: read_sockets(wanted))
    found, closed = split(longest_silence_first(found))
    for line in absent(wanted):
        say(line)
    if closed:
        say(f"left {plural(len(closed), 'connection')} that the application has closed already")
    if not found:
        say("no connection matches")
        return 0
    each = f" for each {MAX_AT_ONCE:,}" if len(found) > MAX_AT_ONCE else ""
    say(f"probing {plural(len(found), 'connection')}; answers may take {duration(wait_s * 1000)}{each}")
    return _probe(found, wait_s, connect=connect, as_json=as_json)


def _require_usable(wanted: Filter, wait_s: float) -> None:
    """Raise UsageError for options that cannot be followed."""
    from tracer.act.answers import MIN_WAIT_S
    from tracer.act.selection import names_connections

    if not names_connections(wanted):
        raise UsageError(
            "probe needs a filter that names connections", hint="tcpwatch probe --rport 3306 (or --min-idle 5m)"
        )
    if wait_s < MIN_WAIT_S:
        raise UsageError(
            f"--wait must be at least {MIN_WAIT_S}s: a peer answers a connection's probes at most twice a second",
            hint=f"--wait {MIN_WAIT_S}s",
        )


def _probe(found: Sequence[Socket], wait_s: float, *, connect: bool, as_json: bool) -> int:
    """Probe them, and print each result as it comes. Returns the exit status."""
    from tracer.act.announcing import Announcer
    from tracer.model.actions import Answer
    from tracer.output import actions_probe as output
    from tracer.output.format import plural
    from tracer.run.interrupts import exit_status_after
    from tracer.run.stopping import discard

    results: list[Probed] = []
    width = columns(sys.stdout)
    try:
        with _Probing(found, wait_s) as probing, Announcer(complain=complain) as announcer:
            probing.start(connect=connect)
            for probed in probing.results():
                results.append(probed)
                announcer.add(output.probed_as_json(probed))
                sys.stdout.write(output.probed_as_json(probed) if as_json else output.probed_as_text(probed, width))
                sys.stdout.flush()
            connected = probing.connected()
    except KeyboardInterrupt as error:
        with suppress(OSError):
            discard(sys.stdout)  # a reader that stalls must not keep it
        say(f"interrupted: {len(results):,} of {plural(len(found), 'result')} known")
        return exit_status_after(error)
    try:
        if as_json:
            sys.stdout.writelines(map(output.connected_as_json, connected))
        else:
            if len(results) > 1:
                sys.stdout.write("\n" + output.by_service(results))
            sys.stdout.writelines(output.connected_as_text(each, results, width) for each in connected)
        sys.stdout.flush()
    finally:
        for line in output.about_answers(results):
            say(line)
        say(output.probed_summary(results))
    return int(any(each.answer is not Answer.ALIVE for each in results))


class _Probing:
    """The probes, in a thread of their own. A context manager, which waits for its end. Start it inside.

    So a reader that is slow keeps no duplicate of a socket open, and no signal handler runs between two system calls
    that belong together.
    """

    def __init__(self, found: Sequence[Socket], wait_s: float) -> None:
        self._found = found
        self._wait_s = wait_s
        self._results: SimpleQueue[Probed | None] = SimpleQueue()
        self._stopped = threading.Event()
        self._pool = ThreadPoolExecutor(max_workers=2)
        self._probes: Future[None]
        self._connects: Future[list[Connected]] | None = None

    def __enter__(self) -> _Probing:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._pool.shutdown()

    def start(self, *, connect: bool) -> None:
        """Begin. A signal may come before this has returned."""
        from tracer.act.probing import Prober
        from tracer.kernel.program.syscalls import raise_limits

        raise_limits()
        prober = Prober(self._wait_s, self._results.put, self._stopped.is_set)
        self._probes = self._pool.submit(prober.probe, self._found)
        self._probes.add_done_callback(lambda _: self._results.put(None))
        if connect:
            self._connects = self._pool.submit(_connect_each, self._found, self._wait_s, self._stopped.is_set)

    def results(self) -> Iterator[Probed]:
        """Each result as it comes. Raises what went wrong."""
        while (probed := self._results.get()) is not None:
            yield probed
        self._probes.result()

    def connected(self) -> list[Connected]:
        """What the new connections brought; empty without --connect."""
        return [] if self._connects is None else self._connects.result()


def _connect_each(found: Sequence[Socket], wait_s: float, is_stopped: Callable[[], bool]) -> list[Connected]:
    """Connect to each service that these are clients of."""
    from tracer.kernel.connecting import connect_each
    from tracer.model.actions import service_of

    clients = [each for each in found if not each.accepted and each.laddr and each.raddr and each.rport]
    return connect_each({service_of(each): each.laddr or "" for each in reversed(clients)}, wait_s, is_stopped)
