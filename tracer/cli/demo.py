"""`tcpwatch demo`: the incident, reproduced."""

from __future__ import annotations

import click

from tracer.cli.screen import page
from tracer.model.errors import UsageError
from tracer.run.stopping import Stop


@click.command()
@click.option(
    "--server",
    type=click.Choice(["embedded", "mariadb"]),
    default="embedded",
    show_default=True,
    help="Server to query: a small one in Python, or MariaDB through PyMySQL.",
)
@click.option(
    "--fix",
    type=click.Choice(["protect", "keepalive", "ttl", "reset", "ping"]),
    help="Apply a fix that keeps the worker from hanging.",
)
@click.option("--probe", is_flag=True, help="Find the dead connection before it is used.")
def demo(server: str, fix: str | None, probe: bool) -> None:
    """Reproduce the failure in 30 seconds. Requires root.

    A firewall forgets an idle connection that both ends still consider open, and the client hangs in its next query.
    Client, firewall (nftables and conntrack) and server run in network namespaces of their own, which are removed at
    the end. Nothing else on this host is changed.

    --fix protect and --probe run those commands of tcpwatch beside the incident.
    """
    if probe and fix is not None:
        raise UsageError("--probe and --fix are mutually exclusive", hint=f"tcpwatch demo --fix {fix}")
    stop = Stop(at_once=False)
    from tracer.kernel import host
    from tracer.lab.demo import demo as show
    from tracer.run.live import utc_offset_now_s

    host.require_privilege()
    show(server, fix, stop, page(), probe=probe, utc_offset_s=utc_offset_now_s())
