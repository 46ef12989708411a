"""The output of `report --json` → what its report had collected.

A file may hold anything: every value is checked, and advice is derived anew.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tracer.analysis.advice.derived import advice_for
from tracer.analysis.comparison import Comparison
from tracer.analysis.idle_timeouts import IdleTimeoutRange, Service
from tracer.analysis.incidents import began_ns
from tracer.analysis.silence_marks import MAX_MARKS, Mark, ServiceMarks, SilenceMarks
from tracer.model.counts import Counts
from tracer.model.fields import MAX_NUMBER
from tracer.model.times import parse_time
from tracer.model.validation import from_json
from tracer.output.json_values import (
    MAX_LISTED,
    MAX_TEXT,
    checked_text,
    is_number,
    list_of,
    number,
    object_of,
    text,
)
from tracer.output.report_actions import ActionGroup, ActionKey
from tracer.output.report_data import HZ
from tracer.output.report_json import REPORT_VERSION, STALL_MEMBERS
from tracer.output.report_rows import StallEnd
from tracer.output.report_state import Collector
from tracer.output.report_traces import MAX_TICKS, MS, Prediction, Trace
from tracer.output.two_ends_reader import closes_of, coverage_of, end_of


class NewerReport(ValueError):
    """The output was written by a newer tcpwatch; the text says so."""


class ReportLines:
    """Takes the lines of one report after the other, and adds them to a collector.

    is_complete: none of them lacks its end.
    """

    def __init__(self, collector: Collector) -> None:
        self._collector = collector
        self._data = collector.state.data
        self._has_begun = False
        self._hosts_before = 0  # hosts of the reports before this one
        self.is_complete = True

    def take(self, line: bytes) -> None:
        """Add a line. Raises NewerReport, and ValueError for an invalid one. Ignores kinds that it does not know."""
        record = json.loads(line)
        if not isinstance(record, dict):
            raise ValueError("not a JSON object")
        kind = record.get("report")
        if kind == "head":
            self._begin(record)
        elif not self._has_begun:
            raise ValueError("no first line of a report precedes it")
        elif kind == "summary":
            self._summary(record)
            self._has_begun, self.is_complete = False, True
        elif record.get("event") == "stall":
            self._stall(record)
        elif kind == "missing":
            until_ns = parse_time(text(record, "until")) if "until" in record else None
            is_failure = record.get("is_failure") is not False
            self._collector.missing(text(record, "file"), text(record, "reason"), until_ns, is_failure=is_failure)
        elif kind == "silences":
            self._silences(record)
        elif kind == "actions":
            self._actions(record)
        elif kind == "end":
            self._data.two_ends.ends.put(*end_of(record))
        elif kind == "closes":
            for host, ends, close in closes_of(record):
                self._data.two_ends.closes.put(host, ends, close)
        elif kind == "recorded":
            self._data.two_ends.coverages.add(*coverage_of(record))

    def _begin(self, record: Mapping[str, Any]) -> None:
        if self._has_begun:
            raise ValueError("the report before this one has no end")
        version = number(record, "version")
        if version > REPORT_VERSION:
            raise NewerReport(f"version {version} is newer than this tcpwatch reads ({REPORT_VERSION})")
        self._has_begun, self.is_complete = True, False
        self._hosts_before = len(self._data.hosts)
        self._data.two_ends.is_active = True
        if self._collector.lines is not None:
            self._collector.lines.begin()

    def _stall(self, record: dict[str, Any]) -> None:
        added = {name: record.pop(name) for name in STALL_MEMBERS if name in record}
        if "advice" in record:
            record["advice"] = []
        stall = from_json(record)
        if stall.phase != "end":
            raise ValueError("a stall that has not ended")
        hz, own_netns = number(added, "hz", HZ) or HZ, number(added, "host_netns", 0)
        if self._collector.lines is not None:
            stall.advice = advice_for(stall, hz=hz, own_netns=own_netns)
        host = text(added, "host")
        self._data.add_host(host)
        self._collector.add_end(StallEnd(host, stall, hz, own_netns), _trace(added, began_ns(stall)))

    def _silences(self, record: Mapping[str, Any]) -> None:
        is_local = "lport" in record
        service = Service(text(record, "raddr"), number(record, "lport" if is_local else "rport"), is_local)
        known = IdleTimeoutRange(*(number(record, name, None) for name in ("survived_ms", "fatal_ms")))
        marks = ServiceMarks(_marks(record, "survived"), _marks(record, "fatal"), number(record, "left_out", 0))
        idle_timeouts = self._data.idle_timeouts
        if known != IdleTimeoutRange(None, None):
            idle_timeouts.take_range(service, known)
            if isinstance(idle_timeouts, SilenceMarks):
                idle_timeouts.take_marks(service, marks)
        for each in list_of(record, "probably_dead")[:MAX_LISTED]:
            self._data.add_suspect(text(each, "host"), from_json(each))

    def _actions(self, record: Mapping[str, Any]) -> None:
        key = ActionKey(*(text(record, name) for name in ActionKey._fields))
        first_ns, last_ns = (parse_time(text(record, name)) for name in ("first", "last"))
        self._data.actions.add(key, ActionGroup(number(record, "count"), first_ns, last_ns))

    def _summary(self, record: Mapping[str, Any]) -> None:
        data = self._data
        # In the order of the recordings, which is not that of the stalls before this record.
        hosts = [checked_text(host, "hosts") for host in list_of(record, "hosts")[:MAX_LISTED]]
        of_stalls = list(data.hosts)[self._hosts_before :]
        for host in of_stalls:
            del data.hosts[host]
        for host in (*hosts, *of_stalls):
            data.add_host(host)
        for utc_offset_s in list_of(record, "utc_offsets_s")[:MAX_LISTED]:
            if type(utc_offset_s) is not int or abs(utc_offset_s) >= 86400:
                raise ValueError("utc_offsets_s has something else than seconds")
            data.add_zone(utc_offset_s)
        is_compact = record.get("compact") is True
        data.has_compact |= is_compact
        data.has_whole |= not is_compact or record.get("is_mixed") is True
        data.events += 0 if is_compact else number(record, "events")
        for name in ("first", "last"):
            if name in record:
                data.add_time(parse_time(text(record, name)))
        # A compact recording begins before its first event.
        data.has_events |= record.get("first") != record.get("last")
        lost = object_of(record, "lost_by_hook")
        for hook in list(lost)[:MAX_LISTED]:
            data.add_lost(hook[:MAX_TEXT], number(lost, hook))
        data.is_filtered |= record.get("is_filtered") is True
        if "counted" in record:
            compared = object_of(record, "compared")
            data.add_comparison(
                Comparison(
                    counted=_counts(record, "counted"),
                    seen=_counts(record, "seen"),
                    out_of_sight=_counts(record, "out_of_sight"),
                    sure_counted=_counts(compared, "counted"),
                    sure_seen=_counts(compared, "seen"),
                    has_counts=True,
                )
            )
        data.actions.left_out += number(record, "actions_left_out", 0)
        data.suspects_left_out += number(record, "probably_dead_left_out", 0)
        self._collector.state.unfollowed += number(record, "not_followed", 0)


def _trace(record: Mapping[str, Any], since_ns: int) -> Trace:
    offsets_us = list_of(record, "sent_again_us")[:MAX_TICKS]
    if not all(type(each) is int and abs(each) <= MAX_NUMBER // 1000 for each in offsets_us):
        raise ValueError("sent_again_us has something else than numbers")
    ticks = tuple(since_ns + each * 1000 for each in offsets_us)
    return Trace(ticks, number(record, "sent_again_left_out", 0), _prediction(record))


def _prediction(record: Mapping[str, Any]) -> Prediction | None:
    predicted = object_of(record, "predicted")
    if not predicted:
        return None
    earliest_ns = parse_time(text(predicted, "gives_up_at"))
    window_ns = number(predicted, "gives_up_window_ms", 0) * MS
    return Prediction(parse_time(text(predicted, "time")), earliest_ns, earliest_ns + window_ns)


def _marks(record: Mapping[str, Any], name: str) -> tuple[Mark, ...]:
    marks = []
    for each in list_of(record, name)[: 2 * MAX_MARKS]:
        if not (isinstance(each, list) and len(each) == 2 and all(map(is_number, each))):
            raise ValueError(f"{name} has something else than pairs of numbers")
        marks.append(Mark(*each))
    return tuple(marks)


def _counts(record: Mapping[str, Any], name: str) -> Counts:
    counts = object_of(record, name)
    return Counts(*(number(counts, each) for each in ("retrans_segs", "keepalives", "timeouts")))
