"""Events as log records of OTLP: the ends of stalls, what waited already when tcpwatch started, and actions."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

from tracer.analysis.incidents import began_ns
from tracer.analysis.outcomes import Outcome
from tracer.analysis.verdicts import Subject, Verdict
from tracer.model.events import Event
from tracer.model.kinds import Kind
from tracer.output.format import endpoint, owner, safe
from tracer.output.otlp.names import attributes_of
from tracer.output.otlp.values import SCHEMA_URL, SCOPE, Json, any_value, attributes
from tracer.output.stall_sentences import how_it_ended, what_happened, what_it_means, when_it_ends

STALL_END, STALL_FOUND, ACTION = "tcpwatch.stall.end", "tcpwatch.stall.found", "tcpwatch.action"
"""The event names of log records. FOUND: the stall was open already when tcpwatch started."""


class Severity(IntEnum):
    """SeverityNumber of opentelemetry/proto/logs/v1/logs.proto."""

    DEBUG = 5
    INFO = 9
    WARN = 13
    ERROR = 17


class Noticed(NamedTuple):
    """An event to export, the name of its log record, and when tcpwatch saw it (wall clock)."""

    name: str
    event: Event
    observed_ns: int


def name_of(event: Event, started_ns: int) -> str | None:
    """The name of the event's log record; None if it has none. started_ns: when tracing began, wall clock."""
    if event.event == Kind.ACTION:
        return ACTION
    if event.event != Kind.STALL:
        return None
    if event.phase == "end":
        return STALL_END
    return STALL_FOUND if event.phase == "begin" and began_ns(event) < started_ns else None


def request(noticed: Sequence[Noticed], resource: Json, version: str) -> Json:
    """An ExportLogsServiceRequest."""
    scope = {"name": SCOPE, "version": version}
    records = [log_record(each) for each in noticed]
    scoped = {"scope": scope, "logRecords": records, "schemaUrl": SCHEMA_URL}
    return {"resourceLogs": [{"resource": resource, "scopeLogs": [scoped], "schemaUrl": SCHEMA_URL}]}


def log_record(noticed: Noticed) -> Json:
    """A LogRecord. Its body is for a person, its attributes have every field of the event."""
    event = noticed.event
    severity = severity_of(event)
    return {
        "timeUnixNano": str(event.time_ns),
        "observedTimeUnixNano": str(noticed.observed_ns),
        "severityNumber": severity.value,
        "severityText": severity.name,
        "eventName": noticed.name,
        "body": any_value(body_of(event)),
        "attributes": attributes(attributes_of(event)),
    }


def severity_of(event: Event) -> Severity:
    """ERROR: the connection died. WARN: undecided. INFO: it went on, or an action. DEBUG: it may be chance."""
    if event.event == Kind.ACTION:
        return Severity.INFO
    outcome, verdict = Outcome.of(event.outcome), Verdict.of(event.verdict)
    if outcome is not None and outcome.is_death:
        return Severity.ERROR
    if verdict is not None and verdict.is_quiet:
        return Severity.DEBUG
    return Severity.INFO if outcome is not None and outcome.is_harmless else Severity.WARN


def body_of(event: Event) -> str:
    """The sentences of live output about the event, after the owner and both ends of the connection."""
    who = f"{owner(event)} {endpoint(event.laddr, event.lport)} → {endpoint(event.raddr, event.rport)}"
    if event.event == Kind.ACTION:
        by = f", by {safe(event.by_user)}" if event.by_user else ""
        detail = f" ({safe(event.detail)})" if event.detail else ""
        return f"tcpwatch {safe(event.action or '?')} of {who}: {safe(event.result or '?')}{detail}{by}"
    sentences = [what_happened(event, 0)]
    if event.phase == "end":
        sentences.append(how_it_ended(event))
    if not _explains_itself(event):
        sentences += what_it_means(event)
    if event.phase != "end":
        sentences += [when_it_ends(event, 0, to_seconds=True), "Times of day are in UTC."]
    return f"{safe(event.verdict or '?')}: {who}: {' '.join(filter(None, sentences))}"


def _explains_itself(stall: Event) -> bool:
    """Whether the meaning of the verdict would say nothing more: the reply came, or the outcome is a guess itself."""
    verdict = Verdict.of(stall.verdict)
    is_reply = verdict is not None and verdict.subject is Subject.REPLY
    return stall.outcome == Outcome.PRESUMED or (is_reply and stall.outcome == Outcome.RECOVERED)
