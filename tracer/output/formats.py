"""The output formats that --format offers for each command.

To add one, write a module in tracer/output and add a line to the table of each command that has it. A module is
imported when its format is chosen, so that the others do not delay the start of a live run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from tracer.model.dataclass import dataclass

if TYPE_CHECKING:
    from tracer.model.checks import Finding
    from tracer.model.sockets import Socket
    from tracer.output.background_writer import Stream
    from tracer.output.page import Page
    from tracer.output.report import Report
    from tracer.output.sink import Sink
    from tracer.output.sockets import View


@dataclass(frozen=True, slots=True)
class EventFormat:
    """How live tracing and replay write events. is_data: a program reads them, so none is left out under load."""

    open: Callable[[Stream, Page], Sink]
    is_data: bool = False


def _text_events(stream: Stream, page: Page) -> Sink:
    from tracer.output.text import TextSink

    return TextSink(stream, page)


def _json_events(stream: Stream, page: Page) -> Sink:
    from tracer.output.jsonlines import JsonSink

    return JsonSink(stream)


def _text_report(stream: TextIO, **context: Any) -> Report:
    from tracer.output.report import Report

    return Report(stream, as_json=False, **context)


def _markdown_report(stream: TextIO, **context: Any) -> Report:
    from tracer.output.report import Report

    return Report(stream, as_json=False, is_markdown=True, **context)


def _json_report(stream: TextIO, **context: Any) -> Report:
    from tracer.output.report import Report

    return Report(stream, as_json=True, **context)


def _text_sockets(sockets: Sequence[Socket], view: View) -> Iterable[str]:
    if view.stuck:
        from tracer.output.sockets_stuck import stuck_as_text

        return stuck_as_text(sockets, view)
    if view.ttl_s is not None:
        from tracer.output.sockets_risk import risks_as_text

        return risks_as_text(sockets, view.ttl_s, view)
    from tracer.output.sockets import sockets_as_text

    return sockets_as_text(sockets, view)


def _json_sockets(sockets: Sequence[Socket], view: View) -> Iterable[str]:
    from tracer.output.sockets import sockets_as_json

    return sockets_as_json(sockets)


def _text_check(findings: Sequence[Finding]) -> str:
    from tracer.output.checks import findings_as_text

    return findings_as_text(findings)


def _json_check(findings: Sequence[Finding]) -> str:
    from tracer.output.checks import findings_as_json

    return findings_as_json(findings)


EVENT_FORMATS = {"text": EventFormat(_text_events), "json": EventFormat(_json_events, is_data=True)}
REPORT_FORMATS = {"text": _text_report, "markdown": _markdown_report, "json": _json_report}
SOCKET_FORMATS = {"text": _text_sockets, "json": _json_sockets}
CHECK_FORMATS = {"text": _text_check, "json": _json_check}
