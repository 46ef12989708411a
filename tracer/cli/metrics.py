"""The options for metrics and their export, of `tcpwatch` and of `tcpwatch record`."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tracer.cli.options import Command
from tracer.cli.otlp import OTLP_OPTIONS, wanted_endpoint
from tracer.cli.quantities import is_number, shortened
from tracer.cli.types import Parsed
from tracer.model.errors import UsageError

if TYPE_CHECKING:
    from tracer.run.metrics import WantedMetrics

LOOPBACK = "127.0.0.1"
MAX_PORT = 65535
DEFAULT_SERVICES = 50
MAX_SERVICES = 10_000
_FORM = "expected ADDR:PORT, such as 127.0.0.1:9718 or [::1]:9718, or a port alone"


def parse_address(text: str) -> tuple[str, int]:
    """Address and port of `10.1.2.3:9718`, `[::1]:9718` or `localhost:9718`; of `9718` or `:9718` on LOOPBACK.

    Port 0 lets the kernel choose one.
    """
    host, colon, port = text.rpartition(":")
    if not (is_number(port) and len(port) <= len(str(MAX_PORT)) and int(port) <= MAX_PORT):
        raise _invalid(text, "--metrics-listen 127.0.0.1:9718")
    if not host or (host.lower() == "localhost" and colon):
        return LOOPBACK, int(port)
    if host == "*":
        raise _invalid(text, f"--metrics-listen 0.0.0.0:{port} for IPv4, [::]:{port} for both")
    is_bracketed = host.startswith("[") and host.endswith("]")
    try:
        address = ipaddress.ip_address(host[1:-1] if is_bracketed else host)
    except ValueError:
        raise _invalid(text, f"--metrics-listen 127.0.0.1:{port}") from None
    if is_bracketed != (address.version == 6):
        raise _invalid(text, f"--metrics-listen {f'[{address}]' if address.version == 6 else address}:{port}")
    if address.version == 6 and address.is_link_local and address.scope_id is None:
        raise _invalid(text, f"a link-local address needs its interface: --metrics-listen [{address}%eth0]:{port}")
    return str(address), int(port)


def _invalid(text: str, hint: str) -> UsageError:
    return UsageError(f"invalid address {shortened(text)!r} ({_FORM})", hint=hint)


_OPTIONS = (
    click.option(
        "--metrics", "metrics_file", metavar="FILE.prom", type=click.Path(path_type=Path, readable=False),
        help="Write metrics to FILE.prom every few seconds, for node_exporter's textfile collector.",
    ),
    click.option(
        "--metrics-listen", metavar="[ADDR:]PORT", type=Parsed("address", parse_address),
        help=f"Serve metrics over HTTP at this address, {LOOPBACK} if only a port is given.",
    ),
    click.option(
        "--metrics-services", metavar="N", default=DEFAULT_SERVICES, show_default=True,
        type=click.IntRange(1, MAX_SERVICES),
        help='Give at most N services series of their own; the rest is service="other".',
    ),
    *OTLP_OPTIONS,
)  # fmt: skip


def metrics_options(command: Command) -> Command:
    """Add the options. The command gets them as options; `wanted_metrics` takes them out."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def wanted_metrics(options: dict[str, Any]) -> WantedMetrics | None:
    """Remove the options from those of a command. None if no metrics are wanted."""
    file, address = options.pop("metrics_file"), options.pop("metrics_listen")
    services = options.pop("metrics_services")
    endpoint = wanted_endpoint(options)
    context = click.get_current_context(silent=True)
    if file is None and address is None and endpoint is None:
        given = click.core.ParameterSource.COMMANDLINE
        if context is not None and context.get_parameter_source("metrics_services") is given:
            raise UsageError(
                "--metrics-services needs --metrics, --metrics-listen or --otlp",
                hint="--metrics-listen 127.0.0.1:9718",
            )
        return None
    from tracer.run.metrics import WantedMetrics

    return WantedMetrics(file, address, services, endpoint)
