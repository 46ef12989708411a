"""Where to export to: the base URL and the headers, as they are typed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from tracer.model.errors import UsageError

HEADERS_VARIABLE = "OTEL_EXPORTER_OTLP_HEADERS"
EXAMPLE = "--otlp http://127.0.0.1:4318"
_HEADER_EXAMPLE = "--otlp-header x-api-key=SECRET"
MAX_PORT = 65535
_MAX_SHOWN = 80
_VISIBLE = re.compile("[!-~]+", re.ASCII)
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)  # RFC 9110, 5.6.2
_FIELD_VALUE = re.compile("[\t -~]*", re.ASCII)
_OURS = frozenset(
    {"host", "content-type", "content-length", "content-encoding", "transfer-encoding", "connection", "expect"}
)
"""Headers that describe the request itself."""


class Endpoint(NamedTuple):
    """A receiver of OTLP/HTTP. path: of the base URL, without a slash at its end. headers: may hold secrets."""

    is_tls: bool
    host: str
    port: int
    path: str
    headers: Mapping[str, str]

    def url(self, signal: str = "") -> str:
        """The URL of a signal, `/v1/logs`, or the base. It has no secret."""
        scheme, default = ("https", 443) if self.is_tls else ("http", 80)
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == default else f":{self.port}"
        return f"{scheme}://{host}{port}{self.path}{signal}"


def parse_url(text: str) -> Endpoint:
    """The endpoint of a base URL, to which `/v1/logs` and `/v1/metrics` are appended. Raises UsageError.

    As the OTLP exporter specification has it for OTEL_EXPORTER_OTLP_ENDPOINT.
    """
    scheme, separator, rest = text.partition("://")
    if not separator:
        host = text.lstrip("/")
        is_host = _VISIBLE.fullmatch(host) and "@" not in host and ":/" not in host and len(host) < _MAX_SHOWN
        raise _invalid(text, f"--otlp http://{host}" if is_host else EXAMPLE)
    if scheme.lower() not in ("http", "https") or not _VISIBLE.fullmatch(rest):
        raise _invalid(text, EXAMPLE)
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise _invalid(text, EXAMPLE) from None
    if parts.username is not None or parts.password is not None:
        raise UsageError(
            "the URL of --otlp has a user or a password, which everybody may see in the list of processes",
            hint=f"set {HEADERS_VARIABLE}=authorization=Basic%20… in the environment of tcpwatch",
        )
    if parts.query or parts.fragment or text.endswith(("?", "#")):
        raise UsageError(
            "the URL of --otlp has a query or a fragment (expected a base URL such as http://127.0.0.1:4318)",
            hint=f"for a key: {_HEADER_EXAMPLE}, or {HEADERS_VARIABLE} in the environment of tcpwatch",
        )
    if not parts.hostname or port == 0:
        raise _invalid(text, EXAMPLE)
    is_tls = parts.scheme == "https"
    host = parts.hostname.replace("%25", "%")  # of the zone of a link-local address (RFC 6874)
    return Endpoint(is_tls, host, port or (443 if is_tls else 80), parts.path.rstrip("/"), {})


def _invalid(text: str, hint: str) -> UsageError:
    """A password in an invalid URL is not repeated."""
    shown = f"...@{text.rpartition('@')[2]}" if "@" in text else text
    shown = shown if len(shown) <= _MAX_SHOWN else f"{shown[: _MAX_SHOWN - 3]}..."
    return UsageError(f"invalid URL {shown!r} (expected http://HOST:PORT or https://HOST:PORT)", hint=hint)


def parse_header(text: str) -> tuple[str, str]:
    """Name and value of `NAME=VALUE`. Raises UsageError, which never repeats the value."""
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError("invalid header (expected NAME=VALUE)", hint=_HEADER_EXAMPLE)
    return _checked(name.strip(), value)


def headers_of(variable: str) -> dict[str, str]:
    """The headers of OTEL_EXPORTER_OTLP_HEADERS: `name=value,name=value`, percent-encoded. Raises UsageError."""
    found = {}
    for each in filter(None, (part.strip() for part in variable.split(","))):
        name, equals, value = each.partition("=")
        if not equals:
            raise UsageError(
                f"invalid {HEADERS_VARIABLE} (expected NAME=VALUE,NAME=VALUE)",
                hint=f"export {HEADERS_VARIABLE}=x-api-key=SECRET",
            )
        name, value = _checked(name.strip(), unquote(value.strip(), errors="replace"))
        found[name] = value
    return found


def with_headers(endpoint: Endpoint, *sources: Iterable[tuple[str, str]]) -> Endpoint:
    """The endpoint with these headers. Of one name, the last counts."""
    headers = {name.lower(): value for source in sources for name, value in source}
    return endpoint._replace(headers=headers)


def _checked(name: str, value: str) -> tuple[str, str]:
    if not _TOKEN.fullmatch(name):
        raise UsageError("invalid name of a header (expected NAME=VALUE)", hint=_HEADER_EXAMPLE)
    if name.lower() in _OURS:
        raise UsageError(f"the header {name} cannot be set: tcpwatch sets it", hint=_HEADER_EXAMPLE)
    if not _FIELD_VALUE.fullmatch(value):
        raise UsageError(
            f"the value of the header {name} has other than printable ASCII characters", hint=_HEADER_EXAMPLE
        )
    return name, value.strip()
