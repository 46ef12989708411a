"""`tcpwatch check`: what tracing on this host supports."""

from __future__ import annotations

import sys

import click

from tracer.cli.options import format_options
from tracer.output.formats import CHECK_FORMATS


@click.command()
@format_options(CHECK_FORMATS)
@click.pass_context
def check(context: click.Context, /, output_format: str) -> None:
    """Check whether live tracing works on this host.

    Attaches every hook for a moment and prints its status: ok, fallback or missing. The exit status is 1 if live
    tracing is not possible.
    """
    from tracer.kernel.check import check_host
    from tracer.model.checks import can_trace

    findings = check_host()
    sys.stdout.write(CHECK_FORMATS[output_format](findings))
    if not can_trace(findings):
        context.exit(1)
