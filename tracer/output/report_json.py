"""The JSON of a report: objects for each service, for what is missing, and a summary."""

from __future__ import annotations

from typing import Any

from tracer.analysis.idle_timeouts import Service
from tracer.analysis.middleboxes import matching
from tracer.model.counts import Tally
from tracer.model.times import format_time
from tracer.model.validation import to_json
from tracer.output.report_data import ReportData
from tracer.output.report_rows import Missing, ServiceStalls, service_name


def missing_record(missing: Missing) -> dict[str, Any]:
    """A file that is not in the report, or only up to `until`."""
    until = {} if missing.until_ns is None else {"until": format_time(missing.until_ns)}
    return {"file": missing.file, "reason": missing.reason, **until}


def service_record(data: ReportData, service: Service, stalls: ServiceStalls) -> dict[str, Any]:
    """A service: its stalls, its idle timeout, its suspects and the advice."""
    idle_timeout = data.idle_timeouts.range_of(service)
    record: dict[str, Any] = {
        "report": "service",
        "service": service_name(service),
        "raddr": service.host,
        "lport" if service.is_local else "rport": service.port,
        "stalls": sum(stalls.verdicts.values()),
        "hosts": len(stalls.hosts),
        "verdicts": dict(stalls.verdicts.most_common()),
        "outcomes": dict(stalls.outcomes.most_common()),
        "longest_ms": stalls.longest_ms,
    }
    if idle_timeout.survived_ms is not None:
        record["survived_ms"] = idle_timeout.survived_ms
    if idle_timeout.fatal_ms is not None:
        record["fatal_ms"] = idle_timeout.fatal_ms
        record["known_timeouts"] = [{"name": box.name, "timeout_s": box.timeout_s} for box in matching(idle_timeout)]
    suspects = data.suspects.get(service)
    if suspects:
        record["probably_dead"] = [to_json(each) for each in suspects]
    record["advice"] = [str(line) for line in data.advice_of(service)]
    return record


def summary_record(data: ReportData, unfollowed: int) -> dict[str, Any]:
    """The whole report. unfollowed: stalls of the recording that could not be followed."""
    # How many events there were before a compact recording left most of them out is not known.
    events = {"compact": True} if data.has_compact else {"events": data.events}
    record: dict[str, Any] = {"report": "summary", "hosts": list(data.hosts), **events}
    if data.first_ns is not None and data.last_ns is not None:
        record["first"], record["last"] = format_time(data.first_ns), format_time(data.last_ns)
    if data.missing:
        record["missing"] = [missing_record(each) for each in data.missing]
        record["files_missing"] = data.missing_count
    record["stalls"] = data.stalls
    record["lost"] = sum(data.lost.values())
    if data.is_counted:
        record["counted"], record["seen"] = _named_counts(data.counted), _named_counts(data.seen)
        record["is_incomplete"] = bool(data.missed())
    if data.others.verdicts:
        record["other_services"] = {
            "stalls": sum(data.others.verdicts.values()),
            "verdicts": dict(data.others.verdicts.most_common()),
            "outcomes": dict(data.others.outcomes.most_common()),
            "longest_ms": data.others.longest_ms,
        }
    if unfollowed:
        record["not_followed"] = unfollowed
    if data.without_advice:
        record["advice_left_out"] = data.without_advice
    if data.suspects_left_out:
        record["probably_dead_left_out"] = data.suspects_left_out
    if data.has_hosts_left_out:
        record["hosts_left_out"] = True
    return record


def _named_counts(tally: Tally) -> dict[str, int]:
    total = tally.total()
    return {"retrans_segs": total.segments, "keepalives": total.keepalives, "timeouts": total.timeouts}
