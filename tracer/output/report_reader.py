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
from tracer.output.report_actions import ActionGroup, ActionKey
from tracer.output.report_data import HZ
from tracer.output.report_json import REPORT_VERSION, STALL_MEMBERS
from tracer.output.report_rows import StallEnd
from tracer.output.report_state import Collector
from tracer.output.report_traces import MAX_TICKS, MS, Prediction, Trace

MAX_TEXT = 4096
"""Characters of a text."""
MAX_LISTED = 4096
"""Members of a list that are read."""


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
            until_ns = parse_time(_text(record, "until")) if "until" in record else None
            is_failure = record.get("is_failure") is not False
            self._collector.missing(_text(record, "file"), _text(record, "reason"), until_ns, is_failure=is_failure)
        elif kind == "silences":
            self._silences(record)
        elif kind == "actions":
            self._actions(record)

    def _begin(self, record: Mapping[str, Any]) -> None:
        if self._has_begun:
            raise ValueError("the report before this one has no end")
        version = _number(record, "version")
        if version > REPORT_VERSION:
            raise NewerReport(f"version {version} is newer than this tcpwatch reads ({REPORT_VERSION})")
        self._has_begun, self.is_complete = True, False
        if self._collector.lines is not None:
            self._collector.lines.begin()

    def _stall(self, record: dict[str, Any]) -> None:
        added = {name: record.pop(name) for name in STALL_MEMBERS if name in record}
        record.pop("advice", None)
        stall = from_json(record)
        if stall.phase != "end":
            raise ValueError("a stall that has not ended")
        hz, own_netns = _number(added, "hz", HZ) or HZ, _number(added, "host_netns", 0)
        if self._collector.lines is not None:
            stall.advice = advice_for(stall, hz=hz, own_netns=own_netns)
        host = _text(added, "host")
        self._data.add_host(host)
        self._collector.add_end(StallEnd(host, stall, hz, own_netns), _trace(added, began_ns(stall)))

    def _silences(self, record: Mapping[str, Any]) -> None:
        is_local = "lport" in record
        service = Service(_text(record, "raddr"), _number(record, "lport" if is_local else "rport"), is_local)
        known = IdleTimeoutRange(*(_number(record, name, None) for name in ("survived_ms", "fatal_ms")))
        marks = ServiceMarks(_marks(record, "survived"), _marks(record, "fatal"), _number(record, "left_out", 0))
        idle_timeouts = self._data.idle_timeouts
        if known != IdleTimeoutRange(None, None):
            idle_timeouts.take_range(service, known)
            if isinstance(idle_timeouts, SilenceMarks):
                idle_timeouts.take_marks(service, marks)
        for each in _list(record, "probably_dead")[:MAX_LISTED]:
            self._data.add_suspect(_text(each, "host"), from_json(each))

    def _actions(self, record: Mapping[str, Any]) -> None:
        key = ActionKey(*(_text(record, name) for name in ActionKey._fields))
        first_ns, last_ns = (parse_time(_text(record, name)) for name in ("first", "last"))
        self._data.actions.add(key, ActionGroup(_number(record, "count"), first_ns, last_ns))

    def _summary(self, record: Mapping[str, Any]) -> None:
        data = self._data
        for host in _list(record, "hosts")[:MAX_LISTED]:
            data.add_host(_checked_text(host, "hosts"))
        for utc_offset_s in _list(record, "utc_offsets_s")[:MAX_LISTED]:
            if type(utc_offset_s) is not int or abs(utc_offset_s) >= 86400:
                raise ValueError("utc_offsets_s has something else than seconds")
            data.add_zone(utc_offset_s)
        data.events += _number(record, "events")
        for name in ("first", "last"):
            if name in record:
                data.add_time(parse_time(_text(record, name)))
        lost = _object(record, "lost_by_hook")
        for hook in list(lost)[:MAX_LISTED]:
            data.add_lost(hook[:MAX_TEXT], _number(lost, hook))
        data.is_filtered |= record.get("is_filtered") is True
        if "counted" in record:
            compared = _object(record, "compared")
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
        data.actions.left_out += _number(record, "actions_left_out", 0)
        data.suspects_left_out += _number(record, "probably_dead_left_out", 0)
        self._collector.state.unfollowed += _number(record, "not_followed", 0)


def _trace(record: Mapping[str, Any], since_ns: int) -> Trace:
    offsets_us = _list(record, "sent_again_us")[:MAX_TICKS]
    if not all(type(each) is int and abs(each) <= MAX_NUMBER // 1000 for each in offsets_us):
        raise ValueError("sent_again_us has something else than numbers")
    ticks = tuple(since_ns + each * 1000 for each in offsets_us)
    return Trace(ticks, _number(record, "sent_again_left_out", 0), _prediction(record))


def _prediction(record: Mapping[str, Any]) -> Prediction | None:
    predicted = _object(record, "predicted")
    if not predicted:
        return None
    earliest_ns = parse_time(_text(predicted, "gives_up_at"))
    window_ns = _number(predicted, "gives_up_window_ms", 0) * MS
    return Prediction(parse_time(_text(predicted, "time")), earliest_ns, earliest_ns + window_ns)


def _marks(record: Mapping[str, Any], name: str) -> tuple[Mark, ...]:
    marks = []
    for each in _list(record, name)[: 2 * MAX_MARKS]:
        if not (isinstance(each, list) and len(each) == 2 and all(_is_number(number) for number in each)):
            raise ValueError(f"{name} has something else than pairs of numbers")
        marks.append(Mark(*each))
    return tuple(marks)


def _counts(record: Mapping[str, Any], name: str) -> Counts:
    counts = _object(record, name)
    return Counts(*(_number(counts, each) for each in ("retrans_segs", "keepalives", "timeouts")))


_REQUIRED = object()


def _number(record: Mapping[str, Any], name: str, default: Any = _REQUIRED) -> Any:
    """A number from 0 to MAX_NUMBER, or the default where it is absent."""
    value = record.get(name, default)
    if value is _REQUIRED or (value is not default and not _is_number(value)):
        raise ValueError(f"{name} is not a number")
    return value


def _is_number(value: object) -> bool:
    return type(value) is int and 0 <= value <= MAX_NUMBER


def _text(record: Any, name: str) -> str:
    return _checked_text(record.get(name) if isinstance(record, dict) else None, name)


def _checked_text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} is not a text")
    return value[:MAX_TEXT]


def _list(record: Mapping[str, Any], name: str) -> list[Any]:
    value = record.get(name, [])
    if not isinstance(value, list):
        raise ValueError(f"{name} is not a list")
    return value


def _object(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = record.get(name, {})
    if not isinstance(value, dict):
        raise ValueError(f"{name} is not an object")
    return value
