"""`tcpwatch sockets`: the connections of this host as they are now."""

from __future__ import annotations

import os
import shutil
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from tracer.cli import types
from tracer.cli.options import connection_filter_options, format_options, make_filter
from tracer.cli.screen import as_called
from tracer.model.errors import UsageError
from tracer.output.formats import SOCKET_FORMATS
from tracer.output.messages import say

if TYPE_CHECKING:
    from tracer.model.filters import Filter
    from tracer.model.sockets import Socket
    from tracer.output.sockets import View

_WIDTH, _MIN_WIDTH = 80, 60


@click.command()
@connection_filter_options
@format_options(SOCKET_FORMATS)
@click.option("-a", "--all", "each", is_flag=True, help="List each connection, not groups of them.")
@click.option("--stuck", "only_stuck", is_flag=True, help="Only connections that hang now, the worst first.")
@click.option(
    "--at-risk",
    "ttl",
    metavar="TTL",
    type=types.DURATION,
    help="Only connections that a firewall with this idle timeout would drop: 1h.",
)
def sockets(output_format: str, ttl: float | None, only_stuck: bool, each: bool, **filters: Any) -> None:
    """List TCP connections by program and service, what hangs first. Requires root.

    Lists the connections of every network namespace. The connections of one program to one service are a group, and
    so are those that clients opened to one port of a program. Groups with a connection that hangs come first, then
    the longest silence. Listening sockets and TIME_WAIT are left out.

    With --stuck, lists the connections that hang now: since when, how many attempts went unanswered, when the kernel
    gives up, and the command that ends them.

    With --at-risk, lists the connections that would hang behind a firewall with this idle timeout, the worst first,
    and what to change. Connections that may be waiting for a reply are examined again after 3s.

    \b
    Examples:
      sudo tcpwatch sockets --stuck          what hangs now
      sudo tcpwatch sockets -a --rport 3306  each connection to MySQL
      sudo tcpwatch sockets --min-idle 10m   peers silent for ten minutes
      sudo tcpwatch sockets --at-risk 1h     what a 1h idle timeout would drop

    \b
    Columns:
      ×          number of connections in the group
      SILENT     time since the last segment from the peer
      WAITING    time since the request: it was acknowledged and has no reply
                 yet. Of a group, the longest
      KEEPALIVE  2h+9x75s: first probe after 2h of silence, then 9 every 75s
      OWNER      processes that hold the socket
    Then comes what is remarkable: a state that is not ESTABLISHED, attempts
    without an answer, bytes that are unacked, unsent or unread.
    """
    wanted = make_filter(filters)
    if only_stuck and ttl is not None:
        raise UsageError("--stuck and --at-risk are mutually exclusive", hint="tcpwatch sockets --stuck")
    from tracer.kernel import host
    from tracer.kernel.presence import absent
    from tracer.kernel.sockets import own_namespace, read_sockets
    from tracer.output.sockets import View, about_sockets

    found = read_sockets(wanted, say)
    view = View(
        hz=host.hz(),
        ttl_s=ttl,
        stuck=only_stuck,
        each=each,
        **_screen(),
        utc_offset_s=time.localtime().tm_gmtoff,
        own_netns=own_namespace(),
    )
    shown = _chosen(found, wanted, view)
    lines = SOCKET_FORMATS[output_format](shown, view)
    sys.stdout.writelines(map(as_called, lines) if output_format == "text" else lines)
    sys.stdout.flush()
    for line in (*about_sockets(found, shown, view), *absent(wanted)):
        say(line)


def _screen() -> dict[str, Any]:
    """The width of standard output, and whether it is a terminal. COLUMNS sets the width of a file."""
    is_terminal = sys.stdout.isatty()
    columns = shutil.get_terminal_size().columns if is_terminal or "COLUMNS" in os.environ else _WIDTH
    return {"width": max(_MIN_WIDTH, columns), "is_terminal": is_terminal}


def _chosen(found: list[Socket], wanted: Filter, view: View) -> list[Socket]:
    """The sockets to show, in their order. With --at-risk it may look again."""
    from tracer.model.sockets import longest_silence_first

    if view.stuck:
        from tracer.analysis.stuck import mark

        return mark(found, view.hz)
    if view.ttl_s is None:
        return longest_silence_first(found)
    from tracer.analysis.risk import LOOK_AGAIN_S, WAITING, at_risk
    from tracer.kernel.sockets import read_sockets
    from tracer.output.format import plural

    shown = at_risk(found, view.ttl_s, view.hz)
    waits = sum(WAITING in (each.at_risk or ()) for each in found)
    if waits:
        say(f"{plural(waits, 'connection')} may be waiting for a reply: looking again in {LOOK_AGAIN_S}s")
        time.sleep(LOOK_AGAIN_S)
        before, found[:] = found[:], read_sockets(wanted)
        shown = at_risk(found, view.ttl_s, view.hz, before)
    return shown
