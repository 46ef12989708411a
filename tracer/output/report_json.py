"""The JSON of a report: objects for each service, for what is missing, and a summary."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tracer import __version__
from tracer.analysis.idle_timeouts import Service
from tracer.analysis.incidents import began_ns
from tracer.analysis.middleboxes import matching
from tracer.analysis.silence_marks import SilenceMarks
from tracer.model.counts import Counts
from tracer.model.events import Event
from tracer.model.times import format_time
from tracer.model.validation import to_json
from tracer.output.report_data import ReportData
from tracer.output.report_rows import Missing, ServiceStalls, StallEnd, service_name
from tracer.output.report_traces import MS, Trace

REPORT_VERSION = 1
"""Increases with each incompatible change of the output of `report --json`."""

STALL_MEMBERS = ("host", "hz", "host_netns", "sent_again_us", "sent_again_left_out", "predicted")
"""What the report adds to the fields of a stall."""


def head_record() -> dict[str, Any]:
    """The first line, by which the output is recognised. Starts as tracer.recordings.reader.REPORT_START."""
    return {"report": "head", "version": REPORT_VERSION, "tool": __version__}


def stall_record(end: StallEnd, trace: Trace) -> dict[str, Any]:
    """The end of a stall, and what another report needs of its host and its course."""
    stall = end.stall
    record = {**to_json(stall), "host": end.host, "hz": end.hz, "host_netns": end.own_netns}
    if trace.ticks:
        since_ns = began_ns(stall)
        record["sent_again_us"] = [(tick - since_ns) // 1000 for tick in trace.ticks]
    if trace.left_out:
        record["sent_again_left_out"] = trace.left_out
    if (predicted := trace.prediction) is not None:
        record["predicted"] = {
            "time": format_time(predicted.made_ns),
            "gives_up_at": format_time(predicted.earliest_ns),
            "gives_up_window_ms": (predicted.latest_ns - predicted.earliest_ns) // MS,
        }
    return record


def silences_records(data: ReportData) -> Iterator[dict[str, Any]]:
    """For each service with or without stalls, its silences and its other dead connections: what a report adds up."""
    marks = data.idle_timeouts if isinstance(data.idle_timeouts, SilenceMarks) else SilenceMarks()
    for service in dict.fromkeys([*data.idle_timeouts, *data.suspects]):
        known, of_service = data.idle_timeouts.range_of(service), marks.marks_of(service)
        record: dict[str, Any] = {"report": "silences", **_service_fields(service)}
        if known.survived_ms is not None:
            record["survived_ms"] = known.survived_ms
        if known.fatal_ms is not None:
            record["fatal_ms"] = known.fatal_ms
        record["survived"] = [list(mark) for mark in of_service.survived]
        record["fatal"] = [list(mark) for mark in of_service.fatal]
        if of_service.left_out:
            record["left_out"] = of_service.left_out
        if service in data.suspects:
            record["probably_dead"] = [suspect_record(*each) for each in data.suspects[service]]
        yield record


def suspect_record(host: str, event: Event) -> dict[str, Any]:
    """A connection that is probably dead as well."""
    return {**to_json(event), "host": host}


def actions_records(data: ReportData) -> Iterator[dict[str, Any]]:
    """What acting commands did, an object for similar actions."""
    for key, group in data.actions.groups.items():
        first, last = format_time(group.first_ns), format_time(group.last_ns)
        yield {"report": "actions", **key._asdict(), "count": group.count, "first": first, "last": last}


def _service_fields(service: Service) -> dict[str, Any]:
    port = "lport" if service.is_local else "rport"
    return {"service": service_name(service), "raddr": service.host, port: service.port}


def missing_record(missing: Missing) -> dict[str, Any]:
    """A file that is not in the report, or only up to `until`."""
    until = {} if missing.until_ns is None else {"until": format_time(missing.until_ns)}
    failure = {} if missing.is_failure else {"is_failure": False}
    return {"file": missing.file, "reason": missing.reason, **until, **failure}


def service_record(data: ReportData, service: Service, stalls: ServiceStalls) -> dict[str, Any]:
    """A service: its stalls, its idle timeout, its suspects and the advice."""
    idle_timeout = data.idle_timeouts.range_of(service)
    record: dict[str, Any] = {
        "report": "service",
        **_service_fields(service),
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
        record["probably_dead"] = [suspect_record(*each) for each in suspects]
    record["advice"] = [str(line) for line in data.advice_of(service)]
    return record


def summary_record(data: ReportData, unfollowed: int) -> dict[str, Any]:
    """The whole report. unfollowed: stalls of the recording that could not be followed."""
    # How many events there were before a compact recording left most of them out is not known.
    mixed = {"is_mixed": True} if data.has_compact and data.has_whole else {}
    events = {"compact": True, **mixed} if data.has_compact else {"events": data.events}
    record: dict[str, Any] = {"report": "summary", "hosts": list(data.hosts), **events}
    if data.first_ns is not None and data.last_ns is not None:
        record["first"], record["last"] = format_time(data.first_ns), format_time(data.last_ns)
    if data.missing:
        record["missing"] = [missing_record(each) for each in data.missing]
        record["files_missing"] = data.missing_count
    record["stalls"] = data.stalls
    if ambiguous := data.two_ends.coverages.ambiguous:
        record["ambiguous_hosts"] = ambiguous
    if data.repeats.hosts:
        record["repeated"] = dict(data.repeats.hosts)
    record["lost"] = sum(data.lost.values())
    if data.lost:
        record["lost_by_hook"] = dict(data.lost)
    record["utc_offsets_s"] = sorted(data.utc_offsets_s)
    if data.is_filtered:
        record["is_filtered"] = True
    if data.is_counted:
        sums = data.comparison
        record["counted"], record["seen"] = _named_counts(sums.counted), _named_counts(sums.seen)
        record["is_incomplete"] = bool(data.missed())
        record["out_of_sight"] = _named_counts(sums.out_of_sight)
        record["compared"] = {"counted": _named_counts(sums.sure_counted), "seen": _named_counts(sums.sure_seen)}
    if data.services.others.verdicts:
        record["other_services"] = {
            "stalls": sum(data.services.others.verdicts.values()),
            "verdicts": dict(data.services.others.verdicts.most_common()),
            "outcomes": dict(data.services.others.outcomes.most_common()),
            "longest_ms": data.services.others.longest_ms,
        }
    if data.actions.left_out:
        record["actions_left_out"] = data.actions.left_out
    if unfollowed:
        record["not_followed"] = unfollowed
    if data.services.without_advice:
        record["advice_left_out"] = data.services.without_advice
    if data.suspects_left_out:
        record["probably_dead_left_out"] = data.suspects_left_out
    if data.has_hosts_left_out:
        record["hosts_left_out"] = True
    return record


def _named_counts(total: Counts) -> dict[str, int]:
    return {"retrans_segs": total.segments, "keepalives": total.keepalives, "timeouts": total.timeouts}
