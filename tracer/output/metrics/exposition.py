"""A snapshot as the text that Prometheus reads, by the library prometheus_client."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from tracer.output.metrics.services import Label
from tracer.output.metrics.snapshot import DURATIONS_S, Snapshot

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SERVICE = ("service", "role")


def exposition(snapshot: Snapshot) -> bytes:
    """The snapshot in Prometheus's text format, version 0.0.4."""
    registry = CollectorRegistry()
    registry.register(_Collector(snapshot))  # type: ignore[arg-type, unused-ignore]  # any object with collect()
    return generate_latest(registry)


class _Collector:
    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        """The families. docs/fleet.md explains each."""
        yield from _of_stalls(self._snapshot)
        yield from _of_services(self._snapshot)
        yield from _of_tracing(self._snapshot)


def _of_stalls(now: Snapshot) -> Iterator[Metric]:
    ended = CounterMetricFamily(
        "tcpwatch_stalls", "Stalls that have ended.", labels=(*_SERVICE, "verdict", "outcome")
    )
    for key, count in now.ended.items():
        ended.add_metric([*key.label, key.verdict, key.outcome], count)
    yield ended
    opened = GaugeMetricFamily("tcpwatch_stalls_open", "Stalls that have not ended.", labels=(*_SERVICE, "verdict"))
    for (label, verdict), count in now.open_stalls.items():
        opened.add_metric([*label, verdict], count)
    yield opened
    yield _gauge(
        "tcpwatch_stall_gives_up_timestamp_seconds",
        "Unix time at which the kernel gives up the first of the open stalls.",
        now.gives_up_s,
    )
    yield _gauge("tcpwatch_stuck_bytes", "Bytes of open stalls that the peer has not acknowledged.", now.stuck_bytes)
    durations = HistogramMetricFamily(
        "tcpwatch_stall_duration_seconds", "Durations of the stalls that have ended.", labels=_SERVICE
    )
    bounds = [*map(str, map(float, DURATIONS_S)), "+Inf"]
    for label, each in now.durations.items():
        durations.add_metric([*label], list(zip(bounds, accumulate(each.counts))), each.sum_s)
    yield durations


def _of_services(now: Snapshot) -> Iterator[Metric]:
    yield _gauge(
        "tcpwatch_silence_survived_max_seconds",
        "The longest silence after which a connection to the service was alive.",
        now.survived_s,
    )
    yield _gauge(
        "tcpwatch_silence_fatal_min_seconds",
        "The shortest silence after which a connection to the service was dead.",
        now.fatal_s,
    )
    if now.at_risk is not None:
        yield _gauge(
            "tcpwatch_connections_at_risk",
            "Connections that have been silent for longer than a silence that was fatal to another one.",
            now.at_risk,
        )


def _of_tracing(now: Snapshot) -> Iterator[Metric]:
    segments = CounterMetricFamily(
        "tcpwatch_retransmitted_segments", "Segments that the kernel sent again.", labels=("kind",)
    )
    for kind, count in now.segments.items():
        segments.add_metric([kind], count)
    yield segments
    yield CounterMetricFamily(
        "tcpwatch_keepalive_probes", "Keepalive probes that the kernel sent.", value=now.keepalives
    )
    lost = CounterMetricFamily(
        "tcpwatch_lost_events",
        "Events that tcpwatch missed, so that other counts are too low.",
        labels=("hook",),
    )
    for hook, count in now.lost.items():
        lost.add_metric([hook], count)
    yield lost
    hooks = GaugeMetricFamily(
        "tcpwatch_hook_attached", "1 while tcpwatch traces this hook of the kernel, else 0.", labels=("hook",)
    )
    for hook, is_attached in now.hooks.items():
        hooks.add_metric([hook], is_attached)
    yield hooks
    build = GaugeMetricFamily(
        "tcpwatch_build_info", "1, with the versions of tcpwatch and of the kernel.", labels=("version", "kernel")
    )
    build.add_metric([now.version, now.kernel], 1)
    yield build


def _gauge(name: str, meaning: str, values: Mapping[Label, float]) -> Metric:
    family = GaugeMetricFamily(name, meaning, labels=_SERVICE)
    for label, value in values.items():
        family.add_metric([*label], value)
    return family
