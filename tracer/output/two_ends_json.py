"""The JSON of both ends: what another report needs of each end, and what the ends show about a stall."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tracer.analysis.closes import Close
from tracer.analysis.connection_ends import MS, Closing, ConnectionEnd, Ends
from tracer.model.times import format_time
from tracer.output.report_two_ends import TwoEnds


def two_ends_records(two_ends: TwoEnds) -> Iterator[dict[str, Any]]:
    """When each host was recorded, what clocks are compared by, each end, and what the other end of a stall shows."""
    for host, each in two_ends.coverages:
        yield {
            "report": "recorded",
            "host": host,
            "run": each.run,
            "began_us": _us(each.began_ns),
            "until_us": _us(each.until_ns),
            **_present(is_whole=each.is_whole, has_resumes=each.has_resumes),
            **_present(clock_us=_us(each.clock_ns), clock_was_set=each.was_set),
        }
    for host, ends, closes in two_ends.closes:
        yield {"report": "closes", "host": host, **ends._asdict(), "closes": [_close(each) for each in closes]}
    for host, ends, end in two_ends.ends:
        yield {"report": "end", "host": host, **end_record(ends, end)}
    for stall, other in two_ends.found:
        yield {
            "report": "other-end",
            "id": stall.id,
            "host": stall.host,
            "other_host": other.host,
            "finding": other.finding.value,
            **_present(comm=other.comm, pid=other.pid, received=_time(other.heard_ns), until=_time(other.until_ns)),
            **({} if other.closing is None else {"closed": _closing(other.closing)}),
            **_present(waited_since=_time(other.waited_ns)),
            **_present(lost_back=other.lost_back, others_passed=other.others_passed),
            **({} if other.ahead_ns is None else {"clock_ahead_ms": round(other.ahead_ns / MS)}),
        }


def end_record(ends: Ends, end: ConnectionEnd) -> dict[str, Any]:
    """One end. Times are microseconds since 1970. Nothing that is not known is in it."""
    return {
        **ends._asdict(),
        **_present(comm=end.comm, pid=end.pid, began_us=_us(end.began_ns), open_us=_us(end.open_ns)),
        **_present(received_us=[[_us(span.heard_ns), _us(span.until_ns)] for span in end.spans]),
        **_present(probes_us=[_us(each) for each in end.arrivals_ns]),
        **_present(waited_us=[[_us(wait.since_ns), _us(wait.ended_ns)] for wait in end.waits]),
        **({} if end.closing is None else {"closed": _closing(end.closing)}),
        **_present(clock_us=_us(end.clock_ns), clock_was_set=end.was_set),
    }


def _close(close: Close) -> list[int]:
    return [_us(close.clock_ns), int(close.is_sender), _us(close.first_ns), _us(close.last_ns)]


def _closing(closing: Closing) -> dict[str, str]:
    return {"time": format_time(closing.time_ns), "how": closing.how, **_present(by=closing.by)}


def _us(time_ns: int) -> int:
    return max(0, time_ns) // 1000


def _time(time_ns: int) -> str:
    return format_time(time_ns) if time_ns > 0 else ""


def _present(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value}
