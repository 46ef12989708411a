"""The options for OpenTelemetry, of `tcpwatch` and of `tcpwatch record`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from tracer.cli.types import Parsed
from tracer.model.errors import UsageError
from tracer.model.secrets import HEADER_OPTION

if TYPE_CHECKING:
    from tracer.output.otlp.endpoint import Endpoint


def _parse_url(text: str) -> Endpoint:
    from tracer.output.otlp.endpoint import parse_url

    return parse_url(text)


def _parse_header(text: str) -> tuple[str, str]:
    from tracer.output.otlp.endpoint import parse_header

    return parse_header(text)


OTLP_OPTIONS = (
    click.option(
        "--otlp", metavar="URL", type=Parsed("url", _parse_url),
        help="Export log records and metrics by OTLP/HTTP to URL, such as http://127.0.0.1:4318.",
    ),
    click.option(
        HEADER_OPTION, "otlp_headers", metavar="NAME=VALUE", type=Parsed("header", _parse_header), multiple=True,
        help="Send this header to the receiver. OTEL_EXPORTER_OTLP_HEADERS keeps a secret out of `ps`.",
    ),
)  # fmt: skip


def wanted_endpoint(options: dict[str, Any]) -> Endpoint | None:
    """Remove the options from those of a command. None if nothing is exported."""
    endpoint: Endpoint | None = options.pop("otlp")
    headers: tuple[tuple[str, str], ...] = options.pop("otlp_headers")
    if endpoint is None:
        if headers:
            raise UsageError(f"{HEADER_OPTION} needs --otlp", hint="--otlp http://127.0.0.1:4318")
        return None
    from tracer.output.otlp.endpoint import HEADERS_VARIABLE, headers_of, with_headers

    return with_headers(endpoint, headers_of(os.environ.get(HEADERS_VARIABLE, "")).items(), headers)
