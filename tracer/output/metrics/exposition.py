"""A snapshot as the text that Prometheus reads, by the library prometheus_client."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from tracer.output.metrics.families import Family, Type, families
from tracer.output.metrics.snapshot import DURATIONS_S, Durations, Snapshot

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BOUNDS = [*(str(float(each)) for each in DURATIONS_S), "+Inf"]


def exposition(snapshot: Snapshot) -> bytes:
    """The snapshot in Prometheus's text format, version 0.0.4."""
    registry = CollectorRegistry()
    registry.register(_Collector(snapshot))  # type: ignore[arg-type, unused-ignore]  # any object with collect()
    return generate_latest(registry)


class _Collector:
    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        """The families of the library."""
        return map(_metric, families(self._snapshot))


def _metric(family: Family) -> Metric:
    if family.type is Type.HISTOGRAM:
        return _histogram(family)
    made: CounterMetricFamily | GaugeMetricFamily = (
        CounterMetricFamily(family.name, family.meaning, labels=family.labels)
        if family.type is Type.COUNTER
        else GaugeMetricFamily(family.name, family.meaning, labels=family.labels)
    )
    for labels, value in family.points:
        assert not isinstance(value, Durations)
        made.add_metric([*labels], value)
    return made


def _histogram(family: Family) -> Metric:
    made = HistogramMetricFamily(family.name, family.meaning, labels=family.labels)
    for labels, value in family.points:
        assert isinstance(value, Durations)
        made.add_metric([*labels], list(zip(_BOUNDS, accumulate(value.counts))), value.sum_s)
    return made
