"""The metrics as OTLP has them, with the names and labels of Prometheus.

A receiver that is scraped by Prometheus, or that writes to it, gives the same series as --metrics-listen.
"""

from __future__ import annotations

from collections.abc import Iterable

from tracer.output.metrics.families import Family, Point, Type
from tracer.output.metrics.snapshot import DURATIONS_S, Durations
from tracer.output.otlp.values import SCHEMA_URL, SCOPE, Json, attributes

_CUMULATIVE = 2  # AggregationTemporality, opentelemetry/proto/metrics/v1/metrics.proto


def request(families: Iterable[Family], resource: Json, version: str, *, started_ns: int, now_ns: int) -> Json:
    """An ExportMetricsServiceRequest. started_ns: since when counters count, wall clock. Families need a point."""
    metrics = [_metric(each, started_ns, now_ns) for each in families if each.points]
    scoped = {"scope": {"name": SCOPE, "version": version}, "metrics": metrics, "schemaUrl": SCHEMA_URL}
    return {"resourceMetrics": [{"resource": resource, "scopeMetrics": [scoped], "schemaUrl": SCHEMA_URL}]}


def _metric(family: Family, started_ns: int, now_ns: int) -> Json:
    points = [_point(family, each, started_ns, now_ns) for each in family.points]
    metric: Json = {"name": family.name, "description": family.meaning, "unit": family.unit}
    if family.type is Type.GAUGE:
        metric["gauge"] = {"dataPoints": points}
    elif family.type is Type.COUNTER:
        metric["sum"] = {"aggregationTemporality": _CUMULATIVE, "isMonotonic": True, "dataPoints": points}
    else:
        metric["histogram"] = {"aggregationTemporality": _CUMULATIVE, "dataPoints": points}
    return metric


def _point(family: Family, point: Point, started_ns: int, now_ns: int) -> Json:
    # Prometheus's labels are positional in a family. zip() of Python 3.9 has no strict=.
    made: Json = {"attributes": attributes(dict(zip(family.labels, point.labels))), "timeUnixNano": str(now_ns)}
    if family.type is not Type.GAUGE:
        made["startTimeUnixNano"] = str(started_ns)
    return {**made, **_value(point.value)}


def _value(value: float | Durations) -> Json:
    if isinstance(value, Durations):
        return {
            "count": str(sum(value.counts)),
            "sum": value.sum_s,
            "bucketCounts": [str(each) for each in value.counts],
            "explicitBounds": [float(each) for each in DURATIONS_S],
        }
    return {"asInt": str(value)} if isinstance(value, int) else {"asDouble": value}
