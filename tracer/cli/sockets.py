"""`tcpwatch sockets`: the connections of this host as they are now."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from tracer.cli import types
from tracer.cli.options import filter_options, format_options, make_filter
from tracer.model.errors import UsageError
from tracer.output.formats import SOCKET_FORMATS
from tracer.output.messages import say


@click.command()
@filter_options
@format_options(SOCKET_FORMATS)
@click.option(
    "--at-risk",
    "ttl",
    metavar="TTL",
    type=types.DURATION,
    help="Only connections that a firewall with this idle timeout would drop: 1h.",
)
def sockets(output_format: str, ttl: float | None, **filters: Any) -> None:
    """List TCP connections, those of silent peers first. Requires root.

    Lists the connections of every network namespace, with what `ss -o` shows and the time since the last segment from
    the peer. Listening sockets and TIME_WAIT are left out.

    With --at-risk, lists the connections that would hang behind a firewall with this idle timeout, the worst first,
    and what to change. Connections that may be waiting for a reply are examined again after 3s.

    \b
    Examples:
      sudo tcpwatch sockets --rport 3306     connections to MySQL
      sudo tcpwatch sockets --min-idle 10m   peers silent for ten minutes
      sudo tcpwatch sockets --at-risk 1h     what a 1h idle timeout would drop

    \b
    Columns:
      SILENT     time since the last segment from the peer
      TIMER      a time alone: until the keepalive timer expires
                 on: until the next retransmission; #N: N went unanswered
                 persist: until the next probe of the peer's closed window
      KEEPALIVE  2h+9x75s: first probe after 2h of silence, then 9 every 75s
      OWNER      processes that hold the socket, then in parentheses what is
                 in progress (waiting: the request was acknowledged and has
                 no reply yet)
    """
    wanted = make_filter(filters)
    if wanted.events:
        raise UsageError("--event cannot be used with sockets", hint="tcpwatch sockets, without -e")
    from tracer.analysis.risk import LOOK_AGAIN_S, WAITING, at_risk
    from tracer.kernel import host
    from tracer.kernel.presence import absent
    from tracer.kernel.sockets import read_sockets
    from tracer.model.sockets import longest_silence_first
    from tracer.output.format import plural
    from tracer.output.sockets import about_sockets

    found = read_sockets(wanted, say)
    hz = host.hz()
    shown = longest_silence_first(found) if ttl is None else at_risk(found, ttl, hz)
    waits = sum(WAITING in (each.at_risk or ()) for each in found)
    if ttl is not None and waits:
        say(f"{plural(waits, 'connection')} may be waiting for a reply: looking again in {LOOK_AGAIN_S}s")
        time.sleep(LOOK_AGAIN_S)
        before, found = found, read_sockets(wanted)
        shown = at_risk(found, ttl, hz, before)
    sys.stdout.writelines(SOCKET_FORMATS[output_format](shown, ttl, hz))
    sys.stdout.flush()
    for line in (*about_sockets(found, shown, ttl), *absent(wanted)):
        say(line)
