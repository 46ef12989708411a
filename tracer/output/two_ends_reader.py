"""The JSON of both ends → what the report had collected about them. Raises ValueError for an invalid value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tracer.analysis.closes import MAX_CLOSES, Close
from tracer.analysis.connection_ends import (
    MAX_NS,
    MAX_SPANS,
    MAX_TEXT,
    MAX_WAITS,
    Closing,
    ConnectionEnd,
    Ends,
    Span,
    Wait,
)
from tracer.analysis.coverage import Coverage
from tracer.model.times import parse_time
from tracer.output.json_values import is_number, list_of, number, object_of, text


def coverage_of(record: Mapping[str, Any]) -> tuple[str, Coverage]:
    """A host, and when it was recorded."""
    coverage = Coverage(text(record, "run"), _instant(record, "began_us"), _instant(record, "until_us"))
    coverage.is_whole = record.get("is_whole") is True
    coverage.has_resumes = record.get("has_resumes") is True
    coverage.clock_ns = _instant(record, "clock_us")
    coverage.was_set = record.get("clock_was_set") is True
    return text(record, "host"), coverage


def closes_of(record: Mapping[str, Any]) -> Iterator[tuple[str, Ends, Close]]:
    """A host, and closes of its connections with some addresses and ports."""
    host, ends = text(record, "host")[:MAX_TEXT], _ends(record)
    for each in list_of(record, "closes")[-MAX_CLOSES:]:
        if not isinstance(each, list) or len(each) != 4:
            raise ValueError("closes has something else than four numbers")
        clock_ns, is_sender, first_ns, last_ns = _instants(each)
        yield host, ends, Close(clock_ns, bool(is_sender), first_ns, last_ns)


def _ends(record: Mapping[str, Any]) -> Ends:
    return Ends(
        text(record, "laddr")[:MAX_TEXT],
        number(record, "lport"),
        text(record, "raddr")[:MAX_TEXT],
        number(record, "rport"),
    )


def end_of(record: Mapping[str, Any]) -> tuple[str, Ends, ConnectionEnd]:
    """A host, and one of its ends."""
    ends = _ends(record)
    end = ConnectionEnd(
        comm=text(record, "comm")[:MAX_TEXT] if "comm" in record else "",
        pid=number(record, "pid", 0),
        began_ns=_instant(record, "began_us"),
        open_ns=_instant(record, "open_us"),
        spans=tuple(Span(*each) for each in _pairs(record, "received_us")[-MAX_SPANS:]),
        arrivals_ns=tuple(_instants(list_of(record, "probes_us"))[-MAX_SPANS:]),
        waits=tuple(Wait(*each) for each in _pairs(record, "waited_us")[-MAX_WAITS:]),
        clock_ns=_instant(record, "clock_us"),
        was_set=record.get("clock_was_set") is True,
    )
    closing = object_of(record, "closed")
    if closing:
        by = text(closing, "by")[:MAX_TEXT] if "by" in closing else ""
        end.closing = Closing(parse_time(text(closing, "time")), text(closing, "how")[:MAX_TEXT], by)
    return text(record, "host"), ends, end


def _pairs(record: Mapping[str, Any], name: str) -> list[tuple[int, int]]:
    """Pairs of microseconds as nanoseconds."""
    pairs = []
    for each in list_of(record, name):
        if not isinstance(each, list) or len(each) != 2:
            raise ValueError(f"{name} has something else than pairs of numbers")
        first, second = _instants(each)
        pairs.append((first, second))
    return pairs


def _instant(record: Mapping[str, Any], name: str) -> int:
    """Microseconds since 1970 as nanoseconds; 0 where it is absent."""
    return _instants([number(record, name, 0)])[0]


def _instants(values: list[Any]) -> list[int]:
    if not all(is_number(each) and each * 1000 <= MAX_NS for each in values):
        raise ValueError("a time is not a number of microseconds")
    return [each * 1000 for each in values]
