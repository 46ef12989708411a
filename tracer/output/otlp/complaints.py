"""The messages about a receiver that does not take what is exported, with what to try."""

from __future__ import annotations

from tracer.model.errors import TcpwatchError
from tracer.output.format import safe
from tracer.output.otlp.backlog import MAX_WAITING
from tracer.output.otlp.client import Answer, Result
from tracer.output.otlp.endpoint import HEADERS_VARIABLE, Endpoint

GRPC_PORT, HTTP_PORT = 4317, 4318
"""The ports of OTLP/gRPC and of OTLP/HTTP."""
_NOT_AFFECTED = "tracing and recordings are not affected"


def about_failure(endpoint: Endpoint, signal: str, answer: Answer) -> TcpwatchError:
    """The first request that was not accepted."""
    goes_on = "" if answer.result in (Result.REFUSED, Result.ACCEPTED) else "; trying again"
    return TcpwatchError(
        f"cannot export to {endpoint.url(signal)}: {_detail(answer)}{goes_on}; {_NOT_AFFECTED}",
        hint=hint_for(endpoint, signal, answer),
    )


def about_drops(endpoint: Endpoint, signal: str, answer: Answer | None) -> TcpwatchError:
    """The first log records that were dropped. answer: of the receiver; None: too many wait for it."""
    why = f"more than {MAX_WAITING:,} wait" if answer is None else _detail(answer)
    return TcpwatchError(
        f"log records for {endpoint.url(signal)} are dropped: {why}; {_NOT_AFFECTED}",
        hint=hint_for(endpoint, signal, answer),
    )


def hint_for(endpoint: Endpoint, signal: str, answer: Answer | None) -> str:
    """What to try."""
    status = answer.status if answer is not None else None
    if endpoint.port == GRPC_PORT and status is None:
        other = endpoint._replace(port=HTTP_PORT).url()
        return f"port {GRPC_PORT} is that of OTLP/gRPC, OTLP/HTTP has {HTTP_PORT}: --otlp {other}"
    if status in (401, 403):
        return f"--otlp-header NAME=VALUE, or {HEADERS_VARIABLE} in the environment of tcpwatch"
    if status in (404, 405):
        return f"--otlp takes the base URL, to which {signal} is appended; is this the port of OTLP/HTTP?"
    if answer is not None and "certificate" in answer.detail:
        return "SSL_CERT_FILE=/path/to/ca.pem in the environment of tcpwatch"
    return f"curl -i -H 'Content-Type: application/json' -d '{{}}' {endpoint.url(signal)}"


def _detail(answer: Answer) -> str:
    rejected = f"it rejected {answer.rejected:,}" if answer.rejected else ""
    return ": ".join(filter(None, (rejected, safe(answer.detail)))) or "no reason is given"
